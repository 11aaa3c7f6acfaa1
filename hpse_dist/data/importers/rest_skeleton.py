"""A person's resting skeleton from SMPL's poses and projected joints, without the body model.

Several datasets give a person's SMPL parameters and the pixels of the joints, but no joints in 3D:
these take the licensed model. They follow from what is given, though. A joint's place is linear in
the bones of the resting skeleton,

    p_k = shift + base (o_0 + sum of G_parent(j) o_j for every joint j between the root and k),

where o_0 is the resting pelvis, o_j the bone that ends at j, G the joints' turns, base and shift
the way from the body's world to the camera; and u = K p / z gives two linear equations for each
joint and frame. A few dozen frames of one shape, seen from several sides or distances, decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from hpse_dist.body.joints import PARENTS
from hpse_dist.data.importers.official import MOST, NEAR_M, Bad

MOST_FRAMES = 300  # that many say as much as thousands
MOST_PX = 2.0  # how far the found joints may project from the given ones
MOST_DOUBT_M = 0.01  # and how uncertain a bone may be
_LEAST_NOISE_PX = 0.01  # given pixels are rounded
_FIRMNESS_PX = (30.0, 10.0, 3.0, 0.0, 0.0)  # round by round
_LONGEST_M = (0.1, 0.8)  # the longest bone of anyone's, a child's or an adult's


class Undecided(Bad):
    """The given views do not contradict one another, but are too few to know the skeleton from."""


@dataclass(frozen=True, eq=False)
class Posed:
    """Poses of one shape before a camera: N frames of the first J of SMPL's joints."""

    turns: np.ndarray
    """(N, J, 3, 3) each joint's turn against the body's own axes."""
    base: np.ndarray
    """(N, 3, 3) from the body's world to the camera."""
    shift: np.ndarray
    """(N, 3) the camera's coordinates of the body's transl, metres."""
    intrinsics: np.ndarray
    """(N, 3, 3) pixels."""

    def take(self, rows: np.ndarray) -> Posed:
        """Some of the frames."""
        every = (self.turns, self.base, self.shift, self.intrinsics)
        return Posed(*(value[rows] for value in every))

    def joints(self, bones: np.ndarray) -> np.ndarray:
        """(N, J, 3) of the camera's frame for bones (J, 3)."""
        places = [np.broadcast_to(bones[0], self.shift.shape)]
        for joint in range(1, len(bones)):
            parent = PARENTS[joint]
            places.append(places[parent] + self.turns[:, parent] @ bones[joint])
        seen = np.einsum("nij,nkj->nki", self.base, np.stack(places, axis=1))
        return seen + self.shift[:, None]

    def pixels(self, bones: np.ndarray) -> np.ndarray:
        """(N, J, 2) where those joints are seen; infinite for one in the camera's own plane."""
        rays = np.einsum("nij,nkj->nki", self.intrinsics, self.joints(bones))
        with np.errstate(all="ignore"):
            seen = rays[..., :2] / rays[..., 2:]
        return np.where(np.abs(seen) < MOST, seen, np.inf)


def turns_of(poses: np.ndarray) -> np.ndarray:
    """(N, J, 3, 3) turns against the body's axes of axis-angles (N, J, 3) against the parents."""
    flat = scipy.spatial.transform.Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix()
    turns = flat.reshape(*poses.shape[:2], 3, 3)
    for joint in range(1, poses.shape[1]):
        turns[:, joint] = turns[:, PARENTS[joint]] @ turns[:, joint]
    return turns


def solve_bones(posed: Posed, pixels: np.ndarray) -> np.ndarray:
    """(J, 3) bones in metres, the first the resting pelvis, from pixels (N, J, 2).

    Raises Bad, as Undecided where more views would help.
    Frames that lie far from what the others say are left out, up to half of them.
    """
    few = np.unique(np.linspace(0, len(pixels) - 1, MOST_FRAMES).round().astype(int))
    posed, pixels = posed.take(few), pixels[few]
    if (posed.shift[:, 2] < NEAR_M).any():
        raise Bad("the body is behind the camera")
    kept: np.ndarray = np.ones(len(few), bool)
    for firmness in _FIRMNESS_PX:
        bones, normal = _least_squares(posed.take(kept), pixels[kept], firmness)
        apart = np.linalg.norm(posed.pixels(bones) - pixels, axis=2)
        each = np.median(apart, axis=1)
        kept = each <= max(3 * np.median(each), _LEAST_NOISE_PX)
    if not np.median(apart[kept]) < MOST_PX:
        raise Bad(
            f"the given 2D joints lie {np.median(apart):.0f} px (median) from any that the SMPL "
            "parameters and the camera allow"
        )
    longest = float(np.linalg.norm(bones[1:], axis=1).max())
    if not _LONGEST_M[0] < longest < _LONGEST_M[1]:
        raise Bad(f"the longest bone comes out as {longest:.2g} m: the units are not metres")
    noise = max(float(np.sqrt(np.mean(apart[kept] ** 2) / 2)), _LEAST_NOISE_PX)
    doubt = noise * np.sqrt(np.linalg.inv(normal).diagonal().max())
    if doubt > MOST_DOUBT_M:
        raise Undecided(f"its views leave the skeleton uncertain by {100 * doubt:.0f} cm")
    return bones


def _least_squares(
    posed: Posed, pixels: np.ndarray, firmness: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bones (J, 3) and the normal matrix (3 J, 3 J) of their equations, in pixels a metre.

    firmness: how many pixels in every frame a bone of `_LONGEST_M` counts for; it keeps wrong
    frames from pulling all joints into the camera, where every ray meets.
    """
    count = pixels.shape[1]
    normal = np.eye(3 * count) * len(pixels) * (firmness / _LONGEST_M[1]) ** 2
    right = np.zeros(3 * count)
    for joint in range(count):
        rows, values, chain = _equations(posed, pixels[:, joint], joint)
        at = (3 * np.array(chain)[:, None] + np.arange(3)).ravel()
        normal[np.ix_(at, at)] += rows.T @ rows
        right[at] += rows.T @ values
    if np.linalg.cond(normal) > 1e14:
        raise Undecided("its views are too few or too alike to know the skeleton from")
    return np.linalg.solve(normal, right).reshape(count, 3), normal


def _equations(
    posed: Posed, pixels: np.ndarray, joint: int
) -> tuple[np.ndarray, np.ndarray, Sequence[int]]:
    """rows (2 N, 3 C), values (2 N,) in pixels for the C bones from the root to a joint."""
    chain = [joint]
    while chain[0] != 0:
        chain.insert(0, PARENTS[chain[0]])
    blocks = [posed.base] + [posed.base @ posed.turns[:, PARENTS[bone]] for bone in chain[1:]]
    places = np.concatenate(blocks, axis=2)  # (N, 3, 3 C)
    rays = posed.intrinsics[:, :2] - pixels[:, :, None] * posed.intrinsics[:, 2:]  # (N, 2, 3)
    rays = rays / posed.shift[:, None, 2:]  # so that errors are pixels
    values = -np.einsum("nij,nj->ni", rays, posed.shift)
    return (rays @ places).reshape(-1, 3 * len(chain)), values.ravel(), chain
