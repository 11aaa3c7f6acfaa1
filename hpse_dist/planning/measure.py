"""Measure a recipe's settings on the machine at hand, on all its trainers at once.

Real batches of the real loader, the settings of `trials`, then the best of them with the loader;
every rank makes the same calls. Nothing of a run is touched: modules are made for the measurement
and thrown away.
"""

from __future__ import annotations

import logging
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hpse_dist.accounting import Clock
from hpse_dist.collectives import gather_objects
from hpse_dist.data.decoding import Hire
from hpse_dist.data.items import Source, read_items
from hpse_dist.data.loader import Loader
from hpse_dist.engine import Engine
from hpse_dist.feed import Feed, judged, make_feed, sources_of
from hpse_dist.fields import Batch
from hpse_dist.planning.candidates import enough_threads, from_main, slowest
from hpse_dist.planning.plan import (
    WAITING,
    Link,
    Loading,
    Plan,
    Setting,
    Together,
    best,
    key_of,
    machine_name,
    store,
    stored,
)
from hpse_dist.planning.trials import LEAST, WARM, Budget, Trials, engine_with, seconds_of, wait_for
from hpse_dist.recipe import TrainingRecipe
from hpse_dist.starting import module_of, set_up_process
from hpse_dist.train import update
from hpse_dist.world import World

log = logging.getLogger(__name__)

AUTO = "auto"
LINK_BYTES = 32 << 20  # of a large all-reduce
FILLING = 0.5  # of the budget: what decoding all beforehand may take then, on top of it


def plan(recipe: TrainingRecipe, world: World, folder: Path, hire: Hire | None = None) -> None:
    """Measure, and write plan.json into the run's folder; `hire` as of `run.pretrain`."""
    device = set_up_process(recipe, world)
    made = Measurement(_simplest(recipe, world), world, device, hire).plan()
    if world.is_main:
        store(made, folder)


def settled(
    recipe: TrainingRecipe,
    world: World,
    folder: Path,
    device: torch.device,
    hire: Hire | None = None,
) -> tuple[TrainingRecipe, Plan | None]:
    """The recipe without `engine: auto`, by its plan, which is measured where there is none; and
    the plan that it has, if any."""
    auto = recipe.machine.engine == AUTO
    if auto:
        recipe = _simplest(recipe, world)
    found = from_main(stored(folder, key_of(recipe, world, device)) if world.is_main else None)
    if auto and found is None:
        log.info("no plan of %s for this machine yet: measuring", recipe.name)
        found = Measurement(recipe, world, device, hire).plan()
        set_up_process(recipe, world)  # as if nothing had been drawn
    if found is None:
        return recipe, None
    if world.is_main:
        store(found, folder)
    return (found.applied(recipe) if auto else recipe), found


def _simplest(recipe: TrainingRecipe, world: World) -> TrainingRecipe:
    """With as many trainers as there are, after a loss fewer than were asked for: micro-batches are
    chosen for these; and in place of `auto` the engine that the others are measured against."""
    engine: Any = recipe.machine.simplest(world.size)
    return replace(recipe, machine=replace(recipe.machine, engine=engine, workers=world.size))


