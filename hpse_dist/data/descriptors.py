"""Small numbers kept beside each frame so that pairs can be mined without opening an image.

A pose descriptor says how a person stands, apart from where, and apart from size: centred joints
(in the camera frame, or else in the picture) or, where no joints are known, the appearance that an
importer measured, or else the silhouette. Surface cells say which patches of the body's surface a
picture shows: two pictures' cells give their co-visibility.
"""

from __future__ import annotations

import numpy as np

from hpse_dist.data.appearance import appearance_distances
from hpse_dist.records import FrameRecord

MIN_JOINTS = 4  # fewer common joints say too little about a pose
SILHOUETTE_PX = 16
SURFACE_CELLS = 32  # the surface's 0..1 square is cut into 32 x 32 cells, one bit each
POSE_KINDS = ("joints3d", "joints2d", "silhouette", "appearance")


def pose_descriptor(
    record: FrameRecord, silhouette: np.ndarray | None
) -> tuple[str, np.ndarray] | None:
    """The kind and the descriptor of a frame's pose, or None where nothing is known of it.

    Joints: (J * D,) float32, centred on their mean, divided by their mean distance from it, NaN
    where the confidence is 0. `silhouette` (h, w) float 0..1, the person in the crop, becomes a
    (SILHOUETTE_PX ** 2,) grid of shares. Appearance is taken as the record has it.
    """
    for kind, size in (("joints3d", 3), ("joints2d", 2)):
        if kind in record.labels:
            joints = np.asarray(record.labels[kind], np.float64)
            points = np.where(joints[:, size:] > 0, joints[:, :size], np.nan)
            if np.isfinite(points[:, 0]).sum() >= MIN_JOINTS:
                points = points - np.nanmean(points, axis=0)
                scale = np.nanmean(np.linalg.norm(points, axis=1))
                if scale > 0:
                    return kind, (points / scale).astype(np.float32).reshape(-1)
    if record.appearance is not None:
        return "appearance", record.appearance
    if silhouette is None:
        return None
    blocks = silhouette.shape[0] // SILHOUETTE_PX
    grid = silhouette.reshape(SILHOUETTE_PX, blocks, SILHOUETTE_PX, blocks).mean(axis=(1, 3))
    return "silhouette", grid.astype(np.float32).reshape(-1)


def pose_distances(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far apart two frames' poses are: (N, D) and (N, D) descriptors -> (N,) float64.

    Joints: mean displacement of the common joints over the mean distance of joints from their
    centre, so 0.1 is a gesture and 0.5 another pose. Silhouettes: 1 - intersection / union.
    Appearance: see `appearance`. NaN where fewer than MIN_JOINTS joints are common.
    """
    if kind == "appearance":
        return appearance_distances(a, b)
    if kind == "silhouette":
        union = np.maximum(a, b).sum(axis=1, dtype=np.float64)
        common = np.minimum(a, b).sum(axis=1, dtype=np.float64)
        return 1 - np.divide(common, union, out=np.ones_like(union), where=union > 0)
    size = int(kind[len("joints") :][0])
    points_a: np.ndarray = a.reshape(len(a), -1, size).astype(np.float64)
    points_b: np.ndarray = b.reshape(len(b), -1, size).astype(np.float64)
    known = np.isfinite(points_a[..., 0]) & np.isfinite(points_b[..., 0])
    count = known.sum(axis=1)
    offset = np.where(known[..., None], points_a - points_b, 0)
    share = np.maximum(count, 1)[:, None]
    # the two were centred on their own known joints; centre the difference on the common ones
    offset = offset - offset.sum(axis=1, keepdims=True) / share[..., None]
    moved = np.where(known, np.linalg.norm(offset, axis=2), 0).sum(axis=1) / share[:, 0]
    return np.where(count >= MIN_JOINTS, moved, np.nan)


def surface_cells(part_map: np.ndarray, uv_map: np.ndarray) -> bytes | None:
    """Which surface cells a picture shows: (H, W) parts, (2, H, W) coordinates -> 128 bytes.

    None where no pixel shows the body.
    """
    cells = np.minimum(
        (uv_map[:, part_map > 0] * SURFACE_CELLS).astype(np.int64), SURFACE_CELLS - 1
    )
    if cells.shape[1] == 0:
        return None
    seen: np.ndarray = np.zeros(SURFACE_CELLS**2, bool)
    seen[np.maximum(cells[1], 0) * SURFACE_CELLS + np.maximum(cells[0], 0)] = True
    return np.packbits(seen).tobytes()


def covisibility(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Jaccard overlap of seen cells: (N, 128) and (N, 128) uint8 bit rows -> (N,) float64."""
    common = np.bitwise_count(a & b).sum(axis=1, dtype=np.int64)
    either = np.bitwise_count(a | b).sum(axis=1, dtype=np.int64)
    return common / np.maximum(either, 1)
