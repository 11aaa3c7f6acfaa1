"""Viewpoint, occlusion and difficulty of frames, on people whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hpse_dist.body.joints import SMPL24
from hpse_dist.data.conditions import conditions


def standing(turn_deg: float) -> np.ndarray:
    """(24, 3) somebody upright, facing the camera (looking along -z) and turned about y (down)."""
    rng = np.random.default_rng(0)
    joints = rng.normal(0, 0.05, (24, 3))
    for name, place in {  # facing the camera, a person's left is at the picture's right
        "left_hip": (0.1, 0.0, 0.0),
        "right_hip": (-0.1, 0.0, 0.0),
        "left_shoulder": (0.2, -0.5, 0.0),
        "right_shoulder": (-0.2, -0.5, 0.0),
    }.items():
        joints[SMPL24.index(name)] = place
    angle = np.radians(turn_deg)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    return joints @ turn.T


def collection(poses: list[np.ndarray | None], **extra: Any) -> Any:
    """What `conditions` reads of a collection; the first frame is the training one."""
    count = len(poses)
    frames = pa.table(
        {
            "sample_id": np.arange(count),
            "split": ["train"] + ["val"] * (count - 1),
            "pose_kind": [None if pose is None else "joints3d" for pose in poses],
            "pose": [None if pose is None else pose.ravel().tolist() for pose in poses],
            "R": [extra.get("R")] * count,
            "t": [extra.get("t")] * count,
            "centre": [extra.get("centre")] * count,
            "has_mask": [True] * count,
        }
    )
    stored = extra.get("stored", {})
    return SimpleNamespace(
        frames=frames,
        num_frames=count,
        manifest={"joint_set": "smpl24"},
        label_fields=tuple(stored),
        read=lambda ids, names: {name: stored[name][np.asarray(ids)] for name in names},
    )


def test_viewpoint_is_the_angle_between_torso_and_camera() -> None:
    turns = [0.0, 30.0, 90.0, 180.0, -90.0]
    found = conditions(collection([standing(turn) for turn in turns]), np.arange(5))
    assert found["view_deg"] == pytest.approx([0, 30, 90, 180, 90], abs=1e-3)
    assert np.isnan(found["in_sight"]).all()


def test_a_camera_at_the_side_sees_the_side() -> None:
    """Somebody who looks along -z, far to the right of the camera's axis, is seen from one side."""
    place = {"R": np.eye(3).ravel().tolist(), "t": [0.0, 0.0, 0.0], "centre": [3.0, 0.0, 3.0]}
    found = conditions(collection([standing(0.0)], **place), np.arange(1))
    assert found["view_deg"] == pytest.approx([45.0], abs=1e-3)


def test_difficulty_is_the_distance_from_the_mean_pose_however_turned() -> None:
    other = standing(0.0)
    other[SMPL24.index("left_wrist")] += 1.0
    found = conditions(collection([standing(0.0), standing(70.0), other, None]), np.arange(4))
    near, turned, far, unknown = found["pose_distance"]
    assert near == pytest.approx(0, abs=1e-5) and turned == pytest.approx(0, abs=1e-5)
    assert far > 0.05 and np.isnan(unknown) and np.isnan(found["view_deg"][3])


def test_joints_are_in_sight_inside_the_picture_and_on_the_mask() -> None:
    joints = np.zeros((2, 4, 3), np.float32)
    joints[..., 2] = 1.0
    joints[0, :, :2] = [[0.1, 0.1], [0.4, 0.1], [0.9, 0.9], [1.2, 0.1]]  # two on, one off, one out
    joints[1, :, 2] = 0.0  # none labelled
    mask = np.zeros((2, 32, 32), np.uint8)
    mask[:, :8, :16] = 255
    stored = {"joints2d": joints, "person": mask}
    found = conditions(collection([None, None], stored=stored), np.arange(2))
    assert found["in_sight"][0] == pytest.approx(0.5) and np.isnan(found["in_sight"][1])
