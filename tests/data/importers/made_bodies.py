"""SMPL-like bodies for tests: a resting skeleton, poses, and the joints they put before a camera,
written out joint by joint."""

from __future__ import annotations

import cv2
import numpy as np

from hpse_dist.body.joints import PARENTS
from tests.data.importers import made_people as made


def rest(seed: int = 0, count: int = 24) -> np.ndarray:
    """(count, 3) places of the resting joints, metres; the pelvis is not at the origin."""
    random = np.random.default_rng(seed)
    places = np.zeros((count, 3))
    places[0] = (0.003, -0.24, 0.028)
    for joint in range(1, count):
        places[joint] = places[PARENTS[joint]] + random.uniform(-0.16, 0.16, 3)
    return places


def poses(frames: int, seed: int = 0) -> np.ndarray:
    """(frames, 72) axis-angles: the body turns all around, the joints a little."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(frames, 72)) * 0.3
    found[:, :3] = random.normal(size=(frames, 3))
    return found


def joints(pose: np.ndarray, skeleton: np.ndarray, transl: np.ndarray) -> np.ndarray:
    """(J, 3) posed joints: SMPL turns the body about its resting pelvis, then moves it."""
    turns = [cv2.Rodrigues(pose[3 * k : 3 * k + 3])[0] for k in range(len(skeleton))]
    chain, places = [turns[0]], [skeleton[0] + transl]
    for k in range(1, len(skeleton)):
        parent = PARENTS[k]
        places.append(places[parent] + chain[parent] @ (skeleton[k] - skeleton[parent]))
        chain.append(chain[parent] @ turns[k])
    return np.array(places)


def seen(points: np.ndarray) -> np.ndarray:
    """(J, 2) pixels of points before a camera of `made_people.MATRIX`."""
    return made.project(points, np.eye(3), np.zeros(3))
