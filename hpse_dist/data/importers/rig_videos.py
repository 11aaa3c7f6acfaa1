"""A rig's videos: which belongs to which camera, when each frame was taken, frames in order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hpse_dist.data.pictures import Unreadable, believed_size

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".m4v", ".mpg", ".mpeg", ".webm", ".mts")


@dataclass(frozen=True, eq=False)
class Video:
    """One camera's video, as its header describes it."""

    path: Path
    rate: float
    """Frames per second."""
    promised: int
    """Frames by the header, 0 where it does not say."""
    size: tuple[int, int]
    """Width and height of the decoded pictures."""
    turned: bool
    """Whether the decoder turns pictures as the file's rotation mark asks."""

    def __str__(self) -> str:
        return self.path.name

    def times(self) -> np.ndarray:
        """(n,) seconds of every frame that can be decoded, the first at 0; decodes the video once.

        The container's time stamps where they increase, else frame number over rate.
        """
        stamps = []
        capture = self._open()
        while capture.grab():
            stamps.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        capture.release()
        times: np.ndarray = np.array(stamps, dtype=np.float64)
        if len(times) > 1 and not (np.diff(times) > 0).all():
            times = np.arange(len(times)) / self.rate
        return times - times[:1]

    def pictures(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """(H, W, 3) uint8 RGB of the frames with these never decreasing numbers."""
        capture, at, picture = self._open(), -1, None
        try:
            for index in indices:
                assert index >= at, "frames are read in order"
                while at < index:
                    if not capture.grab():
                        raise OSError(f"{self.path}: frame {at + 1} could be read before, not now")
                    at, picture = at + 1, None
                if picture is None:
                    _, picture = capture.retrieve()
                    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
                yield picture
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, float(self.turned))
        return capture


def open_video(path: Path, wanted: tuple[int, int]) -> Video:
    """The video in a file; ValueError where it cannot be decoded.

    Phones mark upright videos as lying and turned. Where only the unturned picture has the format
    (upright or lying) of the `wanted` width and height, the mark is not followed.
    """
    readings = []
    for turned in (True, False):
        capture = cv2.VideoCapture(str(path))
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, float(turned))
        if capture.isOpened():
            _check_size(path, capture)
        found, picture = capture.read() if capture.isOpened() else (False, None)
        rate, promised = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        capture.release()
        if not found or picture is None:
            raise ValueError(
                f"{path}: no frame of this video can be decoded; it may be cut off or of an "
                "unknown kind"
            )
        if not 0 < rate < 1e5:
            raise ValueError(f"{path}: the video does not say its frame rate (found {rate})")
        size = (picture.shape[1], picture.shape[0])
        readings.append(Video(path, rate, max(int(promised), 0), size, turned))
    upright = wanted[0] < wanted[1]
    fitting = [video for video in readings if (video.size[0] < video.size[1]) == upright]
    return fitting[0] if fitting else readings[0]


def _check_size(path: Path, capture: cv2.VideoCapture) -> None:
    """ValueError for a header that promises pictures too large to be believed."""
    sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    try:
        believed_size(*(max(capture.get(side), 1.0) for side in sides))
    except Unreadable as reason:
        capture.release()
        raise ValueError(f"{path}: {reason}") from None


def find_videos(root: Path, pattern: str) -> list[Path]:
    """The video files under `root` that a glob pattern names, sorted; ValueError where none is."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder; set `root` to the folder of the rig's videos")
    found = [p for p in sorted(root.glob(pattern)) if p.suffix.lower() in SUFFIXES]
    if not found:
        raise ValueError(
            f"{root}: no video in this folder that matches {pattern!r} (looked for "
            f"{', '.join(suffix[1:] for suffix in SUFFIXES)}); set `root` or `videos`"
        )
    return found


def match_cameras(videos: Iterable[Path], names: Iterable[str], where: Path) -> dict[str, Path]:
    """The video of each camera that has one, in the order of `names`.

    A video belongs to the camera that its name equals, or contains as a word ("cam1" is no word of
    "cam12"). `where` is the calibration file, for messages.
    """
    names = list(names)
    found: dict[str, Path] = {}
    for video in videos:
        matches = [name for name in names if name == video.stem]
        matches = matches or [name for name in names if _contains(video.stem, name)]
        if len(matches) != 1:
            trouble = f"names several cameras ({', '.join(matches)})" if matches else "names none"
            raise ValueError(
                f"{where}: has cameras {', '.join(names)}, and the video {video.name} {trouble} of "
                "them; add the camera, rename the video, or choose videos with `videos`"
            )
        name = matches[0]
        if name in found:
            raise ValueError(f"{found[name]} and {video.name} are both of camera {name}")
        found[name] = video
    return {name: found[name] for name in names if name in found}


def _contains(text: str, name: str) -> bool:
    return re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", text, re.I) is not None


def common_instants(
    videos: Mapping[str, Video], times: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (T,) of the slowest camera's clock, and (T, V) each camera's nearest frame.

    It runs as long as every video's header promises. -1 where a camera has no frame within three
    quarters of its frame gap: a truncated video, or frames lost on the way.
    """
    clock = min(video.rate for video in videos.values())
    ends = [max(video.promised, len(times[name])) / video.rate for name, video in videos.items()]
    instants: np.ndarray = np.arange(max(int(min(ends) * clock + 1e-6), 1)) / clock
    columns = []
    for name, video in videos.items():
        taken = times[name]
        after = np.clip(np.searchsorted(taken, instants), 1, max(len(taken) - 1, 1))
        before = after - 1
        after = np.minimum(after, len(taken) - 1)
        nearer = np.abs(taken[before] - instants) <= np.abs(taken[after] - instants)
        nearest = np.where(nearer, before, after)
        near = np.abs(taken[nearest] - instants) <= 0.75 / video.rate
        columns.append(np.where(near, nearest, -1))
    return instants, np.stack(columns, axis=1)
