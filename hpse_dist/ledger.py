"""Which samples made step N of a run, and the pictures as the step saw them.

Nothing is looked up but a place: the order of samples follows from the recipe, and what went wrong
on the way (incidents.jsonl) says which batches were passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file

from hpse_dist.config import ConfigError, build, read_yaml
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.loader import Loader
from hpse_dist.disk import whole_file
from hpse_dist.feed import sources_of
from hpse_dist.fields import Batch
from hpse_dist.guard import INCIDENTS_FILE, read_incidents
from hpse_dist.log import to_pixels
from hpse_dist.objectives.base import sheet, to_rgb
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe, TrainingRecipe
from hpse_dist.run_folder import check_data
from hpse_dist.world import World

BATCH_FILE, PICTURE_FILE = "batch.safetensors", "batch.png"
_TILES = 8  # in a row of the picture
_WHOLE = AugmentConfig(  # as a frozen encoder sees a picture
    crop_scale=(1.0, 1.0), translation=0.0, brightness=0.0, contrast=0.0, saturation=0.0
)


@dataclass(frozen=True)
class Entry:
    """One sample of a step."""

    sample_id: int
    """As in messages: the collection's number in the recipe is in its high bits."""
    epoch: int
    """How often it had come before: the second key of its random draws."""
    collection: str
    frames: tuple[dict[str, Any], ...]
    """Subject, sequence, time and camera of its picture, and of the reference's."""

    def __str__(self) -> str:
        places = "  with  ".join(
            f"{f['subject']}/{f['sequence']} {f['time']:.2f} s {f['camera']}" for f in self.frames
        )
        return f"{self.sample_id:>16}  pass {self.epoch}  {self.collection}: {places}"


@dataclass(frozen=True)
class Ledger:
    """A run's samples, step by step."""

    recipe: TrainingRecipe
    incidents: Sequence[dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """Of a run's folder, finished or not; ConfigError where its collections have changed."""
        path = folder / "recipe.yaml"
        if not path.is_file():
            raise ConfigError(f"{folder}: no run's folder, it has no recipe.yaml")
        values = read_yaml(path)
        kind = PretrainRecipe if "objective" in values else FinetuneRecipe
        recipe = build(kind, values, where=str(path))
        check_data(recipe, folder)  # of others it would name samples that the run never saw
        return cls(recipe, read_incidents(folder / INCIDENTS_FILE))

    def place(self, step: int, samples_per_epoch: int) -> int:
        """Number of the step's first sample in the endless sequence."""
        if not 1 <= step <= self.recipe.steps:
            raise ConfigError(f"the run has steps 1 to {self.recipe.steps}, found {step}")
        start, before = 0, 0  # the sample that step before + 1 begins with
        for incident in self.incidents:
            if incident["kind"] == "return" and step > incident["to"]:
                place, before = incident["place"], int(incident["to"])
                start = place["epoch"] * samples_per_epoch + place["cursor"]
        return start + (step - before - 1) * self.recipe.global_batch

    def why_skipped(self, step: int) -> str | None:
        """Why a step moved no weights, if it did not."""
        skips = [i for i in self.incidents if i["kind"] == "skip" and i["step"] == step]
        return skips[-1]["why"] if skips else None

    def loader(self) -> Loader:
        """The run's batches from its start, whole ones on one process."""
        recipe = self.recipe
        assert isinstance(recipe, PretrainRecipe | FinetuneRecipe)
        config = recipe.objective if isinstance(recipe, PretrainRecipe) else recipe.task
        pairs = "image_ref" in config.needs
        frozen = isinstance(recipe, FinetuneRecipe) and recipe.encoder_frozen
        return Loader(
            sources_of(recipe, "train"),
            needs=("image", "sample_id", "epoch", *(("image_ref",) if pairs else ())),
            sampling="pairs" if pairs else "frames",
            world=World(),
            seed=recipe.seed,
            global_batch=recipe.global_batch,
            micro_batch=recipe.global_batch,
            augment=_WHOLE if frozen else recipe.augment,
            image_px=recipe.encoder.image_px,
            patch_px=recipe.encoder.image_px,
            label_fraction=getattr(recipe, "label_fraction", 1.0),
        )

    def entries(self, step: int) -> list[Entry]:
        """The samples of a step's global batch, in their order."""
        loader = self.loader()
        rows = loader.rows_at(self.place(step, loader.samples_per_epoch))
        found = []
        for number, item, epoch in zip(rows.source, rows.item, rows.epoch, strict=True):
            items = loader.items[number]
            frames = [items.first[item]]
            if items.second is not None:
                frames.append(items.second[item])
            found.append(
                Entry(
                    int(items.sample_id[frames[0]]) + items.offset,
                    int(epoch),
                    items.source.collection.folder.name,
                    tuple(_frame(items.source.collection.frames, int(f)) for f in frames),
                )
            )
        return found

    def batch(self, step: int) -> Batch:
        """A step's global batch, cropped and coloured as training saw it."""
        loader = self.loader()
        place = self.place(step, loader.samples_per_epoch)
        epoch, cursor = divmod(place, loader.samples_per_epoch)
        loader.load_state_dict({"epoch": epoch, "cursor": cursor})
        try:
            return next(iter(loader))
        finally:
            loader.close()

    def write(self, step: int, folder: Path) -> list[Path]:
        """The batch as safetensors, and its pictures as one PNG."""
        batch = self.batch(step)
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / BATCH_FILE) as draft:
            save_file({name: value.contiguous() for name, value in batch.items()}, draft)
        columns = [name for name in ("image", "image_ref") if name in batch]
        samples = list(zip(*(to_rgb(batch[name]) for name in columns), strict=True))
        across = min(len(samples), _TILES // len(columns))
        parts = [samples[i : i + across] for i in range(0, len(samples), across)]
        rows = [[tile for sample in part for tile in sample] for part in parts]
        captions = [str(i) for i in batch["sample_id"][::across].tolist()]
        rows[-1] += [torch.ones(3, 8, 8)] * (len(rows[0]) - len(rows[-1]))  # an even edge
        picture = sheet(rows, columns * across, captions)
        Image.fromarray(to_pixels(picture)).save(folder / PICTURE_FILE)
        return [folder / BATCH_FILE, folder / PICTURE_FILE]


def _frame(table: Any, number: int) -> dict[str, Any]:
    columns = ("subject", "sequence", "time", "camera")
    return {name: table[name][number].as_py() for name in columns}
