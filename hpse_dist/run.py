"""Composition root: a recipe and a place in the world become a run folder.

    recipe.yaml  environment.json  metrics.jsonl  events.out.tfevents.*  panels/
    checkpoints/step_00001000/  encoder.safetensors  card.json  examples.parquet  report.json  DONE

Given the same recipe again, a run goes on from its newest good checkpoint, or says that it is done.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hpse_dist.accounting import Account, Clock
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.config import build, dump, flat, to_dict
from hpse_dist.data.decoding import Hire
from hpse_dist.data.leakage import KEY as LEAKAGE
from hpse_dist.disk import write_text
from hpse_dist.feed import make_feed
from hpse_dist.guard import Guard
from hpse_dist.log import RunLog
from hpse_dist.meter import Meter
from hpse_dist.models.frozen import thawed
from hpse_dist.models.timm_encoder import timm_call
from hpse_dist.objectives.base import Objective
from hpse_dist.objectives.unpaired import OWN_POSES
from hpse_dist.optim import schedule
from hpse_dist.pace import Pace
from hpse_dist.planning.measure import settled
from hpse_dist.planning.plan import Plan
from hpse_dist.recipe import (
    CollectionUse,
    FinetuneRecipe,
    HeldOut,
    PretrainRecipe,
    TrainingRecipe,
    collection_of,
)
from hpse_dist.run_folder import opened
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
from hpse_dist.train import train
from hpse_dist.watch import Watch
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
        every, over = machine.log_every, start == recipe.steps
        with RunLog(folder, world, every, start=start, unmeasured=over) as record:
            record.text("recipe", dump(recipe))
            record.settings(flat(to_dict(recipe), ignore=("machine", "name", "collections")))
            pace = Pace(folder, world, clock, plan.together.compute_s if plan else None)
            watch = Watch(recipe, engine, record, account, meter, feed, loader, pace)
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
            if reached < recipe.steps or not watch.measured(told):
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
