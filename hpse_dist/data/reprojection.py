"""Whether a collection's 3D joints, cameras and 2D joints agree: the validator of importers.

A camera of the wrong size, a mirrored axis, joints in another order: each shows in how far the 3D
joints project from the 2D joints. Wrong units do not, since a person ten times as large and as far
looks the same; they show in how large people are. Some datasets have 2D joints of no other origin
than the 3D ones: there the error is 0, and only the pictures tell.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np

from hpse_dist.body.joints import JOINT_SETS

MOST_SHARE = 0.02  # of the crop's side: more is no noise of labels
_PROJECTED_PX = 0.01
_BODY_M, _HAND_M = (0.4, 2.6), (0.04, 1.2)  # farthest joints apart; two hands may be an arm apart


def projected(joints3d: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """(J, 3) x, y in 0..1 of the crop and confidence, 0 behind the camera, of (J, 4) joints."""
    rays = joints3d[:, :3].astype(np.float64) @ intrinsics.T
    before = (rays[:, 2] > 0) & (joints3d[:, 3] > 0)
    places = rays[:, :2] / np.where(before, rays[:, 2], 1)[:, None]
    return np.column_stack([np.where(before[:, None], places, 0), before])


class Reprojection:
    """Collects the errors of frames as they are stored: three numbers for each."""

    def __init__(self) -> None:
        self._pixels, self._shares, self._sizes = array("f"), array("f"), array("f")

    def add(self, row: dict[str, np.ndarray], side_px: float) -> None:
        """A stored frame: fields as in its shard, and its crop's side in the picture, pixels."""
        if "joints3d" not in row:
            return
        known: np.ndarray = row["joints3d"][row["joints3d"][:, 3] > 0, :3].astype(np.float64)
        if len(known) > 1:
            self._sizes.append(float(np.ptp(known, axis=0).max()))
        if "joints2d" not in row or "intrinsics" not in row:
            return
        given = row["joints2d"]
        if len(given) != len(row["joints3d"]):
            return  # of another joint set
        seen = projected(row["joints3d"], row["intrinsics"])
        both = (seen[:, 2] > 0) & (given[:, 2] > 0)
        if both.any():
            apart = np.linalg.norm(seen[both, :2] - given[both, :2], axis=1)
            share = float(np.median(apart))
            self._shares.append(share)
            self._pixels.append(share * side_px)

    def numbers(self) -> tuple[list[float], ...]:
        """What was collected, to be kept and added to another's."""
        return self._pixels.tolist(), self._shares.tolist(), self._sizes.tolist()

    def extend(self, numbers: Iterable[Iterable[float]]) -> None:
        """Add what another has collected."""
        for mine, its in zip((self._pixels, self._shares, self._sizes), numbers, strict=True):
            mine.extend(its)

    def account(self) -> dict[str, float] | None:
        """What a manifest keeps; None where no frame has joints in 3D."""
        if not self._sizes:
            return None
        found: dict[str, float] = {"size_m": float(np.median(self._sizes))}
        if self._pixels:
            found |= {
                "frames": len(self._pixels),
                "median_px": float(np.median(self._pixels)),
                "p95_px": float(np.percentile(self._pixels, 95)),
                "median_share": float(np.median(self._shares)),
            }
        return {name: float(f"{value:.4g}") for name, value in found.items()}


def sentences(manifest: dict[str, Any]) -> list[str]:
    """The account of a collection's manifest in words, warnings last; [] without one."""
    account = manifest.get("reprojection")
    if account is None:
        return []
    size = account["size_m"]
    lines = []
    if "median_px" in account and account["p95_px"] < _PROJECTED_PX:
        lines.append(
            "2D joints lie exactly where the 3D ones project: whether both sit on people, "
            "sheets/frames.png tells"
        )
    elif "median_px" in account:
        lines.append(
            f"3D joints project {account['median_px']:.2f} px (median, 95 % below "
            f"{account['p95_px']:.2f} px) from the 2D joints in {account['frames']:.0f} frames"
        )
    lines.append(f"the labelled joints of one person span {size:.3g} m (median)")
    if account.get("median_share", 0) > MOST_SHARE:
        lines.append(
            f"warning: 3D and 2D joints are {100 * account['median_share']:.1f} % of the crop "
            "apart: the camera (intrinsics, or a mirrored axis) or the order of the joints is "
            "wrong; look at sheets/frames.png, where rings are the projected 3D joints"
        )
    low, high = _BODY_M if _is_body(manifest.get("joint_set")) else _HAND_M
    if not low <= size <= high:
        lines.append(
            f"warning: joints that span {size:.3g} m are no person's ({low} to {high} m are "
            "believed): the 3D joints are not in metres"
        )
    return lines


def _is_body(joint_set: str | None) -> bool:
    names = JOINT_SETS.get(joint_set or "", ())
    return not names or any("hip" in name for name in names)
