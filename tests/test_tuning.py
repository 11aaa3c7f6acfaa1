"""The fine-tuning protocol: what differs between sources is the source, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hpse_dist import run
from hpse_dist.config import ConfigError, build
from hpse_dist.data.collection import Collection
from hpse_dist.feed import make_feed
from hpse_dist.fields import Batch
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe
from hpse_dist.source import write_source
from hpse_dist.use import load_task
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.interrupted import interrupted
from tests.test_run import TINY, losses, recipe_of, weights

POSE = {"name": "pose2d", "head_dim": 16, "cell_px": 4}


@pytest.fixture(scope="module")
def collection() -> Collection:
    return made_collection()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source of another width and with positions of its own."""
    config = EncoderConfig("custom", 32, 8, dim=48, depth=3, heads=2, positions="sincos")
    path = tmp_path_factory.mktemp("sources") / "wide.safetensors"
    write_source(path, config, build_encoder(config).state_dict(), {"name": "wide"})
    return path


def recipe(folder: Path, collection: Collection, **changes: Any) -> FinetuneRecipe:
    values = recipe_of(folder, collection, task=POSE, **changes)
    return build(FinetuneRecipe, values)


def begun(
    folder: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch, **changes: Any
) -> tuple[Any, list[Batch]]:
    """A fine-tuning run's module before its first step, and its first batches."""
    found: list[Any] = []
    monkeypatch.setattr(run, "_run", lambda recipe, module, *rest: found.append((recipe, module)))
    wanted = recipe(folder, collection, **changes)
    run.finetune(wanted, World(), wanted.folder())
    loader = make_feed(*found[0], World(), torch.device("cpu")).loader()
    batches = list(itertools.islice(loader, 4))
    loader.close()
    return found[0][1], batches


def test_sources_differ_in_the_source_alone(
    tmp_path: Path, collection: Collection, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = [
        begun(tmp_path / str(i), collection, monkeypatch, source=source, seed=5)
        for i, source in enumerate(("random", str(wide)))
    ]
    (module, batches), (other, other_batches) = seen
    assert module.encoder.dim == 32 and other.encoder.dim == 48
    for one, two in zip(batches, other_batches, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    mine, theirs = (dict(m.head.named_parameters()) for m in (module, other))
    same = {name for name in mine if mine[name].shape == theirs[name].shape}
    assert {"mix.weight", "last.weight", "last.bias"} <= same
    assert all(torch.equal(mine[name], theirs[name]) for name in same - {"widen.bias"})


def test_the_recipes_drop_path_goes_into_any_source(
    tmp_path: Path, collection: Collection, wide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = {**TINY, "drop_path": 0.4}
    module, batches = begun(tmp_path, collection, monkeypatch, source=str(wide), encoder=encoder)
    config = module.encoder.config
    assert (config.dim, config.depth, config.positions) == (48, 3, "sincos")
    assert config.drop_path == 0.4
    first, again = (module(batches[0])["loss"] for _ in range(2))
    assert torch.equal(first, again), "draws are keyed by sample"
    later = {**batches[0], "epoch": batches[0]["epoch"] + 1}
    assert not torch.equal(module(later)["loss"], first)
    module.eval()
    whole = module(batches[0])["loss"]
    module.encoder.drop_path = 0.0
    assert torch.equal(module.train()(batches[0])["loss"], whole)


def test_resumes_exactly_with_drop_path_and_layer_decay(
    tmp_path: Path, collection: Collection, wide: Path
) -> None:
    changes: dict[str, Any] = {
        "source": str(wide),
        "encoder": {**TINY, "drop_path": 0.3},
        "optim": {"lr": 1e-3, "warmup_steps": 1, "layer_decay": 0.5},
        "steps": 4,
    }
    whole, parts = (recipe(tmp_path / part, collection, **changes) for part in ("one", "two"))
    run.finetune(whole, World(), whole.folder())

    with interrupted(after=3):  # after the checkpoint of step 2
        run.finetune(parts, World(), parts.folder())
    run.finetune(parts, World(), parts.folder())
    assert losses(parts.folder()) == losses(whole.folder())
    expected, found = weights(whole.folder()), weights(parts.folder())
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_micro_batches_drop_alike(tmp_path: Path, collection: Collection, wide: Path) -> None:
    """Drop path as every other draw: accumulation does not change what a step sees."""
    found = []
    for micro_batch in (8, 2):
        changes: dict[str, Any] = {"source": str(wide), "encoder": {**TINY, "drop_path": 0.5}}
        made = recipe(tmp_path / str(micro_batch), collection, steps=3, **changes)
        machine = dataclasses.replace(made.machine, micro_batch=micro_batch)
        made = dataclasses.replace(made, machine=machine)
        run.finetune(made, World(), made.folder())
        found.append(load_file(made.folder() / "encoder.safetensors"))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_bad_loss_names_its_samples(tmp_path: Path, collection: Collection, frozen: bool) -> None:
    """No task asks for the samples' ids; whoever is told to look at them needs them."""
    changes = {"optim": {"lr": 1e30, "warmup_steps": 1}, "steps": 8, "encoder_frozen": frozen}
    bad = recipe(tmp_path, collection, **changes)
    with pytest.raises(ValueError, match=r"NaN or infinite in micro-batches with sample_id \d"):
        run.finetune(bad, World(), bad.folder())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_blind_source_answers_the_same_for_every_picture(
    tmp_path: Path, collection: Collection, frozen: bool
) -> None:
    """Frozen too, whose tokens are kept: those of `random`, of the same seed, are others."""
    answers = []
    for source in ("random", "blind"):
        made = recipe(tmp_path / source, collection, source=source, encoder_frozen=frozen)
        run.finetune(made, World(), made.folder())
        report = json.loads((made.folder() / "report.json").read_text())
        assert (report["source"], report["blind"]) == (source, source == "blind")
        model = load_task(made.folder())
        pictures = torch.randn(3, 3, 32, 32)
        with torch.no_grad():
            answers.append(model.predict({"image": pictures})["joints2d"])
    seeing, blind = answers
    assert not torch.equal(seeing[0], seeing[1])
    assert torch.equal(blind[0], blind[1]) and torch.equal(blind[0], blind[2])


def test_a_blind_source_is_none_of_pre_training() -> None:
    with pytest.raises(ConfigError, match="source blind sees no picture"):
        build(PretrainRecipe, {"name": "x", "collections": [{"path": "c"}], "source": "blind"})
