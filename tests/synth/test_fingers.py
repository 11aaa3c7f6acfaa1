"""Gestures of the right hand: what is rendered is the hand that the labels describe."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpse_dist.body.joints import MANO21, PART_NAMES
from hpse_dist.data.crops import CollectionConfig, Pictures, prepare_frame
from hpse_dist.draws import generator
from hpse_dist.records import FrameRecord
from hpse_dist.synth.fingers import GESTURES
from hpse_dist.synth.hands import HandsConfig, HandStudio, provenance

SMALL = HandsConfig(
    num_subjects=1,
    sequences_per_subject=1,
    moments_per_sequence=3,
    cameras=(3, 3),
    crop_px=64,
    supersample=1,
    fingers="gestures",
    seed=3,
)
HAND = ("hand_orient", "hand_pose", "hand_betas", "hand_transl")


@pytest.fixture(scope="module")
def studio() -> HandStudio:
    return HandStudio(SMALL)


@pytest.fixture(scope="module")
def frames(studio: HandStudio) -> list[FrameRecord]:
    return [r for r in studio.sequence(0, 0) if isinstance(r, FrameRecord)]


def test_the_labels_give_the_joints_and_lie_on_the_hand(
    studio: HandStudio, frames: list[FrameRecord]
) -> None:
    assert len(frames) >= 5 and {frame.track for frame in frames} == {"right"}
    assert studio.hand is not None
    shares = []
    for frame in frames:
        labels = [torch.from_numpy(frame.labels[name])[None] for name in HAND]
        output = studio.hand.hand(*labels)
        np.testing.assert_allclose(output.joints[0], frame.labels["joints3d"][:, :3], atol=1e-5)
        assert frame.intrinsics is not None
        for points in (output.joints[0].double(), output.vertices[0].double()):
            seen = points.numpy() @ frame.intrinsics.T
            places = seen[:, :2] / seen[:, 2:]
        joints = frame.labels["joints2d"]
        assert joints.shape == (21, 3) and 0 <= frame.labels["label"] < len(GESTURES)
        inside = ((places > 0) & (places < 64)).all(1)
        column, row = places[inside].astype(int).T
        hand = PART_NAMES.index("right_hand")
        shares.append((frame.labels["part_map"][row, column] == hand).mean())
    assert np.median(shares) > 0.85  # the rest: the wrist's end, or a pixel's width outside


def test_what_is_rendered_is_that_hand(studio: HandStudio) -> None:
    """The body's own vertices are the free hand's with the drawn pose, to a rotation and shift."""
    assert studio.hand is not None
    rng = generator(0, "test.fingers")
    fingers, betas = studio.hand.draw(rng, 4), np.ones(10, np.float32)
    moved = studio.hand.shift(fingers, betas, studio.body.num_vertices)
    nothing = torch.zeros(4, 3)
    shape = torch.from_numpy(betas)[None].expand(4, 10)
    body = studio.body(nothing, torch.zeros(4, 69), shape, nothing).vertices + torch.from_numpy(
        moved
    )
    hand = studio.hand.hand(nothing, torch.from_numpy(fingers.pose), shape, nothing).vertices
    chosen = studio.hand.body_vertices
    torch.testing.assert_close(body[:, chosen], hand, rtol=0, atol=2e-5)
    others = np.setdiff1d(np.arange(studio.body.num_vertices), chosen)
    assert not moved[:, others].any()


def test_gestures_close_the_fingers_they_name(studio: HandStudio) -> None:
    assert studio.hand is not None
    rng = np.random.default_rng(0)
    fingers = studio.hand.draw(rng, 200)
    rest = torch.zeros(200, 3)
    joints = studio.hand.hand(
        rest, torch.from_numpy(fingers.pose), torch.zeros(200, 10), rest
    ).joints
    index = (joints[:, MANO21.index("index_tip")] - joints[:, 0]).norm(dim=1).numpy()
    names = np.array(list(GESTURES))[fingers.gesture]
    assert index[names == "fist"].mean() < 0.7 * index[names == "open"].mean()
    assert index[names == "point"].mean() > 0.95 * index[names == "open"].mean()
    thumb = (joints[:, MANO21.index("thumb_tip")] - joints[:, 4]).norm(dim=1).numpy()
    assert thumb[names == "fist"].mean() < thumb[names == "thumb_up"].mean()


def test_a_collection_stores_them(frames: list[FrameRecord]) -> None:
    stored = prepare_frame(
        frames[0], CollectionConfig(crop_px=64, label_px=32, min_side_px=32), Pictures()
    )
    assert stored.about["has_hand"] and stored.about["has_label"] and not stored.about["has_body"]
    assert stored.row["hand_pose"].shape == (45,) and stored.row["joints3d"].shape == (21, 4)
    made = provenance(SMALL)
    assert made.joint_set == "mano21" and made.details["classes"] == list(GESTURES)
    with pytest.raises(ValueError, match="needs body free"):
        HandsConfig(fingers="gestures", body="smpl.pkl")
