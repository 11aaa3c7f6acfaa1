"""Motions of synthetic people: smooth SMPL poses in real seconds, inside the joints' limits.

An action is a path through postures (`actions.py`), a gait a set of periodic curves. Both become
anatomical angles over time; forward kinematics then moves the root so that the supporting foot
stays where it is. The world has y up and the floor at y = 0; at heading 0 a person looks along +z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpse_dist.geometry.rotations import matrix_to_axis_angle
from hpse_dist.synth.actions import ACTIONS, POSTURES
from hpse_dist.synth.anatomy import (
    ANGLES,
    COLUMN,
    HIGHEST,
    LOWEST,
    RELAXED,
    joint_rotations,
    named,
    resolve,
    walk_path,
)
from hpse_dist.synth.gaits import GAIT_SHARES, GAITS, RATE_HZ, Manner, turning


@dataclass(frozen=True)
class Motion:
    """One person's movement at M moments."""

    name: str
    times: np.ndarray
    """(M,) seconds."""
    global_orient: np.ndarray
    """(M, 3) axis-angle of the pelvis in the world."""
    body_pose: np.ndarray
    """(M, 69) axis-angles of the other 23 joints."""
    root: np.ndarray
    """(M, 2) x and z of the pelvis joint on the floor, metres; the path is centred on 0."""
    lift: np.ndarray
    """(M,) height of the lowest point above the floor, metres: 0 except in jumps."""
    seat: bool
    """Whether the person sits on something."""


def draw_manner(rng: np.random.Generator) -> Manner:
    """A person's own way of moving."""
    offset = rng.normal(0.0, 2.5, len(ANGLES))
    for name in ("heading", "lift", "l_flat", "r_flat", "pelvis_pitch", "l_knee", "r_knee"):
        offset[COLUMN[name]] = 0.0
    offset[COLUMN["spine_flex"]] += rng.uniform(-3, 9)  # from upright to stooping
    return Manner(rng.uniform(0.82, 1.12), rng.uniform(0.8, 1.2), tuple(offset.tolist()))


def draw_motion(
    rng: np.random.Generator,
    manner: Manner,
    rest_joints: np.ndarray,
    times: np.ndarray,
    avoid: tuple[str, ...] = (),
) -> Motion:
    """A random motion for a body with the given rest joints (24, 3), at the given seconds (M,)."""
    names = [name for name in (*GAITS, *ACTIONS) if name not in avoid]
    shares = np.array([GAIT_SHARES.get(n, 0.0) or ACTIONS[n].share for n in names])
    name = names[rng.choice(len(names), p=shares / shares.sum())]
    return make_motion(name, rng, manner, rest_joints, times)


def make_motion(
    name: str,
    rng: np.random.Generator,
    manner: Manner,
    rest_joints: np.ndarray,
    times: np.ndarray,
) -> Motion:
    """The motion called `name` (a key of GAITS or ACTIONS)."""
    if name not in GAITS and name not in ACTIONS:
        raise ValueError(f"no motion is called {name!r}; there are {', '.join([*GAITS, *ACTIONS])}")
    clock = np.arange(np.ceil(float(times[-1]) * RATE_HZ) + 2) / RATE_HZ  # (T,)
    angles = motion_angles(name, clock, manner, rng)
    rotations = joint_rotations(angles, rest_joints)  # (T, 24, 3, 3)
    root = walk_path(rotations, rest_joints, angles[:, COLUMN["lift"]], name in GAITS)
    if name in GAITS and rng.random() < 0.25:
        root = 0.02 * root  # on a treadmill
    pick = np.clip(np.round(times * RATE_HZ).astype(int), 0, len(clock) - 1)
    vectors = matrix_to_axis_angle(torch.from_numpy(rotations[pick])).numpy()  # (M, 24, 3)
    return Motion(
        name=name,
        times=times,
        global_orient=vectors[:, 0].astype(np.float32),
        body_pose=vectors[:, 1:].reshape(len(times), 69).astype(np.float32),
        root=root[pick].astype(np.float32),
        lift=angles[pick, COLUMN["lift"]].astype(np.float32),
        seat=name in ACTIONS and ACTIONS[name].seat,
    )


