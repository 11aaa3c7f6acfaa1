"""What a finished model is measured by may take longer than its training: it costs no step."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from hpse_dist import watch
from hpse_dist.config import build
from hpse_dist.data.collection import Collection
from hpse_dist.data.derive import split
from hpse_dist.log import METRICS_FILE, read_metrics
from hpse_dist.recipe import FinetuneRecipe
from hpse_dist.run import finetune
from hpse_dist.run_folder import is_done
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.test_run import recipe_of


def recipe(folder: Path, collection: Collection) -> FinetuneRecipe:
    """Measured at steps 3 and 6, then on a test set, before the held-out people's last figures."""
    task = {"name": "pose2d", "head_dim": 16}
    test = {"path": str(collection.folder), "split": "test"}
    values = recipe_of(folder, collection, task=task, tests=[test])
    values["machine"]["checkpoint_every"] = 4
    return build(FinetuneRecipe, values)


def rows(folder: Path) -> list[dict[str, Any]]:
    """What was logged, but for times."""
    found = read_metrics(folder / METRICS_FILE)
    timed = ("time", "samples_per_s", "wait_share", "save_share", "run/effective")
    return [{name: row[name] for name in row if name not in timed} for row in found]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    folder = tmp_path_factory.mktemp("split") / "people"
    return split(made_collection(), folder, {"val": ("s4",), "test": ("s0",)})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, collection: Collection) -> FinetuneRecipe:
    made = recipe(tmp_path_factory.mktemp("whole"), collection)
    finetune(made, World(), made.folder())
    return made


@pytest.mark.parametrize("measured", [1, 2])
def test_a_run_killed_while_it_is_measured_repeats_no_step(
    tmp_path: Path,
    collection: Collection,
    whole: FinetuneRecipe,
    monkeypatch: pytest.MonkeyPatch,
    measured: int,
) -> None:
    """In the first of the last evaluations, or in the second, when the test set's is logged."""
    made, calls, evaluate = recipe(tmp_path, collection), [0], watch.evaluate

    def killed(*positional: Any, **named: Any) -> dict[str, float]:
        calls[0] += 1
        if calls[0] == 1 + measured:  # the first is that of step 3
            raise KeyboardInterrupt
        return evaluate(*positional, **named)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(watch, "evaluate", killed)
        finetune(made, World(), made.folder())
    assert not is_done(made.folder())
    finetune(made, World(), made.folder())
    first, second = json.loads((made.folder() / "starts.json").read_text())
    assert (first["step"], second["resumed"], second["first"]) == (6, 6, None)
    assert rows(made.folder()) == rows(whole.folder())
    reports = [json.loads((one.folder() / "report.json").read_text()) for one in (made, whole)]
    assert reports[0]["history"] == reports[1]["history"]
    assert len(reports[0]["history"]) == 2


def test_a_run_told_to_stop_while_it_is_measured_stops_at_the_next(
    tmp_path: Path, collection: Collection, whole: FinetuneRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, test = recipe(tmp_path, collection), watch.Watch._test

    def told(*positional: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        test(*positional)

    with monkeypatch.context() as patched:
        patched.setattr(watch.Watch, "_test", told)
        finetune(made, World(), made.folder())
    assert not is_done(made.folder())
    (start,) = json.loads((made.folder() / "starts.json").read_text())
    assert start["ended"] == "told to stop"
    assert not any(name.startswith("val/") for row in rows(made.folder())[-2:] for name in row)
    finetune(made, World(), made.folder())
    assert is_done(made.folder()) and rows(made.folder()) == rows(whole.folder())