class Measurement:
    """One measurement of about `machine.plan_seconds`; collective."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        world: World,
        device: torch.device,
        hire: Hire | None = None,
    ) -> None:
        if getattr(recipe, "encoder_frozen", False):
            raise ValueError(
                "a plan is for training on pictures; a probe (encoder_frozen) takes its tokens "
                "from a shelf and needs none: choose its engine by hand"
            )
        self.recipe, self.world, self.device, self.hire = recipe, world, device, hire
        self.module, _ = module_of(recipe)  # for what it needs: engines have one of their own
        learns = [p for p in self.module.parameters() if p.requires_grad]
        self.parameter_bytes = sum(p.numel() * p.element_size() for p in learns)
        self.budget = Budget(recipe.machine.plan_seconds)

    def plan(self) -> Plan:
        """Loader, micro-batches, engines, then the best of them with the loader."""
        recipe, world = self.recipe, self.world
        loading, example = self._loading()
        trials = Trials(recipe, world, self.device, self.budget, self.module, example).made()
        chosen = best(trials, recipe.global_batch, world.size)
        threads = enough_threads(loading, next(t for t in trials if t.setting == chosen))
        feed = self._feed(threads, chosen.micro_batch)
        together, evaluation_s = self._together(chosen, feed)
        evaluation_rows, test_rows = self._judged(feed)
        found = [together, *self._in_memory(chosen, threads, together, loading)]
        if found[-1].samples_per_s > (1 + WAITING) * together.samples_per_s:
            found.reverse()
        return Plan(
            name=recipe.name,
            key=key_of(recipe, world, self.device),
            made=datetime.now().isoformat(timespec="minutes"),
            seconds=round(self.budget.taken(), 1),
            world_size=world.size,
            local_size=world.local_size,
            global_batch=recipe.global_batch,
            device=self.device.type,
            machine=machine_name(self.device),
            cores=os.cpu_count() or 1,
            parameter_bytes=self.parameter_bytes,
            trials=tuple(trials),
            loading=tuple(loading),
            link=self._link(),
            together=found[0],
            other_loaders=tuple(found[1:]),
            chosen=chosen,
            loader_threads=threads,
            evaluation_s=evaluation_s,
            evaluation_rows=evaluation_rows,
            test_rows=test_rows,
        )

    # -- the loader

    def _loading(self) -> tuple[list[Loading], Batch]:
        """Its rate with more and more threads, until more are of no use; and one batch."""
        cores = (os.cpu_count() or 1) // self.world.local_size
        most = max(1, min(gather_objects(cores)))  # trainers may sit unevenly on machines
        given = self.recipe.machine.loader_threads
        found: list[Loading] = []
        example: Batch = {}
        inline = self.recipe.machine.loader == "inline"
        for threads in sorted({1, given, *(2**i for i in range(1, 6))}) if inline else [given]:
            if threads > max(most, given):
                break
            loader = self._fitting(threads)
            if not all(gather_objects(loader is not None)) or loader is None:
                if loader is not None:
                    loader.close()
                break
            try:
                batches = iter(loader)
                example = next(batches)
                rate = self._rate(batches, 0.05 * self.budget.seconds)
            finally:
                loader.close()
            rate = min(gather_objects(rate))
            if found and rate < 1.1 * found[-1].samples_per_s:
                break
            found.append(Loading(threads, rate))
        return found, {name: value.clone() for name, value in example.items()}

    def _fitting(self, threads: int) -> Loader | None:
        """The loader; None where local copies for more threads than the recipe's do not fit."""
        try:
            return self._feed(threads=threads).loader()
        except ValueError:
            if threads <= self.recipe.machine.loader_threads:
                raise
            return None

    def _rate(self, batches: Iterator[Batch], seconds: float) -> float:
        """Samples per second, what was ready beforehand left out."""
        for _ in range(4):
            next(batches)
        start, count = time.perf_counter(), 0
        while (passed := time.perf_counter() - start) < seconds or not count:
            count += len(next(iter(next(batches).values())))
            wait_for(self.device)
        return count / passed

    def _feed(self, threads: int, micro_batch: int | None = None, **changes: Any) -> Feed:
        machine = self.recipe.machine
        changes |= {
            "loader_threads": threads,
            "micro_batch": micro_batch or machine.micro_batch,
        }
        recipe = replace(self.recipe, machine=replace(machine, **changes))
        return make_feed(recipe, self.module, self.world, self.device, self.hire)

    # -- the link

    def _link(self) -> Link | None:
        """What a large and a small all-reduce take; None where there is one process."""
        if self.world.size == 1:
            return None
        small, large = (
            torch.zeros(size // 4, device=self.device)
            for size in (4, min(LINK_BYTES, max(1 << 20, self.parameter_bytes)))
        )
        seconds = []
        for tensor in (small, large):
            dist.all_reduce(tensor)
            times = [seconds_of(partial(dist.all_reduce, tensor), self.device) for _ in range(5)]
            seconds.append(slowest(statistics.median(times)))
        passed = 2 * (self.world.size - 1) / self.world.size * large.nbytes
        return Link(passed / max(1e-9, seconds[1] - seconds[0]), seconds[0])

    # -- training as it will be

    def _in_memory(
        self, chosen: Setting, threads: int, inline: Together, loading: list[Loading]
    ) -> list[Together]:
        """The same with the collections held in memory, where threads cannot keep up, all is
        decoded soon, and it fits; else nothing."""
        if inline.loader != "inline" or inline.wait_share < WAITING:
            return []
        feed = self._feed(threads, chosen.micro_batch, loader="resident")
        frames = sum(source.collection.num_frames for source in sources_of(feed.recipe, "train"))
        rate = self.world.local_size * max(one.samples_per_s for one in loading)
        if slowest(frames / rate) > FILLING * self.budget.seconds:
            return []
        try:  # decoding begins with the first batch
            return [self._together(chosen, feed)[0]]
        except ValueError as error:  # on all ranks
            log.info("%s", error)
            return []

    def _together(self, chosen: Setting, feed: Feed) -> tuple[Together, float]:
        """The chosen setting with the feed's loader for the time that is left, and the seconds of a
        batch of the evaluation."""
        recipe, world = self.recipe, self.world
        accumulation = recipe.global_batch // (world.size * chosen.micro_batch)
        engine = engine_with(chosen, recipe, world, self.device, accumulation)
        loader, clock = feed.loader(), Clock()
        try:
            batches = iter(loader)
            for _ in range(WARM[self.device.type]):
                update(engine, clock, batches)
            clock.rates(1)
            times: list[float] = []
            cores, start = time.process_time(), time.perf_counter()
            while True:
                times.append(
                    seconds_of(partial(self._counted, engine, clock, batches), self.device)
                )
                least = min(5.0, 0.2 * self.budget.seconds)
                enough = (
                    self.budget.passed() > self.budget.seconds
                    and time.perf_counter() - start > least
                )
                if len(times) >= LEAST and all(gather_objects(enough)):
                    break
            used = time.process_time() - cores
            rates = clock.rates(world.size)
            evaluation_s = self._evaluation(engine, feed)
        finally:
            loader.close()
            engine.close()
        samples = len(times) * accumulation * chosen.micro_batch
        alone = (1 - rates["wait_share"]) * world.size / rates["samples_per_s"]
        together = Together(
            samples_per_s=min(gather_objects(rates["samples_per_s"])),
            wait_share=max(gather_objects(rates["wait_share"])),
            compute_s=slowest(alone),
            core_s=statistics.mean(gather_objects(used / samples)),
            spread=(max(times) - min(times)) / 2 / statistics.median(times),
            loader=feed.recipe.machine.loader,
        )
        return together, evaluation_s

    def _counted(self, engine: Engine, clock: Clock, batches: Iterator[Batch]) -> None:
        with clock.updating():
            update(engine, clock, batches)

    def _evaluation(self, engine: Engine, feed: Feed) -> float:
        """Seconds of one batch of an evaluation; 0 where there is none."""
        if not (sources := [*self._held_out(feed), *self._tests(feed)]):
            return 0.0
        rows = self.recipe.evaluation_batch * self.world.size
        pictures = feed.pictures(2 * rows, sources[0])
        next(pictures)  # starts the decoding
        with engine.evaluating() as module:
            seconds = seconds_of(lambda: [module.metrics(batch) for batch in pictures], self.device)
        return slowest(seconds)

    def _judged(self, feed: Feed) -> tuple[int, int]:
        """How many samples an evaluation has, and all tests in the end."""
        held, tests = (
            sum(len(read_items(source, feed.sampling).first) for source in sources)
            for sources in (self._held_out(feed), self._tests(feed))
        )
        limit = self.recipe.evaluate_limit
        return held if limit is None else min(held, limit), tests

    def _held_out(self, feed: Feed) -> list[Source]:
        return [] if feed.held_out is None else [feed.held_out]

    def _tests(self, feed: Feed) -> list[Source]:
        tests = getattr(self.recipe, "tests", ())
        return [judged(one, self.recipe, feed.sampling) for one in tests]
