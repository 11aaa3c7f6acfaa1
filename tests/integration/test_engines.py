"""Every engine on two processes: the same weights, exact resume, and nothing bad gets through.

One launch does all the training (importing DeepSpeed takes seconds), with a third process alone
beside the two; the tests read what they wrote.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.integration.clusters import ROOT, free_ports
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.integration
STEPS = 10

WORKER = Path(__file__).with_name("engine_worker.py")
KINDS = ("ddp", "zero0", "zero1", "zero2", "zero3", "zero2-optimizer", "zero3-parameters")
TIMING = ("time", "samples_per_s", "wait_share", "save_share")
every_kind = pytest.mark.parametrize("kind", KINDS)


@dataclass
class Outcome:
    """What the two processes wrote."""

    facts: list[dict[str, Any]]
    histories: dict[str, list[dict[str, float]]]
    weights: dict[str, dict[str, Tensor]]

    def distance(self, a: str, b: str) -> float:
        """Largest difference of any weight; `seen` counts a process's own samples."""
        one, other = self.weights[a], self.weights[b]
        assert one.keys() == other.keys()
        names = [name for name in one if name != "seen"]
        return max((one[n].double() - other[n].double()).abs().max().item() for n in names)

    def curve(self, label: str, name: str) -> list[float]:
        return [row[name] for row in self.histories[label]]

    def same(self, key: str) -> Any:
        """A fact that both processes must agree on."""
        assert self.facts[0][key] == self.facts[1][key]
        return self.facts[0][key]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("engines")
    port = str(free_ports(1)[0])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"):
        environment.pop(name, None)
    names = ("0", "1", "alone")
    outputs = [folder / f"output-{name}.txt" for name in names]
    processes = []
    for name, path in zip(names, outputs, strict=True):
        with path.open("w") as output:
            command = [sys.executable, str(WORKER), name, port, str(folder)]
            processes.append(
                subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
                )
            )
    try:
        codes = [process.wait(timeout=PATIENCE_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
    said = "\n".join(path.read_text()[-4000:] for path in outputs)
    assert codes == [0, 0, 0], said
    return Outcome(
        facts=[json.loads((folder / f"facts-{rank}.json").read_text()) for rank in (0, 1)],
        histories=json.loads((folder / "histories.json").read_text()),
        weights=torch.load(folder / "weights.pt", weights_only=True)
        | torch.load(folder / "weights-alone.pt", weights_only=True),
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("clip", ["0.0", "0.3"])
@every_kind
def test_engines_agree(outcome: Outcome, kind: str, precision: str, clip: str) -> None:
    """Ten updates of two micro-batches each, on two processes and on one: to 1e-6."""
    mine, ddp, plain = (f"{name} {precision} {clip}" for name in (kind, "ddp", "plain"))
    assert outcome.distance(mine, ddp) < 1e-6
    assert outcome.distance(mine, plain) < 1e-6
    for name in ("loss", "loss_large", "grad_norm", "lr"):
        assert outcome.curve(mine, name) == pytest.approx(outcome.curve(plain, name), rel=1e-6)
    if clip == "0.3":
        assert outcome.distance(mine, f"{kind} {precision} 0.0") > 1e-4


@pytest.mark.parametrize("kind", ["zero0", "zero2", "zero3", "zero3-parameters"])
def test_deepspeed_on_one_process_needs_nobody_to_start_it(outcome: Outcome, kind: str) -> None:
    assert outcome.distance(f"{kind} alone", "plain fp32 0.3") < 1e-6


def test_clipping_had_work_to_do(outcome: Outcome) -> None:
    assert min(outcome.curve("plain fp32 0.3", "grad_norm")) > 0.3


@every_kind
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_ten_straight_steps_are_five_a_resume_and_five(
    outcome: Outcome, kind: str, precision: str
) -> None:
    straight, parts = f"{kind} {precision} 0.3", f"{kind} {precision} in parts"
    assert outcome.same(f"{parts} reached") == 10
    assert outcome.distance(straight, parts) == 0.0
    histories = [
        [{k: v for k, v in row.items() if k not in TIMING} for row in outcome.histories[label]]
        for label in (straight, parts)
    ]
    assert [row["step"] for row in histories[1]] == list(range(1, 11))
    assert repr(histories[0]) == repr(histories[1])


@every_kind
def test_layers_learn_at_their_own_rates_on_every_engine(outcome: Outcome, kind: str) -> None:
    """Layer-wise decay: equal weights, through a resume too, and other ones than without it."""
    assert (
        outcome.same(f"{kind} rates") == outcome.same("plain rates") == [0.25] * 2 + [0.5] + [1] * 2
    )
    assert outcome.distance(f"{kind} layers", "plain layers") < 1e-6
    assert outcome.distance(f"{kind} layers", f"{kind} layers in parts") == 0.0
    assert outcome.distance(f"{kind} layers", f"{kind} fp32 0.0") > 1e-4


@pytest.mark.parametrize("kind", ["zero3", "zero2-optimizer", "zero3-parameters"])
def test_what_does_not_learn_comes_from_the_checkpoint(outcome: Outcome, kind: str) -> None:
    assert outcome.distance(f"{kind} frozen", "plain frozen") < 1e-6
    assert outcome.distance(f"{kind} frozen", f"{kind} fp32 0.3") > 1e-4


@every_kind
@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_not_finite_never_reaches_the_weights(
    outcome: Outcome, kind: str, poison: str, precision: str
) -> None:
    """One sample of the second process is bad: the weights of a run that never met its batch."""
    label = f"{kind} {precision} bad {poison}"
    (incident,) = outcome.same(label)
    assert (incident["step"], incident["why"]) == (4, f"the {poison} is not finite")
    assert incident["samples"] == list(range(48 if poison == "gradient" else 60, 64))
    assert outcome.same(f"{label} reached") == STEPS
    assert outcome.distance(label, f"{kind} {precision} left out") == 0.0
    assert outcome.distance(label, f"{kind} {precision} 0.0") > 1e-5


@every_kind
def test_measuring_on_the_way_changes_nothing(outcome: Outcome, kind: str) -> None:
    assert outcome.distance(f"{kind} evaluated", f"{kind} fp32 0.3") == 0.0


@pytest.mark.parametrize("kind", [*KINDS, "zero1-optimizer", "zero3-optimizer"])
def test_a_parameter_learns_from_what_touches_it_alone(outcome: Outcome, kind: str) -> None:
    """The first micro-step of an update, the last, none, both: as on one process."""
    mine, plain = f"{kind} touched", "plain touched"
    assert outcome.distance(mine, plain) < 1e-6
    want = outcome.curve(plain, "grad_norm")
    assert outcome.curve(mine, "grad_norm") == pytest.approx(want, rel=1e-6)
    assert outcome.weights[plain]["spare"].max() < 0.99  # it has learnt


@pytest.mark.parametrize("kind", ["ddp", "zero3"])
def test_evaluation_over_padded_shards_is_exact(outcome: Outcome, kind: str) -> None:
    assert outcome.same(f"{kind} means") == pytest.approx(outcome.same("plain means"), rel=1e-6)
    assert math.isfinite(outcome.same("plain means")["ratio"])


def test_a_run_changes_engine_and_stage_on_the_way(outcome: Outcome) -> None:
    """ZeRO 1, 3, ddp, ZeRO 2, 0, 3 on two processes, with and without offload in turn: the weights
    of one engine all along."""
    assert outcome.same("changed reached") == 10
    assert outcome.distance("changed", "ddp fp32 0.3") < 1e-6
    assert [row["step"] for row in outcome.histories["changed"]] == list(range(1, 11))
    want = outcome.curve("ddp fp32 0.3", "loss")
    assert outcome.curve("changed", "loss") == pytest.approx(want, rel=1e-5)


@every_kind
def test_two_processes_become_one(outcome: Outcome, kind: str) -> None:
    assert outcome.distance(f"{kind} then plain", "plain fp32 0.3") < 1e-6


@pytest.mark.parametrize("kind", ["zero2", "zero3", "ddp"])
def test_half_a_checkpoint_is_refused(outcome: Outcome, kind: str) -> None:
    said = outcome.facts[0][f"{kind} half"]
    assert "are not there; a file of the checkpoint is missing" in said or "is not there" in said


@pytest.mark.parametrize("kind", ["ddp", "zero0", "zero2", "zero3"])
@pytest.mark.parametrize("unlucky", [0, 1])
def test_a_full_disk_on_either_rank_hangs_nobody(outcome: Outcome, kind: str, unlucky: int) -> None:
    said = outcome.same(f"{kind} full {unlucky}")
    assert "the checkpoint could not be written" in said
    assert "too large" in said or "disk is full" in said
    assert outcome.same(f"{kind} full {unlucky} left") == ["step_00000001"]
