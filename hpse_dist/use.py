"""Trained models in one's own code: an encoder, a task, and pictures as they know them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hpse_dist.config import build, read_yaml
from hpse_dist.data.crops import CollectionConfig, Pictures, crop_square, resample
from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD
from hpse_dist.models.blind import blindfold
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.frozen import thawed
from hpse_dist.recipe import FinetuneRecipe
from hpse_dist.run_folder import is_done
from hpse_dist.source import BLIND, TIMM, encoder_of, fill_finished, open_source
from hpse_dist.starting import task_model
from hpse_dist.tasks.base import Task

_TIMM_PX = 224


def load_encoder(
    place: str | Path, image_px: int | None = None, *, download: bool = False
) -> Encoder:
    """An encoder to call: pictures (B, 3, H, W) of `person_picture` -> tokens (B, N, C).

    place: whatever `source=` of a recipe takes: a run's folder, an encoder.safetensors, a published
    checkpoint, `timm:<name>`; image_px: of the pictures to come, by default those of its training.
    In evaluation mode, on the CPU. ValueError says what is wrong with a file.
    """
    name = str(place)
    size = image_px or _TIMM_PX
    source = open_source(name, size, download=download)
    if image_px is None and not name.startswith(TIMM):
        size = source.config.image_px
    return encoder_of(source, size).eval()


def load_task(folder: str | Path) -> Task:
    """The task of a finished fine-tuning run: `predict({"image": (B, 3, H, W)})` of pictures of
    `person_picture`, and `intrinsics` (B, 3, 3), in crop sides, where they are known.

    Nothing but the run's folder is read, and the body model's file where it names one. In
    evaluation mode, on the CPU. ValueError where the run is none, or not finished.
    """
    folder = Path(folder).resolve()
    if not (folder / "recipe.yaml").is_file() or not is_done(folder):
        raise ValueError(f"{folder}: no finished run; give the folder of a fine-tuning")
    values = read_yaml(folder / "recipe.yaml")
    if "objective" in values:
        raise ValueError(f"{folder}: a pre-training run, which has no task; open its encoder")
    return finished_task(build(FinetuneRecipe, values, where=str(folder / "recipe.yaml")), folder)


def finished_task(recipe: FinetuneRecipe, folder: Path) -> Task:
    """A task with the weights of its finished run, whose source may be gone."""
    module, _ = task_model(replace(recipe, source=str(folder), source_decoder=False))
    fill_finished(module, thawed(module.encoder), folder)
    if recipe.source == BLIND:
        blindfold(thawed(module.encoder))
    return module.eval()


def person_picture(
    image: str | Path | np.ndarray,
    box: tuple[float, float, float, float],
    image_px: int,
    box_scale: float = CollectionConfig.box_scale,
) -> Tensor:
    """A person as encoders see one: (3, image_px, image_px) float32, normalised.

    image: a file, or (H, W, 3) uint8 RGB; box: x0, y0, x1, y1 of the person in pixels, of which the
    crop is the square `box_scale` times as large, black beyond the picture. ValueError where the
    file cannot be read or the box is empty.
    """
    x0, y0, x1, y1 = box
    if not (x1 > x0 and y1 > y0 and np.isfinite(box).all()):
        raise ValueError(f"box: x0 < x1 and y0 < y1 are needed, in pixels; found {box}")
    try:
        pixels = Pictures().read(image if isinstance(image, np.ndarray) else Path(image))
    except ValueError as error:
        where = "image" if isinstance(image, np.ndarray) else image
        raise ValueError(f"{where}: {error}") from None
    crop = resample(pixels, crop_square(box, box_scale), image_px, Image.Resampling.BICUBIC)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (torch.tensor(crop).permute(2, 0, 1) / 255 - mean) / std
