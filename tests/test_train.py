"""The two loops, on the plain engine."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hpse_dist.accounting import Clock
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.engine import Engine
from hpse_dist.fields import Batch
from hpse_dist.guard import INCIDENTS_FILE, Guard, GuardConfig, read_incidents
from hpse_dist.log import RunLog, read_metrics
from hpse_dist.optim import OptimConfig, schedule
from hpse_dist.train import GivenUp, evaluate, stacked, train
from hpse_dist.world import World
from tests.engine.toys import TinyLoader, make_batch, make_engine

CONFIG = OptimConfig(lr=3e-3, warmup_steps=2)
STEPS = 10
LENIENT = GuardConfig()


def run(
    folder: Path,
    seed: int = 0,
    poison: Sequence[int] = (),
    guard: GuardConfig = LENIENT,
    every: int = 5,
    **options: Any,
) -> tuple[int, dict[str, Tensor], Engine]:
    """Start or go on with a run of ten steps, as a restarted worker would."""
    engine, loader = make_engine("plain", seed=seed), TinyLoader(World())
    loader.poison = dict.fromkeys(poison, "loss")
    watch = Guard(guard, folder, World())
    clock = Clock()
    checkpoints = Checkpoints(
        folder / "checkpoints", every, 2, "hash", {"guard": watch, "clock": clock}
    )
    start = checkpoints.resume(engine, loader)
    rate = functools.partial(schedule, steps=STEPS, config=CONFIG)
    with RunLog(folder, World(), 1, start=start) as log:
        reached = train(
            engine,
            loader,
            rate,
            log,
            checkpoints,
            watch,
            clock,
            start=start,
            steps=STEPS,
            **options,
        )
    return reached, engine.full_state_dict(), engine


def stop_at(step: int) -> dict[str, Callable[..., Any]]:
    seen: list[int] = []
    return {"on_step": seen.append, "should_stop": lambda: seen[-1] == step}


def history(folder: Path) -> list[dict[str, float]]:
    timing = ("time", "samples_per_s", "wait_share", "save_share")
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


BAD = 49  # a sample of step 4
SKIPPED = {"kind": "skip", "step": 4, "why": "the loss is not finite", "samples": [48, 49, 50, 51]}


def test_a_step_whose_loss_is_not_finite_is_skipped_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reached, weights, engine = run(tmp_path, poison=[BAD])
    assert reached == STEPS and engine.updates == STEPS
    assert all(value.isfinite().all() for value in weights.values())
    assert [row["step"] for row in history(tmp_path)] == [1, 2, 3, *range(5, 11)]
    assert read_incidents(tmp_path / INCIDENTS_FILE) == [SKIPPED]
    assert "step 4: the loss is NaN or infinite" in caplog.text
    assert "sample_id 48, 49, 50, 51; no weight was changed by it; the step is s" in caplog.text


def test_a_skipped_step_resumes_exactly(tmp_path: Path) -> None:
    _, want, _ = run(tmp_path / "whole", poison=[BAD])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", poison=[BAD], on_step=functools.partial(interrupt, 7))
    _, got, _ = run(tmp_path / "parts", poison=[BAD])
    assert all(torch.equal(want[name], got[name]) for name in want)


def without_batches(folder: Path, first: int, last: int, until: int) -> dict[str, Tensor]:
    """Weights of ten steps whose batches `first` .. `last` are left out, after `until` steps."""
    engine, loader = make_engine("plain"), TinyLoader(World())
    batches = iter(loader)
    for step in range(1, STEPS + 1):
        if step == until + 1:
            loader.cursor = 16 * last
            batches = iter(loader)
        engine.set_lr(schedule(step, STEPS, CONFIG))
        for _ in range(engine.accumulation):
            engine.backward(engine(next(batches))["loss"])
            engine.step()
    return engine.full_state_dict()


def test_too_many_bad_steps_send_the_run_back_past_their_batches(tmp_path: Path) -> None:
    """Steps 7 and 8 are bad and one may be: back to step 5, and on with the ninth batch."""
    reached, weights, _ = run(tmp_path, poison=[96, 112], guard=GuardConfig(bad_steps=1))
    assert reached == STEPS
    want = without_batches(tmp_path, 6, 8, until=5)
    assert all(torch.equal(want[name], weights[name]) for name in want if name != "seen")
    assert [row["step"] for row in history(tmp_path)] == list(range(1, STEPS + 1))
    *skips, back = read_incidents(tmp_path / INCIDENTS_FILE)
    assert [skip["step"] for skip in skips] == [7, 8]
    assert (back["kind"], back["step"], back["to"]) == ("return", 8, 5)
    assert back["place"] == {"epoch": 0, "cursor": 128}


def test_a_kill_after_a_return_does_not_meet_its_batches_again(tmp_path: Path) -> None:
    bad: dict[str, Any] = {"poison": [96, 112], "guard": GuardConfig(bad_steps=1)}
    _, want, _ = run(tmp_path / "whole", **bad)
    calls = iter(range(100))
    with pytest.raises(KeyboardInterrupt):  # at the ninth call: step 6 for the second time
        run(tmp_path / "parts", **bad, on_step=lambda step: interrupt(8, next(calls)))
    _, got, _ = run(tmp_path / "parts", **bad)
    assert all(torch.equal(want[name], got[name]) for name in want)
    assert len(read_incidents(tmp_path / "parts" / INCIDENTS_FILE)) == 3


def test_a_kill_after_a_long_way_back_does_not_meet_them_either(tmp_path: Path) -> None:
    """Step 7 is bad: back to step 4, and the checkpoint after step 6 is one of no history."""
    bad: dict[str, Any] = {"poison": [96], "every": 2}
    bad["guard"] = GuardConfig(bad_steps=0, back=3, returns=1)
    _, want, _ = run(tmp_path / "whole", **bad)
    calls = iter(range(100))
    with pytest.raises(KeyboardInterrupt):  # at the eighth call: step 5 for the second time
        run(tmp_path / "parts", **bad, on_step=lambda step: interrupt(7, next(calls)))
    _, got, _ = run(tmp_path / "parts", **bad)
    assert all(torch.equal(want[name], got[name]) for name in want)


def test_with_nowhere_to_go_back_to_the_run_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(GivenUp, match=r"of 1 steps in a row .* no checkpoint .* clip the gradient"):
        run(tmp_path, poison=[BAD], guard=GuardConfig(bad_steps=0))


def test_a_run_that_always_goes_wrong_is_given_up(tmp_path: Path) -> None:
    guard = GuardConfig(bad_steps=0, returns=2)
    with pytest.raises(GivenUp, match="gone back 2 times already"):
        run(tmp_path, poison=range(96, 10_000), guard=guard)


def test_a_spike_sends_the_run_back(tmp_path: Path) -> None:
    guard = Guard(GuardConfig(spike=5.0, window=10), tmp_path, World())
    quiet = [1.0 + 0.01 * (step % 3) for step in range(30)]
    assert not any(guard.made(step, loss) for step, loss in enumerate(quiet))
    assert guard.made(30, 1.04) is None
    assert guard.made(31, 1.5) == "step 31: the loss is 1.5, a spike above 1.06"
    state = guard.state_dict()
    other = Guard(guard.config, tmp_path, World())
    assert other.made(31, 1.5) is None  # too few steps are known
    other.load_state_dict(state)
    assert other.made(31, 1.5) is not None
    flat = Guard(guard.config, tmp_path, World())  # no deviation: 0.1 % of the median is one
    assert not any(flat.made(step, 1.0) for step in range(10))
    assert flat.made(11, 1.004) is None and flat.made(12, 1.006) is not None
    assert guard.wants_loss and not Guard(GuardConfig(), tmp_path, World()).wants_loss


def test_spikes_are_looked_for_on_the_way(tmp_path: Path) -> None:
    """Whole runs at the limits: a step is a spike wherever its loss is above the median."""
    guard = GuardConfig(spike=3.0, window=10)
    assert run(tmp_path, guard=guard)[0] == STEPS  # falling losses are none
    manifest = (tmp_path / "checkpoints" / "step_00000010" / "manifest.json").read_text()
    assert len(json.loads(manifest)["also"]["guard"]["losses"]) == STEPS


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("spike", 1.0, "3 deviations"), ("window", 3, "at least 10"), ("bad_steps", -1, "0 or more")],
)
def test_guards_that_cannot_be(key: str, value: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GuardConfig(**{key: value})  # type: ignore[arg-type]


def test_start_must_be_where_the_engine_is(tmp_path: Path) -> None:
    engine, loader = make_engine("plain"), TinyLoader(World())
    with RunLog(tmp_path, World(), 1) as log, pytest.raises(ValueError, match="0 updates"):
        checkpoints = Checkpoints(tmp_path, 5, 2, "hash")
        guard = Guard(GuardConfig(), tmp_path, World())
        train(engine, loader, lambda step: 0.0, log, checkpoints, guard, Clock(), start=5, steps=10)


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
    rates = {"samples_per_s": 16 * 2 / 6, "wait_share": 2 / 6, "save_share": 0.0}
    assert clock.rates(2) == rates
    assert clock.rates(2)["samples_per_s"] == 0.0


def test_scalars_of_micro_batches_are_stacked_by_name() -> None:
    parts = [{"loss": torch.tensor(1.0)}, {"loss": torch.tensor(2.0), "pose": torch.tensor(3)}]
    found = stacked(parts)
    assert found["loss"].tolist() == [1.0, 2.0] and found["pose"].tolist() == [3.0]
