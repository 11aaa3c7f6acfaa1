"""Under which conditions a frame shows its person: viewpoint, occlusion, difficulty of the pose.

    view_deg        angle between where the torso faces and the camera: 0 from the front, 180 from
                    behind
    in_sight        share of the labelled joints that lie in the picture and on the person's mask
    pose_distance   mean distance of the joints from the training frames' mean pose, aligned by a
                    similarity, over the mean distance of joints from their centre: 0.1 is near it

NaN where the labels do not tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
import torch

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.data.collection import Collection
from hpse_dist.geometry.procrustes import align

TORSO = ("left_hip", "right_hip", "left_shoulder", "right_shoulder")
MOST_POSES = 4096  # training poses that the mean is made of


def conditions(collection: Collection, sample_ids: np.ndarray) -> dict[str, np.ndarray]:
    """Each condition of the frames asked for, (n,) float32."""
    at = np.asarray(np.searchsorted(collection.frames["sample_id"].to_numpy(), sample_ids))
    poses, names = _poses(collection, at), _joint_names(collection)
    unknown: np.ndarray = np.full(len(at), np.nan, np.float32)
    found = {"view_deg": unknown, "in_sight": unknown, "pose_distance": unknown}
    if poses is not None:
        training = _poses(collection, _training(collection))
        found["pose_distance"] = unknown if training is None else _distances(poses, training)
        if set(TORSO) <= set(names):
            torso = [names.index(name) for name in TORSO]
            found["view_deg"] = _angles(poses[:, torso], _towards_camera(collection, at))
    if {"joints2d", "person"} <= set(collection.label_fields):
        masked = np.asarray(collection.frames["has_mask"])[at]
        found["in_sight"] = np.where(masked, _in_sight(collection, sample_ids), np.nan)
    return {name: value.astype(np.float32) for name, value in found.items()}


def _joint_names(collection: Collection) -> Sequence[str]:
    return JOINT_SETS.get(str(collection.manifest.get("joint_set")), ())


def _training(collection: Collection) -> np.ndarray:
    """Rows of training frames with a pose, evenly spread where there are many."""
    frames = collection.frames
    usable = pc.and_(pc.equal(frames["split"], "train"), pc.equal(frames["pose_kind"], "joints3d"))
    rows = np.flatnonzero(usable.to_numpy())
    return rows[:: -(-len(rows) // MOST_POSES) or 1]


def _poses(collection: Collection, at: np.ndarray) -> np.ndarray | None:
    """(n, J, 3) joints of these frames, centred and scaled, camera frame; NaN where not known.

    None where no frame's are known. Only these frames become Python's objects: there may be
    millions of others.
    """
    rows = collection.frames.select(["pose_kind", "pose"]).take(at)
    known = np.flatnonzero(pc.equal(rows["pose_kind"], "joints3d").to_numpy())
    length = 3 * len(_joint_names(collection))
    poses = rows["pose"].take(known).to_pylist()
    if not length or not poses or any(len(pose) != length for pose in poses):
        return None
    flat: np.ndarray = np.full((len(at), length), np.nan)
    flat[known] = poses
    return flat.reshape(len(at), -1, 3)


def _towards_camera(collection: Collection, at: np.ndarray) -> np.ndarray:
    """(n, 3) direction from the person to the camera, camera frame; along its axis if unknown."""
    found = np.tile(np.array([0.0, 0.0, -1.0]), (len(at), 1))
    rows = collection.frames.select(["R", "t", "centre"]).take(at)
    columns = (rows[name].to_pylist() for name in ("R", "t", "centre"))
    for i, (rotation, shift, centre) in enumerate(zip(*columns, strict=True)):
        if rotation and shift and centre:
            place = np.reshape(rotation, (3, 3)) @ centre + shift
            if place[2] > 0:
                found[i] = -place / np.linalg.norm(place)
    return found


def _angles(torso: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Degrees: torso (n, 4, 3) in the order of TORSO, towards (n, 3) of length 1."""
    left_hip, right_hip, left_shoulder, right_shoulder = np.moveaxis(torso, 1, 0)
    left = left_hip - right_hip + left_shoulder - right_shoulder
    up = left_shoulder + right_shoulder - left_hip - right_hip
    ahead = np.cross(left, up)  # as x, y, z: a person's left, up, and where it faces
    length = np.linalg.norm(ahead, axis=1)
    cosine = (ahead * towards).sum(1) / np.where(length > 0, length, np.nan)
    return np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))


def _distances(poses: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Of each pose (n, J, 3) from the mean of the training poses, after alignment."""
    known = np.isfinite(training).all((1, 2))
    whole = torch.from_numpy(training[known])
    unknown: np.ndarray = np.full(len(poses), np.nan)
    if len(whole) == 0:
        return unknown
    mean = whole[0]
    for _ in range(2):  # towards the first pose, then towards their mean
        mean = align(whole, mean.expand_as(whole)).mean(0)
    good = np.isfinite(poses).all((1, 2))
    if good.any():
        mine = torch.from_numpy(poses[good])
        off = (align(mean.expand_as(mine), mine) - mine).norm(dim=-1).mean(1)
        unknown[good] = off.numpy()
    return unknown


def _in_sight(collection: Collection, sample_ids: np.ndarray) -> np.ndarray:
    """(n,) share of the labelled joints inside the picture and on the mask."""
    stored = collection.read(sample_ids.tolist(), ("joints2d", "person"))
    joints, mask = stored["joints2d"], stored["person"] > 0  # any of a cell
    size = mask.shape[-1]
    labelled, places = joints[..., 2] > 0, joints[..., :2]
    inside = ((places >= 0) & (places < 1)).all(-1)
    cells = (np.nan_to_num(places).clip(0, 1 - 1e-6) * size).astype(np.int64)
    on_mask = mask[np.arange(len(mask))[:, None], cells[..., 1], cells[..., 0]]
    count = labelled.sum(1)
    seen = (labelled & inside & on_mask).sum(1)
    return np.where(count > 0, seen / np.maximum(count, 1), np.nan)
