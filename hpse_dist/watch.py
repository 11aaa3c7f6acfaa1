"""What happens beside training: evaluations, probes, panels, and the account of its cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np

from hpse_dist.accounting import Account
from hpse_dist.checkpoint import one_failure
from hpse_dist.data.loader import Loader
from hpse_dist.disk import disk_error
from hpse_dist.engine import Engine
from hpse_dist.examples import FILE, file_on, in_order, write_examples
from hpse_dist.feed import Feed, judged, sources_of
from hpse_dist.guard import DataGuard
from hpse_dist.live_probe import LiveProbe
from hpse_dist.log import METRICS_FILE, RunLog, read_metrics
from hpse_dist.meter import Meter
from hpse_dist.objectives.base import Objective
from hpse_dist.pace import Pace
from hpse_dist.protocols.score import Score
from hpse_dist.recipe import FinetuneRecipe, HeldOut, TrainingRecipe
from hpse_dist.run_folder import keep_scores
from hpse_dist.train import evaluate
from hpse_dist.whole_set import Collector, collectors, scores


class Watch:
    """What happens beside training: evaluations on held-out subjects, panels, the account."""

    def __init__(
        self,
        recipe: TrainingRecipe,
        engine: Engine,
        record: RunLog,
        account: Account,
        meter: Meter,
        feed: Feed,
        loader: Loader,
        pace: Pace,
    ) -> None:
        self.loader, self.pace = loader, pace
        self.data = DataGuard(
            recipe.machine.bad_records,
            sum(len(items.first) for items in loader.items),
            record.folder,
            engine.world,
        )
        self.recipe, self.engine, self.record, self.account = recipe, engine, record, account
        self.meter, self.feed = meter, feed
        config, seen = recipe.machine.probe, (recipe.encoder.image_px, recipe.evaluation_batch)
        self.probe = LiveProbe(config, sources_of(recipe, "val"), *seen) if config else None

    def __call__(self, step: int) -> None:
        """After every optimizer step, on every rank."""
        last = step == self.recipe.steps
        self.account.made(step)
        if self.record.due(step) or last:
            used = self.meter.read()
            used["core_seconds"] += self.loader.core_seconds
            self.account.used(self.engine.gather(used))
            self._look_at_data(step)
        if self.record.due(step):
            self.pace.look(step)
            share = self.account.figures()["effective"]
            self.record.scalars(step, {"run/effective": share if share is not None else math.nan})
        if last:
            return  # what then is measured may take long, so the checkpoint comes first
        if self.probe is not None and self.probe.due(step):
            self._probe(step)
        if self.feed.held_out is None:
            return
        if step % self.recipe.evaluate_every == 0:
            self._evaluate(step)
        if step % self.recipe.machine.panels_every == 0:
            self._panels(step)

    def measured(self, told: Callable[[], bool]) -> bool:
        """Measure the finished model and have it on the disk; False where told to stop before it
        is. Done again where a run was ended meanwhile. Collective."""
        works = [self._probe] if self.probe is not None else []
        if isinstance(self.recipe, FinetuneRecipe):
            works += [partial(self._test, test, self.recipe) for test in self.recipe.tests]
        if self.feed.held_out is not None:
            works += [partial(self._evaluate, last=True), self._panels]
        for work in works:
            if self.engine.any_rank(told()):
                return False
            work(self.recipe.steps)
        failure = one_failure(self.engine, self.record.flush)
        if failure is not None:
            raise disk_error(f"{self.record.folder}: the last figures could not be kept: {failure}")
        return True

    def _probe(self, step: int) -> None:
        assert self.probe is not None
        figures = self.probe.look(self.engine)
        if figures:
            self.record.scalars(step, {f"probe/{name}": value for name, value in figures.items()})

    def _panels(self, step: int) -> None:
        together = self.recipe.evaluation_batch * self.engine.world.size
        batch = next(iter(self.feed.pictures(together)))
        with self.engine.evaluating() as module:  # all ranks: a sharded module needs them
            self.record.panels(step, cast(Objective, module).panels(batch))

    def _look_at_data(self, step: int) -> None:
        """Take note of what went wrong with the data of all ranks since the last time."""
        loader = self.loader
        bad = [(one.sample_id, str(one)) for one in loader.bad_records]
        mended = [(one.kind, one.why) for one in loader.incidents] + self.record.incidents
        loader.bad_records.clear()
        loader.incidents.clear()
        self.record.incidents.clear()
        ranks = self.engine.gather((bad, mended))
        self.data.note(step, [x for bad, _ in ranks for x in bad], [x for _, i in ranks for x in i])
        if self.data.bad_records:
            self.record.scalars(step, {"run/bad_records": self.data.bad_records})

    def _collectors(self) -> list[Collector]:
        """What makes figures of the whole held-out set, of a task in the end."""
        if not isinstance(self.recipe, FinetuneRecipe):
            return []
        assert self.feed.held_out is not None
        collection = self.feed.held_out.collection
        return collectors(self.engine.module, self.recipe.protocol(), collection)

    def _evaluate(self, step: int, last: bool = False) -> None:
        """Log the figures of what is held out: means over examples, and in the end those of the
        whole set; then what each example gave is kept too."""
        held_out = self.feed.evaluation(self.recipe.evaluate_limit)
        also = self._collectors() if last else []
        kept: list[dict[str, np.ndarray]] | None = [] if last else None
        means = evaluate(self.engine, held_out, also, kept)
        if kept is not None:
            self._keep(kept)
        found = scores(self.engine, also)
        if isinstance(self.recipe, FinetuneRecipe) and self.recipe.protocol() in found:
            means = found.pop(self.recipe.protocol()).figures | means
        if found:  # of other protocols, so they have no place among the run's own
            keep_scores(self.record.folder, found)
        self.record.scalars(step, {f"val/{name}": value for name, value in means.items()})

    def _test(self, test: HeldOut, recipe: FinetuneRecipe, step: int) -> None:
        """Measure the finished model on frames that the recipe names besides; collective."""
        source, protocol = judged(test, recipe, self.feed.sampling), recipe.protocol()
        also = collectors(self.engine.module, protocol, source.collection)
        kept: list[dict[str, np.ndarray]] = []
        means = evaluate(self.engine, self.feed.pictures(None, source), also, kept)
        ranks = self.engine.gather(kept)
        found = scores(self.engine, also)
        if self.engine.world.is_main:
            whole = found.pop(protocol).figures if protocol in found else {}
            known = {n: value for n, value in (whole | means).items() if math.isfinite(value)}
            columns, file = in_order(ranks), file_on(test.tag())
            write_examples(self.record.folder / file, source.collection, columns)
            found[protocol] = Score(protocol, known, len(columns["sample_id"]), each=file)
            keep_scores(self.record.folder, {test.by(name): one for name, one in found.items()})
            scalars = {f"tests/{test.tag()}/{name}": value for name, value in known.items()}
            self.record.scalars(step, scalars)

    def _keep(self, mine: list[dict[str, np.ndarray]]) -> None:
        """Write the examples of all ranks; collective."""
        ranks = self.engine.gather(mine)
        if self.engine.world.is_main and self.feed.held_out is not None:
            path = self.record.folder / FILE
            write_examples(path, self.feed.held_out.collection, in_order(ranks))

    def figures(self) -> dict[str, Any]:
        """Final metrics and their history, out of the committed log (main process)."""
        if not self.engine.world.is_main:
            return {}
        log = self.record.folder / METRICS_FILE
        rows = read_metrics(log) if log.is_file() else []  # too few steps for a line
        history = [
            {"step": row["step"], **{k[4:]: v for k, v in row.items() if k.startswith("val/")}}
            for row in rows
            if any(key.startswith("val/") for key in row)
        ]
        rates = [row["samples_per_s"] for row in rows if row.get("samples_per_s")]
        return {
            "metrics": {k: v for k, v in history[-1].items() if k != "step"} if history else {},
            "history": history,
            "samples_per_s": statistics.median(rates) if rates else None,
        }
