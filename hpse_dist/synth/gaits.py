"""Gaits: angles over time as periodic curves, left and right half a cycle apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy

from hpse_dist.synth.actions import POSTURES
from hpse_dist.synth.anatomy import ANGLES, COLUMN, RELAXED, resolve

Knots = tuple[tuple[float, float], ...]
"""(share of the cycle, value), ..."""

RATE_HZ = 60.0
"""Rate at which a motion is worked out; moments are picked from it."""


@dataclass(frozen=True)
class Manner:
    """How one person moves."""

    amplitude: float = 1.0
    """Share of a posture's angles that is reached."""
    tempo: float = 1.0
    """Speed relative to the tables' seconds."""
    posture: tuple[float, ...] = (0.0,) * len(ANGLES)
    """Habitual offset of each angle, degrees."""


def turning(clock: np.ndarray, speed: float, rng: np.random.Generator) -> np.ndarray:
    """Heading (T,) in degrees: any direction at first, then a slowly changing turn."""
    hertz, phase = rng.uniform(0.1, 0.35, 2), rng.uniform(0, 2 * np.pi, 2)
    rate = speed * rng.uniform(-0.5, 0.5) + 0.35 * speed * np.sin(
        2 * np.pi * hertz * clock[:, None] + phase
    ).sum(1)
    heading: np.ndarray = rng.uniform(0, 360) + np.cumsum(rate) / RATE_HZ
    return heading


# Knots over one cycle from heel strike to heel strike: (share of the cycle, degrees), read off the
# normal curves of gait analysis (Winter, The Biomechanics and Motor Control of Human Gait).
_WALK: dict[str, Knots] = {
    "hip_flex": ((0, 30), (0.1, 24), (0.3, 4), (0.5, -11), (0.6, -5), (0.75, 20), (0.86, 32)),
    "knee": ((0, 5), (0.14, 18), (0.38, 5), (0.52, 16), (0.62, 40), (0.72, 62), (0.86, 26)),
    "ankle": ((0, 0), (0.07, -6), (0.3, 6), (0.46, 11), (0.62, -17), (0.76, 1), (0.88, 2)),
    "toe": ((0, 8), (0.1, 0), (0.4, 2), (0.55, 26), (0.68, 8), (0.85, 8)),
}
_RUN: dict[str, Knots] = {
    "hip_flex": ((0, 38), (0.15, 22), (0.36, -14), (0.5, 2), (0.7, 50), (0.85, 52)),
    "knee": ((0, 16), (0.15, 42), (0.35, 18), (0.5, 66), (0.66, 104), (0.85, 44)),
    "ankle": ((0, 6), (0.18, 24), (0.38, -22), (0.5, -16), (0.7, 4), (0.9, 6)),
    "toe": ((0, 8), (0.2, 4), (0.34, 30), (0.5, 4), (0.8, 6)),
}


def _curve(knots: Knots, phase: np.ndarray) -> np.ndarray:
    """A smooth periodic curve through (share of the cycle, value) knots at `phase` cycles."""
    at, values = np.array([*knots, (1.0, knots[0][1])], dtype=float).T
    curve: np.ndarray = scipy.interpolate.CubicSpline(at, values, bc_type="periodic")(phase % 1.0)
    return curve


