"""MANO's parameters as datasets publish them, as the labels of a collection.

They leave out where MANO's wrist is before it is turned, which its file knows: without the file
there are no such labels. Right hands only, as `hand_mesh` has them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hpse_dist.body.model import load_hand


class ManoLabels:
    """The labels hand_orient, hand_pose, hand_betas and hand_transl of right hands."""

    def __init__(self, folder: Path) -> None:
        self._hand = load_hand(folder, "right")
        self._mean: np.ndarray = self._hand.hands_mean.numpy().astype(np.float64)

    def rest_wrist(self, betas: np.ndarray) -> np.ndarray:
        """(3,) the wrist of a hand of shape (10,) that is neither turned nor moved, metres."""
        with torch.no_grad():
            rest = self._hand.rest_joints(torch.from_numpy(betas)[None].float())
        place: np.ndarray = rest[0, 0].numpy().astype(np.float64)
        return place

    def labels(
        self,
        orient: np.ndarray,
        pose: np.ndarray,
        betas: np.ndarray,
        wrist: np.ndarray,
        flat: bool = False,
    ) -> dict[str, np.ndarray]:
        """orient (3,) and the wrist's place (3,) in the camera frame, pose (45,), betas (10,).

        flat: the pose's zero is the flat hand, as HO-3D has it, not MANO's mean pose.
        """
        labels = {
            "hand_orient": orient,
            "hand_pose": pose - self._mean if flat else pose,
            "hand_betas": betas,
            "hand_transl": wrist - self.rest_wrist(betas),
        }
        return {name: value.astype(np.float32) for name, value in labels.items()}
