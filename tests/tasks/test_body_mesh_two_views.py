"""The binocular body mesh: both pictures are read, the decoder is kept, pairs of poses refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hpse_dist.config import build
from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.recipe import FinetuneRecipe
from hpse_dist.recipe_checks import check_fields
from hpse_dist.run import finetune, pretrain
from hpse_dist.tasks.body_mesh_two_views import BodyMeshTwoViews, BodyMeshTwoViewsConfig
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.fabricate import fabricate, tiny_body, tiny_body_file
from tests.test_run import pretraining, recipe_of

HEAD = {"head_dim": 32, "head_depth": 1, "heads": 1, "head_hidden": 32}


def finetuning(folder: Path, kinds: list[str], **changes: Any) -> FinetuneRecipe:
    folder.mkdir(exist_ok=True)
    collection = made_collection()
    decoder = {"name": "custom", "dim": 32, "depth": 1, "heads": 2}
    body = str(tiny_body_file(folder))
    task = {"name": "body_mesh_two_views", "body": body, "decoder": decoder, **HEAD}
    values = recipe_of(folder, collection, task=task, name="tuned", steps=3, evaluate_every=3)
    values["collections"] = [{"path": str(collection.folder), "kinds": kinds}]
    return build(FinetuneRecipe, values | changes)


def test_the_answer_of_two_views_reads_both_and_that_of_one_the_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    decoder = DecoderConfig("custom", dim=32, depth=1, heads=2)
    config = BodyMeshTwoViewsConfig(body=str(tiny_body_file(tmp_path)), decoder=decoder, **HEAD)
    task = BodyMeshTwoViews(config, encoder, seed=0)
    batch = fabricate(task.needs, body=tiny_body(tmp_path))
    before = task.predict(batch)
    after = task.predict(batch | {"image_ref": batch["image_ref"].flip(3)})
    assert (after["betas"] - before["betas"]).abs().max() > 1e-6
    torch.testing.assert_close(after["betas_one_view"], before["betas_one_view"])
    same = task.predict(batch | {"image_ref": batch["image"]})
    torch.testing.assert_close(same["betas"], same["betas_one_view"])
    errors = task.metrics(batch)
    assert {"mpjpe", "pve", "pa_mpjpe_one_view", "mpjpe_one_view", "pve_one_view"} <= errors.keys()


def test_the_decoder_is_the_sources(tmp_path: Path) -> None:
    before = pretraining(tmp_path, made_collection(), steps=3)
    pretrain(before, World(), before.folder())
    recipe = finetuning(
        tmp_path, ["view"], source=str(before.folder()), source_decoder=True, seed=7
    )
    check_fields(recipe)
    finetune(recipe, World(), recipe.folder())
    old = load_file(before.folder() / "decoder.safetensors")
    new = load_file(recipe.folder() / "decoder.safetensors")
    assert old.keys() == new.keys()
    torch.testing.assert_close(new["mask_token"], old["mask_token"])  # not trained
    moved = (new["embed.weight"] - old["embed.weight"]).abs().max()
    assert 0 < moved < 0.01  # trained from there


def test_pose_pairs_and_a_missing_decoder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"kind view only.*set kinds: \[view\]"):
        check_fields(finetuning(tmp_path, ["view", "pose"]))
    without = pretraining(tmp_path, made_collection(), steps=3)
    pretrain(without, World(), without.folder())
    (without.folder() / "decoder.safetensors").unlink()
    source = str(without.folder())
    recipe = finetuning(tmp_path, ["view"], source=source, source_decoder=True)
    with pytest.raises(ValueError, match="the source has no decoder"):
        finetune(recipe, World(), recipe.folder())


def test_random_has_a_random_decoder(tmp_path: Path) -> None:
    """So that a study's baseline runs by the same recipe as its other sources."""
    recipe = finetuning(tmp_path, ["view"], source_decoder=True)
    finetune(recipe, World(), recipe.folder())
    assert (recipe.folder() / "decoder.safetensors").is_file()
