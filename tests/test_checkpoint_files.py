"""The files of a checkpoint: every byte counts, and whatever is wrong is said and no error."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from hpse_dist.checkpoint import Checkpoints
from hpse_dist.checkpoint_files import digest_of, problem_of, random_state, set_random_state
from hpse_dist.engine import Engine
from hpse_dist.world import World
from tests.engine.toys import TinyLoader, make_engine
from tests.test_checkpoint import flip_a_byte, names


@pytest.fixture
def engine() -> Engine:
    return make_engine("plain")


@pytest.fixture
def loader() -> TinyLoader:
    return TinyLoader(World())


def test_random_states_are_plain_values() -> None:
    np.random.randn(), random.gauss(0, 1)  # numpy and Python draw two and keep one
    state = json.loads(json.dumps(random_state()))
    a = torch.randn(2), np.random.randn(3), random.gauss(0, 1)
    set_random_state(state)
    b = torch.randn(2), np.random.randn(3), random.gauss(0, 1)
    assert torch.equal(a[0], b[0]) and (a[1] == b[1]).all() and a[2] == b[2]


def test_every_byte_of_the_manifest_counts(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    path = Checkpoints(tmp_path, 1, 1, "abc").save(engine, loader, 1) / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        flip_a_byte(path, place)
        # spaces between values may turn into something json reads the same; nothing else may
        if json.dumps(_read(path)) != json.dumps(json.loads(whole)):
            assert problem_of(path.parent) is not None, place
        path.write_bytes(whole)
    assert problem_of(path.parent) is None


def test_a_manifest_of_another_shape_is_a_broken_one(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    path = Checkpoints(tmp_path, 1, 1, "abc").save(engine, loader, 1) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    for about in (None, {}):
        forged = {**manifest, "files": {"random-00000.json": about}}
        path.write_text(json.dumps({**forged, "sha256": digest_of(forged)}))
        assert "not readable" in (problem_of(path.parent) or "")
    path.write_text("[]")
    assert "not readable" in (problem_of(path.parent) or "")


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_missing_cut_and_foreign_files_are_found(
    tmp_path: Path, engine: Engine, loader: TinyLoader
) -> None:
    checkpoints = Checkpoints(tmp_path, 1, 9, "abc")
    cut, without, bare = (checkpoints.save(engine, loader, step) for step in (1, 2, 3))
    weights = cut / "state-00000.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (without / "random-00000.json").unlink()
    (bare / "manifest.json").unlink()
    assert "another size" in (problem_of(cut) or "")
    assert "missing" in (problem_of(without) or "")
    assert "not readable" in (problem_of(bare) or "")
    assert checkpoints.newest_good() is None
    assert all(name.endswith(".broken") for name in names(tmp_path))
