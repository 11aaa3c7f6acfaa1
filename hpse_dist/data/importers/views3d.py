"""What importers of people in 3D share: files that must be there, footage, cameras, records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hpse_dist.data.importers.rig_videos import open_video
from hpse_dist.records import FrameRecord, Reject

Box = tuple[float, float, float, float]
NEAREST_M = 0.05  # what is nearer to the camera's plane has no place in the picture


@dataclass(frozen=True, eq=False)
class Sight:
    """A pinhole camera at one moment."""

    intrinsics: np.ndarray
    """(3, 3) pixels."""
    rotation: np.ndarray
    """(3, 3) world to camera."""
    translation: np.ndarray
    """(3,) world to camera, metres."""

    def from_world(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the world in the camera's frame, metres."""
        return points @ self.rotation.T + self.translation

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the camera's frame in the world, metres."""
        return (points - self.translation) @ self.rotation

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) of the camera's frame as pixels (..., 2); NaN for what is behind it."""
        deep = np.where(points[..., 2:] > NEAREST_M, points[..., 2:], np.nan)
        return (points / deep @ self.intrinsics.T)[..., :2]


@dataclass(frozen=True)
class Moment:
    """Who is seen when, and what messages call it."""

    subject: str
    sequence: str
    camera: str
    time: float
    source: str
    split: str | None = None


def person_record(
    moment: Moment,
    image: np.ndarray | Path,
    joints: np.ndarray,
    sight: Sight,
    *,
    middle: Sequence[int],
    margin: float = 0.12,
    pixels: np.ndarray | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> FrameRecord | Reject:
    """The record of a person whose joints (J, 4) are known in the camera's frame, in metres.

    middle: the joints between which the person's centre is; margin: what the box is wider on each
    side than the joints, as share of its longer side: joints end before heads and toes do; pixels:
    (J, 3) places in the picture where the dataset has them, else the joints are projected.
    """
    if not (joints[..., 3] > 0).any():
        return Reject(moment.source, "no joint of this person is known")
    if pixels is None:
        pixels = np.concatenate([sight.project(joints[:, :3]), joints[:, 3:]], axis=1)
        pixels[~np.isfinite(pixels[:, :2]).all(axis=1)] = 0
    box = box_of(pixels, margin)
    if box is None:
        return Reject(moment.source, "the person is behind the camera")
    known = [joint for joint in middle if joints[joint, 3] > 0]
    known = known or np.flatnonzero(joints[:, 3] > 0).tolist()
    return FrameRecord(
        image=image,
        box=box,
        subject=moment.subject,
        sequence=moment.sequence,
        camera=moment.camera,
        time=moment.time,
        source=moment.source,
        intrinsics=sight.intrinsics,
        rotation=sight.rotation,
        translation=sight.translation,
        centre=sight.to_world(joints[known, :3].mean(axis=0)),
        labels={"joints2d": pixels, "joints3d": joints, **(extra or {})},
        split=moment.split,
    )


def box_of(pixels: np.ndarray, margin: float) -> Box | None:
    """The box around the joints (J, 3) whose confidence is above 0, or None where none is."""
    known = pixels[pixels[:, 2] > 0, :2]
    if len(known) < 2:
        return None
    low, high = known.min(axis=0), known.max(axis=0)
    wider = margin * max(high - low)
    x0, y0, x1, y1 = (float(value) for value in (*(low - wider), *(high + wider)))
    return x0, y0, x1, y1


def body_in_camera(
    pose: np.ndarray, betas: np.ndarray, transl: np.ndarray, pelvis: np.ndarray, sight: Sight
) -> dict[str, np.ndarray]:
    """SMPL's parameters of the world, for the camera: pose (72,), betas (10 or more,), transl (3,).

    SMPL turns a body about its resting pelvis, which only the body model knows; but the pelvis (3,)
    of the posed body in the world is that point moved by transl, so the difference is it.
    """
    turn = sight.rotation @ cv2.Rodrigues(pose[:3].astype(np.float64))[0]
    rest = pelvis - transl
    return {
        "global_orient": cv2.Rodrigues(turn)[0][:, 0],
        "body_pose": pose[3:72].astype(np.float64),
        "betas": betas[:10].astype(np.float64),
        "transl": sight.from_world(pelvis) - rest,
    }


@dataclass(frozen=True)
class Stills:
    """One camera's pictures as numbered files."""

    folder: Path
    pattern: str
    """Name of the file of a picture's number, as `str.format` fills it in."""
    first: int = 0
    """Number in its file's name of the picture whose number is 0."""

    def pictures(self, numbers: Sequence[int]) -> Iterator[Path | None]:
        """The file of each number, None where there is none."""
        for number in numbers:
            path = self.folder / self.pattern.format(number + self.first)
            yield path if path.is_file() else None


@dataclass(frozen=True)
class Film:
    """One camera's pictures as a video, its first picture numbered 0."""

    path: Path
    size: tuple[int, int] = (16, 9)
    """Width and height, or their relation: upright or lying."""

    def pictures(self, numbers: Sequence[int]) -> Iterator[np.ndarray | None]:
        """(H, W, 3) uint8 RGB of each of the growing numbers, None after the video's end."""
        given = 0
        try:
            for picture in open_video(self.path, self.size).pictures(numbers):
                yield picture
                given += 1
        except OSError:  # cut off, or shorter than its labels; the importer rejects what is lacking
            pass
        for _ in numbers[given:]:
            yield None


def find_footage(stills: Sequence[Stills], films: Sequence[Film]) -> Stills | Film | None:
    """The first folder of pictures that exists, else the first video, else None."""
    folders: list[Stills | Film] = [still for still in stills if still.folder.is_dir()]
    return next(iter(folders + [film for film in films if film.path.is_file()]), None)


def side_by_side(
    footage: Sequence[Stills | Film], numbers: Sequence[int]
) -> Iterator[tuple[np.ndarray | Path | None, ...]]:
    """For each number the pictures of all cameras, one moment in memory at a time."""
    yield from zip(*(each.pictures(numbers) for each in footage), strict=True)


def need(path: Path, what: str, get: str) -> Path:
    """The path, if it exists; else ValueError with one sentence: what it is and where it is got."""
    if not path.exists():
        raise ValueError(f"{path}: {what} is missing; {get}")
    return path


def whole_positive(**values: int) -> None:
    """ValueError for a key of a recipe that must be at least 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, found {value}")
