"""A grid of pictures under a title."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont

_GAP = 10


def grid(title: str, tiles: list[Image.Image], columns: int = 4) -> Image.Image:
    """Tiles of one size in rows under a title."""
    columns = min(columns, len(tiles))
    width, height = tiles[0].width + _GAP, tiles[0].height + _GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + 40), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, 10), title, fill="black", font=ImageFont.load_default(16))
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        sheet.paste(tile, (_GAP + column * width, 40 + row * height))
    return sheet
