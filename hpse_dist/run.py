"""Composition root: a recipe and a place in the world become a run folder.

    recipe.yaml  environment.json  metrics.jsonl  events.out.tfevents.*  panels/
    checkpoints/step_00001000/  encoder.safetensors  card.json  examples.parquet  report.json  DONE

Given the same recipe again, a run goes on from its newest good checkpoint, or says that it is done.
"""

from __future__ import annotations

import json
import logging
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from hpse_dist.accounting import Account, Clock
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.config import build, dump, flat, to_dict
from hpse_dist.data.decoding import Hire
from hpse_dist.data.leakage import KEY as LEAKAGE
from hpse_dist.data.loader import Loader
from hpse_dist.disk import write_text
from hpse_dist.engine import Engine
from hpse_dist.examples import FILE, file_on, in_order, write_examples
from hpse_dist.feed import Feed, judged, make_feed, sources_of
from hpse_dist.guard import DataGuard, Guard
from hpse_dist.live_probe import LiveProbe
from hpse_dist.log import METRICS_FILE, RunLog, read_metrics
from hpse_dist.meter import Meter
from hpse_dist.models.frozen import thawed
from hpse_dist.models.timm_encoder import timm_call
from hpse_dist.objectives.base import Objective
from hpse_dist.objectives.unpaired import OWN_POSES
from hpse_dist.optim import schedule
from hpse_dist.pace import Pace
from hpse_dist.planning.measure import settled
from hpse_dist.planning.plan import Plan
from hpse_dist.protocols.score import Score
from hpse_dist.recipe import (
    CollectionUse,
    FinetuneRecipe,
    HeldOut,
    PretrainRecipe,
    TrainingRecipe,
    collection_of,
)
from hpse_dist.run_folder import keep_scores, opened
from hpse_dist.source import (
    DECODER_FILE,
    HEAD_FILE,
    named_by_timm,
    write_decoder,
    write_head,
    write_source,
)
from hpse_dist.starting import engine_of, module_of, set_up_process
from hpse_dist.stopping import told_to_stop
from hpse_dist.tasks.base import Task
from hpse_dist.train import evaluate, train
from hpse_dist.whole_set import Collector, collectors, scores
from hpse_dist.world import World

STOPPED = "told to stop"
log = logging.getLogger(__name__)


def pretrain(recipe: Any, world: World, folder: Path, hire: Hire | None = None) -> None:
    """Run a pre-training recipe (or its plain values) to its end in `folder`.

    `hire` gets the data workers that its `machine.loader` may ask for.
    """
    _begin(build(PretrainRecipe, recipe), world, folder, hire)


def finetune(recipe: Any, world: World, folder: Path, hire: Hire | None = None) -> None:
    """Run a fine-tuning recipe (or its plain values) to its end in `folder`; see `pretrain`."""
    _begin(build(FinetuneRecipe, recipe), world, folder, hire)


def _begin(recipe: TrainingRecipe, world: World, folder: Path, hire: Hire | None) -> None:
    with opened(recipe, world, folder) as to_do:
        if to_do:
            device = set_up_process(recipe, world)
            recipe, plan = settled(recipe, world, folder, device, hire)
            module, facts = module_of(recipe)
            with told_to_stop() as told:
                _run(recipe, module, facts, world, folder, device, hire, plan, told)


def _run(
    recipe: TrainingRecipe,
    module: Objective,
    facts: dict[str, Any],
    world: World,
    folder: Path,
    device: torch.device,
    hire: Hire | None,
    plan: Plan | None,
    told: Callable[[], bool],
) -> None:
    """Train and evaluate to the recipe's last step, then export and report."""
    machine = recipe.machine
    clock = Clock()
    account = Account(folder, world, clock)  # from here on: making the data is part of the cost
    meter = Meter(world, device)
    feed = make_feed(recipe, module, world, device, hire)  # a probe's tokens are part of its cost
    loader = feed.loader()
    if feed.held_out is None and world.is_main:
        log.warning(
            "nobody is held out (no val in %s), so nothing is measured and no panels are made; "
            "`python -m pipelines.collection split` holds subjects out, or held_out names others",
            ", ".join(str(use.path) for use in recipe.collections),
        )
    engine = engine_of(recipe, module, world, device)
    guard = Guard(recipe.guard, folder, world)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        every=machine.checkpoint_every,
        keep=machine.keep_checkpoints,
        recipe_hash=recipe.hash(),
        also={"guard": guard, "clock": clock},
    )
    try:
        start = checkpoints.resume(engine, loader)
        account.resumed(start)
        with RunLog(folder, world, every=machine.log_every, start=start) as record:
            record.text("recipe", dump(recipe))
            record.settings(flat(to_dict(recipe), ignore=("machine", "name", "collections")))
            pace = Pace(folder, world, clock, plan.together.compute_s if plan else None)
            watch = _Watch(recipe, engine, record, account, meter, feed, loader, pace)
            reached = train(
                engine,
                loader,
                lambda step: schedule(step, recipe.steps, recipe.optim),
                record,
                checkpoints,
                guard,
                clock,
                start=start,
                steps=recipe.steps,
                on_step=watch,
                should_stop=told,
            )
            if reached < recipe.steps:
                account.ended(STOPPED)
                if world.is_main:
                    log.warning(
                        "%s: stopped at step %d; give the same command to go on", folder, reached
                    )
                return
            record.done()
            figures = watch.figures()
        weights = engine.full_state_dict()
        if world.is_main:
            card = _card(recipe, module, facts, figures)
            _export(module, weights, card, folder)
            _report(recipe, facts, figures, account, world, folder)
    except (Exception, KeyboardInterrupt) as error:
        account.ended(type(error).__name__ if isinstance(error, Exception) else STOPPED)
        raise
    finally:
        loader.close()
        engine.close()


