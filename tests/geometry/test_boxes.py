"""Boxes: squares, clipping, overlap."""

import numpy as np
import pytest

from hpse_dist.geometry import boxes


def test_square_keeps_the_middle_and_scales_the_longer_side() -> None:
    assert boxes.square(np.array([10, 20, 30, 60]), 1.25).tolist() == [-5, 15, 45, 65]
    several = boxes.square(np.array([[10, 20, 30, 60], [0, 0, 8, 2], [5, 5, 5, 5]]))
    assert several.tolist() == [[0, 20, 40, 60], [0, -3, 8, 5], [5, 5, 5, 5]]


def test_clip_keeps_what_is_inside() -> None:
    assert boxes.clip(np.array([-5, 10, 700, 90]), 640, 80).tolist() == [0, 10, 640, 80]
    assert boxes.area(boxes.clip(np.array([700, 10, 800, 90]), 640, 80)) == 0


@pytest.mark.parametrize(
    ("other", "expected"),
    [((0, 0, 2, 2), 1.0), ((1, 0, 3, 2), 1 / 3), ((2, 0, 4, 2), 0.0), ((5, 5, 6, 6), 0.0)],
)
def test_iou(other: tuple[int, ...], expected: float) -> None:
    assert boxes.iou(np.array([0, 0, 2, 2]), np.array(other)) == pytest.approx(expected)


def test_iou_of_nothing_is_zero_and_boxes_broadcast() -> None:
    assert boxes.iou(np.zeros(4), np.zeros(4)) == 0
    assert boxes.iou(np.zeros((3, 1, 4)), np.zeros((2, 4))).shape == (3, 2)
