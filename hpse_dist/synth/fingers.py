"""Fingers of synthetic people: gestures of the right hand, exact MANO parameters with them.

The free body's fingers follow its hand. The free hand is that part of the body, jointed, so that
a gesture is a shift of the body's vertices at rest, before the body is posed: what is rendered is
the free hand with the parameters of the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpse_dist.body.free_hand import free_hand_folder, read_body_vertices
from hpse_dist.body.joints import MANO21, SMPL24
from hpse_dist.body.model import load_hand
from hpse_dist.geometry.rotations import matrix_to_axis_angle
from hpse_dist.synth.people import PosedPerson
from hpse_dist.synth.scene import Camera

# How far thumb, index, middle, ring and little finger are closed: 0 relaxed, 1 into the fist.
GESTURES: dict[str, tuple[float, float, float, float, float]] = {
    "relaxed": (0.0, 0.0, 0.0, 0.0, 0.0),
    "open": (-0.2, -0.2, -0.2, -0.2, -0.2),
    "fist": (0.9, 1.0, 1.0, 1.0, 1.0),
    "point": (0.8, -0.2, 1.0, 1.0, 1.0),
    "peace": (0.8, -0.2, -0.2, 1.0, 1.0),
    "three": (0.8, -0.2, -0.2, -0.2, 1.0),
    "four": (0.8, -0.2, -0.2, -0.2, -0.2),
    "thumb_up": (-0.3, 1.0, 1.0, 1.0, 1.0),
    "rock": (0.8, -0.2, 1.0, 1.0, -0.2),
    "call": (-0.3, 1.0, 1.0, 1.0, -0.2),
}
_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
_CLOSED = np.radians([[30.0, 35.0, 55.0], *[[75.0, 90.0, 55.0]] * 4])  # per finger and joint
_JITTER = np.radians(6.0)
_WRIST = SMPL24.index("right_wrist")


@dataclass(frozen=True)
class Fingers:
    """The right hand through a sequence."""

    gesture: np.ndarray
    """(M,) number in GESTURES."""
    pose: np.ndarray
    """(M, 45) axis-angle."""


class RightHand:
    """The free hand, and where it is on the free body."""

    def __init__(self) -> None:
        self.hand = load_hand("free", "right")
        self.body_vertices = read_body_vertices(free_hand_folder())
        self.axes = self._axes()

    def _axes(self) -> np.ndarray:
        """(15, 3) about which a joint closes. At rest the arm points to -x and the palm down; a
        finger closes downwards, the thumb across the palm."""
        rest = self.hand.rest_joints(torch.zeros(1, 10))[0].numpy()
        axes: np.ndarray = np.zeros((15, 3))
        for joint in range(1, 16):
            child = self.hand.parents.index(joint)
            thumb = MANO21[joint].startswith("thumb")
            towards = np.array([0.0, -0.5, -1.0]) if thumb else np.array([0.0, -1.0, 0.0])
            axis = np.cross(rest[child] - rest[joint], towards)
            axes[joint - 1] = axis / np.linalg.norm(axis)
        return axes

    def draw(self, rng: np.random.Generator, count: int) -> Fingers:
        """A gesture for each of `count` moments, every finger a little off it."""
        gesture = rng.integers(0, len(GESTURES), count)
        closed = np.array(list(GESTURES.values()))[gesture]  # (M, 5)
        closed = closed + rng.normal(0.0, 0.06, closed.shape)
        pose: np.ndarray = rng.normal(0.0, _JITTER / 2, (count, 15, 3))
        for finger, name in enumerate(_FINGERS):
            for k in range(3):
                joint = MANO21.index(f"{name}{k + 1}") - 1
                angle = closed[:, finger] * _CLOSED[finger, k] + rng.normal(0, _JITTER / 2, count)
                pose[:, joint] += angle[:, None] * self.axes[joint]
        return Fingers(gesture, pose.reshape(count, 45).astype(np.float32))

    def shift(self, fingers: Fingers, betas: np.ndarray, num_vertices: int) -> np.ndarray:
        """(M, V, 3) how far the fingers move the body's vertices at rest."""
        count = len(fingers.pose)
        pose, nothing = torch.from_numpy(fingers.pose), torch.zeros(count, 3)
        shape = torch.from_numpy(betas)[None].expand(count, 10)
        with torch.no_grad():
            moved = self.hand(nothing, pose, shape, nothing).vertices
            rest = self.hand(nothing, torch.zeros_like(pose), shape, nothing).vertices
        shift: np.ndarray = np.zeros((count, num_vertices, 3), np.float32)
        shift[:, self.body_vertices] = (moved - rest).numpy()
        return shift

    def labels(
        self,
        fingers: Fingers,
        posed: PosedPerson,
        moment: int,
        camera: Camera,
        intrinsics: np.ndarray,
        size: int,
    ) -> dict[str, np.ndarray]:
        """Exact labels of one crop: 21 joints, MANO's parameters in the camera's frame, gesture.

        With J the hand's and w the body's wrist at rest, G the wrist's turn and p its place in the
        world, the body puts a point v of the hand at G (v - w) + p, and MANO at G (v - J) + J +
        transl: so transl = G (J - w) + p - J.
        """
        betas = torch.from_numpy(posed.betas)[None]
        with torch.no_grad():
            own = self.hand.rest_joints(betas)[0, 0].numpy()
        turn = posed.turns[moment, _WRIST]
        place = turn @ (own - posed.rest[_WRIST]) + posed.joints[moment, _WRIST]
        orient = matrix_to_axis_angle(torch.from_numpy(camera.rotation @ turn)).float()
        transl = torch.from_numpy(camera.rotation @ place + camera.translation - own).float()
        pose = torch.from_numpy(fingers.pose[moment])
        with torch.no_grad():
            joints = self.hand(orient[None], pose[None], betas, transl[None]).joints[0].numpy()
        seen = joints.astype(np.float64) @ intrinsics.T
        places = seen[:, :2] / seen[:, 2:]
        inside = ((places >= 0) & (places < size)).all(1) & (joints[:, 2] > 0)
        return {
            "joints2d": np.concatenate([places, inside[:, None]], axis=1).astype(np.float32),
            "joints3d": np.concatenate([joints, np.ones((21, 1))], axis=1).astype(np.float32),
            "hand_orient": orient.numpy(),
            "hand_pose": fingers.pose[moment],
            "hand_betas": posed.betas.astype(np.float32),
            "hand_transl": transl.numpy(),
            "label": np.array(fingers.gesture[moment], np.int64),
        }
