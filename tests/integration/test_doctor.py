"""The doctor as a user calls it, where all works: DeepSpeed, and two trainers under Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.integration
def test_all_works_here_and_nothing_is_left(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipelines.doctor", "--workers", "2"]
    ended = subprocess.run(
        command,
        env=os.environ | {"HPSE_ROOT": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = dict(line.split(maxsplit=1) for line in ended.stdout.splitlines())
    assert said["deepspeed"].endswith(", as plain torch")
    assert said["ray"].startswith("2 trainers: ") and said["ray"].endswith(", as plain torch")
    assert said["done:"] == "all that training needs works here"
    assert not list(tmp_path.iterdir())
