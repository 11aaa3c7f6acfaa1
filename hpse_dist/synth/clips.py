"""Synthetic people who move as recorded people did: AMASS's clips drive bodies, ours the rest.

A share of the sequences takes a stretch of a clip, drawn by the sequence's own numbers: its joint
rotations pose the person's body, whose bones may be longer or shorter than the recorded one's; its
path goes over the floor, turned to any direction, and the lowest point stands on the floor but for
jumps. The other sequences have generated gaits and actions.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy
import torch

from hpse_dist.body.clips import Clip, between_frames, find_clips, read_clip
from hpse_dist.body.joints import PARENTS
from hpse_dist.body.kinematics import place_joints
from hpse_dist.draws import generator
from hpse_dist.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from hpse_dist.records import FrameRecord, Provenance, Reject
from hpse_dist.synth import produce
from hpse_dist.synth.appearance import Look
from hpse_dist.synth.crew import Sequences, in_order
from hpse_dist.synth.gaits import Manner
from hpse_dist.synth.motion import Motion
from hpse_dist.synth.produce import Studio, SyntheticConfig, jobs_of

_TRIES = 8  # clips that are looked at for one sequence before a generated motion takes its place
_JUMP_S = 0.5  # who is higher for longer than this on both sides climbs and does not jump
_LEAST_LIFT_M = 0.03
_WIDEST_M = 5.0  # paths that go farther are walked on the spot: rooms end


@dataclass(frozen=True)
class MotionsConfig(SyntheticConfig):
    """Rendered people driven by motion capture."""

    motions: Path = Path("data/amass")
    """Folder with AMASS's .npz clips, at any depth."""
    motion_share: float = 0.7
    """Share of the sequences that a clip drives; the others are generated."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.motion_share <= 1.0:
            raise ValueError(f"motion_share must be in (0, 1], found {self.motion_share}")


Config = MotionsConfig


def provenance(config: MotionsConfig) -> Provenance:
    """As of synthetic people, bound to the motions' licence."""
    made = produce.provenance(config)
    return replace(
        made,
        importer="synthetic_motions",
        licence=f"{made.licence}; motions under AMASS's licence: non-commercial research",
        commercial=False,
        citation=f"{made.citation}; Mahmood et al., AMASS: Archive of Motion Capture as Surface "
        "Shapes, ICCV 2019, and the datasets in it",
        details={**made.details, "motions": str(config.motions), "share": config.motion_share},
    )


def frames(config: MotionsConfig, processes: int = 0) -> Iterator[FrameRecord | Reject]:
    """All records, ordered by subject, sequence, moment, camera; see `produce.frames`.

    A clip that is broken or too short is a reject under its name, and another takes its place.
    """
    find_clips(config.motions)  # said here, not by one of many processes
    return in_order(ClipStudio, config, jobs_of(config), processes)


def in_parts(config: MotionsConfig, size: int, processes: int = 0) -> Sequences:
    """The same records in parts of at most `size` frames; see `produce.in_parts`."""
    find_clips(config.motions)
    longest = config.moments_per_sequence * config.cameras[1]
    return Sequences(ClipStudio, config, jobs_of(config), max(1, size // longest), processes)


class ClipStudio(Studio):
    """Renders sequences whose motions are recorded or generated."""

    config: MotionsConfig

    def __init__(self, config: MotionsConfig) -> None:
        super().__init__(config)
        self.names = find_clips(config.motions)
        self._left_out: list[Reject] = []

    def sequence(self, subject: int, sequence: int) -> Iterator[FrameRecord | Reject]:
        """Records of one sequence, then the clips that could not be used for it."""
        self._left_out = []
        yield from super().sequence(subject, sequence)
        yield from self._left_out

    def motion(
        self,
        rng: np.random.Generator,
        job: tuple[int, int],
        look: Look,
        manner: Manner,
        rest: np.ndarray,
        times: np.ndarray,
    ) -> Motion:
        """A stretch of a clip, or a generated motion where the share or the clips say so."""
        draw = generator(self.config.seed, "synth.clips", *job)
        if draw.random() < self.config.motion_share:
            for number in draw.choice(len(self.names), min(_TRIES, len(self.names)), replace=False):
                name = self.names[int(number)]
                try:
                    clip = read_clip(self.config.motions / name)
                    return clip_motion(_called(name), clip, draw, rest, times)
                except ValueError as reason:
                    self._left_out.append(Reject(f"motions, {name}", str(reason)))
        return super().motion(rng, job, look, manner, rest, times)


def clip_motion(
    name: str, clip: Clip, draw: np.random.Generator, rest: np.ndarray, times: np.ndarray
) -> Motion:
    """A stretch of a clip for a body with rest joints (24, 3), from any of its moments on.

    ValueError where it is too short.
    """
    spare = clip.seconds - float(times[-1] - times[0])
    if spare < 0:
        raise ValueError(f"is {clip.seconds:.2f} s long, {times[-1] - times[0]:.2f} s are needed")
    start = draw.uniform(0.0, spare)
    heading = _about_up(draw.uniform(0.0, 2 * np.pi))
    rotations, path = between_frames(clip, start + times - times[0])
    rotations[:, 0] = torch.from_numpy(heading).float() @ rotations[:, 0]
    vectors = matrix_to_axis_angle(rotations).numpy()
    root = (path @ heading.T)[:, [0, 2]]
    root = root - (root.min(0) + root.max(0)) / 2
    if np.ptp(root, axis=0).max() > _WIDEST_M:
        root = 0.02 * root
    lift = np.interp(start + times - times[0], *_lifts(clip, start, float(times[-1]), rest))
    return Motion(
        name=name,
        times=times,
        global_orient=vectors[:, 0].astype(np.float32),
        body_pose=vectors[:, 1:].reshape(len(times), 69).astype(np.float32),
        root=root.astype(np.float32),
        lift=np.where(lift < _LEAST_LIFT_M, 0.0, lift).astype(np.float32),
        seat=False,
    )


def _lifts(
    clip: Clip, start: float, length: float, rest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(seconds, metres): how far the lowest joint is above where it is just before and after."""
    first = max(int((start - _JUMP_S) * clip.rate), 0)
    last = min(int((start + length + _JUMP_S) * clip.rate) + 2, len(clip.poses))
    local = axis_angle_to_matrix(torch.from_numpy(clip.poses[first:last]).unflatten(1, (-1, 3)))
    bones = torch.from_numpy(np.ascontiguousarray(rest)).float()
    joints = place_joints(local, bones.expand(last - first, -1, -1), PARENTS).numpy()
    lowest = joints[..., 1].min(1) - joints[:, 0, 1] + clip.path[first:last, 1]
    window = 2 * int(_JUMP_S * clip.rate) + 1
    lift = np.clip(lowest - scipy.ndimage.minimum_filter1d(lowest, window), 0.0, 0.8)
    return np.arange(first, last) / clip.rate, lift


def _about_up(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


@functools.lru_cache(maxsize=4096)
def _called(name: str) -> str:
    """A clip's name as part of a sequence's: 'CMU/01/01_01_poses.npz' -> 'CMU.01.01_01_poses'."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name.removesuffix(".npz").replace("/", "."))[:100]
