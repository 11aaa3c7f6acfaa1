"""`python -m pipelines.study`: plan, checks before the start, report and exit codes; no Ray."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.sweep import Outcome
from hpse_dist.study import PlannedRun
from hpse_dist.tasks.body_mesh import BodyMeshConfig
from pipelines import run_command
from pipelines import study as command
from tests.report.made_study import make_finetuning, make_pretraining

STUDY = """
name: small
sources:
  random: {{run: random}}
  completion: {{pretrain: {here}/pretrain.yaml}}
tasks: {{body_mesh: {here}/finetune.yaml}}
seeds: [0, 1]
machine: {{out: {here}/runs}}
"""
RUN = """
name: completion
collections: [{{path: {here}/collection}}]
steps: 30
global_batch: 32
machine: {{micro_batch: 32, out: {here}/runs}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name, text in (("study", STUDY), ("pretrain", RUN), ("finetune", RUN)):
        (tmp_path / f"{name}.yaml").write_text(text.format(here=tmp_path))
    (tmp_path / "collection").mkdir()
    fields = {
        name: {"shape": [1], "dtype": "float32"} for name in (*BodyMeshConfig().needs, "person")
    }
    counts = {"frames": 8}
    manifest = {"schema": 1, "counts": counts, "shards": [], "files": {}, "fields": fields}
    (tmp_path / "collection" / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "study.yaml"


def carry_out(failing: str = ""):  # type: ignore[no-untyped-def]
    """A stand-in that makes up what runs leave behind."""

    def carried(runs: Sequence[PlannedRun], folder: Path, **_: object) -> list[Outcome]:
        outcomes = []
        for run in runs:
            if run.name == failing:
                outcomes.append(Outcome(run.name, run.folder, "loss is not finite at step 3"))
            elif run.kind == "pretrain":
                outcomes.append(Outcome(run.name, make_pretraining(run.folder)))
            else:
                make_finetuning(run.folder, run.source, run.seed, 60.0 + len(run.source))
                outcomes.append(Outcome(run.name, run.folder))
        return outcomes

    return carried


def test_plan_prints_and_starts_nothing(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "carry_out", None)
    assert run_command(command.main, command.parser(), [str(study), "--plan"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[2] for line in out.splitlines()[:5]] == [
        "completion",
        "random-body_mesh-seed0",
        "completion-body_mesh-seed0",
        "random-body_mesh-seed1",
        "completion-body_mesh-seed1",
    ]
    assert "5 runs: 5 waiting; 150 steps to go" in out
    assert not (study.parent / "runs").exists()


def test_plan_needs_no_collections(study: Path, tmp_path: Path) -> None:
    (tmp_path / "collection" / "manifest.json").unlink()
    assert run_command(command.main, command.parser(), [str(study), "--plan"]) == 0


def test_a_study_ends_with_its_report(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "carry_out", carry_out())
    assert run_command(command.main, command.parser(), [str(study), "seeds=[0]"]) == 0
    page = study.parent / "runs" / "small" / "report.html"
    assert str(page) in capsys.readouterr().out.splitlines()[-1]
    assert "against random" in page.read_text()


def test_a_failed_run_is_told_and_the_others_are_reported(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "completion-body_mesh-seed1"
    monkeypatch.setattr(command, "carry_out", carry_out(name))
    assert run_command(command.main, command.parser(), [str(study)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"1 of 5 runs are not done ({name}: loss is not finite at step 3)" in said
    assert "1 of 5 runs are not done" in (study.parent / "runs/small/report.html").read_text()


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("sedes=[0]", 2, "did you mean 'seeds'"),
        ('overrides=["collections=[{path: /absent}]"]', 2, "is not a collection"),
        ("overrides=[global_batch=33]", 2, "global_batch 33 must be divisible"),
        ("sources.old={run: /absent/run}", 1, "/absent/run: no such run folder or file"),
    ],
)
def test_what_would_fail_later_is_found_before_the_start(
    study: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    override: str,
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(command, "carry_out", None)
    assert run_command(command.main, command.parser(), [str(study), override]) == code
    assert words in capsys.readouterr().err


def test_a_field_that_the_collection_lacks_is_found_before_the_start(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "collection" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["fields"]["betas"], manifest["fields"]["joints3d"]
    path.write_text(json.dumps(manifest))
    assert run_command(command.main, command.parser(), [str(study)]) == 2
    assert "body_mesh needs the field joints3d, betas, which" in capsys.readouterr().err