class _Watch:
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
        if self.probe is not None and (last or self.probe.due(step)):
            figures = self.probe.look(self.engine)
            if figures:
                named = {f"probe/{name}": value for name, value in figures.items()}
                self.record.scalars(step, named)
        if last and isinstance(self.recipe, FinetuneRecipe):
            for test in self.recipe.tests:
                self._test(test, self.recipe, step)
        if self.feed.held_out is None:
            return
        if last or step % self.recipe.evaluate_every == 0:
            self._evaluate(step, last)
        if last or step % self.recipe.machine.panels_every == 0:
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

    def _evaluate(self, step: int, last: bool) -> None:
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


def _card(
    recipe: TrainingRecipe, module: Objective, facts: dict[str, Any], figures: dict[str, Any]
) -> dict[str, Any]:
    """What a source says of itself: recipe, data with licences, figures."""
    data = [_described(use, recipe) for use in recipe.collections]
    poses = getattr(getattr(recipe, "objective", None), "poses", None)
    return {
        "name": recipe.name,
        "kind": facts["kind"],
        "trained_by": facts.get("objective", facts.get("task")),
        "started_from": facts.get("started_from", facts.get("source_card")),
        "opens_with": timm_call(module.encoder.config),
        "steps": recipe.steps,
        "global_batch": recipe.global_batch,
        "recipe_hash": recipe.hash(),
        "collections": data,
        "judged_on": [
            {**_described(one, recipe), "split": one.split, "besides": one is not recipe.held_out}
            for one in recipe.judged()
        ],
        **({} if poses in (None, *OWN_POSES) else {"poses": poses}),
        "metrics": figures["metrics"],
    }


def _described(use: CollectionUse | HeldOut, recipe: TrainingRecipe) -> dict[str, Any]:
    """A collection as a card names it."""
    manifest = collection_of(use, recipe.machine).manifest
    facts_of = ("importer", "licence", "commercial", "citation")
    about = {key: manifest[key] for key in facts_of}
    frames = manifest["files"]["frames.parquet"]["sha256"]  # tells it from its namesakes
    found = {"leakage": manifest[LEAKAGE]} if LEAKAGE in manifest else {}
    name = {"name": use.path.name, "path": str(use.path), "frames": frames}
    return {**name, **about, **found}


def _export(
    module: Objective, weights: dict[str, torch.Tensor], card: dict[str, Any], folder: Path
) -> None:
    """encoder.safetensors with the card beside it, a task's head.safetensors and completion's
    decoder.safetensors."""
    encoder = thawed(module.encoder)
    prefix = "encoder." if named_by_timm(encoder) is encoder else "encoder.model."
    state = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    if encoder is not module.encoder:  # frozen: the source's own
        state = named_by_timm(encoder).state_dict()
    write_source(folder / "encoder.safetensors", encoder.config, state, card)
    write_text(folder / "card.json", json.dumps(card, indent=1))
    if isinstance(module, Task):
        head = {k: v for k, v in weights.items() if not k.startswith("encoder.")}
        write_head(folder / HEAD_FILE, head)
    prefix = "decoder."
    decoder = {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
    if decoder:
        write_decoder(folder / DECODER_FILE, decoder)


def _report(
    recipe: TrainingRecipe,
    facts: dict[str, Any],
    figures: dict[str, Any],
    account: Account,
    world: World,
    folder: Path,
) -> None:
    """report.json, then DONE: from here on the run is finished."""
    account.ended("done")
    report = {
        **facts,
        "name": recipe.name,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "global_batch": recipe.global_batch,
        "seconds": round(account.seconds(), 1),
        "cost": account.cost(),
        "account": account.figures(),
        "world_size": world.size,
        "recipe_hash": recipe.hash(),
        **figures,
    }
    write_text(folder / "report.json", json.dumps(report, indent=1))
    (folder / "DONE").touch()
