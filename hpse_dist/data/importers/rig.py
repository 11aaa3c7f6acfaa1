"""Synchronised videos of one person from calibrated cameras.

    root/
      calibration.toml     per camera a section [cam01]: name, size, matrix in pixels, distortions
                           (OpenCV), rotation (Rodrigues), translation (world to camera), fisheye;
                           or OpenCV's or EasyMocap's files, see rig_calibrations
      cam01.mp4 ...        one video per camera, its name contains the camera's

Boxes come from a file, else from what moves before the still cameras, see `foreground`. A file of
boxes is CSV with the header `camera,frame,x0,y0,x1,y1`, or JSON with a list of such objects: camera
is a camera's name, frame counts that camera's video from 0, the rest are pixels of its picture.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from hpse_dist.data.importers.foreground import Foreground, ForegroundConfig, moving
from hpse_dist.data.importers.hull import View
from hpse_dist.data.importers.rig_boxes import Box, box_around, read_boxes, undistorted_box
from hpse_dist.data.importers.rig_cameras import SizeMismatch
from hpse_dist.data.importers.rig_folder import RigFolder
from hpse_dist.geometry.boxes import area
from hpse_dist.geometry.camera import triangulate
from hpse_dist.records import FrameRecord, Provenance, Reject

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RigConfig:
    """A folder of synchronised videos with a calibration file."""

    root: Path
    """The rig's folder."""
    calibration: Path = Path("calibration.toml")
    """The calibration file, relative to the folder: TOML of Anipose or Pose2Sim, OpenCV's YAML, or
    EasyMocap's intri.yml with extri.yml beside it."""
    videos: str = "*"
    """Which of the folder's files are its videos, as a glob pattern: `videos/*.mp4`."""
    boxes: Path | None = None
    """File with the person's boxes, relative to the folder; null finds the moving person."""
    unit_m: float = 1.0
    """Metres per unit of the calibration's translations: 0.001 where they are millimetres."""
    size_mismatch: SizeMismatch = "auto"
    """How pictures of another size than the calibration's came about."""
    undistort_px: float = 0.25
    """Pictures are undistorted if their lens moves some pixel by at least this much."""
    accept_truncated: bool = False
    """Go on with a truncated video: instants that some camera lacks become rejects."""
    stride: int = 1
    """Every how many common instants one is taken."""
    max_instants: int | None = None
    """At most so many instants, from the beginning; null takes all."""
    subject: str = "person"
    """Name of the one person in the videos."""
    sequence: str | None = None
    """Name of the recording; null takes the folder's name."""
    split: str | None = "train"
    """The frames' split; null lets the collection choose by subject."""
    licence: str = "unknown"
    """Licence of the videos."""
    commercial: bool = False
    """Whether that licence allows commercial use."""
    citation: str = ""
    """Who to name for the videos."""
    foreground: ForegroundConfig = field(default_factory=ForegroundConfig)
    """How the moving person is found where no boxes are given."""

    def __post_init__(self) -> None:
        if self.stride < 1 or (self.max_instants is not None and self.max_instants < 1):
            raise ValueError("stride and max_instants must be at least 1")
        if self.unit_m <= 0:
            raise ValueError(f"unit_m must be above 0, found {self.unit_m}")
        if self.split not in (None, "train", "val", "test"):
            raise ValueError(f"split must be train, val, test or null, found {self.split!r}")
        if not self.subject:
            raise ValueError("subject must not be empty")


Config = RigConfig


def frames(config: RigConfig) -> Iterator[FrameRecord | Reject]:
    """Every camera's frame at every common instant, instant by instant; ValueError if it cannot be.

    Pictures are undistorted, and their intrinsics are those of the undistorted picture.
    """
    rig = _open(config)
    for note in rig.notes:
        log.warning("%s: %s", config.root, note)
    wanted = range(0, len(rig.instants), config.stride)[: config.max_instants]
    chosen = [k for k in wanted if rig.complete[k]]
    yield from _lost(rig, [k for k in wanted if not rig.complete[k]])
    if not chosen:
        return
    if config.boxes is not None:
        yield from _with_boxes(rig, chosen, config)
    else:
        yield from _with_foreground(rig, chosen, config)


