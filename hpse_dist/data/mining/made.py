"""A frames.parquet of people who never were, of any size: to measure mining, and to try its rules.

No picture belongs to it. A person walks in a circle of calibrated cameras, or is seen by one that
is not; joints swing, and a camera sees the half of the body's surface that is turned to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hpse_dist.data.descriptors import SURFACE_CELLS
from hpse_dist.data.shards import FRAME_SCHEMA
from hpse_dist.draws import generator

_JOINTS = 24
FRAMES_PER_SHARD = 2048


@dataclass(frozen=True)
class MadePerson:
    """One person's frames: every camera sees every moment."""

    cameras: int
    """1 is an uncalibrated camera of one's own."""
    moments: int
    gap_s: float = 0.2
    split: str = "train"


def population(num_frames: int, num_people: int, seed: int = 0) -> list[MadePerson]:
    """People of about equally many frames: half in rigs of 4 to 100 cameras, half on video."""
    rng = generator(seed, "made/population")
    each = max(2, num_frames // num_people)
    people = []
    for number in range(num_people):
        cameras = 1 if number % 2 else round(np.exp(rng.uniform(np.log(4), np.log(100))))
        people.append(MadePerson(cameras, max(1, round(each / cameras))))
    return people


def made_frames(people: Sequence[MadePerson], seed: int = 0) -> pa.Table:
    """frames.parquet of some people; a shard holds people whole, or moments of one whole."""
    parts, first, shard, row = [], 0, 0, 0
    for number, person in enumerate(people):
        at: np.ndarray = np.arange(person.cameras * person.moments)
        if row and row + len(at) > FRAMES_PER_SHARD:
            shard, row = shard + 1, 0
        whole = max(1, FRAMES_PER_SHARD // person.cameras) * person.cameras
        columns = _columns(person, number, seed) | {
            "sample_id": pa.array(first + at),
            "shard": pa.array(shard + at // whole),
            "row": pa.array(row + at % whole),
            "time": pa.array(at // person.cameras * person.gap_s),
        }
        first, shard = first + len(at), shard + int(at[-1]) // whole
        row = (row if len(at) <= whole else 0) + int(at[-1]) % whole + 1
        arrays = [
            columns.get(field.name, pa.nulls(len(at), field.type)).cast(field.type)
            for field in FRAME_SCHEMA
        ]
        parts.append(pa.Table.from_arrays(arrays, schema=FRAME_SCHEMA))
    return pa.concat_tables(parts)


def _columns(person: MadePerson, number: int, seed: int) -> dict[str, pa.Array]:
    """What a person's frames hold besides their place, moment after moment."""
    rng = generator(seed, "made/person", number)
    views, moments = person.cameras, person.moments
    count = views * moments
    turn = 2 * np.pi * np.arange(views) / views + rng.uniform(0, 2 * np.pi)
    rotation = _facing(turn)
    centre = np.array([rng.uniform(-1, 1), 0.9, rng.uniform(-1, 1)])
    eyes = centre - 4 * rotation[:, 2]
    pose = _poses(rng, moments * person.gap_s, moments)
    seen = np.einsum("vij,mkj->mvki", rotation, pose).reshape(count, -1).astype(np.float32)
    corner = rng.uniform(0, 300, (count, 2))
    columns = {
        "subject": pa.array([f"person{number:05d}"] * count),
        "sequence": pa.array([f"sequence{number:05d}"] * count),
        "track": pa.array([""] * count),
        "camera": pa.array([f"cam{view:03d}" for view in range(views)] * moments),
        "split": pa.array([person.split] * count),
        "source": pa.array([f"made {number}"] * count),
        "box": _lists(np.concatenate([corner, corner + rng.uniform(200, 400, (count, 2))], 1)),
        "pose_kind": pa.array(["joints3d"] * count),
        "pose": _lists(seen),
    }
    if views > 1:
        matrices = np.tile(rotation.reshape(views, 9), (moments, 1))
        places = np.tile(-np.einsum("vij,vj->vi", rotation, eyes), (moments, 1))
        columns["R"], columns["t"] = _lists(matrices), _lists(places)
        columns["centre"] = _lists(np.tile(centre, (count, 1)))
        columns["surface"] = pa.array(_surfaces(turn) * moments, pa.binary())
    return columns


def _facing(turn: np.ndarray) -> np.ndarray:
    """World-to-camera rotations that look at the middle from `turn` (V,) radians: (V, 3, 3)."""
    zero, one = np.zeros_like(turn), np.ones_like(turn)
    right = np.stack([np.cos(turn), zero, -np.sin(turn)], 1)
    forward = np.stack([-np.sin(turn), zero, -np.cos(turn)], 1)
    return np.stack([right, np.stack([zero, -one, zero], 1), forward], axis=1)


def _poses(rng: np.random.Generator, seconds: float, moments: int) -> np.ndarray:
    """Swinging joints as descriptors hold them, in the world: (moments, joints, 3)."""
    time = np.linspace(0, seconds, moments, endpoint=False)[:, None, None]
    rest, swing = rng.normal(0, 1, (_JOINTS, 3)), rng.normal(0, 0.5, (_JOINTS, 3))
    joints = rest + swing * np.sin(rng.uniform(1, 4) * time + rng.uniform(0, 6, (_JOINTS, 1)))
    joints -= joints.mean(axis=1, keepdims=True)
    return joints / np.linalg.norm(joints, axis=2).mean(axis=1)[:, None, None]


def _surfaces(turn: np.ndarray) -> list[bytes]:
    """The cells that each camera sees: those turned towards it."""
    around = 2 * np.pi * np.arange(SURFACE_CELLS**2) / SURFACE_CELLS**2
    seen = np.cos(around - turn[:, None]) > 0.2
    return [row.tobytes() for row in np.packbits(seen, axis=1)]


def _lists(values: np.ndarray) -> pa.Array:
    """(N, D) as N lists of D."""
    offsets = pa.array(np.arange(len(values) + 1, dtype=np.int32) * values.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))
