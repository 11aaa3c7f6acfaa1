"""What a recipe needs of its collections, found out before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpse_dist.config import ConfigError, load
from hpse_dist.data.bodies import check_body, check_hand
from hpse_dist.data.collection import Collection
from hpse_dist.data.items import Source, check_curriculum
from hpse_dist.data.mixing import (
    FLAGGED,
    check_crops,
    check_joint_count,
    check_joint_sets,
    provided_by,
)
from hpse_dist.data.stage import url_of
from hpse_dist.fields import missing
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.recipe import (
    FinetuneRecipe,
    HeldOut,
    PretrainRecipe,
    TrainingRecipe,
    collection_of,
    component,
    located,
)
from hpse_dist.tasks import TASKS, protocol_of


def load_checked(cls: type, path: Path | str, overrides: Sequence[str] = ()) -> Any:
    """A recipe from YAML; its collections exist and suffice, so that nothing starts in vain."""
    recipe: Any = load(cls, path, overrides)
    if isinstance(recipe, TrainingRecipe):
        check_recipe(recipe, path)
    return recipe


def check_recipe(recipe: TrainingRecipe, path: Path | str) -> None:
    """ConfigError where a collection of a recipe is not there, or does not hold what it needs."""
    _check_there(recipe, path)
    try:
        check_fields(recipe)
    except ValueError as error:
        raise ConfigError(f"{path}, collections: {error}") from None


def _check_there(recipe: TrainingRecipe, path: Path | str) -> None:
    for use in recipe.judged_and_learnt():
        if url_of(use.path) is None and not (located(use.path) / "manifest.json").is_file():
            key = "collections"
            if isinstance(use, HeldOut):
                key = "held_out" if use is recipe.held_out else "tests"
            root = f", or set HPSE_ROOT to the folder that holds {use.path}"
            raise ConfigError(
                f"{path}, {key}: {located(use.path)} is not a collection (no manifest.json); make "
                f"it with python -m pipelines.prepare{'' if use.path.is_absolute() else root}"
            )


def check_fields(recipe: TrainingRecipe) -> None:
    """ValueError where the objective or task needs a field that the collections do not hold, or
    hold for different joints or with parameters of another body or hand."""
    name, needs = component(recipe)
    check_kinds(recipe, name)
    collections = [collection_of(use, recipe.machine) for use in recipe.collections]
    paired = "image_ref" in needs
    for use, collection in zip(recipe.collections, collections, strict=True):
        source = Source(collection, curriculum=use.curriculum)
        check_curriculum(source, "pairs" if paired else "frames")
    check_crops(collections)
    for collection in collections:
        if not _has(collection, "train"):
            raise ValueError(
                f"{collection.folder} holds no frames of split train; name it as held_out to "
                "measure figures on it, or choose other splits with "
                "python -m pipelines.collection split"
            )
    provides = provided_by(collections, pairs=paired)
    _check_provided(name, needs, provides, ", ".join(str(use.path) for use in recipe.collections))
    for held_out in recipe.judged():
        judged = _judged(held_out, recipe)
        # labels that a row can say it lacks are those of what is learnt from
        provides = provided_by([*collections[: len(recipe.collections)], judged], pairs=paired)
        _check_provided(name, needs, provides, str(held_out.path))
        _check_measurable(recipe, judged, needs)
        collections.append(judged)
    check_joint_sets(collections, needs)
    protocol = _protocol_of_labels(recipe)
    if protocol:
        for collection in collections:
            given = collection.manifest.get("joint_set")
            PROTOCOLS[protocol].check_joint_set(given, str(collection.folder))
    section = "objective" if isinstance(recipe, PretrainRecipe) else "task"
    part = getattr(recipe, section)
    for collection in collections:
        if hasattr(part, "num_joints"):
            check_joint_count(collection, needs, part.num_joints, f"{section}.num_joints")
        if "has_body" in needs:
            check_body(collection, part.body, f"{section}.body")
        if "has_hand" in needs:
            key = "hand" if hasattr(part, "hand") else "body"
            check_hand(collection, getattr(part, key), f"{section}.{key}")


def _judged(held_out: HeldOut, recipe: TrainingRecipe) -> Collection:
    collection = collection_of(held_out, recipe.machine)
    if not _has(collection, held_out.split):
        there = ", ".join(collection.manifest["counts"]["splits"])
        raise ValueError(
            f"{collection.folder} holds no frames of split {held_out.split}, only of {there}; "
            "name one of these, or another collection, to be measured on"
        )
    return collection


def _check_measurable(recipe: TrainingRecipe, judged: Collection, needs: Sequence[str]) -> None:
    """Where labels of rows may lack, all might."""
    protocol = PROTOCOLS.get(_protocol_of_labels(recipe))
    wanted = {*needs} & {*FLAGGED}
    if protocol is not None and protocol.kind in ("body", "hand"):
        wanted = {"joints3d"}
    if wanted and not wanted & {*judged.fields}:
        raise ValueError(
            f"{judged.folder} holds no {' or '.join(sorted(wanted))}, by which "
            f"{component(recipe)[0]} is measured; name another collection"
        )


def _has(collection: Collection, split: str) -> bool:
    """Whether it has frames of a split; True where its manifest does not say."""
    tally = collection.manifest["counts"].get("splits")
    return tally is None or tally.get(split, 0) > 0


def _check_provided(name: str, needs: Sequence[str], provides: Sequence[str], folders: str) -> None:
    lacking = missing([field for field in needs if field != "valid"], provides)
    if lacking:
        raise ValueError(
            f"{name} needs the field {', '.join(lacking)}, which {folders} lacks "
            f"(there are {', '.join(provides)}); prepare a collection that has it, or choose "
            "another objective or task"
        )


def _protocol_of_labels(recipe: TrainingRecipe) -> str:
    """The protocol whose joints the labels must be: of a task that is only pre-trained with, where
    its joints are a mesh's own; empty where any will do."""
    if isinstance(recipe, FinetuneRecipe):
        return recipe.protocol()
    task = TASKS.get(component(recipe)[0])
    assert isinstance(recipe, PretrainRecipe)
    return protocol_of(recipe.objective) if task is not None and task.has else ""


def check_kinds(recipe: TrainingRecipe, name: str) -> None:
    """ValueError where a collection is used with pairs of a kind that the task cannot use."""
    part = recipe.objective if isinstance(recipe, PretrainRecipe) else getattr(recipe, "task", None)
    usable = getattr(part, "pair_kinds", ("view", "pose"))
    for use in recipe.collections:
        if set(use.kinds) - set(usable):
            raise ValueError(
                f"{name} uses pairs of kind {' and '.join(usable)} only, and {use.path} is to give "
                f"{' and '.join(use.kinds)}; set kinds: [{', '.join(usable)}] under it"
            )
