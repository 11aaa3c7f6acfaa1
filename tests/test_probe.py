"""A frozen encoder's tokens are computed once, kept, and a probe's run is like any other."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from hpse_dist import run
from hpse_dist.config import ConfigError, build
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection
from hpse_dist.data.items import Source
from hpse_dist.data.loader import Loader
from hpse_dist.data.mixing import provided_by
from hpse_dist.feed import ProbeFeed, make_feed
from hpse_dist.fields import missing
from hpse_dist.models.encoder import Encoder, build_encoder
from hpse_dist.models.frozen import FrozenEncoder, stand_in
from hpse_dist.optim import parameter_groups
from hpse_dist.recipe import FinetuneRecipe
from hpse_dist.source import read_source
from hpse_dist.tasks import TASKS
from hpse_dist.tasks import build as build_task
from hpse_dist.tasks.pose2d import Pose2dConfig
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.fabricate import tiny_body_file
from tests.interrupted import interrupted
from tests.tasks.test_contract import SMALL
from tests.test_run import losses, recipe_of
from tests.test_tuning import recipe, wide  # noqa: F401

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def collection() -> Collection:
    return made_collection()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, beside the free body that was made before."""
    from hpse_dist.body.free_body import free_body_path

    body = free_body_path()
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / body.name).symlink_to(body)
    monkeypatch.setenv("HPSE_CACHE", str(folder))
    return folder


def probe_of(folder: Path, collection: Collection, **changes: Any) -> FinetuneRecipe:
    return recipe(folder, collection, encoder_frozen=True, **changes)


def feed_of(made: FinetuneRecipe, world: World | None = None) -> tuple[Any, ProbeFeed]:
    torch.manual_seed(made.seed)
    encoder = cast(Encoder, FrozenEncoder(build_encoder(made.encoder)))
    module = build_task(made.task, encoder, made.seed)
    return module, cast(ProbeFeed, make_feed(made, module, world or World(), CPU))


def test_a_batch_has_the_tokens_and_labels_of_its_pictures(
    tmp_path: Path, collection: Collection
) -> None:
    made = probe_of(tmp_path, collection, label_fraction=0.4)
    module, feed = feed_of(made)
    seen = 0
    for batch, real in zip(feed.evaluation(None), feed.pictures(None), strict=True):
        assert batch["image"].shape == real["image"].shape and batch["image"].dtype == torch.int64
        torch.testing.assert_close(module.encoder(batch["image"]), module.encoder(real["image"]))
        valid = real["valid"]
        assert torch.equal(valid, batch["valid"])
        torch.testing.assert_close(batch["joints2d"], real["joints2d"])
        mine, true = module.metrics(batch), module.metrics(real)
        torch.testing.assert_close(mine, true, equal_nan=True)
        seen += int(valid.sum())
    assert seen == (collection.frames["split"].to_numpy() == "val").sum()
    # the training batches: the samples of the pictures' loader, in its order
    pictures = Loader([Source(collection)], device="cpu", **{
        **feed._settings(), "needs": ("image", "sample_id", "joints2d")
    })  # fmt: skip
    loader = feed.loader()
    for batch, real in itertools.islice(zip(loader, pictures, strict=False), 12):
        assert torch.equal(batch["sample_id"], real["sample_id"])
        assert torch.equal(batch["joints2d"][..., 2], real["joints2d"][..., 2])
    assert loader.state_dict() == pictures.state_dict()
    loader.close(), pictures.close()


