"""The look at an encoder that learns: right in a known case, and without a trace in training."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpse_dist.config import build, flat, to_dict
from hpse_dist.data.collection import Collection
from hpse_dist.live_probe import (
    LiveProbeConfig,
    best_ridge,
    crossed,
    distances,
    halves,
    regressed,
)
from hpse_dist.log import read_metrics
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.run import pretrain
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.test_run import losses, pretraining, weights


def test_the_dual_form_is_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(20, 5)), rng.normal(size=(20, 3)), rng.normal(size=(4, 5))
    mean, std = x.mean(0), x.std(0) + 1e-6
    z, t = (x - mean) / std, y - y.mean(0)
    weight = 0.1 * np.square(z).sum() / len(z)
    primal = np.linalg.solve(z.T @ z + weight * np.eye(5), z.T @ t)
    found = regressed(x, y, new, 0.1)
    np.testing.assert_allclose(found, (new - mean) / std @ primal + y.mean(0), atol=1e-10)


def test_joints_that_are_linear_in_the_tokens_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(200, 6))
    places = (tokens @ rng.normal(size=(6, 8))).reshape(200, 4, 2)
    known = rng.random((200, 4)) > 0.2
    places[~known] = 1e6  # what is not known is not looked at
    found = {"tokens": tokens, "places": places, "known": known}
    sides = halves(np.arange(200) // 20)
    assert sides is not None
    error, of_mean = crossed(found, sides, 1e-6)
    assert math.isfinite(of_mean) and error < 0.5 * of_mean
    noise = {**found, "tokens": rng.normal(size=(200, 6)), "subject": np.arange(200) // 20}
    fit, test = ({name: value[side] for name, value in noise.items()} for side in sides)
    (error, of_mean), count = distances(fit, test, best_ridge(fit))
    assert count == test["known"].sum()
    assert 0.97 < error / of_mean < 1.05  # no worse than the mean: the penalty is chosen


def test_no_subject_is_on_both_sides() -> None:
    subject = np.repeat([5, 3, 9, 7], [30, 10, 12, 9])
    sides = halves(subject)
    assert sides is not None
    assert not set(subject[sides[0]]) & set(subject[sides[1]])
    assert sorted(np.concatenate(sides)) == list(range(61)) and {len(s) for s in sides} == {30, 31}
    assert halves(np.zeros(50, int)) is None


def probed(recipe: PretrainRecipe, **probe: Any) -> PretrainRecipe:
    values = to_dict(recipe)
    return build(PretrainRecipe, values | {"machine": values["machine"] | {"probe": probe}})


def test_a_run_that_is_looked_at_is_the_same_to_the_bit(tmp_path: Path) -> None:
    collection = made_collection()
    plain = pretraining(tmp_path / "plain", collection)
    looked = probed(pretraining(tmp_path / "looked", collection), every=2, frames=32)
    assert plain.hash() == looked.hash()
    for recipe in (plain, looked):
        pretrain(recipe, World(), recipe.folder())
    assert losses(plain.folder()) == losses(looked.folder())
    one, other = weights(plain.folder()), weights(looked.folder())
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [
        r for r in read_metrics(looked.folder() / "metrics.jsonl") if "probe/error_percent" in r
    ]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert all(0 < row["probe/error_percent"] < 200 for row in rows)
    assert all(row["probe/explained"] < 100 for row in rows)


def test_nothing_to_measure_with_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collection: Collection = made_collection(with_labels=False)
    recipe = probed(pretraining(tmp_path, collection), every=2, frames=32)
    with caplog.at_level(logging.WARNING):
        pretrain(recipe, World(), recipe.folder())
    said = [r.message for r in caplog.records if "live probe" in r.message]
    assert len(said) == 1
    assert "no held-out frame has" in said[0]


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="every must be at least 1"):
        LiveProbeConfig(every=0)
    assert flat({"a": {"b": 1}, "c": (2,)}, ignore=("c",)) == {"a.b": 1}
