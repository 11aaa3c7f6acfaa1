"""A thousand damaged checkpoints: all found, none loaded; a thousand damaged collections."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hpse_dist.checkpoint import Checkpoints
from hpse_dist.data.collection import Collection
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.engine.toys import TinyLoader, make_engine

TRIALS = 1000


def damage(folder: Path, draw: random.Random) -> str:
    """One byte turned, a file cut short or a file removed somewhere in `folder`; what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = draw.choice(files)
    data = bytearray(path.read_bytes())
    kind = draw.choice(["turned", "cut", "removed"])
    path.unlink()  # a file of its own takes the place of what was linked
    if kind == "cut":
        path.write_bytes(data[: draw.randrange(len(data))])
    elif kind == "turned":
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    return f"{path.name} {kind}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved")
    engine, loader = make_engine("plain"), TinyLoader(World())
    checkpoints = Checkpoints(folder, 1, 2, "hash")
    for step in (1, 2):
        engine.updates = step
        with torch.no_grad():
            engine.module.gain.fill_(step)
        checkpoints.save(engine, loader, step)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_no_damaged_checkpoint_is_ever_loaded(saved: Path, tmp_path: Path) -> None:
    engine, loader = make_engine("plain"), TinyLoader(World())
    for trial, folder in enumerate(_folders(tmp_path)):
        shutil.copytree(saved, folder)
        what = damage(folder / "step_00000002", random.Random(trial))
        step = Checkpoints(folder, 1, 2, "hash").resume(engine, loader)
        assert step == 1 and engine.module.gain.item() == 1, f"trial {trial}: {what}"
        assert (folder / "step_00000002.broken").is_dir()


def test_no_damage_to_a_collection_goes_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpse_dist.data.collection.PATIENCE_S", 0.0)  # nobody is at work on it
    whole = tmp_path / "whole"
    shutil.copytree(made_collection().folder, whole)
    assert Collection.open(whole).verify() == []
    for trial, folder in enumerate(_folders(tmp_path)):
        shutil.copytree(whole, folder, copy_function=os.link)
        what = damage(folder, random.Random(trial))
        try:
            problems = Collection.open(folder).verify()
        except ValueError as error:
            problems = [str(error)]
        assert problems and "\n" not in problems[0], f"trial {trial}: {what}"
    assert Collection.open(whole).verify() == []


def _folders(place: Path) -> Iterator[Path]:
    """A new folder for every trial, gone after it."""
    for trial in range(TRIALS):
        folder = place / str(trial)
        yield folder
        shutil.rmtree(folder)