def provenance(config: RigConfig) -> Provenance:
    """What the folder holds and what had to be assumed about it; decodes every video once."""
    rig = _open(config)
    videos = {
        name: {
            "file": video.path.name,
            "size": list(video.size),
            "frames_per_s": round(video.rate, 3),
            "frames_promised": video.promised,
            "frames_decoded": len(rig.times[name]),
            "lens_moves_px": round(rig.lens_px[name], 2),
            "undistorted": bool(rig.cameras[name].distortions.any()),
        }
        for name, video in rig.videos.items()
    }
    details = {
        "videos": videos,
        "instants": len(rig.instants),
        "instants_with_all_cameras": int(rig.complete.sum()),
        "boxes": "moving foreground" if config.boxes is None else str(config.boxes),
        "notes": rig.notes,
    }
    return Provenance("rig", config.licence, config.commercial, config.citation, None, details)


def _open(config: RigConfig) -> RigFolder:
    rig = RigFolder(
        config.root,
        config.calibration,
        config.videos,
        unit_m=config.unit_m,
        size_mismatch=config.size_mismatch,
        undistort_px=config.undistort_px,
        accept_truncated=config.accept_truncated,
    )
    if len(rig.videos) < 2 and config.boxes is None:
        raise ValueError(
            f"{config.root}: one video is too few to find the person by what the cameras agree "
            "on; add the other cameras' videos, or give a file of `boxes`"
        )
    return rig


def _lost(rig: RigFolder, instants: Sequence[int]) -> Iterator[Reject]:
    """One reject per camera for every instant that some camera has no frame of."""
    for k in instants:
        for column, frame in enumerate(rig.nearest[k]):
            reason = "instant left out: another camera has no frame of it"
            yield Reject(rig.source(k, column), "cannot be decoded" if frame < 0 else reason)


def _record(
    rig: RigFolder,
    k: int,
    column: int,
    picture: np.ndarray,
    box: Box,
    centre: np.ndarray | None,
    config: RigConfig,
) -> FrameRecord:
    name, camera = list(rig.cameras.items())[column]
    return FrameRecord(
        image=picture,
        box=box,
        subject=config.subject,
        sequence=config.sequence or config.root.resolve().name,
        camera=name,
        time=float(rig.instants[k]),
        source=rig.source(k, column),
        intrinsics=camera.from_corner,
        rotation=camera.rotation,
        translation=camera.translation,
        centre=centre,
        split=config.split,
    )


def _with_boxes(
    rig: RigFolder, chosen: Sequence[int], config: RigConfig
) -> Iterator[FrameRecord | Reject]:
    """Records whose boxes the user gave."""
    assert config.boxes is not None
    boxes = read_boxes(config.root / config.boxes, list(rig.cameras))
    cameras = list(rig.cameras.items())
    for k, pictures in zip(chosen, rig.pictures(chosen), strict=True):
        given = [boxes.get((name, int(rig.nearest[k, i]))) for i, (name, _) in enumerate(cameras)]
        straight = [
            None if box is None else undistorted_box(box, camera)
            for box, (_, camera) in zip(given, cameras, strict=True)
        ]
        # a box outside the picture says nothing of where in it the person is
        known = [
            (camera, box)
            for box, (_, camera) in zip(straight, cameras, strict=True)
            if box is not None and area(np.array(box)) > 0
        ]
        centre = None
        if len(known) > 1:
            middles = np.array([[(b[0] + b[2]) / 2, (b[1] + b[3]) / 2] for _, b in known])
            # boxes count from a pixel's edge, cameras from its middle
            sights = np.stack([camera.projection for camera, _ in known])
            centre = triangulate(sights, middles - 0.5)
        for column, (picture, box) in enumerate(zip(pictures, straight, strict=True)):
            if box is None:
                yield Reject(rig.source(k, column), "no box of this frame is given")
            elif area(np.array(box)) == 0:
                yield Reject(rig.source(k, column), "the given box is outside the picture")
            else:
                yield _record(rig, k, column, picture, box, centre, config)


