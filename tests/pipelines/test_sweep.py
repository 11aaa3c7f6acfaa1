"""`python -m pipelines.sweep`: checks before the start; no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpse_dist.config import build, dump
from hpse_dist.recipe import FinetuneRecipe
from pipelines import run_command
from pipelines.sweep import main, parser
from tests.data.made_collection import made_collection
from tests.test_run import recipe_of

SWEEP = """
name: small
sources: {{random: {{run: random}}}}
rounds:
  short: {{recipe: {here}/pose2d.yaml}}
  long: {{recipe: {here}/pose2d.yaml, overrides: [steps=8]}}
space: {{task.num_joints: {{values: [24, 17]}}}}
metric: joint_error
machine: {{out: {here}/runs}}
"""


def test_no_trial_starts_where_a_later_one_would_be_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its values make a recipe, which the collection's labels do not fit."""
    task = {"name": "pose2d", "head_dim": 16}
    recipe = build(FinetuneRecipe, recipe_of(tmp_path / "runs", made_collection(), task=task))
    (tmp_path / "pose2d.yaml").write_text(dump(recipe))
    (tmp_path / "sweep.yaml").write_text(SWEEP.format(here=tmp_path))
    assert run_command(main, parser(), [str(tmp_path / "sweep.yaml")]) == 2
    assert "task.num_joints" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
