"""The two loops: `train` moves the weights, `evaluate` measures them.

Both know an engine, a loader and a module, and nothing of any one objective or task.
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hpse_dist.accounting import Clock, straggler
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.engine import Engine, Refusal
from hpse_dist.fields import Batch
from hpse_dist.guard import Guard
from hpse_dist.log import RunLog

_log = logging.getLogger(__name__)


class Loader(Protocol):
    """An endless iterator of micro-batches that knows its place in the data."""

    def __iter__(self) -> Iterator[Batch]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def train(
    engine: Engine,
    loader: Loader,
    schedule: Callable[[int], float],
    log: RunLog,
    checkpoints: Checkpoints,
    guard: Guard,
    clock: Clock,
    *,
    start: int,
    steps: int,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[int], None] | None = None,
) -> int:
    """Run updates start + 1 .. steps, from a state that `checkpoints.resume` may have restored.

    `should_stop`, true on any rank, ends the run after an update with a checkpoint: where there are
    several ranks they are asked as an update begins, so that nobody waits for the answer, and one
    more may be made. `on_step` comes after each update and its log, before its checkpoint, on every
    rank. Returns the step reached. A loss or gradient that is not finite skips its update; where
    `guard` has had enough, the run goes back to a checkpoint and past the batches since, or ends in
    `GivenUp`.
    """
    if engine.updates != start:
        raise ValueError(f"the engine has made {engine.updates} updates, not the {start} to go on")
    batches = iter(loader)
    step = start
    while step < steps:
        step += 1
        lr = schedule(step)
        engine.set_lr(lr)
        told = engine.ask_ranks(should_stop)
        with clock.updating():
            parts, refusal = update(engine, clock, batches)
        trouble = _judge(engine, guard, step, parts, refusal, step / steps)
        if trouble is not None:
            step = _go_back(engine, loader, log, checkpoints, guard, step, trouble)
            batches = iter(loader)
            continue
        if log.due(step) and refusal is None:
            means = engine.mean_over_ranks(stacked(parts)) | {"lr": lr} | engine.stats()
            _name_straggler(engine, clock, step)
            log.scalars(step, means | clock.rates(engine.world.size))
        if on_step is not None:
            on_step(step)
        stop = told()
        with clock.saving():
            if step == steps or stop:
                checkpoints.save(engine, loader, step, before=log.flush)
            elif checkpoints.due(step):
                checkpoints.begin(engine, loader, step, before=log.flush)
            else:
                checkpoints.settle(engine)
        if stop:
            return step
    return steps


def _name_straggler(engine: Engine, clock: Clock, step: int) -> None:
    """Say which rank the others wait for, by the time of what each does alone."""
    ranks = engine.gather((clock.own(), platform.node()))
    found = straggler([seconds for seconds, _ in ranks])
    rank, times = found or (None, 0.0)
    news, clock.straggler = rank is not None and rank != clock.straggler, rank
    if rank is not None and news and engine.world.is_main:
        _log.warning(
            "step %d: rank %d on %s takes %.1f times as long as the median rank for its data and "
            "forward pass; the others wait for it",
            *(step, rank, ranks[rank][1], times),
        )


class GivenUp(ValueError):
    """Training went wrong more often than its recipe allows."""


def update(
    engine: Engine, clock: Clock, batches: Iterator[Batch]
) -> tuple[list[dict[str, Tensor]], Refusal | None]:
    """One update: the scalars of its micro-batches, and why it was refused, if it was."""
    parts, refusal = [], None
    for _ in range(engine.accumulation):
        with clock.working():
            batch = clock.next(batches)
            scalars = engine(batch)
        engine.backward(scalars["loss"])
        refusal = engine.step()  # moves the weights on the last micro-step only
        parts.append({name: value.detach() for name, value in scalars.items()})
    return parts, refusal


def _judge(
    engine: Engine,
    guard: Guard,
    step: int,
    parts: list[dict[str, Tensor]],
    refusal: Refusal | None,
    progress: float,
) -> str | None:
    """End the step for the module; a sentence if the run must go back."""
    if refusal is not None:
        engine.module.after_refusal()
        _log.warning("%s; the step is skipped", refusal)
        return guard.refused(refusal)
    engine.module.after_step(progress)
    loss = engine.mean_over_ranks(stacked(parts))["loss"] if guard.wants_loss else None
    return guard.made(step, loss)


def _go_back(
    engine: Engine,
    loader: Loader,
    log: RunLog,
    checkpoints: Checkpoints,
    guard: Guard,
    step: int,
    trouble: str,
) -> int:
    """To an earlier checkpoint's weights, and past the batches since; returns its step."""
    advice = "look at these samples, lower the learning rate, or clip the gradient (optim.clip)"
    if guard.returns == guard.config.returns:
        raise GivenUp(f"{trouble}; the run has gone back {guard.returns} times already: {advice}")
    checkpoints.settle(engine, wait=True)
    place = loader.state_dict()
    found = checkpoints.go_back(engine, step - guard.config.back)
    if found is None:
        raise GivenUp(f"{trouble}, and there is no checkpoint to go back to: {advice}")
    loader.load_state_dict(place)
    log.rewind(found)
    guard.went_back(step, found, trouble, place)
    _log.warning("%s; back to step %d, past the batches since", trouble, found)
    checkpoints.save(engine, loader, found)  # else a restart would meet those batches again
    return found


