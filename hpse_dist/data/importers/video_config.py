"""What a recipe says of a folder of videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hpse_dist.data.importers.foreground import ForegroundConfig
from hpse_dist.data.importers.shots import ShotConfig
from hpse_dist.data.importers.video_quality import QualityConfig
from hpse_dist.data.importers.video_tracks import TrackConfig


@dataclass(frozen=True)
class VideosConfig:
    """A folder of videos."""

    root: Path
    """The videos' folder; sub-folders are searched too."""
    boxes: Path | None = None
    """File with people's boxes, CSV or JSON lines, relative to the folder; videos without a box
    in it are left out."""
    detector: Path | None = None
    """File with the weights of one of torchvision's detectors, relative to the folder; not used
    where boxes are given. Without both, people are what moves before still cameras."""
    detector_score: float = 0.7
    """Least score of a detection."""
    hand_held: bool = False
    """Without boxes and detector: find people also where the camera moves, by how they move against
    the scene. Boxes are rough; false leaves such shots out."""
    step_s: float = 0.2
    """Seconds between the frames that are taken."""
    min_shot_s: float = 0.4
    """Shots shorter than this are left out, seconds."""
    interpolate_s: float = 1.0
    """Boxes of a named track are interpolated over at most so many seconds."""
    split: str | None = None
    """The frames' split; null lets the collection choose, video by video."""
    licence: str = "unknown"
    """Licence of the videos."""
    commercial: bool = False
    """Whether that licence allows commercial use."""
    citation: str = ""
    """Who to name for the videos."""
    shots: ShotConfig = field(default_factory=ShotConfig)
    """How shots are told apart."""
    tracks: TrackConfig = field(default_factory=TrackConfig)
    """How people are followed."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Which frames of a person are kept."""
    foreground: ForegroundConfig = field(default_factory=ForegroundConfig)
    """How what moves is cut out before still cameras."""

    def __post_init__(self) -> None:
        if self.step_s <= 0 or self.min_shot_s < 0 or self.interpolate_s < 0:
            raise ValueError("step_s must be above 0, min_shot_s and interpolate_s 0 or more")
        if not 0 < self.detector_score <= 1:
            raise ValueError(f"detector_score must be in (0, 1], found {self.detector_score}")
        if self.split not in (None, "train", "val", "test"):
            raise ValueError(f"split must be train, val, test or null, found {self.split!r}")
