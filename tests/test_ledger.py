"""The ledger says what a run really saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hpse_dist import run
from hpse_dist.config import ConfigError, build
from hpse_dist.data.collection import Collection
from hpse_dist.data.items import Source as DataSource
from hpse_dist.data.loader import evaluation_batches
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.guard import INCIDENTS_FILE
from hpse_dist.ledger import Ledger
from hpse_dist.objectives.completion import Completion
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe
from hpse_dist.tasks.pose2d import Pose2d, Pose2dConfig
from hpse_dist.world import World
from pipelines import run_command
from pipelines.report import main, parser
from tests.data.made_collection import made_collection
from tests.test_run import pretraining, recipe_of

Seen = list[tuple[int, int]]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Seen]:
    """(sample, pass) of every micro-batch in training; sample 0 has no picture in step 3."""
    seen: list[Seen] = []
    forward = Completion.forward

    def spy(self: Completion, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(list(zip(batch["sample_id"].tolist(), batch["epoch"].tolist(), strict=True)))
        return forward(self, batch)

    monkeypatch.setattr(Completion, "forward", spy)
    return seen


def finished(folder: Path, **changes: Any) -> PretrainRecipe:
    recipe = pretraining(folder, made_collection(), **changes)
    run.pretrain(recipe, World(), recipe.folder())
    return recipe


def test_every_step_is_made_of_the_samples_that_the_ledger_names(
    tmp_path: Path, watched: list[Seen]
) -> None:
    recipe = finished(tmp_path)
    ledger = Ledger.open(recipe.folder())
    for step in range(1, recipe.steps + 1):
        entries = ledger.entries(step)
        trained = watched[2 * step - 2] + watched[2 * step - 1]  # two micro-batches
        assert [(entry.sample_id, entry.epoch) for entry in entries] == trained
        assert all(len(entry.frames) == 2 for entry in entries)
    with pytest.raises(ConfigError, match="steps 1 to 6, found 7"):
        ledger.entries(7)


def test_a_return_passes_over_batches(
    tmp_path: Path, watched: list[Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches 4 and 5 are bad, none may be: back to step 2 twice, on with 5, then 6."""
    spied = Completion.forward
    bad = {7, 9}  # micro-batches, counted over the whole run: of the fourth and the fifth update

    def poisoned(self: Completion, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        scalars = spied(self, batch)
        return {k: v * torch.nan if len(watched) in bad else v for k, v in scalars.items()}

    monkeypatch.setattr(Completion, "forward", poisoned)
    recipe = finished(tmp_path, guard={"bad_steps": 0})
    ledger = Ledger.open(recipe.folder())
    kinds = [i["kind"] for i in ledger.incidents if i["kind"] != "data_bound"]  # a busy machine's
    assert kinds == ["skip", "return", "skip", "return"]
    updates = [watched[i] + watched[i + 1] for i in range(0, len(watched), 2)]
    committed = [0, 1, 5, 6, 7, 8]  # updates 2, 3 were undone or refused, 4 refused
    for step, number in enumerate(committed, start=1):
        found = [(entry.sample_id, entry.epoch) for entry in ledger.entries(step)]
        assert found == updates[number], f"step {step}"


def test_the_batch_comes_back_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures: list[torch.Tensor] = []
    forward = Completion.forward

    def spy(self: Completion, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        pictures.append(batch["image"].clone())
        return forward(self, batch)

    monkeypatch.setattr(Completion, "forward", spy)
    folder = finished(tmp_path).folder()
    options = ["ledger", str(folder), "--step", "5", "--out", str(tmp_path / "five")]
    assert run_command(main, parser(), options) == 0
    assert "step 5: 8 samples" in capsys.readouterr().out
    batch = load_file(tmp_path / "five" / "batch.safetensors")
    assert torch.equal(batch["image"], torch.cat(pictures[8:10]))
    with Image.open(tmp_path / "five" / "batch.png") as sheet:
        assert sheet.width > sheet.height // 2


def test_a_skipped_step_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished(tmp_path).folder()
    skip = {"kind": "skip", "step": 2, "why": "the loss is not finite", "samples": []}
    (folder / INCIDENTS_FILE).write_text(json.dumps(skip) + "\n{torn")
    assert run_command(main, parser(), ["ledger", str(folder), "--step", "2"]) == 0
    assert "the step was skipped: the loss is not finite" in capsys.readouterr().out


def test_samples_of_other_data_than_the_run_saw_are_not_named(tmp_path: Path) -> None:
    shutil.copytree(made_collection().folder, tmp_path / "data")
    recipe = pretraining(tmp_path, Collection.open(tmp_path / "data"))
    run.pretrain(recipe, World(), recipe.folder())
    before = Ledger.open(recipe.folder()).entries(3)
    rules = PairsConfig(time_gap_s=(0.4, 1.0), pose_distance=(0.01, 9.0))
    write_pairs(Collection.open(tmp_path / "data"), rules)
    with pytest.raises(ConfigError, match=r"data has other frames or pairs than when .*run began"):
        Ledger.open(recipe.folder())
    shutil.rmtree(tmp_path / "data")
    shutil.copytree(made_collection().folder, tmp_path / "data")
    assert Ledger.open(recipe.folder()).entries(3) == before


def test_fine_tuning_on_a_share_of_the_labels_of_two_collections_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = Pose2d.forward

    def spy(self: Pose2d, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.extend(batch["sample_id"].tolist())
        return forward(self, batch)

    monkeypatch.setattr(Pose2d, "forward", spy)
    monkeypatch.setattr(Pose2dConfig, "needs", (*Pose2dConfig().needs, "sample_id"))
    recipe = fine_tuning(tmp_path, label_fraction=0.5)
    run.finetune(recipe, World(), recipe.folder())
    ledger = Ledger.open(recipe.folder())
    entries = [entry for step in range(1, recipe.steps + 1) for entry in ledger.entries(step)]
    assert [entry.sample_id for entry in entries] == seen
    assert {entry.collection for entry in entries} == {"made", "another"}


def test_a_frozen_encoders_pictures_are_whole(tmp_path: Path) -> None:
    recipe = fine_tuning(tmp_path, encoder_frozen=True)
    batch = Ledger(recipe, ()).batch(2)
    source = DataSource(Collection.open(recipe.collections[0].path), split="train")
    needs, px = ("image", "sample_id"), recipe.encoder.image_px
    whole = {
        number: picture
        for found in evaluation_batches(
            source,
            needs=needs,
            sampling="frames",
            world=World(),
            micro_batch=8,
            image_px=px,
            patch_px=px,
        )
        for number, picture in zip(found["sample_id"].tolist(), found["image"], strict=True)
    }
    for number, picture in zip(batch["sample_id"].tolist(), batch["image"], strict=True):
        if number in whole:  # else of the other collection
            assert torch.equal(picture, whole[number])
    assert any(number in whole for number in batch["sample_id"].tolist())


def test_the_last_reason_of_a_step_tried_twice_is_told(tmp_path: Path) -> None:
    skips = [{"kind": "skip", "step": 2, "why": why} for why in ("the loss", "the gradient")]
    ledger = Ledger(pretraining(tmp_path, made_collection()), skips)
    assert ledger.why_skipped(2) == "the gradient" and ledger.why_skipped(1) is None


def fine_tuning(folder: Path, **changes: Any) -> FinetuneRecipe:
    """2D pose on a collection and its copy, whose samples have the same numbers."""
    collection = made_collection()
    shutil.copytree(collection.folder, folder / "another")
    task = {"name": "pose2d", "head_dim": 16}
    values = recipe_of(folder, collection, task=task, **changes)
    values["collections"] += [{"path": str(folder / "another")}]
    return build(FinetuneRecipe, values)


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(main, parser(), ["ledger", str(tmp_path), "--step", "2"]) == 2
    assert "it has no recipe.yaml" in capsys.readouterr().err
    assert run_command(main, parser(), ["ledger", str(tmp_path)]) == 2
