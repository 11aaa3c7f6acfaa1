"""Boxes of a rig's person, from a file or around a mask."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpse_dist.data.importers.official import MOST
from hpse_dist.data.importers.rig_cameras import Camera
from hpse_dist.geometry.boxes import clip
from hpse_dist.safety import parsed_json

Box = tuple[float, float, float, float]


def read_boxes(path: Path, cameras: Sequence[str]) -> dict[tuple[str, int], Box]:
    """(camera, frame) -> box from a CSV or JSON file; ValueError names the entry that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            rows = parsed_json(text)
        else:
            rows = list(csv.DictReader(text.splitlines()))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: the boxes cannot be read: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: needed is a list of boxes, found {type(rows).__name__}")
    boxes: dict[tuple[str, int], Box] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{path}, box {number}"
        try:
            name, frame = str(row["camera"]), int(row["frame"])
            x0, y0, x1, y1 = (float(row[key]) for key in ("x0", "y0", "x1", "y1"))
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(f"{where}: needs camera, frame, x0, y0, x1, y1; found {row}") from None
        if name not in cameras:
            raise ValueError(f"{where}: unknown camera {name!r}; known: {', '.join(cameras)}")
        if max(map(abs, (x0, y0, x1, y1))) > MOST:
            raise ValueError(f"{where}: a number beyond all bounds, above {MOST:.0e}; {row}")
        if not (x0 < x1 and y0 < y1) or (name, frame) in boxes:
            raise ValueError(f"{where}: a box needs x0 < x1 and y0 < y1, and stands once; {row}")
        boxes[name, frame] = (x0, y0, x1, y1)
    if not boxes:
        raise ValueError(f"{path}: no box in this file")
    return boxes


def undistorted_box(box: Box, camera: Camera) -> Box:
    """A box of the lens's picture in the undistorted one: around its border, inside the picture."""
    x, y = np.linspace(box[0], box[2], 5), np.linspace(box[1], box[3], 5)
    grid: np.ndarray = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    # boxes count from a pixel's edge, cameras from its middle
    points = camera.undistort_points(grid - 0.5) + 0.5
    return _inside(np.concatenate([points.min(axis=0), points.max(axis=0)]), camera.size)


def box_around(mask: np.ndarray, size: tuple[int, int], margin: float) -> Box | None:
    """The box around a shrunk bool mask in pixels of the picture of (width, height) `size`.

    It is widened on each side by `margin` of its longer side; None where the mask is empty.
    """
    if not mask.any():
        return None
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    sx, sy = size[0] / mask.shape[1], size[1] / mask.shape[0]
    box = np.array([columns[0] * sx, rows[0] * sy, (columns[-1] + 1) * sx, (rows[-1] + 1) * sy])
    rim = margin * max(box[2] - box[0], box[3] - box[1])
    return _inside(box + np.array([-rim, -rim, rim, rim]), size)


def _inside(box: np.ndarray, size: tuple[int, int]) -> Box:
    x0, y0, x1, y1 = clip(box, *size).tolist()
    return x0, y0, x1, y1
