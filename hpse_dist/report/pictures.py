"""Pictures of a page, made small enough to mail and put into it as data.

A task's sheet has a band of titles and a row for each person; it is cut into rows, so that a page
can show what all sources make of one person beside one another.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

BAND_PX, ROW_PX = 22, 164  # of the sheets that tasks draw: titles, and a person with the gap below
BUDGET_BYTES = 3_500_000  # of encoded text; the page stays under 5 MB
STEPS_DOWN = ((1000, 85), (800, 75), (640, 65), (480, 50))  # widest side in px, WebP quality


@dataclass(frozen=True)
class Picture:
    """A picture with its words; `data` is a data: URL."""

    caption: str
    detail: str
    data: str
    width: int
    height: int
    alt: str
    name: str = ""
    row: int | None = None


@dataclass(frozen=True)
class Wanted:
    """A picture file and the words to go with it."""

    path: Path
    caption: str
    detail: str
    alt: str
    row: int | None = None
    """One person of a sheet, with its titles; None takes the whole picture."""
    name: str = ""
    """Of the sheet."""


def embed(wanted: Sequence[Wanted], budget: int = BUDGET_BYTES) -> tuple[list[Picture], int]:
    """The pictures as large as all of them fit the budget, and how many could not be had.

    One that is no picture, and at the smallest size those after the budget is used up, are left
    out and counted.
    """
    readable = [(item, image) for item in wanted if (image := _read(item)) is not None]
    pictures: list[Picture] = []
    for widest, quality in STEPS_DOWN:
        pictures = [_encode(item, image, widest, quality) for item, image in readable]
        if sum(len(picture.data) for picture in pictures) <= budget:
            break
    kept, used = [], 0
    for picture in pictures:
        used += len(picture.data)
        if used <= budget:
            kept.append(picture)
    return kept, len(wanted) - len(kept)


def people_in(path: Path) -> int:
    """Rows of a sheet; 0 where the picture is none, or no sheet."""
    try:
        with Image.open(path) as image:
            rows, rest = divmod(image.height - BAND_PX, ROW_PX)
            return rows if rest == 0 else 0
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return 0


def _read(item: Wanted) -> Image.Image | None:
    try:
        with Image.open(item.path) as image:
            whole = image.convert("RGB")
        return whole if item.row is None else _row(whole, item.row)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
        return None


def _row(sheet: Image.Image, number: int) -> Image.Image:
    """One person's row under the sheet's titles."""
    top = BAND_PX + number * ROW_PX
    strip = Image.new("RGB", (sheet.width, BAND_PX + ROW_PX))
    strip.paste(sheet.crop((0, 0, sheet.width, BAND_PX)), (0, 0))
    strip.paste(sheet.crop((0, top, sheet.width, top + ROW_PX)), (0, BAND_PX))
    return strip


def _encode(item: Wanted, image: Image.Image, widest: int, quality: int) -> Picture:
    scale = min(1.0, widest / max(image.size))
    if scale < 1.0:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(
        caption=item.caption,
        detail=item.detail,
        data=f"data:image/webp;base64,{data}",
        width=image.width,
        height=image.height,
        alt=item.alt,
        name=item.name,
        row=item.row,
    )
