"""A run's data: batches to train on, and held-out ones to measure with.

Where the encoder is frozen both come from a probe's shelves, else from the collections' pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from hpse_dist.data.collection import Collection
from hpse_dist.data.decoding import Hire, Sampling
from hpse_dist.data.items import Source as DataSource
from hpse_dist.data.items import has_items
from hpse_dist.data.loader import Loader, evaluation_batches
from hpse_dist.fields import Batch
from hpse_dist.models.frozen import FrozenEncoder
from hpse_dist.objectives.base import Objective
from hpse_dist.probe import (
    ProbeLoader,
    Shelf,
    Sight,
    evaluation,
    for_evaluation,
    for_training,
    shelve,
)
from hpse_dist.recipe import HeldOut, TrainingRecipe, collection_of
from hpse_dist.world import World


def sampling_of(module: Objective) -> Sampling:
    """What a module's batches are made of."""
    return "pairs" if "image_ref" in module.needs else "frames"


def sources_of(recipe: TrainingRecipe, split: str) -> list[DataSource]:
    """The recipe's collections, one split of each; a curriculum is for training alone."""
    return [
        DataSource(
            collection_of(use, recipe.machine),
            use.weight,
            split,
            use.kinds,
            use.curriculum if split == "train" else None,
        )
        for use in recipe.collections
    ]


def judged(held_out: HeldOut, recipe: TrainingRecipe, sampling: Sampling) -> DataSource:
    """What a recipe names to be measured on; ValueError where it holds none of that sampling."""
    source = DataSource(collection_of(held_out, recipe.machine), split=held_out.split)
    if not has_items(source, sampling):
        raise ValueError(f"{held_out} holds no {sampling}, which {recipe.name} is measured on")
    return source


def learnt(recipe: TrainingRecipe) -> tuple[Collection, ...]:
    """The collections that are trained on: labels that only they have, what is judged may lack."""
    return tuple(collection_of(use, recipe.machine) for use in recipe.collections)


def held_out(recipe: TrainingRecipe, sampling: Sampling) -> DataSource | None:
    """What the recipe names, or the first collection with held-out frames: figures of mixed data
    mean nothing."""
    if recipe.held_out is not None:
        return judged(recipe.held_out, recipe, sampling)
    return next((s for s in sources_of(recipe, "val") if has_items(s, sampling)), None)


def make_feed(
    recipe: TrainingRecipe,
    module: Objective,
    world: World,
    device: torch.device,
    hire: Hire | None = None,
) -> Feed:
    """The data of a run of this module; `hire` gets the data workers of `machine.loader`."""
    if isinstance(module.encoder, FrozenEncoder):
        return ProbeFeed(recipe, module, world, device)
    return Feed(recipe, module, world, device, hire)


class Feed:
    """Batches of pictures."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        module: Objective,
        world: World,
        device: torch.device,
        hire: Hire | None = None,
    ) -> None:
        self.recipe, self.world, self.device, self.hire = recipe, world, device, hire
        # sample_id tells pictures apart, and names those of a loss that is not finite
        self.needs = tuple(dict.fromkeys((*module.needs, "sample_id")))
        self.patch_px = module.encoder.patch_px
        self.sampling = sampling_of(module)
        self.held_out = held_out(recipe, self.sampling)
        self.learnt = learnt(recipe)

    def loader(self) -> Loader:
        """The training data; a field that the module needs and a collection lacks is a
        ValueError."""
        return Loader(
            sources_of(self.recipe, "train"),
            device=self.device,
            kind=self.recipe.machine.loader,
            hire=self.hire,
            data_workers=self.recipe.machine.data_workers,
            **self._settings(),
        )

    def evaluation(self, limit: int | None) -> Iterator[Batch]:
        """The held-out samples once over all ranks, at most `limit`."""
        return self.pictures(limit)

    def pictures(self, limit: int | None, source: DataSource | None = None) -> Iterator[Batch]:
        """The same with the pictures themselves, for panels, or the samples of another source."""
        source = source or self.held_out
        assert source is not None
        return evaluation_batches(
            source,
            needs=self.needs,
            sampling=self.sampling,
            world=self.world,
            micro_batch=self.recipe.evaluation_batch,
            image_px=self.recipe.encoder.image_px,
            patch_px=self.patch_px,
            device=self.device,
            limit=limit,
            depth_order=getattr(self.recipe, "depth_order", None),
            beside=self.learnt,
        )

    def _settings(self) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "needs": self.needs,
            "sampling": self.sampling,
            "world": self.world,
            "seed": recipe.seed,
            "global_batch": recipe.global_batch,
            "micro_batch": recipe.machine.micro_batch,
            "augment": recipe.augment,
            "image_px": recipe.encoder.image_px,
            "patch_px": self.patch_px,
            "threads": recipe.machine.loader_threads,
            "decode_limit_s": recipe.machine.decode_limit_s,
            "label_fraction": getattr(recipe, "label_fraction", 1.0),
            "depth_order": getattr(recipe, "depth_order", None),
        }


class ProbeFeed(Feed):
    """Stand-ins for pictures, and labels; tokens are computed when it is made."""

    def __init__(
        self, recipe: TrainingRecipe, module: Objective, world: World, device: torch.device
    ) -> None:
        super().__init__(recipe, module, world, device)
        assert isinstance(module.encoder, FrozenEncoder)
        frozen = module.encoder
        frozen.inner.to(device)
        sight = Sight(
            self.needs,
            recipe.encoder.image_px,
            recipe.evaluation_batch,
            device,
            recipe.precision,
            getattr(recipe, "depth_order", None),
            self.learnt,
        )
        fraction = getattr(recipe, "label_fraction", 1.0)
        self._train = [
            shelve(frozen, for_training(source, fraction), sight)
            for source in sources_of(recipe, "train")
        ]
        self._held_out: Shelf | None = None
        if self.held_out is not None:
            subset = for_evaluation(self.held_out, recipe.evaluate_limit)
            self._held_out = shelve(frozen, subset, sight)

    def loader(self) -> Loader:
        return ProbeLoader(self._train, self.device, **self._settings())

    def evaluation(self, limit: int | None) -> Iterator[Batch]:
        """The held-out samples, at most `limit`; of more than the recipe's no tokens were made."""
        assert self._held_out is not None
        assert limit is not None or self.recipe.evaluate_limit is None
        rows = self.recipe.evaluation_batch
        return evaluation(self._held_out, self.world, rows, self.device, limit)
