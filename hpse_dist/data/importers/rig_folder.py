"""A rig's folder: its videos and cameras brought to one size and one clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hpse_dist.data.importers.rig_calibrations import read_calibration
from hpse_dist.data.importers.rig_cameras import (
    Camera,
    SizeMismatch,
    black_bars,
    fit_to_picture,
)
from hpse_dist.data.importers.rig_videos import (
    Video,
    common_instants,
    find_videos,
    match_cameras,
    open_video,
)


class RigFolder:
    """Videos and cameras by camera name, instants that they share, and notes for the user.

    videos, cameras      per camera; a camera is for the undistorted pictures of its video
    times                per camera (n,) seconds of the frames that can be decoded
    instants, nearest    (T,) seconds and (T, V) frame numbers, -1 where a camera has none
    notes                sentences on everything that was not as a rig should be
    """

    def __init__(
        self,
        root: Path,
        calibration: Path,
        videos: str,
        *,
        unit_m: float,
        size_mismatch: SizeMismatch,
        undistort_px: float,
        accept_truncated: bool,
    ) -> None:
        self.root = root
        self.notes: list[str] = []
        path = root / calibration
        files = find_videos(root, videos)
        calibrated = read_calibration(path, unit_m)
        matched = match_cameras(files, calibrated, path)
        unused = [name for name in calibrated if name not in matched]
        if unused:
            self.notes.append(f"calibrated cameras without a video: {', '.join(unused)}")
        self.videos = {n: open_video(file, calibrated[n].size) for n, file in matched.items()}
        self.cameras: dict[str, Camera] = {}
        self.lens_px: dict[str, float] = {}
        for name, video in self.videos.items():
            camera = self._fit(video, calibrated[name], size_mismatch)
            self.lens_px[name] = camera.largest_shift
            self.cameras[name] = camera.straight(undistort_px)
        self.times = {name: video.times() for name, video in self.videos.items()}
        self._note_rates()
        self._note_ends(accept_truncated)
        self.instants, self.nearest = common_instants(self.videos, self.times)

    def _fit(self, video: Video, camera: Camera, size_mismatch: SizeMismatch) -> Camera:
        """The camera for the video's pictures."""
        bars = (0, 0, 0, 0)
        if video.size != camera.size:
            bars = black_bars(next(video.pictures([0])))
        try:
            camera, words = fit_to_picture(camera, video.size, bars, size_mismatch)
        except ValueError as error:
            raise ValueError(f"{video.path}: {error}") from None
        if words:
            self.notes.append(f"{video}: {words}")
        if not video.turned:
            self.notes.append(f"{video}: the file's rotation mark is not followed")
        return camera

    def _note_rates(self) -> None:
        rates = {name: round(video.rate, 3) for name, video in self.videos.items()}
        if len(set(rates.values())) > 1:
            words = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
            self.notes.append(
                f"frame rates differ ({words} per s): of the faster cameras the frames nearest to "
                "the slowest one's are taken"
            )

    def _note_ends(self, accept_truncated: bool) -> None:
        """Refuse a truncated video, or take note of it; take note of the shortest."""
        ends = {}
        for name, video in self.videos.items():
            decoded = len(self.times[name])
            ends[name] = max(video.promised, decoded) / video.rate
            if decoded < video.promised and not accept_truncated:
                raise ValueError(
                    f"{video.path}: truncated, its header promises {video.promised} frames and "
                    f"{decoded} can be decoded; copy it again, or set source.accept_truncated=true "
                    "to use the instants that all cameras have"
                )
            if decoded < video.promised:
                self.notes.append(
                    f"{video}: the header promises {video.promised} frames, {decoded} can be "
                    "decoded; instants without it are left out"
                )
        first, last = min(ends, key=ends.__getitem__), max(ends.values())
        if last - ends[first] > 1.5 / min(video.rate for video in self.videos.values()):
            self.notes.append(
                f"{self.videos[first]} ends after {ends[first]:.2f} s, the longest video after "
                f"{last:.2f} s; the rest is not used"
            )

    @property
    def complete(self) -> np.ndarray:
        """(T,) bool, whether every camera has a frame of the instant."""
        return (self.nearest >= 0).all(axis=1)

    def pictures(self, instants: Sequence[int]) -> Iterator[list[np.ndarray]]:
        """Per instant every camera's undistorted picture, one at a time in memory."""
        streams = [
            video.pictures([int(i) for i in self.nearest[list(instants), column]])
            for column, video in enumerate(self.videos.values())
        ]
        cameras = list(self.cameras.values())
        for pictures in zip(*streams, strict=True):
            yield [c.undistort(p) for c, p in zip(cameras, pictures, strict=True)]

    def source(self, instant: int, column: int) -> str:
        """Words for a camera's frame of an instant, for messages."""
        video = list(self.videos.values())[column]
        frame = int(self.nearest[instant, column])
        return f"{video}, " + (
            f"frame {frame}" if frame >= 0 else f"{self.instants[instant]:.3f} s"
        )
