"""A contact sheet of whole pictures with the relations of depth that are made of their joints."""

from __future__ import annotations

import textwrap

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.data.collection import Collection
from hpse_dist.data.depth_order import BONES, DepthOrder, basis
from hpse_dist.data.tiles import grid
from hpse_dist.draws import permutation

TILE_PX = 320
_LINE = 15
_COLOURS = ((255, 90, 90), (90, 200, 255), (120, 255, 120), (255, 160, 255), (255, 190, 60))
_NEARER, _LEVEL = (255, 255, 0), (255, 255, 255)


def depth_sheet(collection: Collection, count: int = 12) -> Image.Image | None:
    """Pictures drawn at random: people numbered from left to right, a yellow arrow from the nearer
    of two to the farther, a white line between two who are level; None without whole pictures."""
    found = basis([collection]) if "people2d" in collection.fields else None
    if found is None or found[0] != "people2d":
        return None
    drawn = permutation(0, "sheet", 3, collection.num_frames)[:count]
    ids = np.sort(collection.frames["sample_id"].to_numpy()[drawn]).tolist()
    stored = collection.read(ids, ["image", "people2d"])
    order_of, names = DepthOrder(found[1]), JOINT_SETS[found[1]]
    tiles = []
    for image, people in zip(stored["image"], stored["people2d"], strict=True):
        people = people[(people[..., 2] > 0).any(1)]
        people = people[np.argsort([one[one[:, 2] > 0, 0].mean() for one in people])]
        tensor = torch.from_numpy(people)[None]
        order, known = order_of.relations(order_of.apparent(tensor))
        tiles.append(_tile(image, people, names, order[0].numpy(), known[0].numpy()))
    return grid(f"{collection.name}: {len(tiles)} of {collection.num_frames} pictures", tiles)


def _tile(
    image: np.ndarray,
    people: np.ndarray,
    names: tuple[str, ...],
    order: np.ndarray,
    known: np.ndarray,
) -> Image.Image:
    """One picture: people (P, J, 3), order and known (P, P)."""
    size = (TILE_PX, TILE_PX)
    picture = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    middles = []
    for number, one in enumerate(people):
        _draw_person(draw, one, names, _COLOURS[number % len(_COLOURS)])
        x, y = one[one[:, 2] > 0, :2].mean(0) * TILE_PX
        middles.append((float(x), float(y)))
    words = []
    for i in range(len(people)):
        for j in range(i + 1, len(people)):
            if not known[i, j]:
                continue
            if order[i, j] == 0:
                draw.line([middles[i], middles[j]], fill=_LEVEL, width=1)
                words.append(f"{i + 1}\u00a0=\u00a0{j + 1}")
                continue
            near, far = (i, j) if order[i, j] < 0 else (j, i)
            _arrow(draw, middles[near], middles[far])
            words.append(f"{near + 1}\u00a0before\u00a0{far + 1}")
    for number, middle in enumerate(middles):
        draw.text(middle, str(number + 1), fill="white", stroke_width=2, stroke_fill="black")
    tile = Image.new("RGB", (TILE_PX, TILE_PX + 2 * _LINE + 4), "white")
    tile.paste(picture, (0, 0))
    text = ", ".join(words) or "no relation is sure"
    font = ImageFont.load_default(12)
    for line, part in enumerate(textwrap.wrap(text, 50)[:2]):
        ImageDraw.Draw(tile).text((2, TILE_PX + 2 + line * _LINE), part, fill="black", font=font)
    return tile


def _draw_person(
    draw: ImageDraw.ImageDraw,
    joints: np.ndarray,
    names: tuple[str, ...],
    colour: tuple[int, int, int],
) -> None:
    """Limbs as lines, and every joint whose place is known; hidden ones are grey."""
    places = {
        name: (float(x) * TILE_PX, float(y) * TILE_PX)
        for name, (x, y, sure) in zip(names, joints, strict=True)
        if sure > 0
    }
    for side in ("left", "right"):
        for a, b in BONES:
            start, end = places.get(f"{side}_{a}"), places.get(f"{side}_{b}")
            if start and end:
                draw.line([start, end], fill=colour, width=2)
    for name, sure in zip(names, joints[:, 2], strict=True):
        if name in places:
            draw.circle(places[name], 2, fill=colour if sure > 0.5 else (150, 150, 150))


def _arrow(draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    draw.line([start, end], fill=_NEARER, width=2)
    along = np.subtract(end, start)
    along = along / max(float(np.hypot(*along)), 1e-6)
    across = np.array([-along[1], along[0]])
    tip = np.array(end)
    corners = [tip, tip - 9 * along + 4 * across, tip - 9 * along - 4 * across]
    draw.polygon([(float(x), float(y)) for x, y in corners], fill=_NEARER)
