"""Body and hand parameters meet the body that they are of, in every shipped recipe too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpse_dist.config import load
from hpse_dist.data.bodies import check_body, check_hand
from hpse_dist.data.collection import Collection
from hpse_dist.data.crops import BODY, HAND
from hpse_dist.recipe import FRAME_SOURCES, DataRecipe, FinetuneRecipe, PretrainRecipe, component

CONFIGS = Path(__file__).parents[2] / "configs"
PARTS = {"labels": ["joints3d", *BODY], "importer": "made"}


def prepared(name: str, *overrides: str, labels: tuple[str, ...] = BODY) -> Collection:
    """A collection, without its files, as a shipped recipe would make it."""
    recipe = load(DataRecipe, CONFIGS / "data" / f"{name}.yaml", overrides)
    details = FRAME_SOURCES[recipe.source_name()].provenance(recipe.source).details
    return of(details, labels)


def of(details: dict[str, Any], labels: tuple[str, ...] = BODY) -> Collection:
    fields = {name: {"shape": [3], "dtype": "float32"} for name in labels}
    return Collection(Path("there"), {"fields": fields, "details": details})


@pytest.mark.parametrize("name", ["threedpw", "emdb", "surreal"])
@pytest.mark.parametrize("body", ["free", "smpl/SMPL_NEUTRAL.pkl"])
def test_gendered_parameters_are_no_one_bodys(name: str, body: str) -> None:
    overrides = ["source.body=smpl"] if name == "surreal" else []
    collection = prepared(name, *overrides)
    with pytest.raises(ValueError, match=r"are of SMPL, .*male.* or |are of SMPL, of the gender"):
        check_body(collection, body, "task.body")
    check_body(prepared(name, *overrides, labels=("joints3d",)), body, "task.body")
    parts = {"parts": [PARTS | {"details": collection.manifest["details"]}]}
    with pytest.raises(ValueError, match=r"prepare it without \(collection\.labels="):
        check_body(of(parts), body, "task.body")
    parts["parts"] = [{**parts["parts"][0], "labels": ["joints3d"]}, PARTS]
    check_body(of(parts), body, "task.body")


def test_the_bodies_of_rendered_people_and_of_neutral_labels() -> None:
    smpl, free = prepared("demo", "source.body=/models/smpl"), prepared("demo")
    check_body(free, "free", "task.body")
    check_body(smpl, "/elsewhere/SMPL_NEUTRAL.npz", "task.body")
    check_body(of({}), "free", "task.body")
    with pytest.raises(ValueError, match=r"of the body /models/smpl, and objective\.body is free"):
        check_body(smpl, "free", "objective.body")
    with pytest.raises(ValueError, match=r"of the body free, and task\.body is smpl"):
        check_body(free, "smpl", "task.body")
    labelled = prepared("bedlam", "source.model=smpl")
    check_body(labelled, "smpl", "task.body")
    with pytest.raises(ValueError, match=r"of SMPL, and task\.body is free, .* set task\.body"):
        check_body(labelled, "free", "task.body")


@pytest.mark.parametrize("name", ["freihand", "interhand", "ho3d"])
def test_hands_of_mano_and_the_free_hand_do_not_mix(name: str) -> None:
    right = ["source.hands=right"] if name == "interhand" else []
    mano = prepared(name, *right, "source.mano=/models/mano", labels=HAND)
    check_hand(mano, "/elsewhere/mano", "task.hand")
    with pytest.raises(ValueError, match=r"hand parameters are of MANO, and task\.hand is free"):
        check_hand(mano, "free", "task.hand")
    check_hand(prepared(name, *right, labels=("joints3d",)), "free", "task.hand")
    free = prepared("gestures", labels=HAND)
    check_hand(free, "free", "task.body")
    with pytest.raises(ValueError, match=r"of the free hand, and task\.body is .*; set task\.body"):
        check_hand(free, "/models/mano", "task.body")
    parts = [PARTS | {"details": one.manifest["details"], "labels": HAND} for one in (free, mano)]
    for hand in ("free", "/models/mano"):
        with pytest.raises(ValueError, match="whose mesh they would misshape"):
            check_hand(of({"parts": parts}, HAND), hand, "task.hand")


def test_every_shipped_recipe_has_the_body_of_its_collections() -> None:
    checked = set()
    for kind, part in ((FinetuneRecipe, "task"), (PretrainRecipe, "objective")):
        for path in sorted((CONFIGS / kind.__name__.removesuffix("Recipe").lower()).iterdir()):
            recipe = load(kind, path)
            config, needs = getattr(recipe, part), component(recipe)[1]
            for use in recipe.collections:
                if "has_body" in needs:
                    check_body(prepared(use.path.name), config.body, f"{part}.body")
                    checked.add(path.stem)
                if "has_hand" in needs:
                    hand = config.hand if hasattr(config, "hand") else config.body
                    check_hand(prepared(use.path.name, labels=HAND), hand, f"{part}.hand")
                    checked.add(path.stem)
    bodies = {"body_mesh", "body_mesh_free", "body_mesh_two_views", "demo", "synthetic"}
    assert checked == bodies | {"hand_mesh", "hand_mesh_free"}
