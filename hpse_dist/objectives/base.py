"""What every pre-training objective is, and the pictures they show."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from hpse_dist.body.joints import MANO21, MANO_PARENTS, PARENTS, SMPL24
from hpse_dist.constants import constant
from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD, Batch
from hpse_dist.models.encoder import Encoder

PANEL_ROWS = 6  # samples shown in one panel
TILE_PX = 160  # side of one picture in a panel
# Names and parents of joints, known by how many they are.
_SKELETONS: dict[int, tuple[Sequence[str], Sequence[int]]] = {
    len(SMPL24): (SMPL24, PARENTS),
    len(MANO21): (MANO21, MANO_PARENTS),
}


class Objective(nn.Module):
    """An encoder, what pre-training adds to it, and the loss.

    A subclass sets `Config`, its frozen dataclass, whose property `needs` names the fields that
    `forward`, `metrics` and `panels` read from a batch. It owns every module that only pre-training
    needs; the encoder alone outlives it.
    """

    Config: ClassVar[type]
    shardable: ClassVar[bool] = True
    """False where ZeRO stage 3 does not fit, as with moving averages of the parameters."""
    splits: ClassVar[bool] = True
    """False where the loss depends on what is in a micro-batch (over all ranks) together, as with
    negatives from the batch: one batch or two halves of it are then not the same."""

    def __init__(self, config: Any, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.seed = seed
        self.needs: tuple[str, ...] = config.needs
        if encoder.config.drop_path > 0.0:
            self.needs = tuple(dict.fromkeys((*config.needs, "sample_id", "epoch")))
            self.register_forward_pre_hook(_key_draws)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss under "loss" and scalars to log, each a mean over the micro-batch: the mean of
        them over micro-batches and ranks is the global batch's figure, however it was split."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step with the share of the run done, 0..1."""

    def after_refusal(self) -> None:
        """Called instead when a step was refused: what forward has left for `after_step` goes."""

    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures of what the model does: name -> (3, H, W) float 0..1 on the CPU."""
        return {}

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Figures per example, (B,) each; NaN where an example has none."""
        raise NotImplementedError

    def summary(self, means: dict[str, float]) -> dict[str, float]:
        """Figures derived from the metrics' means over a whole evaluation."""
        return {}


def _key_draws(objective: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Before a forward pass: the encoder's drop paths draw for these samples."""
    batch, seed = inputs[0], cast(int, objective.seed)
    keys = cast(Encoder, objective.encoder).drop_keys
    keys.set(seed, batch["epoch"], batch["sample_id"])


def to_rgb(image: Tensor) -> Tensor:
    """Undoes the input normalisation: (..., 3, H, W) -> same shape, 0..1."""
    mean, std = (constant(values, image.device) for values in (IMAGE_MEAN, IMAGE_STD))
    return (image.float() * std[:, None, None] + mean[:, None, None]).clamp(0.0, 1.0)


def sheet(
    rows: Sequence[Sequence[Tensor]], titles: Sequence[str], captions: Sequence[str]
) -> Tensor:
    """One picture of tiles: a title over each column, a caption in each row's first tile.

    rows of (3, h, w) float 0..1, scaled to squares -> (3, H, W) float 0..1 on the CPU.
    """
    gap, band = 4, 22
    width = len(titles) * (TILE_PX + gap) + gap
    canvas = Image.new("RGB", (width, band + len(rows) * (TILE_PX + gap)), (250, 250, 248))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(13)
    for column, title in enumerate(titles):
        centre = gap + column * (TILE_PX + gap) + TILE_PX // 2
        draw.text((centre, band // 2), title, fill=(60, 60, 60), font=font, anchor="mm")
    for i, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        top = band + i * (TILE_PX + gap)
        for column, tile in enumerate(row):
            canvas.paste(_tile(tile), (gap + column * (TILE_PX + gap), top))
        if caption:
            box = draw.textbbox((gap + 5, top + 4), caption, font=font)
            draw.rectangle((gap, top, box[2] + 5, box[3] + 4), fill=(30, 30, 30))
            draw.text((gap + 5, top + 4), caption, fill=(255, 255, 255), font=font)
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).float() / 255.0


def with_joints(picture: Tensor, joints: Tensor, shown: Tensor) -> Tensor:
    """Joints drawn on a picture: left red, right blue, others green; bones where they are SMPL's
    or MANO's.

    picture (3, h, w) 0..1, joints (J, 2) 0..1, shown (J,) drawn where above 0 ->
    (3, TILE_PX, TILE_PX).
    """
    canvas = _tile(picture)
    draw = ImageDraw.Draw(canvas)
    places = [(float(x) * TILE_PX, float(y) * TILE_PX) for x, y in joints]
    names, parents = _SKELETONS.get(len(places), ([""] * len(places), ()))
    for joint, parent in enumerate(parents):
        if parent >= 0 and shown[joint] > 0 and shown[parent] > 0:
            draw.line((places[parent], places[joint]), fill=_joint_colour(names[joint]), width=2)
    for (x, y), name, seen in zip(places, names, shown.tolist(), strict=True):
        if seen > 0:
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=_joint_colour(name))
    return torch.from_numpy(np.asarray(canvas).copy()).permute(2, 0, 1).float() / 255.0


def _joint_colour(name: str) -> tuple[int, int, int]:
    if name.startswith("left_"):
        return 235, 64, 52
    return (52, 120, 235) if name.startswith("right_") else (60, 190, 90)


def part_colours(num_parts: int) -> Tensor:
    """(1 + num_parts, 3) colours 0..1: black for the background, then hues far from one another."""
    hues = [(0.62 * part) % 1.0 for part in range(num_parts)]
    shades = [
        colorsys.hsv_to_rgb(h, 0.55 + 0.4 * (i % 2), 1.0 - 0.3 * (i % 3 == 2))
        for i, h in enumerate(hues)
    ]
    return torch.tensor([(0.0, 0.0, 0.0), *shades])


def _tile(picture: Tensor) -> Image.Image:
    """One tile of a sheet from (3, h, w) float 0..1."""
    picture = picture.detach().float().cpu()[None]
    if picture.shape[-2:] != (TILE_PX, TILE_PX):
        size = (TILE_PX, TILE_PX)
        picture = F.interpolate(picture, size, mode="bicubic", antialias=True, align_corners=False)
    array = (picture[0].clamp(0.0, 1.0) * 255.0).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)
