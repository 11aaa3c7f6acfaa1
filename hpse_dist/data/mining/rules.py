"""What makes a pair: limits, caps, and how hard a pair is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

VIEW, POSE = 0, 1
KIND_NAMES = {VIEW: "view", POSE: "pose"}
CAPS = ("max_per_camera_pair", "max_per_sequence", "max_per_subject")  # from narrow to wide


@dataclass(frozen=True)
class PairsConfig:
    """Limits of the pairs and how many are kept."""

    view_angle_deg: tuple[float, float] = (10.0, 90.0)
    """Cross-view: angle between the viewing directions at the person, degrees within 0..90."""
    min_view_overlap: float = 0.0
    """Cross-view: least co-visibility of the body's surface, where both surfaces are known."""
    max_view_per_moment: int = 16
    """Cross-view: pairs (of either order) kept per person and moment; 0 for none."""
    weigh_views: bool = True
    """Cross-view: under max_view_per_moment draw in proportion to 4 cos a (1 - cos a), as CroCo v2
    chose its pairs; false keeps the angles as they are spread among the candidates."""
    time_gap_s: tuple[float, float] = (0.2, 3.0)
    """Cross-pose: seconds between the frames, drawn log-uniformly."""
    pose_distance: tuple[float, float] = (0.1, 1.0)
    """Cross-pose: mean displacement of joints over their mean distance from the body's centre."""
    silhouette_distance: tuple[float, float] = (0.05, 0.8)
    """Cross-pose: the same where only silhouettes are known, 1 - intersection / union."""
    unknown_pose: bool = True
    """Cross-pose: whether frames with neither joints nor silhouette are paired by time alone."""
    max_pose_per_frame: int = 2
    """Cross-pose: later frames (of either order) kept per frame; 0 for none."""
    max_per_camera_pair: int | None = None
    """Cross-view: pairs (of either order) of the same two cameras in one sequence; null for all."""
    max_per_sequence: int | None = None
    """Pairs of each kind (of either order) kept per sequence; null for all."""
    max_per_subject: int | None = None
    """Pairs of each kind (of either order) kept per person, so that a rig of 100 cameras does not
    drown the rest; null for all."""
    both_orders: bool = True
    """Store (b, a) beside every (a, b)."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        for name in ("view_angle_deg", "time_gap_s", "pose_distance", "silhouette_distance"):
            low, high = getattr(self, name)
            if not 0 <= low < high < np.inf:
                raise ValueError(f"{name} must be two growing numbers from 0, found {low}, {high}")
        if self.view_angle_deg[1] > 90:
            raise ValueError(
                "view_angle_deg must end at 90 or below, where 4 cos a (1 - cos a) reaches 0, "
                f"found {self.view_angle_deg[1]}"
            )
        if self.time_gap_s[0] <= 0:
            raise ValueError("time_gap_s must begin above 0: it is drawn log-uniformly")
        if not 0 <= self.min_view_overlap <= 1:
            raise ValueError(
                f"min_view_overlap must be a share of 0..1, found {self.min_view_overlap}"
            )
        if self.max_view_per_moment < 0 or self.max_pose_per_frame < 0:
            raise ValueError("max_view_per_moment and max_pose_per_frame must be 0 or more")
        for name in CAPS:
            cap = getattr(self, name)
            if cap is not None and cap < 1:
                raise ValueError(
                    f"{name} must be at least 1, or null for no cap, found {cap}; to leave out a "
                    "kind set max_view_per_moment or max_pose_per_frame to 0"
                )


def view_weight(angle_deg: np.ndarray) -> np.ndarray:
    """4 cos a (1 - cos a): 1 at 60 degrees, 0 at 0 and 90. From CroCo v2's choice of real pairs."""
    cosine = np.cos(np.radians(angle_deg))
    return 4 * cosine * (1 - cosine)


def difficulty(
    kind: int,
    angle_deg: np.ndarray,
    time_gap_s: np.ndarray,
    pose_distance: np.ndarray,
    overlap: np.ndarray,
    config: PairsConfig,
) -> np.ndarray:
    """How little one frame of a pair says of the other: 0 easy .. 1 hard, each array (n,).

    The mean of what is known, each on a scale of 0..1 (NaN is unknown; where all is, NaN).
    Cross-view: the angle over 90 degrees, and 1 - overlap. Cross-pose: the pose distance, which is
    1 where joints moved as far as they are from the body's centre; the place of the time gap in
    the recipe's range, logarithmically; and 1 - overlap. Ours: CroCo v2's weight, which is kept
    beside it as `weight`, says which pairs teach best, and is highest in the middle.
    """
    if kind == VIEW:
        terms = np.stack([angle_deg / 90, 1 - overlap])
    else:
        low, high = config.time_gap_s
        gap = np.log(np.maximum(time_gap_s, 1e-6) / low) / np.log(high / low)
        terms = np.stack([pose_distance, gap, 1 - overlap])
    known = np.isfinite(terms)
    total = np.where(known, np.clip(terms, 0, 1), 0).sum(axis=0)
    count = known.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
