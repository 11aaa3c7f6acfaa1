"""From a frame record to what a collection stores: one square crop and labels that fit it.

Pixel coordinates are continuous: pixel i of a picture covers [i, i + 1). Coordinates of a crop run
from 0 to 1 over its side.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from hpse_dist.data.descriptors import pose_descriptor, surface_cells
from hpse_dist.data.pictures import Unreadable, read_picture
from hpse_dist.records import FrameRecord

PERSON_CELLS = 32  # the stored grid of person shares is 32 x 32 whatever the crop's size
BODY = ("global_orient", "body_pose", "betas", "transl")
HAND = ("hand_orient", "hand_pose", "hand_betas", "hand_transl")
PARTS = ("part_map", "uv_map")
ALONE = {"part_map"}  # a dataset may know parts and no surface coordinates
# Labels that come together, and the frames.parquet column has_<group> that says so.
GROUPS: dict[str, tuple[str, ...]] = {
    "joints2d": ("joints2d",),
    "joints3d": ("joints3d",),
    "people2d": ("people2d",),
    "people3d": ("people3d",),
    "body": BODY,
    "hand": HAND,
    "parts": PARTS,
    "depth": ("depth_pairs", "depth_order", "depth_confidence"),
    "label": ("label",),
}
# How a label is stored; the shape after "?" is the importer's, but one for a whole collection.
_STORED: dict[str, tuple[tuple[int | None, ...], str]] = {
    "joints2d": ((None, 3), "float32"),
    "joints3d": ((None, 4), "float32"),
    "people2d": ((None, None, 3), "float32"),
    "people3d": ((None, None, 4), "float32"),
    "global_orient": ((3,), "float32"),
    "body_pose": ((69,), "float32"),
    "betas": ((10,), "float32"),
    "transl": ((3,), "float32"),
    "hand_orient": ((3,), "float32"),
    "hand_pose": ((45,), "float32"),
    "hand_betas": ((10,), "float32"),
    "hand_transl": ((3,), "float32"),
    "part_map": ((None, None), "uint8"),
    "uv_map": ((2, None, None), "float16"),
    "depth_pairs": ((None, 2), "int16"),
    "depth_order": ((None,), "float32"),
    "depth_confidence": ((None,), "float32"),
    "label": ((), "int64"),
}


class Unusable(ValueError):
    """A frame that cannot be stored; the message is the reason written to the rejects."""


@dataclass(frozen=True)
class CollectionConfig:
    """How frames are cropped and stored."""

    crop_px: int = 256
    """Side of the stored square crop, pixels."""
    box_scale: float = 1.25
    """The crop's side over the longer side of the person's box."""
    image_mode: Literal["jpg", "raw"] = "jpg"
    """jpg is small, raw is fast to read."""
    jpeg_quality: int = 90
    """1..100, for jpg."""
    label_px: int = 64
    """Side of the stored part and surface maps, pixels."""
    min_side_px: float = 100.0
    """Frames whose box has a longer side below this are rejected."""
    min_inside_ratio: float = 0.25
    """Frames with less than this share of their box inside the picture are rejected."""
    frames_per_shard: int = 1024
    """Most frames of a shard, except that frames of one moment are never parted."""
    labels: tuple[str, ...] = ()
    """Label groups to store (joints2d joints3d people2d people3d body hand parts depth label);
    empty stores those that the first shard's frames carry."""
    val_ratio: float = 0.1
    """Share of the subjects that go to the split val where the source names no split."""
    split_seed: int = 0
    """Chooses which subjects those are."""

    def __post_init__(self) -> None:
        _require(16 <= self.crop_px <= 2048, "crop_px must be 16..2048", self.crop_px)
        _require(0.5 <= self.box_scale <= 4, "box_scale must be 0.5..4", self.box_scale)
        _require(1 <= self.jpeg_quality <= 100, "jpeg_quality must be 1..100", self.jpeg_quality)
        _require(8 <= self.label_px <= 1024, "label_px must be 8..1024", self.label_px)
        _require(self.min_side_px > 0, "min_side_px must be above 0", self.min_side_px)
        _require(
            0 < self.min_inside_ratio <= 1,
            "min_inside_ratio must be in (0, 1]",
            self.min_inside_ratio,
        )
        _require(
            self.frames_per_shard >= 1, "frames_per_shard must be 1 or more", self.frames_per_shard
        )
        _require(0 <= self.val_ratio < 1, "val_ratio must be in [0, 1)", self.val_ratio)
        unknown = [name for name in self.labels if name not in GROUPS]
        _require(not unknown, f"labels must be among {', '.join(GROUPS)}", self.labels)


def _require(holds: bool, rule: str, found: object) -> None:
    if not holds:
        raise ValueError(f"{rule}, found {found}")


@dataclass(frozen=True)
class Square:
    """The crop's place in the picture: corner and side in pixels, any of them fractional."""

    x: float
    y: float
    side: float