def _gait(
    curves: dict[str, Knots],
    *,
    hertz: tuple[float, float],
    arm: float,
    elbow: float,
    lean: float,
    bounce: float = 0.0,
    stride: float = 1.0,
    crouch: float = 0.0,
) -> Callable[[np.ndarray, Manner, np.random.Generator], np.ndarray]:
    """A gait: left and right half a cycle apart, each arm with the other leg."""

    def angles_at(clock: np.ndarray, manner: Manner, rng: np.random.Generator) -> np.ndarray:
        pace = rng.uniform(*hertz) * manner.tempo**0.5
        size = manner.amplitude * rng.uniform(0.85, 1.1)
        phase = pace * clock + rng.random()
        angles = np.tile(RELAXED, (len(clock), 1))
        for side, own in (("l", phase), ("r", phase + 0.5)):
            for name, knots in curves.items():
                scale = size * stride if name in ("hip_flex", "knee") else 1.0
                angles[:, COLUMN[f"{side}_{name}"]] = scale * _curve(knots, own)
            angles[:, COLUMN[f"{side}_hip_flex"]] += 0.8 * crouch + lean
            angles[:, COLUMN[f"{side}_knee"]] += crouch
            angles[:, COLUMN[f"{side}_ankle"]] += 0.2 * crouch
            forward = -np.cos(2 * np.pi * own)  # the arm is back when its own leg is in front
            angles[:, COLUMN[f"{side}_sh_flex"]] = arm * size * forward + 0.15 * arm
            angles[:, COLUMN[f"{side}_elbow"]] = elbow + 0.45 * arm * np.maximum(forward, -0.4)
            angles[:, COLUMN[f"{side}_hip_abd"]] = 2.0
        sway = np.cos(2 * np.pi * phase)
        angles[:, COLUMN["pelvis_yaw"]] = -5.0 * size * stride * sway
        angles[:, COLUMN["spine_twist"]] = (5.0 * stride + 0.2 * arm) * size * sway
        angles[:, COLUMN["pelvis_roll"]] = 4.0 * np.sin(2 * np.pi * phase - 0.6)
        angles[:, COLUMN["spine_side"]] = -4.0 * np.sin(2 * np.pi * phase - 0.6)
        angles[:, COLUMN["pelvis_pitch"]] = lean
        angles[:, COLUMN["spine_flex"]] = lean + 0.3 * crouch
        angles[:, COLUMN["lift"]] = bounce * np.maximum(0.0, np.sin(4 * np.pi * (phase - 0.345)))
        # fast people go round in circles, or they would be out of the room at once
        angles[:, COLUMN["heading"]] = turning(clock, 45.0 + 1.6 * lean * arm / 4, rng)
        _arms_busy(angles, rng)
        return angles

    return angles_at


def _arms_busy(angles: np.ndarray, rng: np.random.Generator) -> None:
    """Some walkers hold a phone, carry something or have their hands behind. In place."""
    habit = rng.choice(["", "phone", "carry", "call", "behind"], p=[0.68, 0.1, 0.08, 0.08, 0.06])
    if not habit:
        return
    side = "lr"[rng.integers(2)]
    row = resolve(POSTURES[habit], side)
    for name, column in COLUMN.items():
        if name[2:] in ("sh_flex", "sh_abd", "sh_rot", "elbow", "forearm"):
            busy = habit in ("carry", "behind") or name.startswith(side)
            if busy:
                angles[:, column] = row[column] + 0.12 * (
                    angles[:, column] - angles[:, column].mean()
                )


GAITS: dict[str, Callable[[np.ndarray, Manner, np.random.Generator], np.ndarray]] = {
    "walk": _gait(_WALK, hertz=(0.8, 1.05), arm=22, elbow=20, lean=2),
    "stroll": _gait(_WALK, hertz=(0.6, 0.8), arm=12, elbow=16, lean=1, stride=0.75),
    "march": _gait(_RUN, hertz=(0.75, 0.95), arm=42, elbow=50, lean=1, stride=0.95),
    "run": _gait(_RUN, hertz=(1.25, 1.5), arm=44, elbow=88, lean=8, bounce=0.07),
    "jog": _gait(_RUN, hertz=(1.15, 1.35), arm=30, elbow=80, lean=5, bounce=0.04, stride=0.8),
    "sneak": _gait(_WALK, hertz=(0.55, 0.75), arm=10, elbow=55, lean=9, stride=0.9, crouch=38),
}
"""Name -> angles over time: (clock (T,), manner, rng) -> (T, A)."""

GAIT_SHARES = {"walk": 3.0, "stroll": 1.2, "march": 0.8, "run": 1.2, "jog": 0.8, "sneak": 0.7}