def stacked(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Scalars of several micro-batches, {name: ()} each -> {name: (micro-batches,)}."""
    names = {name: None for part in parts for name in part}
    return {
        name: torch.stack([part[name].float() for part in parts if name in part]) for name in names
    }


def evaluate(
    engine: Engine,
    batches: Iterable[Batch],
    also: Sequence[Callable[[Any, Batch], None]] = (),
    kept: list[dict[str, np.ndarray]] | None = None,
) -> dict[str, float]:
    """Means of the module's metrics over all valid examples of all ranks, with its summary.

    Each metric is (B,), one value per example; NaN: this example has none; infinite: its prediction
    is no number, and then the mean is none either. Rows with `valid` False are padding. Sums are
    float64 and added in rank order, so a mean depends on the number of ranks by rounding alone.
    Collective; every rank brings as many batches. `also` are called with the module and each batch;
    `kept` is given each batch's sample ids, `valid` and metrics of this rank.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    with engine.evaluating() as module:
        for batch in batches:
            for other in also:
                other(module, batch)
            figures = module.metrics(batch)
            if kept is not None:
                kept.append(_kept(batch, figures))
            for name, values in figures.items():
                keep = ~values.isnan()
                if "valid" in batch:
                    keep &= batch["valid"]
                total = values.double().where(keep, 0.0).sum()
                sums[name] = sums[name] + total if name in sums else total
                counts[name] = counts[name] + keep.sum() if name in counts else keep.sum()
        mine = {name: (sums[name].item(), int(counts[name].item())) for name in sums}
        means = _means(engine.gather(mine))
        if lost := sorted(name for name, mean in means.items() if math.isinf(mean)):
            if engine.world.is_main:
                _log.warning(
                    "held-out predictions are not finite (NaN or infinite): %s have no value; "
                    "take a lower learning rate, or precision: fp32",
                    ", ".join(lost),
                )
            means |= dict.fromkeys(lost, math.nan)
        return means | module.summary(means)


def _kept(batch: Batch, figures: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """A batch's examples, each array (B,)."""
    ids = batch["sample_id"]
    valid = batch.get("valid", torch.ones_like(ids, dtype=torch.bool))
    columns = {name: value.detach().float() for name, value in figures.items()}
    columns |= {"sample_id": ids, "valid": valid}
    return {name: value.cpu().numpy() for name, value in columns.items()}


def _means(ranks: list[dict[str, tuple[float, int]]]) -> dict[str, float]:
    """{name: (sum, count)} of every rank -> {name: mean}, NaN where no example has the metric."""
    names = {name: None for rank in ranks for name in rank}
    means = {}
    for name in names:
        pairs = [rank[name] for rank in ranks if name in rank]
        count = sum(count for _, count in pairs)
        means[name] = sum(total for total, _ in pairs) / count if count else math.nan
    return means