def test_tokens_are_computed_once_for_a_source(
    tmp_path: Path, collection: Collection, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    forward = Encoder.forward

    def counted(self: Encoder, image: torch.Tensor, visible: Any = None) -> torch.Tensor:
        calls.append(len(image))
        return forward(self, image, visible)

    monkeypatch.setattr(Encoder, "forward", counted)
    made = probe_of(tmp_path, collection)
    feed_of(made)
    assert sum(calls) >= 50
    calls.clear()
    feed_of(dataclasses.replace(made, label_fraction=0.5, steps=9))
    parts = {"name": "part_segmentation", "head_dim": 16, "cell_px": 4}
    other_task = build(FinetuneRecipe, recipe_of(tmp_path, collection, task=parts))
    feed_of(dataclasses.replace(other_task, encoder_frozen=True))
    assert calls == []
    feed_of(dataclasses.replace(made, seed=1))
    assert sum(calls) >= 50, "another random encoder"
    kept = sorted(path.name.partition("-")[0] for path in (cache / "probe").iterdir())
    assert [name for name in kept if name[0] != "."] == ["labels"] * 4 + ["tokens"] * 4


def test_no_more_pictures_are_seen_than_are_wanted(
    tmp_path: Path, collection: Collection, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share's tokens are the first of a larger share's, which is then made of the rest alone."""
    seen: list[int] = []
    forward = Encoder.forward

    def counted(self: Encoder, image: torch.Tensor, visible: Any = None) -> torch.Tensor:
        seen.append(len(image))
        return forward(self, image, visible)

    monkeypatch.setattr(Encoder, "forward", counted)
    split = collection.frames["split"].to_numpy()
    train, held_out = (split == "train").sum(), (split == "val").sum()
    made = probe_of(tmp_path, collection, evaluation_batch=1)  # no rows that fill a batch up
    few = dataclasses.replace(made, label_fraction=0.25, evaluate_limit=3)
    _, feed = feed_of(few)
    assert sum(seen) == round(0.25 * train) + 3
    assert len(list(feed.evaluation(3))) == 3
    module, whole = feed_of(made)
    assert sum(seen) == train + held_out, "what was there is not made again"
    feed_of(few)
    assert sum(seen) == train + held_out
    for folder in (cache / "probe").iterdir():
        assert len(list(folder.glob("[0-9]*"))) == 2, "a piece, and the rest beside it"
    loader = whole.loader()
    pictures = Loader([Source(collection)], device="cpu", **{
        **whole._settings(), "augment": AugmentConfig(crop_scale=(1.0, 1.0), translation=0.0,
        brightness=0.0, contrast=0.0, saturation=0.0),
    })  # fmt: skip
    for batch, real in itertools.islice(zip(loader, pictures, strict=False), 12):
        torch.testing.assert_close(module.encoder(batch["image"]), module.encoder(real["image"]))
        torch.testing.assert_close(batch["joints2d"], real["joints2d"])
    loader.close(), pictures.close()


def test_only_the_head_learns(tmp_path: Path, collection: Collection, wide: Path) -> None:  # noqa: F811
    made = probe_of(tmp_path, collection, source=str(wide))
    run.finetune(made, World(), made.folder())
    before, after = read_source(wide).state, read_source(made.folder()).state
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert losses(made.folder())[-1] < losses(made.folder())[0]
    module, _ = feed_of(made)
    names = {parameter: name for name, parameter in module.named_parameters()}
    groups = parameter_groups(module, made.optim)
    assert {names[p].split(".")[0] for g in groups for p in g["params"]} == {"head"}
    assert not any(name.startswith("encoder") for name in module.state_dict())
    assert list((made.folder() / "panels").glob("step_000006_*.png"))


def test_a_killed_probe_ends_equal_to_the_bit(tmp_path: Path, collection: Collection) -> None:
    whole, parts = (probe_of(tmp_path / part, collection) for part in ("whole", "parts"))
    run.finetune(whole, World(), whole.folder())

    with interrupted(after=3):  # after the checkpoint of step 2
        run.finetune(parts, World(), parts.folder())
    run.finetune(parts, World(), parts.folder())
    assert losses(parts.folder()) == losses(whole.folder())


@pytest.mark.parametrize("name", sorted({*TASKS} & {*SMALL}))
def test_every_task_can_be_probed(name: str, tmp_path: Path, collection: Collection) -> None:
    body = tiny_body_file(tmp_path)
    task = SMALL[name](body)
    made = probe_of(tmp_path, collection)
    if "image_ref" in task.needs:
        with pytest.raises(ValueError, match="looks at two pictures together"):
            dataclasses.replace(made, task=task)
        return
    if missing(task.needs, provided_by([collection], pairs=False)):
        pytest.skip("the made people have no labels of this task")
    made = dataclasses.replace(made, task=task)
    torch.manual_seed(0)
    module, feed = feed_of(made)
    loader = feed.loader()
    batch = next(iter(loader))
    loader.close()
    loss = module(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    for parameter in module.parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None
    held_out = next(iter(feed.evaluation(4)))
    assert all(len(value) == len(held_out["valid"]) for value in module.metrics(held_out).values())


def test_ranks_share_the_pictures(tmp_path: Path, collection: Collection) -> None:
    made = probe_of(tmp_path, collection)
    ids: list[torch.Tensor] = []
    for rank in range(2):
        _, feed = feed_of(made, World(rank, 2, rank, 2))
        loader = feed.loader()
        ids.append(next(iter(loader))["sample_id"])
        loader.close()
    _, feed = feed_of(made)
    alone = feed.loader()
    together = torch.cat([b["sample_id"] for b in itertools.islice(alone, 2)])
    alone.close()
    assert torch.equal(torch.cat(ids), together)


def test_what_cannot_be_probed_is_said(
    tmp_path: Path, collection: Collection, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"leaves optim.layer_decay no layers to slow down"):
        probe_of(tmp_path, collection, optim={"layer_decay": 0.7})

    with monkeypatch.context() as patch:
        patch.setattr(Pose2dConfig, "needs", property(lambda _: ("image", "image_ref")))
        with pytest.raises(ConfigError, match="task pose2d looks at two pictures together"):
            probe_of(tmp_path, collection)
    encoder = FrozenEncoder(build_encoder(probe_of(tmp_path, collection).encoder))
    with pytest.raises(ValueError, match="not of some patches"):
        encoder(torch.zeros(1, 3, 32, 32), torch.zeros(1, 1))
    picture = stand_in(np.array([7, 9]), 32)
    assert picture.shape == (2, 3, 32, 32) and picture[1, 2, 31, 31] == 9
    if os.geteuid() != 0:
        cache.chmod(0o500)
        with pytest.raises(OSError, match="HPSE_CACHE"):
            feed_of(probe_of(tmp_path, collection))
