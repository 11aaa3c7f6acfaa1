"""The free hand: made of made-up adults in MANO's format, and the part of the body that it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hpse_dist.body import joints
from hpse_dist.body.free_body import free_body_path
from hpse_dist.body.free_hand import free_hand_folder, read_body_vertices
from hpse_dist.body.model import Hand, load_hand
from hpse_dist.body.smpl_files import read_body_file


@pytest.fixture(scope="module")
def hand() -> Hand:
    return load_hand("free", "right")


def test_it_is_the_free_bodys_hand(hand: Hand) -> None:
    body = read_body_file(free_body_path())
    chosen = read_body_vertices(free_hand_folder())
    np.testing.assert_allclose(hand.v_template, body["v_template"][chosen], atol=1e-5)
    np.testing.assert_allclose(hand.shapedirs, body["shapedirs"][chosen], atol=1e-5)
    held = body["weights"][chosen][:, [21, 23]].sum(1)
    assert held.min() > 0.999 and 300 < len(chosen) < 700


def test_joints_lie_in_their_fingers(hand: Hand) -> None:
    torch.manual_seed(0)
    rest = hand.rest_joints(torch.randn(4, 10))
    assert rest.shape == (4, 21, 3)
    for tip, last in zip(range(16, 21), hand.parents[16:], strict=True):
        chain = [tip, last, last - 1, last - 2]
        steps = (rest[:, chain[:-1]] - rest[:, chain[1:]]).norm(dim=-1)
        assert (steps > 0.008).all() and (steps < 0.09).all()
        assert hand.skinning_weights[hand.tips[tip - 16], last] > 0.9
    assert (rest[:, 1:, 0] < rest[:, :1, 0]).all()  # a right hand at rest points to -x
    thumb, little = joints.MANO21.index("thumb_tip"), joints.MANO21.index("pinky_tip")
    assert (rest[:, thumb, 2] > rest[:, little, 2] + 0.05).all()  # the thumb in front, palm down


def test_a_finger_moves_and_the_rest_stays(hand: Hand) -> None:
    pose = torch.zeros(1, 45)
    pose[0, 2] = 1.0  # first joint of the index finger
    nothing = torch.zeros(1, 3)
    still = hand(nothing, torch.zeros(1, 45), torch.zeros(1, 10), nothing)
    moved = hand(nothing, pose, torch.zeros(1, 10), nothing)
    apart = (moved.joints - still.joints).norm(dim=-1)[0]
    tips = dict(zip(joints.MANO21[16:], apart[16:].tolist(), strict=True))
    assert tips["index_tip"] > 0.04 and max(v for k, v in tips.items() if k != "index_tip") < 1e-3


def test_there_is_no_left_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="free hand is a right hand"):
        load_hand("free", "left")
