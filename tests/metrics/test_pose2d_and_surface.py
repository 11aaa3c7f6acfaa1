"""Errors of 2D joints, part maps and surfaces, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from hpse_dist.metrics.pose2d import joint_error, pck, person_side
from hpse_dist.metrics.surface import part_iou, person_iou, share_of


def test_joints_are_measured_by_the_persons_side() -> None:
    true = torch.tensor([[[0.2, 0.1], [0.4, 0.9], [0.9, 0.9]]])
    known = torch.tensor([[True, True, False]])
    torch.testing.assert_close(person_side(true, known), torch.tensor([0.8]))
    mine = true + torch.tensor([[[0.0, 0.03], [0.06, 0.0], [5.0, 5.0]]])  # 3.75 % and 7.5 % of 0.8
    torch.testing.assert_close(joint_error(mine, true, known), torch.tensor([5.625]))
    assert pck(mine, true, known, 0.05).tolist() == [50.0]
    assert pck(mine, true, known, 0.1).tolist() == [100.0]
    square = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    on_the_limit = square + torch.tensor([0.25, 0.0])
    assert pck(on_the_limit, square, known[:, :2], 0.25).tolist() == [100.0]


def test_a_picture_without_joints_has_no_figure() -> None:
    joints, known = torch.rand(2, 3, 2), torch.zeros(2, 3, dtype=torch.bool)
    known[1, 0] = True  # one joint has no size
    for figure in (joint_error(joints, joints, known), pck(joints, joints, known, 0.1)):
        assert figure.isnan().all()


def test_part_iou_is_the_mean_over_parts_in_sight() -> None:
    true = torch.tensor([[[0, 1, 1], [2, 2, 2]], [[0, 0, 0], [0, 0, 0]]])
    mine = torch.tensor([[[1, 1, 0], [2, 2, 3]], [[0, 1, 0], [0, 0, 0]]])
    found = part_iou(mine, true, 3)
    torch.testing.assert_close(found[0], torch.tensor(100 * (1 / 3 + 2 / 3) / 2))
    assert math.isnan(found[1])
    assert part_iou(mine[:1], torch.clamp(true[:1], max=1), 3).tolist() == pytest.approx([100 / 6])
    torch.testing.assert_close(person_iou(mine, true), torch.tensor([100 * 4 / 6, 0.0]))
    assert person_iou(true[1:], true[1:]).isnan().all(), "nobody is there, and nobody was found"


def test_share_of_counts_among_its_own() -> None:
    right = torch.tensor([[[True, True]], [[True, False]]])
    among = torch.tensor([[[True, False]], [[False, False]]])
    found = share_of(right, among)
    assert found[0] == 100.0 and math.isnan(found[1])
