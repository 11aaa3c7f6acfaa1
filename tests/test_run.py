"""A recipe becomes a run folder: whole, resumable, and refused where it would lie."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from hpse_dist.config import ConfigError, build, dump, read_yaml, to_dict
from hpse_dist.data.collection import Collection
from hpse_dist.data.derive import split
from hpse_dist.data.publish import write_manifest
from hpse_dist.guard import INCIDENTS_FILE, read_incidents
from hpse_dist.log import read_metrics
from hpse_dist.models.encoder import build_encoder
from hpse_dist.objectives.completion import Completion
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe
from hpse_dist.recipe_checks import check_fields
from hpse_dist.report.runs import state_of
from hpse_dist.run import _card, finetune, pretrain
from hpse_dist.run_folder import held
from hpse_dist.source import encoder_of, read_source
from hpse_dist.train import train
from hpse_dist.world import World
from pipelines import run_command
from pipelines.pretrain import main, parser
from tests.data.made_collection import made_collection
from tests.interrupted import interrupted
from tests.test_checkpoint import files_at_most

TINY = {"name": "custom", "image_px": 32, "patch_px": 8, "dim": 32, "depth": 2, "heads": 2}


def recipe_of(folder: Path, collection: Collection, **changes: Any) -> dict[str, Any]:
    return {
        "name": "run",
        "collections": [{"path": str(collection.folder)}],
        "encoder": TINY,
        "global_batch": 8,
        "steps": 6,
        "precision": "fp32",
        "evaluate_every": 3,
        "optim": {"lr": 1e-3, "warmup_steps": 2},
        "machine": {
            "micro_batch": 4,
            "engine": "plain",
            "checkpoint_every": 2,
            "log_every": 1,
            "device": "cpu",
            "out": str(folder),
        },
        **changes,
    }


def pretraining(folder: Path, collection: Collection, **changes: Any) -> PretrainRecipe:
    decoder = {"name": "custom", "dim": 32, "depth": 1, "heads": 2}
    values = recipe_of(folder, collection, objective={"name": "completion", "decoder": decoder})
    return build(PretrainRecipe, values | changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "encoder.safetensors")


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]


@pytest.fixture(scope="module")
def collection() -> Collection:
    return made_collection()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, collection: Collection) -> Path:
    """A pre-training run that was never disturbed."""
    recipe = pretraining(tmp_path_factory.mktemp("runs"), collection)
    pretrain(recipe, World(), recipe.folder())
    return recipe.folder()


def test_run_folder_is_complete(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    assert report["kind"] == "pretrain" and report["steps"] == 6 and report["world_size"] == 1
    assert [point["step"] for point in report["history"]] == [3, 6]
    assert {"hidden_loss", "hidden_loss_view", "hidden_loss_pose"} <= report["metrics"].keys()
    assert report["seconds"] > 0 and len(losses(finished)) == 6
    assert (
        build(PretrainRecipe, read_yaml(finished / "recipe.yaml")).hash() == report["recipe_hash"]
    )
    assert list((finished / "panels").glob("step_000006_*.png"))
    assert list(finished.glob("events.*"))
    assert (finished / "DONE").is_file()
    # what the user's new files allow, so that colleagues can read the encoder and go on
    modes = {path.stat().st_mode for path in finished.rglob("*") if path.is_file()}
    assert modes == {(finished / "DONE").stat().st_mode}
    packages = json.loads((finished / "environment.json").read_text())["packages"]
    assert packages["torch"] == torch.__version__.partition("+")[0]
    assert report["cost"]["core_seconds"] > 0 and report["cost"]["memory_mb"] > 15


def test_a_run_with_nothing_to_log_ends_whole(
    tmp_path: Path, collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is held out, which is said, and it has fewer steps than there are to a line."""
    everyone = split(collection, tmp_path / "everyone", {})
    recipe = pretraining(tmp_path, everyone, steps=2, optim={"warmup_steps": 1})
    recipe = replace(recipe, machine=replace(recipe.machine, log_every=10))
    pretrain(recipe, World(), recipe.folder())
    report = json.loads((recipe.folder() / "report.json").read_text())
    assert (report["metrics"], report["history"], report["steps"]) == ({}, [], 2)
    assert f"nobody is held out (no val in {everyone.folder})" in caplog.text


def test_examples_are_what_the_metrics_are_means_of(finished: Path) -> None:
    """One row for each held-out example, with whom it shows."""
    table = pq.read_table(finished / "examples.parquet")
    report = json.loads((finished / "report.json").read_text())
    names = [name for name in table.column_names if name.startswith("metric/")]
    assert {"subject", "view_deg", "in_sight", "pose_distance"} <= set(table.column_names)
    assert "metric/hidden_loss" in names and len(table) > 4
    for name in names:
        values = np.asarray(table[name])
        if np.isfinite(values).any():  # some ask for labels that these people lack
            whole = report["metrics"][name.removeprefix("metric/")]
            assert np.nanmean(values) == pytest.approx(whole, rel=1e-5)


