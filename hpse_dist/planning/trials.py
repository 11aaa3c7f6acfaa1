"""Settings of a recipe, tried one after the other by real engines: a few micro-steps of each.

Every rank makes the same calls, and a rank that cannot go on says so to the others.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from hpse_dist.collectives import gather_objects
from hpse_dist.compiling import compile_blocks
from hpse_dist.engine import Engine, build_engine
from hpse_dist.fields import Batch
from hpse_dist.models.blocks import TransformerBlock
from hpse_dist.planning.candidates import engines, micro_batches, resized, slowest
from hpse_dist.planning.memory import need
from hpse_dist.planning.plan import Setting, Trial, best
from hpse_dist.recipe import TrainingRecipe
from hpse_dist.starting import module_of
from hpse_dist.world import World

# Updates before the first that counts: on a GPU the second has AdamW's moments too, so that what
# does not fit shows while ranks can still tell one another.
WARM = {"cpu": 1, "cuda": 2}
LEAST = 3  # updates that count, however slow
SHARE = 0.06  # of the budget, for the updates that count


class Budget:
    """The time that a measurement is to take; what goes into compiling comes on top."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.compiling = 0.0
        self._began = time.perf_counter()

    def taken(self) -> float:
        """Seconds since it began, all of them."""
        return time.perf_counter() - self._began

    def passed(self) -> float:
        """Seconds of the budget that are gone."""
        return self.taken() - self.compiling


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """What the work takes on the device."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def engine_with(
    setting: Setting,
    recipe: TrainingRecipe,
    world: World,
    device: torch.device,
    accumulation: int,
) -> Engine:
    """An engine around a module of its own, to be closed; it learns slowly."""
    recipe = replace(recipe, machine=setting.applied(recipe.machine))
    module, _ = module_of(recipe)
    if setting.compile:
        compile_blocks(module, device)
    engine = build_engine(
        setting.engine,
        module,
        recipe.optim,
        world=world,
        device=device,
        accumulation=accumulation,
        micro_batch=setting.micro_batch,
        precision=recipe.precision,
        zero_stage=setting.zero_stage,
    )
    engine.set_lr(recipe.optim.lr * 1e-3)
    return engine


class Trials:
    """All that are made of one recipe; collective."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        world: World,
        device: torch.device,
        budget: Budget,
        module: nn.Module,
        example: Batch,
    ) -> None:
        """`module`: the recipe's, to be looked at only; `example`: a batch of any size."""
        self.recipe, self.world, self.device, self.budget = recipe, world, device, budget
        self.example = example
        self.has_blocks = any(isinstance(part, TransformerBlock) for part in module.modules())

    def made(self) -> list[Trial]:
        """Micro-batches with the simplest engine; those that do not fit, with recomputing; the best
        compiled; then the other engines with the best of all these."""
        recipe, size = self.recipe, self.world.size
        found = self._micro_batches()
        if all(trial.failed for trial in found):
            quick = found[-1].setting
        else:
            quick = best(found, recipe.global_batch, size)
            if self._compiling_may_pay():
                found.append(self._tried_in_time(replace(quick, compile=True)))
                quick = best(found, recipe.global_batch, size)
        for engine, stage in engines(recipe, size):
            whole = quick.compile and stage < 3  # which takes parameters away within a block
            setting = replace(quick, engine=engine, zero_stage=stage, compile=whole)
            found.append(self._tried_in_time(setting))
        return found

    def _micro_batches(self) -> list[Trial]:
        recipe, size = self.recipe, self.world.size
        again, cuda = recipe.machine.recompute and self.has_blocks, self.device.type == "cuda"
        # On a CPU a process that runs out of memory is ended, so what the recipe spares is spared.
        first = Setting("plain" if size == 1 else "ddp", 0, 1, recompute=again and not cuda)
        found = [self.tried(replace(first, micro_batch=m)) for m in micro_batches(recipe, size)]
        if not (cuda and self.has_blocks):
            return found
        over = [trial.setting for trial in found if trial.failed]
        if again and len(over) < len(found):  # asked for, so at least compared
            over.append(best(found, recipe.global_batch, size))
        return found + [self.tried(replace(setting, recompute=True)) for setting in over]

    def _compiling_may_pay(self) -> bool:
        """On GPUs. On CPUs where the recipe has it: a step of the demo took 0.57 s of a core either
        way, after two minutes of compiling (EPYC with AVX2, torch 2.10, 2026-11-22)."""
        return self.has_blocks and (self.device.type == "cuda" or self.recipe.machine.compile)

    def _tried_in_time(self, setting: Setting) -> Trial:
        late = self.budget.passed() > 0.6 * self.budget.seconds
        if any(gather_objects(late)):
            return Trial(setting, failed="no time left; raise machine.plan_seconds")
        return self.tried(setting)

    def tried(self, setting: Setting) -> Trial:
        """The measurement of one setting, or why there is none."""
        reasons = gather_objects(self._too_large(setting))  # GPUs may differ
        if any(reasons):
            return Trial(setting, failed=next(filter(None, reasons)))
        made: list[Engine] = []
        start = self.budget.taken()
        try:
            with_it = (setting, self.recipe, self.world, self.device, 2)
            why = self._refusal(setting, lambda: made.append(engine_with(*with_it)))
            return Trial(setting, failed=why) if why else self._timed(made[0], setting)
        finally:
            while made:
                made.pop().close()
            self._tidy()
            if setting.compile:  # what is compiled well or in vain takes its share, and no more
                share = SHARE * self.budget.seconds
                self.budget.compiling += max(0.0, self.budget.taken() - start - share)

    def _too_large(self, setting: Setting) -> str:
        """What the model of memory says against it on a GPU, before anything is tried."""
        if self.device.type != "cuda":
            return ""
        recipe = replace(self.recipe, machine=setting.applied(self.recipe.machine))
        try:
            peak = need(recipe, self.world.size, self.example, self.device).peak
        except ValueError:
            return ""  # not to be told beforehand: trying will tell
        room = torch.cuda.get_device_properties(self.device).total_memory
        if peak < 0.95 * room:
            return ""
        return f"would need {peak / 2**30:.1f} GiB of {room / 2**30:.1f}"

    def _refusal(self, setting: Setting, work: Callable[[], object]) -> str:
        """Do the work; what any rank has against the setting, the same on every rank.

        GPUs differ, or others use them too: so one rank alone may run out of memory. The others
        hear of it here, unless it ran out within an exchange: in that they wait for it until the
        process group gives up, and nothing can be done from outside.
        """
        why = ""
        try:
            work()
        except torch.OutOfMemoryError:
            why = "out of memory"
        except (RuntimeError, ValueError) as error:
            if not setting.compile:
                raise
            why = f"cannot be compiled: {str(error).strip().splitlines()[0][:200]}"
        if why:
            self._tidy()  # the answer needs a little memory itself
        return next(filter(None, gather_objects(why)), "")

    def _timed(self, engine: Engine, setting: Setting) -> Trial:
        """Two micro-steps an update: the first ends nothing, the second sends and moves."""
        batch = resized(self.example, setting.micro_batch)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start, warm = time.perf_counter(), WARM[self.device.type]
        for _ in range(2 * warm):
            why = self._part_by_part(engine, setting, batch)
            if why:
                return Trial(setting, failed=why)
        wait_for(self.device)
        warming = time.perf_counter() - start
        first: list[float] = []
        last: list[float] = []

        def counted() -> None:
            for times in (first, last):
                times.append(seconds_of(lambda: _micro_step(engine, batch), self.device))

        start = time.perf_counter()
        for number in itertools.count(1):
            why = self._refusal(setting, counted)
            if why:
                return Trial(setting, failed=why)
            enough = time.perf_counter() - start > SHARE * self.budget.seconds
            if number >= LEAST and all(gather_objects(enough)):
                break
        own = statistics.median(first), statistics.median(last)
        micro, whole = slowest(own[0]), slowest(own[1])
        compiling = slowest(max(0.0, warming - warm * sum(own))) if setting.compile else 0.0
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        most = max(gather_objects(peak))
        return Trial(setting, micro, max(0.0, whole - micro), most, compiling)

    def _part_by_part(self, engine: Engine, setting: Setting, batch: Batch) -> str:
        """One micro-step, of which no rank begins a part before all have ended the last; what any
        of them has against it. A forward pass, the likeliest to run out of memory, mostly
        exchanges nothing."""
        losses: list[Any] = []
        parts = (
            lambda: losses.append(engine(batch)["loss"]),
            lambda: engine.backward(losses.pop()),
            engine.step,
        )
        refusals = (self._refusal(setting, part) for part in parts)
        return next(filter(None, refusals), "")

    def _tidy(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _micro_step(engine: Engine, batch: Batch) -> None:
    engine.backward(engine(batch)["loss"])
    engine.step()
