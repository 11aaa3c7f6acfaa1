"""Appearance: a person who stands still is alike, one who moves is not, whatever the size."""

from __future__ import annotations

import cv2
import numpy as np

from hpse_dist.data.appearance import appearance, appearance_distances
from hpse_dist.data.descriptors import pose_descriptor, pose_distances
from hpse_dist.records import FrameRecord
from tests.data.importers.walkers import draw, noisy, room


def look(swing: float, *, scale: float = 1.0, shift: float = 0.0, light: float = 1.0) -> np.ndarray:
    rng, image = np.random.default_rng(int(100 * (scale + light) + shift + 50)), room(3)
    draw(image, 160, swing=swing)
    turn: np.ndarray = np.array(
        [[scale, 0, 160 * (1 - scale) + shift], [0, scale, 140 * (1 - scale) + shift]], float
    )
    image = cv2.warpAffine(image, turn, (320, 240), borderMode=cv2.BORDER_REPLICATE)
    image = np.clip(noisy(image, rng) * light, 0, 255).astype(np.uint8)
    return appearance(np.ascontiguousarray(image[50:230, 70:250, ::-1]))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(appearance_distances(a[None], b[None])[0])


def test_boxes_that_tremble_and_light_are_no_pose() -> None:
    for scale, shift, light in ((1.0, 0, 1.0), (1.03, 2, 1), (0.97, -3, 1), (1, 0, 0.7)):
        assert distance(look(0), look(0, scale=scale, shift=shift, light=light)) < 0.1


def test_limbs_that_move_are_and_more_is_further() -> None:
    still, some, more = (distance(look(0), look(swing)) for swing in (0.02, 0.4, 1.0))
    assert still < 0.05 < 0.1 < some < more <= 1


def test_equal_and_blank_pictures_and_many_pairs() -> None:
    blank = appearance(np.full((50, 40, 3), 90, np.uint8))
    assert not blank.any() and distance(blank, blank) == 0
    assert distance(blank, look(0)) == 1
    one, two = look(0), look(0.6)
    rows = 5000  # more than are compared at once
    many = appearance_distances(np.tile(one, (rows, 1)), np.tile(two, (rows, 1)))
    assert np.allclose(many, distance(one, two)) and np.isfinite(many).all()


def test_it_is_the_pose_of_a_frame_without_joints() -> None:
    record = FrameRecord(
        image=np.zeros((9, 9, 3), np.uint8),
        box=(0, 0, 9, 9),
        subject="",
        sequence="s",
        camera="c",
        time=0.0,
        source="s",
        appearance=look(0),
    )
    kind, pose = pose_descriptor(record, np.ones((32, 32))) or ("", np.zeros(0))
    assert kind == "appearance" and pose_distances(kind, pose[None], look(1.0)[None])[0] > 0.1
    record.labels["joints2d"] = np.array([[x, x * x, 1.0] for x in range(6)])
    assert (pose_descriptor(record, None) or ("",))[0] == "joints2d"
    record.labels.clear()
    record.appearance = None
    assert (pose_descriptor(record, np.ones((32, 32))) or ("",))[0] == "silhouette"
