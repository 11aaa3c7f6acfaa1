"""Frame records of a made-up calibrated rig: people of 24 dots, drawn as discs, no rendering."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpse_dist.records import FrameRecord, Provenance

SIDE = 160
FOCAL = 220.0
PROVENANCE = Provenance("made", "CC0-1.0", True, "nobody", "smpl24", {"what": "dots"})


def camera(number: int, cameras: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K, R, t of one of `cameras` on a circle of 3 m, 30 degrees apart, looking at the origin."""
    angle = np.radians(30 * number)
    eye = 3 * np.array([np.sin(angle), 0, -np.cos(angle)])
    forward = -eye / 3
    right = np.array([np.cos(angle), 0, np.sin(angle)])
    rotation = np.stack([right, np.cross(forward, right), forward])
    intrinsics = np.array([[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]])
    return intrinsics, rotation, -rotation @ eye


def joints(subject: int, time: float) -> np.ndarray:
    """(24, 3) metres in the world: a cloud as big as a person whose points swing."""
    rng = np.random.default_rng(subject)
    rest = rng.uniform([-0.3, -0.8, -0.3], [0.3, 0.8, 0.3], (24, 3))
    swing = rng.uniform(-0.25, 0.25, (24, 3))
    return rest + swing * np.sin(3 * time + np.arange(24))[:, None]


def frames(
    subjects: int = 2,
    moments: int = 6,
    cameras: int = 4,
    gap_s: float = 0.25,
    labels: bool = True,
    sequences: int = 1,
) -> Iterator[FrameRecord]:
    """subjects x sequences x moments x cameras records, a moment's cameras together."""
    for subject in range(subjects):
        for sequence in range(sequences):
            for moment in range(moments):
                time = moment * gap_s + 0.07 * sequence
                for number in range(cameras):
                    yield frame(subject, sequence, time, number, cameras, labels)


def frame(
    subject: int, sequence: int, time: float, number: int, cameras: int = 4, labels: bool = True
) -> FrameRecord:
    """One person seen by one camera, with every label a collection can hold (or none)."""
    intrinsics, rotation, translation = camera(number, cameras)
    points = joints(subject, time) @ rotation.T + translation
    pixels = points @ intrinsics.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    image, mask, parts, surface = _draw(pixels, subject)
    low, high = pixels.min(axis=0) - 8, pixels.max(axis=0) + 8
    known = {
        "joints2d": np.concatenate([pixels, np.ones((24, 1))], axis=1),
        "joints3d": np.concatenate([points, np.ones((24, 1))], axis=1),
        "global_orient": np.full(3, 0.1 * number),
        "body_pose": np.full(69, time),
        "betas": np.full(10, subject),
        "transl": points[0],
        "part_map": parts,
        "uv_map": surface,
    }
    return FrameRecord(
        image=image,
        box=(low[0], low[1], high[0], high[1]),
        subject=f"s{subject}",
        sequence=f"s{subject}-q{sequence}",
        camera=f"cam{number}",
        time=time,
        source=f"made s{subject}-q{sequence} cam{number} {time:.3f} s",
        intrinsics=intrinsics,
        rotation=rotation,
        translation=translation,
        centre=np.zeros(3),
        mask=mask if labels else None,
        labels=known if labels else {},
    )


def _draw(pixels: np.ndarray, subject: int) -> tuple[np.ndarray, ...]:
    """A soft background, and discs of radius 6 px: image, mask, part map, surface coordinates."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    image = np.stack([x, y, np.full_like(x, 40 * subject % 255)], axis=2).astype(np.uint8)
    parts = np.zeros((SIDE, SIDE), np.uint8)
    for part, (px, py) in enumerate(pixels, start=1):
        near = slice(max(int(py) - 7, 0), int(py) + 8), slice(max(int(px) - 7, 0), int(px) + 8)
        disc = (x[near] - px) ** 2 + (y[near] - py) ** 2 < 36
        parts[near][disc] = part
        image[near][disc] = (10 * part, 255 - 10 * part, 128)
    surface = np.stack([parts / 25, 1 - parts / 25]).astype(np.float32)
    return image, parts > 0, parts, surface