def motion_angles(
    name: str, clock: np.ndarray, manner: Manner, rng: np.random.Generator
) -> np.ndarray:
    """Anatomical angles (T, A) of a motion at the seconds `clock` (T,), inside their limits."""
    angles = GAITS[name](clock, manner, rng) if name in GAITS else _act(name, clock, manner, rng)
    return _personal(angles, clock, manner, rng)


# --- angles over time ---------------------------------------------------------------------------


def _act(name: str, clock: np.ndarray, manner: Manner, rng: np.random.Generator) -> np.ndarray:
    """An action's angles (T, A): from posture to posture with least jerk."""
    action = ACTIONS[name]
    side = "lr"[rng.integers(2)]
    rows: list[np.ndarray] = []
    starts: list[float] = []
    ends: list[float] = []
    now = -float(rng.uniform(0.0, 2.0 + len(action.steps)))  # begin anywhere in the circle
    replace = {old: new for old, new in action.ways if rng.random() < 0.5}
    while now < clock[-1] + 0.1 or len(rows) < 2:
        for posture, seconds in action.steps:
            row = resolve(POSTURES[replace.get(posture, posture)], side)
            row = RELAXED + (row - RELAXED) * manner.amplitude * rng.normal(1.0, 0.1, row.shape)
            reach = seconds / manner.tempo * rng.uniform(0.85, 1.2)
            starts.append(now)
            ends.append(now + reach)
            rows.append(row)
            now += reach + action.hold / manner.tempo * rng.exponential(1.0)
        side = side if rng.random() < 0.6 else ("r" if side == "l" else "l")
    angles = _ease(clock, np.array(rows), np.array(starts), np.array(ends))
    for angle, amplitude, hertz in action.waves:
        column = COLUMN[angle] if angle in COLUMN else COLUMN[named(angle, side)]
        swing = 2 * np.pi * (hertz * manner.tempo * clock + rng.random())
        angles[:, column] += amplitude * manner.amplitude * np.sin(swing)
    _flatten_feet(angles)
    angles[:, COLUMN["heading"]] = turning(clock, action.turn, rng)
    return angles


def _ease(clock: np.ndarray, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Pass through `rows` (n, A), reaching row i between starts[i] and ends[i] -> (T, A)."""
    at = np.clip(np.searchsorted(starts, clock, side="right") - 1, 1, len(rows) - 1)
    s = np.clip((clock - starts[at]) / (ends[at] - starts[at]), 0.0, 1.0)[:, None]
    s = s**3 * (10 - 15 * s + 6 * s**2)  # minimum jerk (Flash and Hogan 1985)
    angles: np.ndarray = rows[at - 1] + s * (rows[at] - rows[at - 1])
    return angles


def _flatten_feet(angles: np.ndarray) -> None:
    """Set the ankles so that a flat foot stays level in the plane of walking. In place."""
    for side in "lr":
        flat = angles[:, COLUMN[f"{side}_flat"]]
        level = (
            angles[:, COLUMN["pelvis_pitch"]]
            - angles[:, COLUMN[f"{side}_hip_flex"]]
            + angles[:, COLUMN[f"{side}_knee"]]
        )
        ankle = angles[:, COLUMN[f"{side}_ankle"]]
        angles[:, COLUMN[f"{side}_ankle"]] = flat * level + (1 - flat) * ankle


def _personal(
    angles: np.ndarray, clock: np.ndarray, manner: Manner, rng: np.random.Generator
) -> np.ndarray:
    """Add the person's posture and a slow, small sway; end inside the limits. (T, A) -> (T, A)."""
    sway = np.zeros_like(angles)
    for low, high, size in ((0.1, 0.4, 1.6), (0.5, 1.2, 0.5)):
        hertz = rng.uniform(low, high, len(ANGLES))
        phase = rng.uniform(0, 2 * np.pi, len(ANGLES))
        sway += size * np.sin(2 * np.pi * hertz * clock[:, None] + phase)
    fixed = [COLUMN[n] for n in ("heading", "lift", "l_flat", "r_flat", "pelvis_pitch")]
    legs = [COLUMN[f"{s}_{n}"] for s in "lr" for n in ("hip_flex", "knee", "ankle", "toe")]
    sway[:, fixed] = 0.0
    sway[:, legs] *= 0.25  # standing feet do not drift
    result: np.ndarray = np.clip(angles + np.array(manner.posture) + sway, LOWEST, HIGHEST)
    return result
