"""Person masks as COCO writes them: polygons, or run lengths plain or packed in a text."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from hpse_dist.data.importers.official import Bad, believed, numbers, whole


def mask_of(outline: Any, height: int, width: int) -> np.ndarray:
    """(height, width) bool from COCO's `segmentation`; Bad where it cannot be one."""
    if isinstance(outline, dict):
        mask = run_lengths(outline)
        if mask.shape != (height, width):
            raise Bad(f"the mask has shape {mask.shape}, the picture {(height, width)}")
        return mask
    if not isinstance(outline, list):
        raise Bad("segmentation is neither polygons nor run lengths")
    drawn: np.ndarray = np.zeros((height, width), np.uint8)
    for polygon in outline:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise Bad("segmentation holds what is not a polygon")
        corners = numbers(polygon, len(polygon), "a polygon").reshape(-1, 2)
        corners = np.clip(corners, -1, max(height, width) + 1) - 0.5  # of pixels' middles
        cv2.fillPoly(drawn, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
    return drawn > 0


def run_lengths(outline: dict[str, Any]) -> np.ndarray:
    """(H, W) bool from {size: [H, W], counts}: lengths of runs down the columns, 0 first."""
    size = outline.get("size")
    if not isinstance(size, list) or len(size) != 2:
        raise Bad("run lengths without the size of the mask")
    height, width = (whole(number, "the mask's size") for number in size)
    believed(width, height)
    counts = outline.get("counts")
    if isinstance(counts, str):
        counts = _unpacked(counts)
    if not isinstance(counts, list):
        raise Bad("run lengths without counts")
    lengths = numbers(counts, len(counts), "counts")
    if ((lengths < 0) | (lengths > height * width)).any() or lengths.sum() != height * width:
        raise Bad("the run lengths do not add up to the mask")
    lengths = lengths.astype(np.int64)
    runs: np.ndarray = np.arange(len(lengths)) % 2 == 1
    return np.repeat(runs, lengths).reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Run lengths from COCO's text: groups of 5 bits, low ones first, from the third on as
    differences from the one two before."""
    lengths: list[int] = []
    value = shift = 0
    for sign in text:
        group = ord(sign) - 48
        if not 0 <= group < 64 or shift > 40:
            raise Bad("packed run lengths hold a sign that does not belong there")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise Bad("packed run lengths break off")
    return lengths