def _with_foreground(
    rig: RigFolder, chosen: Sequence[int], config: RigConfig
) -> Iterator[FrameRecord | Reject]:
    """Records whose boxes and masks are the moving person's."""
    sizes = _small_sizes(rig, config.foreground.work_px)
    foreground = _learn(rig, sizes, config.foreground)
    for k, pictures in zip(chosen, rig.pictures(chosen), strict=True):
        person = foreground.find(_shrink(pictures, sizes))
        for column, picture in enumerate(pictures):
            if person is None:
                reason = "no moving person that the cameras agree on"
                yield Reject(rig.source(k, column), reason)
                continue
            size = (picture.shape[1], picture.shape[0])
            box = box_around(person.masks[column], size, config.foreground.margin)
            if box is None:
                reason = "the moving person is outside this camera's picture"
                yield Reject(rig.source(k, column), reason)
                continue
            record = _record(rig, k, column, picture, box, person.centre, config)
            mask: np.ndarray = person.masks[column].astype(np.uint8) * 255
            record.mask = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR) > 127
            yield record


def _small_sizes(rig: RigFolder, work_px: int) -> list[tuple[int, int]]:
    """Width and height of every camera's shrunk pictures; small pictures stay as they are."""
    sizes = [camera.size for camera in rig.cameras.values()]
    scales = [min(work_px / max(size), 1.0) for size in sizes]
    return [(round(w * s), round(h * s)) for (w, h), s in zip(sizes, scales, strict=True)]


def _shrink(pictures: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]) -> list[np.ndarray]:
    return [
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        for picture, size in zip(pictures, sizes, strict=True)
    ]


def _learn(
    rig: RigFolder, sizes: Sequence[tuple[int, int]], config: ForegroundConfig
) -> Foreground:
    """The foreground's model, from moments spread over the whole clip."""
    samples, motion = _samples(rig, sizes, config)
    for video, moved in zip(rig.videos.values(), motion, strict=True):
        if np.median(moved.mean(axis=(1, 2))) > 0.5:
            raise ValueError(
                f"{video.path}: most of the picture moves, so this camera does not stand still; "
                "give a file of `boxes`"
            )
    views = [
        View(camera.scaled(*size).projection, (size[1], size[0]))
        for camera, size in zip(rig.cameras.values(), sizes, strict=True)
    ]
    try:
        return Foreground(views, samples, motion, config)
    except ValueError as error:
        raise ValueError(f"{rig.root}: {error}") from None


def _samples(
    rig: RigFolder, sizes: Sequence[tuple[int, int]], config: ForegroundConfig
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Per camera (n, h, w, 3) shrunk pictures and (n, h, w) motion, in one pass over the videos."""
    usable = np.flatnonzero(rig.complete)
    last = len(usable) - 1
    gap = max(round(config.motion_s * min(video.rate for video in rig.videos.values())), 1)
    spread = np.linspace(0, last, min(config.background_frames, len(usable)))
    moments = [int(m) for m in np.unique(spread.round())]
    waiting = [(max(m - gap, 0), m, min(m + gap, last)) for m in moments]
    needed = sorted({i for triple in waiting for i in triple})
    samples: list[list[np.ndarray]] = [[] for _ in sizes]
    motion: list[list[np.ndarray]] = [[] for _ in sizes]
    kept: dict[int, list[np.ndarray]] = {}
    for i, pictures in zip(needed, rig.pictures([int(usable[i]) for i in needed]), strict=True):
        kept[i] = _shrink(pictures, sizes)
        while waiting and waiting[0][2] <= i:
            moment = [kept[j] for j in waiting.pop(0)]
            for column, (before, now, after) in enumerate(zip(*moment, strict=True)):
                samples[column].append(now)
                motion[column].append(moving(before, now, after, config.motion_threshold))
        oldest = waiting[0][0] if waiting else i
        kept = {j: small for j, small in kept.items() if j >= oldest}
    return [np.stack(s) for s in samples], [np.stack(m) for m in motion]
