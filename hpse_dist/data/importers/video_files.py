"""Videos in a folder and its sub-folders: which can be decoded, their frames one after another."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hpse_dist.data.importers import rig_videos
from hpse_dist.data.importers.official import Bad
from hpse_dist.data.pictures import MOST_PIXELS

SUFFIXES = (
    *rig_videos.SUFFIXES,
    *(".3gp", ".asf", ".divx", ".flv", ".gif", ".m2ts", ".mjpeg", ".mjpg", ".mpe", ".mxf"),
    *(".ogv", ".qt", ".ts", ".vob", ".wmv"),
)
_SLACK = 0.02  # share of frames by which a header may promise too many
_LONGEST_GAP_S = 3600.0  # a time stamp that jumps further is broken


@dataclass(frozen=True, eq=False)
class VideoFile:
    """A video that can be opened."""

    path: Path
    name: str
    """The path below the folder, with slashes."""
    rate: float
    """Frames per second by the header."""
    promised: int
    """Frames by the header, 0 where it does not say."""

    @property
    def seconds(self) -> float:
        """How long it is by its header, 0 where it does not say."""
        return self.promised / self.rate

    def decode(self) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds by the container, (H, W, 3) uint8 BGR) of every frame, one at a time."""
        capture = cv2.VideoCapture(str(self.path))
        try:
            while capture.grab():
                stamp = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                found, picture = capture.retrieve()
                if found:
                    yield stamp, _colour(picture)
        finally:
            capture.release()

    def pictures(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 BGR of the frames with these growing numbers, as `decode` counts them.

        It ends early where the file can no longer be read.
        """
        wanted = iter(indices)
        index = next(wanted, None)
        for number, (_, picture) in enumerate(self.decode()):
            if index is None:
                return
            if number == index:
                yield picture
                index = next(wanted, None)

    def source(self, index: int) -> str:
        """A frame, for messages."""
        return f"{self.name}, frame {index}"


def find_files(root: Path, without: Collection[Path]) -> list[Path]:
    """All files below a folder in the order of their names, but hidden ones and `without`."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; set `source.root` to the folder of the videos")
    skipped = {path.resolve() for path in without}
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and path.resolve() not in skipped
    ]


def open_video(path: Path, name: str) -> VideoFile:
    """The video in a file; Bad says why it is none."""
    if path.suffix.lower() not in SUFFIXES:
        raise Bad(f"not a video by its extension {path.suffix or '(none)'}")
    if path.stat().st_size == 0:
        raise Bad("the file is empty")
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise Bad("not a video that can be opened: broken, cut off or of an unknown kind")
        rate, promised, width, height = (
            capture.get(key)
            for key in (
                cv2.CAP_PROP_FPS,
                cv2.CAP_PROP_FRAME_COUNT,
                cv2.CAP_PROP_FRAME_WIDTH,
                cv2.CAP_PROP_FRAME_HEIGHT,
            )
        )
        if width * height > MOST_PIXELS:
            raise Bad(f"pictures of {width:.0f} x {height:.0f} pixels are not believed")
        if not capture.grab():
            raise Bad("the video has no frame that can be decoded")
    finally:
        capture.release()
    if not 0 < rate < 1e5:
        raise Bad("the video does not say its frame rate")
    return VideoFile(path, name, rate, max(int(promised), 0) if promised < 2**40 else 0)


def frame_times(stamps: Sequence[float], rate: float) -> np.ndarray:
    """(n,) seconds of the frames, the first at 0: the container's where they grow, else by rate.

    A file whose time stamps stand still or jump back says nothing by them.
    """
    times: np.ndarray = np.array(stamps, np.float64)
    steps = np.diff(times)
    if len(times) > 1 and not ((steps > 0).all() and (steps < _LONGEST_GAP_S).all()):
        times = np.arange(len(times)) / rate
    return times - times[:1]


def lacking(video: VideoFile, decoded: int) -> str | None:
    """What is missing of a video that ends before its header says; None where nothing is."""
    if decoded >= video.promised * (1 - _SLACK) - 1:
        return None
    return f"the video is cut off: {decoded} of {video.promised} frames can be decoded"


def _colour(picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 2:
        return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    return picture[..., :3]
