"""Contact sheets of a collection: pictures to look at before anything is trained on it."""

from __future__ import annotations

import colorsys
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hpse_dist.body.joints import PARENTS
from hpse_dist.data.collection import Collection
from hpse_dist.data.depth_sheet import depth_sheet
from hpse_dist.data.mining.distributions import CANDIDATES
from hpse_dist.data.mining.figure import save_figure
from hpse_dist.data.mining.rules import POSE, VIEW
from hpse_dist.data.reprojection import projected
from hpse_dist.data.tiles import grid
from hpse_dist.draws import permutation

TILE_PX = 160
_LINE = 15
_NAMES = {VIEW: "cross-view", POSE: "cross-pose"}


def write_sheets(collection: Collection, folder: Path | None = None, count: int = 24) -> list[Path]:
    """frames.png, pairs_view.png, pairs_pose.png and depth.png, `count` tiles each; returns those
    written.

    In `folder`, by default the collection's `sheets/`, which is replaced as a whole. A kind without
    pairs has no sheet, depth.png is of whole pictures of several people, and pairs.png shows how
    candidates and the pairs kept of them are spread.
    """
    folder = folder or collection.folder / "sheets"
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    sheets = {
        "frames": frame_sheet(collection, count),
        "pairs_view": pair_sheet(collection, VIEW, count),
        "pairs_pose": pair_sheet(collection, POSE, count),
        "depth": depth_sheet(collection, count),
    }
    made = {f"{name}.png": sheet for name, sheet in sheets.items() if sheet is not None}
    for name, sheet in made.items():
        sheet.save(part / name)
    names = [*made]
    pairs = collection.manifest.get("pairs", {})
    # mined before: nothing was counted
    if any(found[CANDIDATES] for found in pairs.get("spread", {}).values()):
        save_figure(part / "pairs.png", collection.name, pairs)
        names.append("pairs.png")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return [folder / name for name in names]


def pair_sheet(collection: Collection, kind: int, count: int = 24) -> Image.Image | None:
    """Pairs of one kind drawn at random, with angle or time written on them; None without any."""
    pairs = collection.pairs.filter(collection.pairs["kind"].to_numpy() == kind)
    ends = np.sort(np.stack([pairs["a"].to_numpy(), pairs["b"].to_numpy()], axis=1), axis=1)
    _, once = np.unique(ends, axis=0, return_index=True)  # (a, b) and (b, a) are one tile
    if len(once) == 0:
        return None
    drawn = once[permutation(0, "sheet", kind, len(once))[:count]]
    chosen = pairs.take(drawn).sort_by("angle_deg" if kind == VIEW else "time_gap_s").to_pylist()
    ids = [pair[side] for pair in chosen for side in "ab"]
    images, about = collection.read(ids, ["image"])["image"], _about(collection, ids)
    tiles = []
    for index, pair in enumerate(chosen):
        two = [_scaled(image) for image in images[2 * index : 2 * index + 2]]
        tiles.append(_tile(two, _pair_lines(pair, *about[2 * index : 2 * index + 2])))
    return grid(f"{collection.name}: {len(chosen)} of {len(once)} {_NAMES[kind]} pairs", tiles)


def frame_sheet(collection: Collection, count: int = 24) -> Image.Image:
    """Frames drawn at random: the crop with box and joints; beside it person and part map.

    Dots are 2D joints, rings the 3D joints as their camera projects them: they belong together.
    """
    drawn = permutation(0, "sheet", 2, collection.num_frames)[:count]
    ids = np.sort(collection.frames["sample_id"].to_numpy()[drawn]).tolist()
    labels = ("joints2d", "people2d", "part_map", "joints3d", "intrinsics")
    wanted = [name for name in labels if name in collection.fields]
    stored = collection.read(ids, ["image", "person", *wanted])
    tiles = []
    for index, about in enumerate(_about(collection, ids)):
        one = {name: values[index] for name, values in stored.items()}
        lines = [f"#{about['sample_id']} {about['split']}", _place(about)]
        tiles.append(_tile([_annotated(one, about), _person(one)], lines))
    title = f"{collection.name}: {len(ids)} of {collection.num_frames} frames"
    return grid(title, tiles)


