"""A small collection for the loader's tests: people of 24 points before a known camera."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.records import FrameRecord, Provenance

PELVIS = np.array([0.01, -0.22, 0.03])  # of every shape, so transl = pelvis - PELVIS
SUBJECTS, MOMENTS, CAMERAS = 5, 6, 2
CROP_PX = 64


def picture(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth colours, unlike in every frame."""
    coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.float64)
    at = np.linspace(0, 4, side)
    low = np.minimum(at.astype(int), 3)
    share = (at - low)[:, None, None]
    rows = coarse[low] * (1 - share) + coarse[low + 1] * share
    columns = rows[:, low] * (1 - share[:, 0]) + rows[:, low + 1] * share[:, 0]
    return columns.round().astype(np.uint8)


def frame(
    rng: np.random.Generator, subject: int, moment: int, camera: int, hands: bool = False
) -> FrameRecord:
    """One person, or hand, in a picture of 200 x 200, box off the middle, labels exact."""
    side = 200
    intrinsics = np.array([[310.0, 0.0, 95.0], [0.0, 290.0, 108.0], [0.0, 0.0, 1.0]])
    pelvis = np.array([0.1, 0.05, 3.0]) + rng.normal(0, 0.05, 3)
    count = 21 if hands else 24
    joints = pelvis + rng.uniform(-0.5, 0.5, (count, 3))
    joints[0] = pelvis
    pixels = joints @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    low, high = pixels.min(0) - 4, pixels.max(0) + 4
    y, x = np.mgrid[:side, :side] + 0.5
    parts = ((x // 20 + y // 20) % 7).astype(np.uint8)
    one = np.ones((count, 1))
    # camera k stands 30 k degrees around the place where all people are
    angle = np.radians(30 * camera)
    cos, sin = np.cos(angle), np.sin(angle)
    rotation = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    centre = np.array([0.1, 0.05, 3.0])
    return FrameRecord(
        image=picture(rng, side),
        box=(low[0], low[1], high[0], high[1]),
        subject=f"s{subject}",
        sequence=f"walk{subject}",
        camera=f"cam{camera}",
        time=moment * 0.5,
        source=f"made {subject} {moment} {camera}",
        intrinsics=intrinsics,
        rotation=rotation,
        translation=centre - rotation @ centre,
        centre=centre,
        labels={
            "joints2d": np.concatenate([pixels, one], 1),
            "joints3d": np.concatenate([joints, one], 1),
            **_shape(rng, pelvis, hands),
            "part_map": parts,
            "uv_map": np.stack([x, y]) / side,
        },
        split="val" if subject == SUBJECTS - 1 else "train",
    )


def _shape(rng: np.random.Generator, pelvis: np.ndarray, hands: bool) -> dict[str, np.ndarray]:
    """smplx's parameters of the body, or MANO's of a hand and its gesture."""
    turn, pose = rng.normal(0, 0.6, 3), rng.normal(0, 0.2, 45 if hands else 69)
    betas, transl = rng.normal(0, 1, 10), pelvis - PELVIS
    if not hands:
        return {"global_orient": turn, "body_pose": pose, "betas": betas, "transl": transl}
    mano = {"orient": turn, "pose": pose, "betas": betas, "transl": transl}
    return {f"hand_{k}": v for k, v in mano.items()} | {"label": np.array(rng.integers(3))}


def frames(seed: int = 0, hands: bool = False) -> Iterator[FrameRecord]:
    for subject in range(SUBJECTS):
        for moment in range(MOMENTS):
            for camera in range(CAMERAS):
                rng = np.random.default_rng([seed, subject, moment, camera])
                yield frame(rng, subject, moment, camera, hands)


@functools.cache
def made_collection(
    image_mode: str = "jpg", with_labels: bool = True, hands: bool = False
) -> Collection:
    """60 frames of 5 subjects (the last held out) in several shards, with pairs of both kinds."""
    folder = Path(tempfile.mkdtemp(prefix="hpse_made_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    config = CollectionConfig(
        crop_px=CROP_PX, box_scale=1.2, image_mode=image_mode, frames_per_shard=14, label_px=32
    )
    records = list(frames(hands=hands))
    if not with_labels:
        for record in records:
            record.labels, record.intrinsics = {}, None
    provenance = Provenance("made", "CC0-1.0", True, "", "mano21" if hands else "smpl24")
    collection = write_collection(folder / "made", records, config, provenance)
    pairs = PairsConfig(time_gap_s=(0.4, 2.0), pose_distance=(0.01, 9.0))
    return write_pairs(collection, pairs)


def other_manifest(collection: Collection, folder: Path, **changes: Any) -> Path:
    """The same collection in a new folder, its manifest changed; its files are links."""
    folder.mkdir()
    for file in collection.folder.iterdir():
        if file.name != "manifest.json":
            (folder / file.name).symlink_to(file)
    (folder / "manifest.json").write_text(json.dumps(collection.manifest | changes))
    return folder
