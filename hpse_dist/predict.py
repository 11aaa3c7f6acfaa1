"""Predictions of a finished fine-tuning run on held-out frames, as files that can be scored.

predictions/<file>  predictions/<ground truth>    in the layout of the protocol's own server
predictions/<collection>_<split>/...              the same for frames that the run was not judged on
scores.json                                       what they scored, by protocol; reports show it
examples_<collection>_<split>.parquet             of such frames, what each example gave
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpse_dist.data.items import Source
from hpse_dist.data.loader import evaluation_batches
from hpse_dist.examples import file_on, in_order, write_examples
from hpse_dist.feed import held_out, judged, learnt, sampling_of
from hpse_dist.protocols import Protocol, named
from hpse_dist.protocols.examples import Examples
from hpse_dist.protocols.files import FILES, score_files, write, write_coco
from hpse_dist.protocols.score import Score
from hpse_dist.recipe import FinetuneRecipe, HeldOut
from hpse_dist.run_folder import check_data, check_folder, is_done, keep_scores
from hpse_dist.starting import engine_of, set_up_process
from hpse_dist.train import evaluate
from hpse_dist.use import finished_task
from hpse_dist.whole_set import Arrays, Collector
from hpse_dist.world import World

log = logging.getLogger(__name__)

FOLDER = "predictions"


@dataclass(frozen=True)
class Wanted:
    """A run and the protocol that its predictions are for."""

    recipe: FinetuneRecipe
    protocol: str = ""
    """Empty: the task's own."""
    on: HeldOut | None = None
    """Other frames than those the run holds out."""

    def name(self) -> str:
        """How tables call what its predictions score."""
        protocol = named(self.protocol or self.recipe.protocol()).name
        return self.on.by(protocol) if self.on else protocol

    def folder(self) -> Path:
        """Of its files, in that of the run."""
        return Path(FOLDER, self.on.tag()) if self.on else Path(FOLDER)


def predict(wanted: Wanted, world: World, folder: Path) -> None:
    """Write and score predictions of the finished run in `folder`; collective."""
    recipe = wanted.recipe
    check_folder(recipe, folder)
    if not is_done(folder):
        raise ValueError(f"{folder}: the run is not done; finish it first, then predict")
    check_data(recipe, folder)  # made anew, its held-out people may be those of training
    protocol = named(wanted.protocol or recipe.protocol())
    device = set_up_process(recipe, world)
    module = finished_task(recipe, folder)
    sampling = sampling_of(module)
    if wanted.on is not None:
        source: Source | None = judged(wanted.on, recipe, sampling)
    else:
        source = held_out(recipe, sampling)
    if source is None:
        raise ValueError("no collection of the recipe has held-out frames (split val) to predict")
    uncompiled = replace(recipe, machine=replace(recipe.machine, compile=False))  # nothing trains
    engine = engine_of(uncompiled, module, world, device)
    try:
        batches = evaluation_batches(
            source,
            needs=tuple(dict.fromkeys((*module.needs, "sample_id"))),
            sampling=sampling,
            world=world,
            micro_batch=recipe.machine.micro_batch,
            image_px=recipe.encoder.image_px,
            patch_px=module.encoder.patch_px,
            device=device,
            beside=learnt(recipe),
        )
        collector = Collector(protocol, source.collection)
        kept: list[dict[str, np.ndarray]] = []
        evaluate(engine, batches, [collector], kept)
        mine, true = collector.gathered(engine)
        ranks = engine.gather(kept)
    finally:
        engine.close()
    if not world.is_main or (score := _scored(wanted, protocol, mine, true, folder)) is None:
        return
    if wanted.on is not None and protocol.name == recipe.protocol():  # by which metrics measure
        score = replace(score, each=file_on(wanted.on.tag()))
        write_examples(folder / score.each, source.collection, in_order(ranks))
    keep_scores(folder, {wanted.name(): score})


def _scored(
    wanted: Wanted, protocol: Protocol, mine: Arrays, true: Arrays, folder: Path
) -> Score | None:
    """Write both files and score them as anybody's; None where that needs a regressor."""
    names = FILES[protocol.layout]
    paths = [folder / wanted.folder() / name for name in names]
    sides = [Examples(str(path), side) for path, side in zip(paths, (mine, true), strict=True)]
    for path, side, truth in zip(paths, sides, (False, True), strict=True):
        if protocol.layout == "coco":
            write_coco(side, path, truth=truth)
        else:
            write(protocol, side, path)
    if protocol.regressor and "joints3d" not in mine:
        log.warning("%s: not scored, that needs the regressor %s", paths[0], protocol.regressor)
        return None
    return score_files(protocol, paths[0], paths[1])
