"""The two loops, on the plain engine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpse_dist.checkpoint import Checkpoints
from hpse_dist.engine import Engine, NonFinite
from hpse_dist.fields import Batch
from hpse_dist.log import RunLog, read_metrics
from hpse_dist.optim import OptimConfig, schedule
from hpse_dist.train import Clock, evaluate, stacked, train
from hpse_dist.world import World
from tests.engine.toys import TinyLoader, make_batch, make_engine

CONFIG = OptimConfig(lr=3e-3, warmup_steps=2)
STEPS = 10


def run(
    folder: Path, seed: int = 0, poison: int | None = None, **options: Any
) -> tuple[int, dict[str, Tensor], Engine]:
    """Start or go on with a run of ten steps, as a restarted worker would."""
    engine, loader = make_engine("plain", seed=seed), TinyLoader(World())
    if poison is not None:
        loader.poison[poison] = "loss"
    checkpoints = Checkpoints(folder / "checkpoints", 5, 2, "hash")
    start = checkpoints.resume(engine, loader)
    rate = functools.partial(schedule, steps=STEPS, config=CONFIG)
    with RunLog(folder, World(), 1, start=start) as log:
        reached = train(engine, loader, rate, log, checkpoints, start=start, steps=STEPS, **options)
    return reached, engine.full_state_dict(), engine


def stop_at(step: int) -> dict[str, Callable[..., Any]]:
    seen: list[int] = []
    return {"on_step": seen.append, "should_stop": lambda: seen[-1] == step}


def history(folder: Path) -> list[dict[str, float]]:
    timing = ("time", "samples_per_s", "wait_share")
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in timing} for row in rows]


Straight = tuple[Path, dict[str, Tensor], Engine]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Folder, weights and engine of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    reached, weights, engine = run(folder)
    assert reached == STEPS
    return folder, weights, engine


def test_ten_straight_steps_are_five_a_resume_and_five(straight: Straight, tmp_path: Path) -> None:
    folder, want, _ = straight
    assert run(tmp_path, **stop_at(5))[0] == 5
    reached, got, _ = run(tmp_path, seed=3)  # another start, were it not resumed
    assert reached == 10
    assert all(torch.equal(want[name], got[name]) for name in want)
    assert repr(history(folder)) == repr(history(tmp_path))


def test_a_kill_after_the_checkpoint_leaves_one_history(straight: Straight, tmp_path: Path) -> None:
    folder, want, _ = straight
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, on_step=functools.partial(interrupt, 8))
    assert [row["step"] for row in history(tmp_path)] == list(range(1, 9))
    _, got, _ = run(tmp_path)
    assert all(torch.equal(want[name], got[name]) for name in want)
    assert repr(history(folder)) == repr(history(tmp_path))


def interrupt(at: int, step: int) -> None:
    if step == at:
        raise KeyboardInterrupt


def test_the_log_says_what_happened(straight: Straight) -> None:
    folder, _, engine = straight
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[1]["lr"] == 3e-3 and rows[-1]["lr"] == 0.0
    for row in rows:
        assert row["grad_norm"] > 0 and row["samples_per_s"] > 0 and 0 <= row["wait_share"] < 1
    assert engine.module.progress == 1.0
    assert engine.module.training


def test_the_logged_loss_is_the_global_batch(straight: Straight) -> None:
    """Not the last micro-batch's: the number must not depend on how the batch was cut."""
    module = make_engine("plain").module
    want = module._errors(make_batch(torch.arange(16))).mean().item()
    first = read_metrics(straight[0] / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(want, rel=1e-6)


def test_told_to_stop_it_saves_where_it_is(tmp_path: Path) -> None:
    assert run(tmp_path, **stop_at(3))[0] == 3
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]


def test_a_bad_loss_names_step_and_samples_and_saves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match=r"step 4: the loss .* sample_id 48, 49, 50, 51;"):
        run(tmp_path, poison=49)
    assert not (tmp_path / "checkpoints").exists()
    assert [row["step"] for row in history(tmp_path)] == [1, 2, 3]


def test_start_must_be_where_the_engine_is(tmp_path: Path) -> None:
    engine, loader = make_engine("plain"), TinyLoader(World())
    with RunLog(tmp_path, World(), 1) as log, pytest.raises(ValueError, match="0 updates"):
        checkpoints = Checkpoints(tmp_path, 5, 2, "hash")
        train(engine, loader, lambda step: 0.0, log, checkpoints, start=5, steps=10)


def evaluation(padding: int) -> Iterator[Batch]:
    """13 examples in batches of 4, and padding rows that would spoil any mean."""
    for ids in torch.arange(13).split(4):
        batch = make_batch(ids)
        valid = torch.ones(len(ids) + padding, dtype=torch.bool)
        if padding:
            valid[-padding:] = False
            batch["image"] = torch.cat([batch["image"], torch.full((padding, 6), 1e6)])
            batch["sample_id"] = torch.cat([ids, torch.ones(padding, dtype=torch.int64)])
        yield batch | {"valid": valid}


def test_evaluation_is_exact_over_padding_and_missing_values() -> None:
    engine = make_engine("plain")
    errors = engine.module._errors(make_batch(torch.arange(13))).double()
    for padding in (0, 3):
        means = evaluate(engine, evaluation(padding))
        assert means["error"] == pytest.approx(errors.mean().item(), rel=1e-6)
        assert means["error_odd"] == pytest.approx(errors[1::2].mean().item(), rel=1e-6)
        assert means["ratio"] == means["error_odd"] / means["error"]
    assert engine.module.seen == 0 and engine.module.training


def test_a_metric_that_no_example_has_is_nan() -> None:
    means = evaluate(make_engine("plain"), [make_batch(torch.tensor([0, 2]))])
    assert math.isnan(means["error_odd"]) and math.isfinite(means["error"])


def test_rates_are_of_the_updates_alone() -> None:
    times = iter([0.0, 1.0, 2.0, 4.0, 10.0, 10.0, 11.0, 12.0])
    clock = Clock(now=lambda: next(times))
    batches = iter([make_batch(torch.arange(8)), make_batch(torch.arange(8))])
    with clock.updating():  # 0 .. 4, waits 1 .. 2
        clock.next(batches)
    with clock.updating():  # 10 .. 12, waits 10 .. 11
        clock.next(batches)
    assert clock.rates(2) == {"samples_per_s": 16 * 2 / 6, "wait_share": 2 / 6}
    assert clock.rates(2)["samples_per_s"] == 0.0


def test_scalars_of_micro_batches_are_stacked_by_name() -> None:
    parts = [{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(2.0), "pose": torch.tensor(3)}]
    found = stacked(parts)
    assert found["loss"].tolist() == [1.0, 2.0] and found["pose"].tolist() == [3.0]