@dataclass(frozen=True)
class StoredFrame:
    """A frame ready to be written."""

    row: dict[str, np.ndarray]
    """What its shard holds: image (px, px, 3) uint8, person (32, 32) uint8, labels it has."""
    about: dict[str, Any]
    """Its row of frames.parquet, but for sample_id, shard, row and split."""

    @property
    def source(self) -> str:
        """Where it comes from, for messages."""
        return str(self.about["source"])


class Pictures:
    """Reads image files; keeps the last, since people of one picture come one after another."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._image: np.ndarray = np.zeros((0, 0, 3), np.uint8)

    def read(self, image: np.ndarray | Path) -> np.ndarray:
        """(H, W, 3) uint8 RGB as displayed (EXIF orientation applied); raises Unusable."""
        if isinstance(image, np.ndarray):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise Unusable(f"image is {image.dtype} {image.shape}, not uint8 (H, W, 3)")
            return image
        if image != self._path:
            try:
                self._image = read_picture(image)
            except Unreadable as error:
                raise Unusable(str(error)) from None
            self._path = image
        return self._image


def prepare_frame(record: FrameRecord, config: CollectionConfig, pictures: Pictures) -> StoredFrame:
    """Crop one record and bring its labels into the crop's coordinates; raises Unusable."""
    _check_numbers(record)
    place = crop_square(record.box, config.box_scale)
    _check_box(record.box, config.min_side_px)
    image = pictures.read(record.image)
    height, width = image.shape[:2]
    inside = _inside_ratio(record.box, height, width)
    if inside < config.min_inside_ratio:
        raise Unusable(f"{inside:.0%} of the box lie inside the picture, below min_inside_ratio")
    labels = _check_labels(record, height, width)
    person = person_grid(record, place, height, width)
    row = {
        "image": resample(image, place, config.crop_px, Image.Resampling.BICUBIC),
        "person": person,
        **{name: _fit(name, value, place, config.label_px) for name, value in labels.items()},
    }
    if record.intrinsics is not None:
        row["intrinsics"] = fit_intrinsics(record.intrinsics, place).astype(np.float32)
    return StoredFrame(row, _about(record, place, (height, width), labels, person))


