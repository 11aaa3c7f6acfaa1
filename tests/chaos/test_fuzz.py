"""Files spoilt at random: one sentence or nothing, no code is run, nothing is written elsewhere.

Ten thousand of each by hand: HPSE_FUZZ=10000 pytest tests/chaos/test_fuzz.py
"""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import pytest

from tests.chaos.fuzzing import TARGETS, spoil

TRIALS = int(os.environ.get("HPSE_FUZZ", "30"))


@pytest.mark.parametrize("name", TARGETS)
def test_spoilt_files_end_in_a_sentence(tmp_path: Path, name: str) -> None:
    target, canary = TARGETS[name], tmp_path / "ran"
    folder = tmp_path / "files"
    folder.mkdir()
    paths = target.write(folder)
    whole = {path: path.read_bytes() for path in paths}
    before = {path for path in tmp_path.rglob("*")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.read(folder)
    refused = 0
    for trial in range(TRIALS):
        draw = random.Random(f"{name} {trial}")
        path = draw.choice(paths)
        path.write_bytes(spoil(whole[path], draw, canary))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target.read(folder)
        except (ValueError, OSError) as error:
            refused += 1
            assert str(error).strip() and "\n" not in str(error), f"{name} {trial}: {error}"
        except Exception as error:
            raise AssertionError(f"{name} {trial}: {path.name}: {error!r}") from error
        assert not canary.exists(), f"{name} {trial}: code was run"
        path.write_bytes(whole[path])
    assert {path for path in tmp_path.rglob("*")} == before
    assert name in ("study",) or refused, "nothing was ever refused"