def _about(collection: Collection, ids: list[int]) -> list[dict[str, Any]]:
    """What frames.parquet says of some frames."""
    names = ["sample_id", "subject", "sequence", "track", "camera", "time", "split", "box", "crop"]
    table = collection.frames.select(names)
    return table.take(np.searchsorted(table["sample_id"].to_numpy(), ids)).to_pylist()


def _place(about: dict[str, Any]) -> str:
    who = about["subject"] or about["track"]
    return " ".join(part for part in (who, about["camera"], f"{about['time']:.2f} s") if part)


def _pair_lines(pair: dict[str, Any], a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The measures of a pair, and where its frames come from."""
    if pair["kind"] == VIEW:
        measures = f"angle {pair['angle_deg']:.0f}°"
        places = f"{a['camera']} | {b['camera']}, {a['time']:.2f} s"
    else:
        measures = f"time gap {pair['time_gap_s']:.2f} s"
        places = f"{a['time']:.2f} s | {b['time']:.2f} s, {a['camera']}"
        if pair["pose_distance"] is not None:
            measures += f", pose {pair['pose_distance']:.2f}"
    if pair["overlap"] is not None:
        measures += f", overlap {pair['overlap']:.2f}"
    if pair.get("difficulty") is not None:  # pairs of before have none
        measures += f", hard {pair['difficulty']:.2f}"
    return [measures, f"{a['subject'] or a['track']} {places}"]


def _scaled(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)


def _annotated(one: dict[str, np.ndarray], about: dict[str, Any]) -> Image.Image:
    """The crop with the person's box and joints, or everybody's."""
    image = _scaled(one["image"])
    draw = ImageDraw.Draw(image)
    x, y, side = about["crop"]
    corners = (np.array(about["box"]) - [x, y, x, y]) * (TILE_PX / side)
    draw.rectangle(tuple(corners), outline=(255, 255, 0))
    people = [one["joints2d"]] if "joints2d" in one else one.get("people2d", ())
    for joints in people:
        _draw_joints(draw, joints)
    if "joints3d" in one and "intrinsics" in one:
        for x, y, shown in projected(one["joints3d"], one["intrinsics"]):
            if shown:
                draw.circle((x * TILE_PX, y * TILE_PX), 4, outline=(90, 255, 90))
    return image


def _draw_joints(draw: ImageDraw.ImageDraw, joints: np.ndarray) -> None:
    """A skeleton of (J, 3) joints; those that are hidden behind something are grey."""
    places = [tuple(joint[:2] * TILE_PX) if joint[2] > 0 else None for joint in joints]
    parents = PARENTS if len(joints) == len(PARENTS) else (-1,) * len(joints)
    for place, parent in zip(places, parents, strict=True):
        start = places[parent] if parent >= 0 else None
        if place is not None and start is not None:
            draw.line([start, place], fill=(0, 255, 255), width=1)
    for place, joint in zip(places, joints, strict=True):
        if place is not None:
            draw.circle(place, 2, fill=(255, 0, 255) if joint[2] > 0.5 else (150, 150, 150))


def _person(one: dict[str, np.ndarray]) -> Image.Image:
    """The person's share as brightness, coloured by body part where known."""
    share = Image.fromarray(one["person"]).resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR)
    grey: np.ndarray = np.repeat(np.asarray(share)[..., None], 3, axis=2)
    if "part_map" not in one or not one["part_map"].any():
        return Image.fromarray(grey)
    parts = np.asarray(
        Image.fromarray(one["part_map"]).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
    )
    return Image.fromarray(np.where(parts[..., None] > 0, _colours()[parts], grey // 2))


def _colours() -> np.ndarray:
    """256 well-spread colours, (256, 3) uint8: hues a golden angle apart."""
    hues = np.arange(256) * 0.381966 % 1
    return np.array([[255 * c for c in colorsys.hsv_to_rgb(h, 0.6, 0.95)] for h in hues], np.uint8)


def _tile(images: list[Image.Image], lines: list[str]) -> Image.Image:
    """Pictures side by side with lines of text below."""
    tile = Image.new("RGB", (len(images) * TILE_PX + 2, TILE_PX + len(lines) * _LINE + 4), "white")
    for index, image in enumerate(images):
        tile.paste(image, (index * (TILE_PX + 2), 0))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    for index, line in enumerate(lines):
        draw.text((2, TILE_PX + 2 + index * _LINE), line, fill="black", font=font)
    return tile
