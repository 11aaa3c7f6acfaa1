"""Downstream tasks: one file each, and the table that names them."""

from __future__ import annotations

from typing import Any

from hpse_dist.models.encoder import Encoder
from hpse_dist.tasks.base import Task
from hpse_dist.tasks.body_mesh import BodyMesh
from hpse_dist.tasks.body_mesh_free import BodyMeshFree
from hpse_dist.tasks.body_mesh_two_views import BodyMeshTwoViews
from hpse_dist.tasks.classify import Classify
from hpse_dist.tasks.dense_pose import DensePose
from hpse_dist.tasks.hand_mesh import HandMesh, HandMeshFree
from hpse_dist.tasks.part_segmentation import PartSegmentation
from hpse_dist.tasks.pose2d import Pose2d
from hpse_dist.tasks.pose3d import Pose3d

TASKS: dict[str, type[Task]] = {
    "body_mesh": BodyMesh,
    "body_mesh_free": BodyMeshFree,
    "body_mesh_two_views": BodyMeshTwoViews,
    "classify": Classify,
    "dense_pose": DensePose,
    "hand_mesh": HandMesh,
    "hand_mesh_free": HandMeshFree,
    "part_segmentation": PartSegmentation,
    "pose2d": Pose2d,
    "pose3d": Pose3d,
}


def protocol_of(config: Any) -> str:
    """Name of the protocol of a task's figures, by its config; ValueError for one it has not."""
    return next(k for k in TASKS.values() if type(config) is k.Config).protocol_of(config)


def build(config: Any, encoder: Encoder, seed: int) -> Task:
    """The task that a config describes; `seed` keys its random draws."""
    for kind in TASKS.values():
        if type(config) is kind.Config:
            return kind(config, encoder, seed)
    raise ValueError(f"no task has a config of type {type(config).__name__}")
