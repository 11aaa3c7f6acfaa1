"""Easy pairs first: the same sequence for every world, resumed exactly, counted honestly."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection
from hpse_dist.data.curriculum import Curriculum, CurriculumConfig
from hpse_dist.data.items import read_items
from hpse_dist.data.loader import Loader, Source
from hpse_dist.data.order import Order
from hpse_dist.fields import Batch
from hpse_dist.world import World
from tests.data.made_collection import made_collection

NEEDS = ["image", "image_ref", "sample_id", "epoch", "pair_kind"]
CONFIG = CurriculumConfig(start=0.25, end=1.0, steps=20)


def order(
    start: float, end: float, samples: int, weight: float = 1.0, seed: int = 0
) -> tuple[Order, np.ndarray, np.ndarray]:
    """Twelve shards of 50 pairs of two kinds, three to a window: (order, difficulty, kind)."""
    shards = [np.arange(50 * k, 50 * k + 50) for k in range(12)]
    difficulty = np.random.default_rng(1).random(600)
    kind = np.arange(600) % 3 // 2
    plan = Curriculum(difficulty, kind, start, end, samples)
    return Order([shards], [weight], seed, 3, [plan]), difficulty, kind


def test_a_whole_share_is_no_curriculum() -> None:
    with_it, *_ = order(1.0, 1.0, 10)
    without = Order([[np.arange(50 * k, 50 * k + 50) for k in range(12)]], [1.0], 0, 3)
    for epoch in (0, 5):
        for name in ("item", "repeat", "source"):
            mine, its = (getattr(one.epoch(epoch), name) for one in (with_it, without))
            assert np.array_equal(mine, its)


def test_easy_pairs_come_first_and_then_all_of_them() -> None:
    plan, difficulty, kind = order(0.2, 1.0, 4 * 600)
    graded = np.empty(600)
    for each in (0, 1):
        here = np.flatnonzero(kind == each)
        graded[here[np.argsort(difficulty[here])]] = np.arange(len(here)) / len(here)
    hardest = [graded[plan.between(at, at + 200).item].max() for at in range(0, 3000, 400)]
    assert hardest[0] < 0.5 and min(np.diff(hardest)) > -0.1 and hardest[-1] > 0.95
    means = [difficulty[plan.epoch(epoch).item].mean() for epoch in range(5)]
    assert means == sorted(means) and means[0] < 0.25 and abs(means[4] - difficulty.mean()) < 1e-9
    for epoch in (4, 7):  # the share is 1: exactly once again
        assert sorted(plan.epoch(epoch).item) == list(range(600))


def test_what_an_epoch_is_under_a_curriculum() -> None:
    plan, _, kind = order(0.25, 0.25, 1)
    for epoch in range(3):
        part = plan.epoch(epoch)
        assert len(part) == 600, "as long as ever"
        assert np.array_equal(np.bincount(kind[part.item]), np.bincount(kind)), "kinds as ever"
        counts = np.bincount(part.item, minlength=600)
        assert 140 <= (counts > 0).sum() <= 160, "a quarter of them"
        assert counts.max() <= 6 and counts[counts > 0].min() >= 2, "in equal turns"
    part = plan.between(0, 1800)
    keys = set(zip(part.item.tolist(), part.repeat.tolist(), strict=True))
    assert len(keys) == 1800, "draws of one pair are never the same"


def test_turns_are_equal_while_the_share_grows() -> None:
    """From 0.3 to 0.37 over an epoch: two thirds of the places go to a third of the pairs."""
    difficulty = np.random.default_rng(1).random(2000)
    plan = Curriculum(difficulty, np.zeros(2000, np.int64), 0.3, 1.0, 20_000)
    part = Order([[np.arange(2000)]], [1.0], 0, 1, [plan]).epoch(0)
    counts = np.bincount(part.item, minlength=2000)
    easy = counts[np.argsort(difficulty)[:600]]
    assert easy.min() >= 3 and easy.max() <= 4, "in equal turns: at most about 1 / 0.3 times"
    assert counts.sum() == 2000 and (counts > 0).sum() < 750


def test_pairs_of_one_kind_are_graded_too() -> None:
    difficulty = np.random.default_rng(1).random(600)
    plan = Curriculum(difficulty, np.zeros(600, np.int64), 0.25, 0.25, 1)
    part = Order([[np.arange(600)]], [1.0], 0, 1, [plan]).epoch(0)
    assert set(part.item) == set(np.argsort(difficulty)[:150])


def test_any_cut_of_the_sequence_is_the_same() -> None:
    whole = order(0.3, 0.9, 1500, weight=1.5)[0].between(0, 2500)
    plan, *_ = order(0.3, 0.9, 1500, weight=1.5)
    for start, stop in ((2000, 2500), (0, 1), (890, 910), (37, 1400)):
        part = plan.between(start, stop)
        assert np.array_equal(part.item, whole.item[start:stop])
        assert np.array_equal(part.repeat, whole.repeat[start:stop])
    other = order(0.3, 0.9, 1500, weight=1.5, seed=1)[0].between(0, 100)
    assert not np.array_equal(other.item, whole.item[:100])


def loader(config: CurriculumConfig | None = CONFIG, **settings: Any) -> Loader:
    defaults: dict[str, Any] = {
        "needs": NEEDS,
        "sampling": "pairs",
        "world": World(),
        "seed": 3,
        "global_batch": 16,
        "micro_batch": 8,
        "augment": AugmentConfig(),
        "image_px": 32,
        "patch_px": 8,
        "window": 2,
    }
    return Loader([Source(made_collection(), curriculum=config)], **{**defaults, **settings})


def take(batches: Any, count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return all(
        torch.equal(a[name], b[name]) for a, b in zip(first, second, strict=True) for name in NEEDS
    )


def test_two_processes_see_what_one_sees() -> None:
    whole = take(loader(), 24)
    ranks = [take(loader(world=World(rank, 2)), 12) for rank in (0, 1)]
    together = [batch for pair in zip(*ranks, strict=True) for batch in pair]
    assert equal(together, whole)
    assert not equal(take(loader(None), 24), whole)


def test_resuming_in_the_middle_of_it_is_exact() -> None:
    run = loader()
    batches = iter(run)
    take(batches, 2 * 11)  # 11 of the 20 steps, in the second epoch of 160 pairs
    state = run.state_dict()
    assert state == {"epoch": 1, "cursor": 16}
    rest = take(batches, 30)
    run.close()
    again = loader(threads=2)
    again.load_state_dict(state)
    assert equal(take(again, 30), rest)
    again.close()


def test_the_pairs_that_come_are_easy_ones() -> None:
    source = Source(made_collection(), curriculum=CONFIG)
    items = read_items(source, "pairs")
    assert items.difficulty is not None and 0 < items.difficulty.min() < items.difficulty.max() < 1
    rows = [row for row in itertools.islice(loader()._rows(), 60)]
    hard = [items.difficulty[row.item].mean() for row in rows]
    assert np.mean(hard[:6]) < np.mean(hard[40:]) - 0.05
    some = read_items(source, "pairs", label_fraction=0.5)
    assert some.difficulty is not None and len(some.difficulty) == len(some.first)
    assert len(some.first) < len(items.first)
    plain = read_items(dataclasses.replace(source, curriculum=None), "pairs")
    assert plain.difficulty is None and plain.curriculum(16) is None


def test_impossible_curricula(tmp_path: Path) -> None:
    for wrong in ({"start": 0}, {"start": 0.5, "end": 0.4}, {"end": 1.5}, {"steps": 0}):
        with pytest.raises(ValueError, match="curriculum"):
            CurriculumConfig(**wrong)
    with pytest.raises(ValueError, match="single frames"):
        loader(sampling="frames", needs=["image"])
    folder = tmp_path / "old"
    shutil.copytree(made_collection().folder, folder)
    old = Collection.open(folder)
    before = old.pairs.drop_columns(["difficulty"])
    old.update_file("pairs.parquet", lambda path: pq.write_table(before, path))
    with pytest.raises(ValueError, match="mines them anew"):
        read_items(Source(old, curriculum=CONFIG), "pairs")
    assert len(read_items(Source(old), "pairs").first), "without a curriculum they are as good"
