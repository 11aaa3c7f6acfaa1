"""Composition root of data: a recipe becomes a collection with pairs and contact sheets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hpse_dist.config import digest
from hpse_dist.data.collection import Collection, find_finished, write_collection
from hpse_dist.data.pairs import write_pairs
from hpse_dist.data.sheets import write_sheets
from hpse_dist.data.unpack import unpack
from hpse_dist.recipe import FRAME_SOURCES, DataRecipe, located, with_located_roots


def unpack_first(
    recipe: DataRecipe,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[Path]:
    """Unpack the recipe's archives, unless they were or the collection is there; those it did.

    `progress` counts bytes. ValueError where an archive is refused.
    """
    config = recipe.unpack
    if config.archives is None or find_finished(recipe.folder(), _mark(recipe), overwrite):
        return []
    into = config.into or getattr(recipe.source, "root", None)
    if into is None:
        raise ValueError("unpack.into: the source has no root of its own; say where to unpack")
    return unpack(replace(config, archives=located(config.archives)), located(into), progress)


def _mark(recipe: DataRecipe) -> str:
    """What decides the recipe's frames."""
    return digest(recipe, ignore=("name", "out", "pairs", "unpack"))


def prepare(
    recipe: DataRecipe,
    *,
    overwrite: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Collection:
    """Make the recipe's collection, or return it when it is there; `progress` counts frames.

    What decides the frames is the source and the crop rule: other `pairs` re-mine the pairs of the
    frames that are there, and touch no picture.
    """
    folder = recipe.folder()
    mark = _mark(recipe)
    collection = find_finished(folder, mark, overwrite)
    if collection is None:
        source = FRAME_SOURCES[recipe.source_name()]
        where = with_located_roots(recipe.source)
        folder.parent.mkdir(parents=True, exist_ok=True)
        collection = write_collection(
            folder,
            source.frames(where),
            recipe.collection,
            source.provenance(where),
            progress,
            recipe_digest=mark,
            overwrite=overwrite,
        )
    if recipe.pairs is not None:
        collection = write_pairs(collection, recipe.pairs)
    if not (folder / "sheets").is_dir():
        write_sheets(collection)
    return collection
