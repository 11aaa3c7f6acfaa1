"""Anatomical angles: their limits, what postures make of them, and what SMPL makes of them.

The world has y up and the floor at y = 0; at heading 0 a person looks along +z.
"""

from __future__ import annotations

import numpy as np
import scipy

from hpse_dist.body.joints import PARENTS

# name: (lowest, highest, relaxed standing); sources: the usual clinical ranges of motion (AAOS),
# opened a little where people dance and stretch
SIDED: dict[str, tuple[float, float, float]] = {
    "hip_flex": (-35.0, 125.0, 0.0),
    "hip_abd": (-25.0, 70.0, 4.0),
    "hip_rot": (-45.0, 45.0, -6.0),
    "knee": (0.0, 150.0, 4.0),
    "ankle": (-45.0, 32.0, 0.0),
    "toe": (-20.0, 50.0, 0.0),
    "flat": (0.0, 1.0, 1.0),
    "sh_flex": (-60.0, 180.0, 2.0),
    "sh_abd": (-45.0, 175.0, 11.0),
    "sh_rot": (-85.0, 85.0, 0.0),
    "elbow": (0.0, 148.0, 14.0),
    "forearm": (-80.0, 80.0, 0.0),
    "wrist": (-60.0, 60.0, 0.0),
}
CENTRAL: dict[str, tuple[float, float, float]] = {
    "pelvis_pitch": (-95.0, 100.0, 0.0),
    "pelvis_roll": (-30.0, 30.0, 0.0),
    "pelvis_yaw": (-30.0, 30.0, 0.0),
    "spine_flex": (-35.0, 75.0, 0.0),
    "spine_side": (-38.0, 38.0, 0.0),
    "spine_twist": (-50.0, 50.0, 0.0),
    "neck_flex": (-45.0, 50.0, 0.0),
    "neck_side": (-35.0, 35.0, 0.0),
    "neck_twist": (-70.0, 70.0, 0.0),
    "heading": (-1e9, 1e9, 0.0),
    "lift": (0.0, 0.6, 0.0),
}
LIMITS: dict[str, tuple[float, float, float]] = {
    **{f"{side}_{name}": limits for side in "lr" for name, limits in SIDED.items()},
    **CENTRAL,
}
"""Every angle of the body: (lowest, highest, relaxed) degrees; `flat` a share, `lift` metres."""

ANGLES: tuple[str, ...] = tuple(LIMITS)
COLUMN = {name: i for i, name in enumerate(ANGLES)}
"""Angle -> its column in arrays of angles (T, A)."""
LOWEST, HIGHEST, RELAXED = (np.array([LIMITS[name][k] for name in ANGLES]) for k in range(3))


def resolve(posture: dict[str, float], side: str) -> np.ndarray:
    """A posture as a full row of angles (A,): sides named, the rest relaxed."""
    row = RELAXED.copy()
    # both-sided entries first, so that a sided entry of the same angle wins
    for name, value in sorted(posture.items(), key=lambda item: item[0][:2] in ("s_", "o_")):
        if name in COLUMN:
            # twists, side bends and rolls of the trunk point to the acting side
            flip = side == "r" and name.endswith(("_side", "_twist", "_roll", "_yaw"))
            row[COLUMN[name]] = -value if flip else value
        elif name[:2] in ("s_", "o_"):
            row[COLUMN[named(name, side)]] = value
        else:
            row[[COLUMN[f"l_{name}"], COLUMN[f"r_{name}"]]] = value
    return row


def named(angle: str, side: str) -> str:
    """`s_` (acting side) and `o_` (other side) made left and right."""
    acting = side if angle.startswith("s_") else ("r" if side == "l" else "l")
    return f"{acting}_{angle[2:]}"


# --- angles to rotations ------------------------------------------------------------------------


