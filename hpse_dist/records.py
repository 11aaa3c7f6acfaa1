"""What importers and the synthetic people hand to a collection."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class FrameRecord:
    """One person in one picture, before any crop: labels are in the pixels of that picture.

    Places count from its corner: the middle of the first pixel is at 0.5.
    """

    image: np.ndarray | Path
    """(H, W, 3) uint8 RGB, or a file that holds it."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 of the person in pixels, before the crop rule enlarges it."""
    subject: str
    sequence: str
    camera: str
    time: float
    """Seconds since the sequence began; frames of one moment have equal times."""
    source: str
    """Where it comes from, for messages: 'cam01.mp4, frame 12'."""
    track: str = ""
    intrinsics: np.ndarray | None = None
    """(3, 3) camera matrix in pixels of the picture, from its corner too."""
    rotation: np.ndarray | None = None
    """(3, 3) world to camera."""
    translation: np.ndarray | None = None
    """(3,) world to camera, metres."""
    centre: np.ndarray | None = None
    """(3,) where the person is in the world, metres."""
    mask: np.ndarray | None = None
    """(H, W) bool, True on the person."""
    appearance: np.ndarray | None = None
    """What `hpse_dist.data.appearance` measured on the person, for frames without joints: by
    it, rather than by the mask, cross-pose pairs are told from pairs of one pose."""
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    """Fields of `hpse_dist.fields`, except joints2d (J, 3) in pixels; body parameters and joints3d
    in the camera frame; part_map (H, W) uint8; uv_map (2, H, W) 0..1."""
    split: str | None = None
    """train, val or test; None lets the collection choose by subject."""


@dataclass(frozen=True)
class Reject:
    """A frame left out, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Provenance:
    """Where a collection's frames come from, and what may be done with them."""

    importer: str
    licence: str
    commercial: bool
    """Whether the licence allows commercial use."""
    citation: str
    joint_set: str | None
    """Name of the joints' order in `hpse_dist.body.joints.JOINT_SETS`, if there are joints."""
    details: dict[str, Any] = field(default_factory=dict)