def crop_square(box: tuple[float, float, float, float], scale: float) -> Square:
    """The square around a box's middle, `scale` times its longer side."""
    x0, y0, x1, y1 = (float(value) for value in box)
    side = max(x1 - x0, y1 - y0) * scale
    return Square((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side)


def resample(image: np.ndarray, place: Square, px: int, method: Image.Resampling) -> np.ndarray:
    """The square at px x px, antialiased, zero outside the picture: uint8 (H, W[, 3])."""
    # Pillow's filter looks beyond the box by its support, 3 output pixels at most
    margin = int(np.ceil(3 * max(place.side / px, 1))) + 1
    left, top = int(np.floor(place.x)) - margin, int(np.floor(place.y)) - margin
    right = int(np.ceil(place.x + place.side)) + margin
    bottom = int(np.ceil(place.y + place.side)) + margin
    window = np.zeros((bottom - top, right - left, *image.shape[2:]), np.uint8)
    x0, x1 = max(left, 0), min(right, image.shape[1])
    y0, y1 = max(top, 0), min(bottom, image.shape[0])
    if x0 < x1 and y0 < y1:
        window[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    x, y = place.x - left, place.y - top
    box = (x, y, x + place.side, y + place.side)
    return np.asarray(Image.fromarray(window).resize((px, px), method, box=box))


def nearest(map_: np.ndarray, place: Square, px: int) -> np.ndarray:
    """The square at px x px, each pixel its nearest, zero outside: (..., H, W) -> (..., px, px)."""
    steps = (np.arange(px) + 0.5) * (place.side / px)
    x, y = np.floor(place.x + steps).astype(int), np.floor(place.y + steps).astype(int)
    height, width = map_.shape[-2:]
    picked = map_[..., np.clip(y, 0, height - 1)[:, None], np.clip(x, 0, width - 1)]
    inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    return np.where(inside, picked, 0).astype(map_.dtype)


def person_grid(record: FrameRecord, place: Square, height: int, width: int) -> np.ndarray:
    """Share of each cell of the crop that the person covers: (32, 32) uint8, 255 = all of it.

    Without a mask, the person is the ellipse in the box, as far as it lies in the picture.
    """
    if record.mask is not None:
        mask = (np.asarray(record.mask) > 0).astype(np.uint8) * 255
        return resample(mask, place, PERSON_CELLS, Image.Resampling.BOX)
    fine = 4
    steps = (np.arange(PERSON_CELLS * fine) + 0.5) * (place.side / (PERSON_CELLS * fine))
    x, y = (place.x + steps)[None, :], (place.y + steps)[:, None]
    x0, y0, x1, y1 = record.box
    ellipse = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
    ellipse = ellipse & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    blocks = ellipse.reshape(PERSON_CELLS, fine, PERSON_CELLS, fine).mean(axis=(1, 3))
    return np.round(blocks * 255).astype(np.uint8)


def fit_intrinsics(intrinsics: np.ndarray, place: Square) -> np.ndarray:
    """A camera matrix in picture pixels as one for the crop's 0..1 coordinates, both (3, 3)."""
    to_crop = np.array([[1, 0, -place.x], [0, 1, -place.y], [0, 0, place.side]]) / place.side
    return to_crop @ np.asarray(intrinsics, np.float64)


def _fit(name: str, value: np.ndarray, place: Square, label_px: int) -> np.ndarray:
    """One label in the crop's coordinates and in its stored type."""
    if name in ("joints2d", "people2d"):
        value = value.astype(np.float64)
        corner = np.array([place.x, place.y])
        value[..., :2] = np.where(value[..., 2:] > 0, (value[..., :2] - corner) / place.side, 0)
    elif name in PARTS:
        value = nearest(value, place, label_px)
    return np.asarray(value, np.dtype(_STORED[name][1]), order="C")  # a number stays a number


def _check_box(box: tuple[float, float, float, float], min_side_px: float) -> None:
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        raise Unusable("the box is empty")
    longer = max(x1 - x0, y1 - y0)
    if longer < min_side_px:
        raise Unusable(f"the box is {longer:.0f} px, below min_side_px")


def _inside_ratio(box: tuple[float, float, float, float], height: int, width: int) -> float:
    """Share of the box's area that lies in the picture."""
    x0, y0, x1, y1 = box
    w, h = min(x1, width) - max(x0, 0), min(y1, height) - max(y0, 0)
    return max(w, 0) * max(h, 0) / ((x1 - x0) * (y1 - y0))


def _check_numbers(record: FrameRecord) -> None:
    """Nothing but finite numbers, and cameras of the right shape."""
    shapes: dict[str, tuple[int, ...]] = {
        "box": (4,),
        "time": (),
        "intrinsics": (3, 3),
        "rotation": (3, 3),
        "translation": (3,),
        "centre": (3,),
    }
    for name, shape in shapes.items():
        value = getattr(record, name)
        if value is not None:
            value = np.asarray(value, np.float64)
            if value.shape != shape:
                raise Unusable(f"{name} has shape {value.shape}, not {shape}")
            _check_bounds(name, value)
    if (record.rotation is None) != (record.translation is None):
        raise Unusable("rotation and translation come together, one is missing")


def _check_bounds(name: str, value: np.ndarray) -> None:
    if not np.isfinite(value).all():
        raise Unusable(f"{name} holds NaN or infinity")
    if value.size and np.abs(value.astype(np.float64)).max() > 1e9:
        raise Unusable(f"{name} holds a number beyond all bounds, above 1e9")


def _check_labels(record: FrameRecord, height: int, width: int) -> dict[str, np.ndarray]:
    """The record's labels as arrays, whole groups of them, finite and of the right shape."""
    labels = {name: np.asarray(value) for name, value in record.labels.items()}
    for name, value in labels.items():
        if name not in _STORED:
            raise Unusable(f"{name} is not a label; labels are {', '.join(_STORED)}")
        shape = _STORED[name][0]
        if name in PARTS:
            shape = (*shape[:-2], height, width)
        if len(shape) != value.ndim or any(
            n not in (None, m) for n, m in zip(shape, value.shape, strict=True)
        ):
            raise Unusable(f"{name} has shape {value.shape}, not {shape}")
        if name in ("joints2d", "joints3d", "people2d", "people3d"):
            # an unseen joint's place may be anything, even NaN
            value = labels[name] = np.where(value[..., -1:] == 0, 0, value)
        _check_bounds(name, value)
    for group in GROUPS.values():
        absent = [name for name in group if name not in labels]
        there = {*group} - {*absent}
        if there and absent and there != ALONE:
            raise Unusable(f"{', '.join(absent)} must come with {', '.join(there)}")
    if record.mask is not None and np.shape(record.mask) != (height, width):
        raise Unusable(f"mask has shape {np.shape(record.mask)}, the picture {(height, width)}")
    return labels


def _about(
    record: FrameRecord,
    place: Square,
    size: tuple[int, int],
    labels: dict[str, np.ndarray],
    person: np.ndarray,
) -> dict[str, Any]:
    """The frame's columns of frames.parquet."""
    pose = pose_descriptor(record, None if record.mask is None else person / 255.0)
    surface = None
    if "uv_map" in labels:
        px = int(np.clip(place.side, 1, 512))
        parts, surfaces = (nearest(labels[name], place, px) for name in PARTS)
        surface = surface_cells(parts, surfaces)
    return {
        "subject": record.subject,
        "sequence": record.sequence,
        "track": record.track,
        "camera": record.camera,
        "time": float(record.time),
        "source": record.source,
        "box": [float(value) for value in record.box],
        "crop": [place.x, place.y, place.side],
        "height": size[0],
        "width": size[1],
        "K": _flat(record.intrinsics),
        "R": _flat(record.rotation),
        "t": _flat(record.translation),
        "centre": _flat(record.centre),
        "pose_kind": pose[0] if pose else None,
        "pose": pose[1] if pose else None,
        "surface": surface,
        "has_mask": record.mask is not None,
        **{f"has_{name}": group[0] in labels for name, group in GROUPS.items()},
    }


def _flat(value: np.ndarray | None) -> list[float] | None:
    return None if value is None else np.asarray(value, np.float64).reshape(-1).tolist()