def _about(axis: int, degrees: np.ndarray) -> np.ndarray:
    """Rotations about x (0), y (1) or z (2): (T,) degrees -> (T, 3, 3)."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    i, j = ((1, 2), (2, 0), (0, 1))[axis]
    matrix = np.zeros((*np.shape(degrees), 3, 3))
    matrix[..., axis, axis] = 1.0
    matrix[..., i, i], matrix[..., j, j] = c, c
    matrix[..., i, j], matrix[..., j, i] = -s, s
    return matrix


def joint_rotations(angles: np.ndarray, rest_joints: np.ndarray) -> np.ndarray:
    """Anatomical angles (T, A) -> SMPL's rotations relative to the parent (T, 24, 3, 3).

    The angles are meant from straight hanging legs and arms held sideways; what the rest pose of
    this body has instead (arms lowered, legs apart) is taken off.
    """

    def angle(name: str) -> np.ndarray:
        column: np.ndarray = angles[:, COLUMN[name]]
        return column

    x, y, z = (lambda d, a=a: _about(a, d) for a in range(3))
    turn = np.tile(np.eye(3), (len(angles), 24, 1, 1))
    turn[:, 0] = (
        y(angle("heading"))
        @ x(angle("pelvis_pitch"))
        @ z(angle("pelvis_roll"))
        @ y(angle("pelvis_yaw"))
    )
    for joint, share in ((3, 0.3), (6, 0.35), (9, 0.35)):
        turn[:, joint] = (
            y(share * angle("spine_twist"))
            @ x(share * angle("spine_flex"))
            @ z(share * angle("spine_side"))
        )
    for joint in (12, 15):
        turn[:, joint] = (
            y(0.5 * angle("neck_twist")) @ x(0.5 * angle("neck_flex")) @ z(0.5 * angle("neck_side"))
        )
    for k, (side, m) in enumerate((("l", 1.0), ("r", -1.0))):  # m mirrors turns about y and z
        a = {name: angle(f"{side}_{name}") for name in _SIDED}
        roll = -a["flat"] * np.clip(a["hip_abd"], -18, 18)  # the sole stays level sideways too
        raised = np.maximum(0.0, np.maximum(a["sh_abd"], 0.7 * a["sh_flex"]) - 30)
        collar = 0.18 * raised  # the shoulder blade's part of raising an arm
        turn[:, 1 + k] = x(-a["hip_flex"]) @ z(m * a["hip_abd"]) @ y(m * a["hip_rot"])
        turn[:, 4 + k] = x(a["knee"])
        turn[:, 7 + k] = x(-a["ankle"]) @ z(m * roll)
        turn[:, 10 + k] = x(-a["toe"])
        turn[:, 13 + k] = z(m * collar)
        turn[:, 16 + k] = (
            z(-m * collar) @ x(-a["sh_flex"]) @ z(m * (a["sh_abd"] - 90)) @ x(a["sh_rot"])
        )
        turn[:, 18 + k] = y(-m * a["elbow"]) @ x(a["forearm"])
        turn[:, 20 + k] = z(-m * a["wrist"])
    return _from_rest(turn, rest_joints)


_SIDED = tuple(name[2:] for name in ANGLES if name.startswith("l_"))


def _from_rest(turn: np.ndarray, rest_joints: np.ndarray) -> np.ndarray:
    """Express rotations meant for straight limbs in this body's own rest pose.

    With C the turn that brings a rest limb to the straight one, the limb's rotation is
    C_parent^-1 @ turn @ C.
    """
    straight = np.tile(np.eye(3), (24, 1, 1))
    for first, second, chain, goal in (
        (16, 18, (16, 18, 20, 22), 0.0),
        (17, 19, (17, 19, 21, 23), 180.0),
        (1, 4, (1, 4, 7, 10), -90.0),
        (2, 5, (2, 5, 8, 11), -90.0),
    ):
        bone = rest_joints[second] - rest_joints[first]
        off = goal - np.degrees(np.arctan2(bone[1], bone[0]))
        straight[list(chain)] = _about(2, np.array((off + 180) % 360 - 180))
    parent = straight[[max(p, 0) for p in PARENTS]]
    result: np.ndarray = np.swapaxes(parent, -1, -2) @ turn @ straight
    return result


def walk_path(
    rotations: np.ndarray, rest_joints: np.ndarray, lift: np.ndarray, gait: bool
) -> np.ndarray:
    """Path of the pelvis over the floor (T, 2) that keeps the supporting foot in its place.

    In the air a gait keeps its speed and a jump goes straight up.
    """
    points = _soles(rotations, rest_joints)  # (T, 6, 3) from the pelvis
    height = points[..., 1] - points[..., 1].min(1, keepdims=True)
    load = np.exp(-height / 0.008)
    load = (load[1:] + load[:-1]) / 2
    load /= load.sum(1, keepdims=True)
    speed = -(load[..., None] * np.diff(points[..., [0, 2]], axis=0)).sum(1)  # (T-1, 2) per tick
    grounded = lift[1:] < 0.015
    if gait and grounded.any():
        ticks = np.arange(len(speed))
        for axis in range(2):
            speed[:, axis] = np.interp(ticks, ticks[grounded], speed[grounded, axis])
    else:
        speed = speed * grounded[:, None]
    speed = scipy.ndimage.gaussian_filter1d(speed, 3.0 if gait else 1.5, axis=0, mode="nearest")
    path = np.concatenate([np.zeros((1, 2)), np.cumsum(speed, axis=0)])
    centred: np.ndarray = path - (path.min(0) + path.max(0)) / 2
    return centred


def _soles(rotations: np.ndarray, rest_joints: np.ndarray) -> np.ndarray:
    """Heel, ball and toe of both feet relative to the pelvis joint: (T, 6, 3)."""
    offsets = rest_joints - rest_joints[[max(p, 0) for p in PARENTS]]
    world, place = [rotations[:, 0]], [np.zeros((len(rotations), 3))]
    for joint in range(1, 12):  # the legs and the lower spine: enough for the feet
        parent = PARENTS[joint]
        world.append(world[parent] @ rotations[:, joint])
        place.append(place[parent] + world[parent] @ offsets[joint])
    points = []
    for ankle, ball in ((7, 10), (8, 11)):
        sole = rest_joints[ball, 1] - 0.02
        heel = np.array([0.0, sole - rest_joints[ankle, 1], -0.05])
        points.append(place[ankle] + world[ankle] @ heel)
        under = np.array([0.0, -0.02, 0.0])
        points.append(place[ball] + world[ankle] @ under)
        points.append(place[ball] + world[ball] @ (under + np.array([0.0, 0.0, 0.06])))
    return np.stack(points, axis=1)