def test_a_finished_run_is_left_alone(finished: Path, collection: Collection) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    pretrain(pretraining(finished.parent, collection), World(), finished)
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}


def test_a_folder_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path):
        said = rf"process {os.getpid()} on .* is at this run; wait for its end"
        with pytest.raises(ValueError, match=said), held(tmp_path, patience_s=0.3):
            pass
    with held(tmp_path, patience_s=0.0):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    code = (
        "from hpse_dist.run_folder import held; from pathlib import Path; import os, signal\n"
        f"with held(Path({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    with held(tmp_path, patience_s=0.0):
        pass


def test_interrupted_run_ends_equal_to_the_bit(
    tmp_path: Path, finished: Path, collection: Collection
) -> None:
    recipe = pretraining(tmp_path, collection)

    with interrupted(after=5):  # after the checkpoint of step 4
        pretrain(recipe, World(), recipe.folder())
    assert not (recipe.folder() / "DONE").exists()
    pretrain(recipe, World(), recipe.folder())
    assert losses(recipe.folder()) == losses(finished)
    expected, found = weights(finished), weights(recipe.folder())
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_disk_that_is_full_for_two_steps_leaves_one_line(
    tmp_path: Path, finished: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full after step 3, until step 5 is made: the checkpoint of step 4 is left out, no line is."""
    with contextlib.ExitStack() as full:

        def watched(*positional: Any, on_step: Any, **named: Any) -> int:
            def step_on_a_full_disk(step: int) -> None:
                on_step(step)
                if step == 3:
                    full.enter_context(files_at_most(300))
                if step == 5:
                    full.close()

            return train(*positional, on_step=step_on_a_full_disk, **named)

        monkeypatch.setattr("hpse_dist.run.train", watched)
        recipe = pretraining(tmp_path, collection)
        pretrain(recipe, World(), recipe.folder())
    assert losses(recipe.folder()) == losses(finished)
    expected, found = weights(finished), weights(recipe.folder())
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    incidents = read_incidents(recipe.folder() / INCIDENTS_FILE)
    (said,) = [one for one in incidents if one["kind"] == "unwritten"]
    assert "File too large" in said["why"] and "training goes on" in said["why"]
    names = {path.name for path in (recipe.folder() / "checkpoints").iterdir()}
    assert "step_00000006" in names and "step_00000004" not in names


def test_a_run_that_was_told_to_stop_is_no_success(
    tmp_path: Path,
    collection: Collection,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Or whatever comes after it in a script, or a cluster's job, would take it for done."""
    (tmp_path / "recipe.yaml").write_text(dump(pretraining(tmp_path, collection)))
    command = [str(tmp_path / "recipe.yaml"), "--without-ray"]
    forward = Completion.forward

    def stopped(self: Completion, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch)

    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patched:
        patched.setattr(Completion, "forward", stopped)
        assert run_command(main, parser(), command) == 1
    said = "run: stopped before its end; the same command goes on"
    assert said in capsys.readouterr().err
    assert run_command(main, parser(), command) == 0
    assert f"done: {tmp_path / 'run'}" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) is before  # nothing listens any longer
    assert run_command(main, parser(), [*command, "machine.loader=workers", "name=other"]) == 2


def test_a_run_left_by_ctrl_c_is_stopped_and_not_running(
    tmp_path: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(self: Completion, batch: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Completion, "forward", pressed)
    recipe = pretraining(tmp_path, collection)
    with pytest.raises(KeyboardInterrupt):
        pretrain(recipe, World(), recipe.folder())
    assert state_of(recipe.folder()) == ("stopped", "")


def test_a_card_names_motion_capture_of_others(tmp_path: Path, collection: Collection) -> None:
    """Its licence counts too, and no collection's manifest tells of it."""
    for poses, kept in (("synthetic", None), ("limits", None), ("/data/amass", "/data/amass")):
        objective = {"name": "part_synthesis", "poses": poses}
        recipe = build(PretrainRecipe, recipe_of(tmp_path, collection, objective=objective))
        module: Any = SimpleNamespace(encoder=build_encoder(recipe.encoder))
        card = _card(recipe, module, {"kind": "pretrain"}, {"metrics": {}})
        assert card.get("poses") == kept


def test_folder_of_another_recipe_is_refused(finished: Path, collection: Collection) -> None:
    other = pretraining(finished.parent, collection, seed=1)
    with pytest.raises(ConfigError, match="another recipe, different in seed"):
        pretrain(other, World(), finished)
    faster = pretraining(finished.parent, collection)
    machine = dict(read_yaml(finished / "recipe.yaml")["machine"], micro_batch=8)
    pretrain(build(PretrainRecipe, {**recipe_dict(faster), "machine": machine}), World(), finished)


def test_a_start_that_failed_before_it_made_anything_is_in_nobodys_way(
    tmp_path: Path, collection: Collection
) -> None:
    subjects = sorted(set(collection.frames["subject"].to_pylist()))
    nobody = split(collection, tmp_path / "nobody", {"val": subjects})
    nothing = pretraining(tmp_path, nobody)
    with pytest.raises(ValueError, match="it holds no pairs"):
        pretrain(nothing, World(), nothing.folder())
    assert (nothing.folder() / "recipe.yaml").is_file()
    mended = pretraining(tmp_path, collection, steps=2, optim={"warmup_steps": 1})
    pretrain(mended, World(), mended.folder())
    account = json.loads((mended.folder() / "report.json").read_text())["account"]
    assert (account["starts"], account["ended"]) == (1, {})


def recipe_dict(recipe: PretrainRecipe) -> dict[str, Any]:
    from hpse_dist.config import to_dict

    return to_dict(recipe)


def test_source_round_trip(finished: Path) -> None:
    source = read_source(finished)
    encoder = encoder_of(source, 32)
    state = encoder.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights(finished).items())
    assert source.name == "run" and source.card["collections"][0]["licence"]


def test_finetune_from_the_source(tmp_path: Path, finished: Path, collection: Collection) -> None:
    head = {"head_dim": 32, "head_depth": 1, "heads": 1, "head_hidden": 32}
    values = recipe_of(
        tmp_path,
        collection,
        task={"name": "body_mesh", **head},
        source=str(finished),
        label_fraction=0.5,
    )
    recipe = build(FinetuneRecipe, values)
    finetune(recipe, World(), recipe.folder())
    report = json.loads((recipe.folder() / "report.json").read_text())
    assert report["task"] == "body_mesh" and report["source"] == "run"
    assert all(report["metrics"][name] > 0 for name in ("mpjpe", "pa_mpjpe", "pve"))


def test_completion_goes_on_from_encoder_and_decoder(
    tmp_path: Path, finished: Path, collection: Collection
) -> None:
    changes = {"source": str(finished), "source_decoder": True, "steps": 1}
    still = {"lr": 1e-12, "weight_decay": 0.0}
    recipe = pretraining(tmp_path, collection, **changes, optim=still)
    pretrain(recipe, World(), recipe.folder())
    for name in ("encoder.safetensors", "decoder.safetensors"):
        before, after = load_file(finished / name), load_file(recipe.folder() / name)
        assert before.keys() == after.keys()
        for tensor, value in before.items():
            torch.testing.assert_close(after[tensor], value, rtol=0, atol=1e-9)
    card = json.loads((recipe.folder() / "card.json").read_text())
    assert card["started_from"]["name"] == "run" and card["trained_by"] == "completion"
    changes |= {"name": "b", "source": "random"}
    other = pretraining(tmp_path, collection, **changes, optim=still)
    with pytest.raises(ValueError, match="source_decoder: the source has no decoder"):
        pretrain(other, World(), other.folder())


def test_a_resnet_trains_and_comes_back(tmp_path: Path, collection: Collection) -> None:
    resnet = {"name": "timm", "timm": "resnet18", "image_px": 64}
    head = {"head_dim": 32, "head_depth": 1, "heads": 1, "head_hidden": 32}
    task = {"name": "body_mesh", **head}
    values = recipe_of(tmp_path, collection, objective=task, encoder=resnet, steps=3)
    recipe = build(PretrainRecipe, values)
    pretrain(recipe, World(), recipe.folder())
    encoder = encoder_of(read_source(recipe.folder()), 64)
    assert encoder(torch.zeros(1, 3, 64, 96)).shape == (1, 6, 512)
    state = encoder.model.state_dict()  # type: ignore[operator, union-attr]
    assert state["bn1.num_batches_tracked"] > 0
    hiding = pretraining(tmp_path, collection, encoder=resnet, name="hiding")
    with pytest.raises(ValueError, match="hides patches, and resnet18 can only look at whole"):
        pretrain(hiding, World(), hiding.folder())


def test_sources_that_cannot_be(tmp_path: Path, finished: Path) -> None:
    with pytest.raises(ValueError, match="no such run folder or file"):
        read_source(tmp_path / "nothing")
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(ValueError, match="no run's folder"):
        read_source(tmp_path / "unfinished")
    (tmp_path / "unfinished" / "recipe.yaml").touch()
    with pytest.raises(ValueError, match="has not finished"):
        read_source(tmp_path / "unfinished")
    junk = tmp_path / "encoder.safetensors"
    junk.write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(ValueError, match="damaged, or no safetensors file"):
        read_source(junk)
    source = read_source(finished)
    state = {name: t[:1] if name == "norm.weight" else t for name, t in source.state.items()}
    with pytest.raises(ValueError, match=r"1 of \d+ tensors do not fit.*norm.weight"):
        encoder_of(type(source)(source.name, source.config, state, {}), 32)
    with pytest.raises(ValueError, match="no multiple"):
        encoder_of(source, 36)


def test_a_run_may_go_on_with_fewer_workers(tmp_path: Path, collection: Collection) -> None:
    machine = to_dict(pretraining(tmp_path, collection))["machine"]
    machine |= {"workers": 4, "micro_batch": 1, "engine": "zero"}
    for least, counts in ((None, ()), (1, (2, 1)), (2, (2,)), (9, ())):  # 3 does not divide 8
        recipe = pretraining(tmp_path, collection, machine=machine | {"min_workers": least})
        assert recipe.fewer_workers() == counts
        assert [recipe.accumulation(count) for count in (4, *counts)] == [
            8 // count for count in (4, *counts)
        ]
    with pytest.raises(ConfigError, match="min_workers must be at least 1 or null, found 0"):
        pretraining(tmp_path, collection, machine=machine | {"min_workers": 0})


def test_unfit_batches_are_refused(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"global_batch 9 must be divisible"):
        pretraining(tmp_path, collection, global_batch=9)


@pytest.mark.parametrize("key", ["steps", "evaluate_every", "evaluate_limit", "evaluation_batch"])
def test_counts_below_one_are_refused_by_name(
    collection: Collection, tmp_path: Path, key: str
) -> None:
    with pytest.raises(ConfigError, match=rf"{key} must be at least 1, found 0"):
        pretraining(tmp_path, collection, **{key: 0})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_beyond_torchs_is_refused(collection: Collection, tmp_path: Path, seed: int) -> None:
    with pytest.raises(ConfigError, match=rf"seed must be between 0 and 9\d+, found {seed}"):
        pretraining(tmp_path, collection, seed=seed)


@pytest.mark.parametrize("weight", [0, -1.0, "nan", "inf"])
def test_a_weight_that_is_no_share_is_refused(
    collection: Collection, tmp_path: Path, weight: float | str
) -> None:
    with pytest.raises(ConfigError, match=r"collections\[0\]: weight must be above 0, found"):
        pretraining(
            tmp_path, collection, collections=[{"path": str(collection.folder), "weight": weight}]
        )


def test_a_warm_up_as_long_as_the_run_is_refused_before_it_starts(
    collection: Collection, tmp_path: Path
) -> None:
    said = r"optim\.warmup_steps must be fewer than the run's steps, 6; found 6: .* never reach"
    with pytest.raises(ConfigError, match=said):
        pretraining(tmp_path, collection, optim={"warmup_steps": 6})


def test_another_number_of_joints_is_refused_before_the_start(
    tmp_path: Path, collection: Collection
) -> None:
    for kind, part in ((PretrainRecipe, "objective"), (FinetuneRecipe, "task")):
        named = {part: {"name": "pose2d", "num_joints": 17}}
        with pytest.raises(ValueError, match=rf"24 joints .* set {part}\.num_joints=24"):
            check_fields(build(kind, recipe_of(tmp_path, collection, **named)))


def test_collections_of_other_joints_are_refused_before_the_start(
    tmp_path: Path, collection: Collection
) -> None:
    shutil.copytree(collection.folder, tmp_path / "other")
    write_manifest(tmp_path / "other", {**collection.manifest, "joint_set": "own24"})
    uses = [{"path": str(folder)} for folder in (collection.folder, tmp_path / "other")]
    check_fields(pretraining(tmp_path, collection, collections=uses))  # needs no joints
    for kind, part in ((PretrainRecipe, "objective"), (FinetuneRecipe, "task")):
        named = {part: {"name": "pose2d"}, "collections": uses}
        with pytest.raises(ValueError, match=r"joints are own24, of .* smpl24; they do not mix"):
            check_fields(build(kind, recipe_of(tmp_path, collection, **named)))


def test_crops_of_two_sizes_are_refused_before_the_start(
    tmp_path: Path, collection: Collection
) -> None:
    shutil.copytree(collection.folder, tmp_path / "other")
    config = {**collection.manifest["config"], "crop_px": 32}
    write_manifest(tmp_path / "other", {**collection.manifest, "config": config})
    uses = [{"path": str(folder)} for folder in (collection.folder, tmp_path / "other")]
    with pytest.raises(ValueError, match=r"other: its crops have 32 pixels, those .* do not mix"):
        check_fields(pretraining(tmp_path, collection, collections=uses))
