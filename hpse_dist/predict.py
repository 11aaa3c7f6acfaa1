"""Predictions of a finished fine-tuning run on held-out frames, as files that can be scored.

    predictions/<file>  predictions/<ground truth>    in the layout of the protocol's own server
    scores.json                                       what they scored, by protocol; reports show it

Figures of a whole set, such as average precision, are made of these files alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.body.model import load_body
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.data.collection import Collection
from hpse_dist.data.loader import evaluation_batches
from hpse_dist.engine import Engine, build_engine
from hpse_dist.feed import held_out, sampling_of
from hpse_dist.fields import Batch
from hpse_dist.metrics.dense import closest_vertices
from hpse_dist.protocols import Protocol, named
from hpse_dist.protocols.examples import Examples
from hpse_dist.protocols.files import FILES, score_files, write, write_coco
from hpse_dist.recipe import FinetuneRecipe
from hpse_dist.run import set_up_process, task_model
from hpse_dist.run_folder import check_folder, is_done, write_text
from hpse_dist.tasks.base import Prediction, Task
from hpse_dist.world import World

log = logging.getLogger(__name__)

FOLDER = "predictions"
SCORES_FILE = "scores.json"
SURFACE = "free"  # the body whose surface the labels of dense pose are drawn on
POINTS = 64  # of a person, at which dense pose is compared
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Wanted:
    """A run and the protocol that its predictions are for."""

    recipe: FinetuneRecipe
    protocol: str = ""
    """Empty: the task's own."""


def predict(wanted: Wanted, world: World, folder: Path) -> None:
    """Write and score predictions of the finished run in `folder`; collective."""
    recipe = wanted.recipe
    check_folder(recipe, folder)
    if not is_done(folder):
        raise ValueError(f"{folder}: the run is not done; finish it first, then predict")
    protocol = named(wanted.protocol or recipe.protocol())
    device = set_up_process(recipe, world)
    module, _ = task_model(recipe)
    source = held_out(recipe, sampling_of(module))
    if source is None:
        raise ValueError("no collection of the recipe has held-out frames (split val) to predict")
    engine = build_engine(
        recipe.machine.engine,
        module,
        recipe.optim,
        world=world,
        device=device,
        accumulation=recipe.accumulation(),
        micro_batch=recipe.machine.micro_batch,
        precision=recipe.precision,
        zero_stage=recipe.machine.zero_stage,
    )
    try:
        checkpoints = Checkpoints(folder / "checkpoints", 1, 1, recipe.hash())
        if checkpoints.resume(engine, _NoLoader()) != recipe.steps:
            raise ValueError(f"{folder / 'checkpoints'}: the last step's checkpoint is not there")
        batches = evaluation_batches(
            source,
            needs=tuple(dict.fromkeys((*module.needs, "sample_id"))),
            sampling=sampling_of(module),
            world=world,
            micro_batch=recipe.machine.micro_batch,
            image_px=recipe.encoder.image_px,
            patch_px=module.encoder.patch_px,
            device=device,
        )
        mine, true = _gathered(engine, protocol, batches)
    finally:
        engine.close()
    if world.is_main:
        mine, true = _about(source.collection, protocol, mine, true)
        _kept(protocol, mine, true, folder)


class _NoLoader:
    """Stands where a checkpoint wants the training data's loader: there is none here."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Its place in the data does not matter."""


def _gathered(
    engine: Engine, protocol: Protocol, batches: Iterator[Batch]
) -> tuple[Arrays, Arrays]:
    """Predictions and ground truth of all ranks, in the order of the collection; where a frame is
    in several pairs, what its first pair gave."""
    pieces: list[tuple[Arrays, Arrays]] = []
    with engine.evaluating() as module:
        for batch in batches:
            guess, truth = module.predict(batch), module.truth(batch)
            pieces.append(_rows(module, protocol, guess, truth, batch))
    whole = [piece for rank in engine.gather(pieces) for piece in rank]
    sides = [
        {name: np.concatenate([piece[side][name] for piece in whole]) for name in whole[0][side]}
        for side in (0, 1)
    ]
    _, order = np.unique(sides[1]["sample_id"], return_index=True)
    if len(order) == 0:
        raise ValueError("no held-out frame has the label that its prediction is judged by")
    mine, true = ({name: value[order] for name, value in side.items()} for side in sides)
    return mine, true


def _rows(
    module: Task, protocol: Protocol, guess: Prediction, truth: Prediction, batch: Batch
) -> tuple[Arrays, Arrays]:
    """What a protocol judges of one batch, as arrays; padding and rows without label left out."""
    keep = batch["valid"]
    lacks = set(_judged(protocol)) - guess.keys()
    if lacks:
        raise ValueError(
            f"protocol {protocol.name} judges {', '.join(sorted(lacks))}, which "
            f"{type(module).__name__} does not predict; choose another protocol"
        )
    mine, true = dict(guess), dict(truth)
    if protocol.kind in ("body", "hand"):
        mine = {n: v for n, v in guess.items() if n in ("joints3d", "vertices", "rotations")}
        true = {n: v for n, v in truth.items() if n in ("joints3d", "vertices")}
        true["known"] = batch["joints3d"][..., -1]
        if "vertices" in true and "has_body" in batch:
            true["vertices_known"] = batch["has_body"]
    elif protocol.kind == "classes":
        true = {"label": batch["label"]}
    elif "part_map" in guess:
        keep = keep & batch["has_parts"]
    true["sample_id"] = batch["sample_id"]
    rows = keep.cpu().numpy()
    return _numpy(mine, rows), _numpy(true, rows)


def _judged(protocol: Protocol) -> tuple[str, ...]:
    """What a task must predict for a protocol, by the names of `predict`."""
    if protocol.kind in ("body", "hand"):
        return ("joints3d", *(["vertices"] if protocol.kind == "hand" else []))
    if protocol.kind == "keypoints" or "pck_005" in protocol.figures:
        return ("joints2d", "confidence")
    if protocol.kind == "classes":
        return ("probability",)
    return ("part_map", *(["uv_map"] if protocol.kind == "dense" else []))


def _numpy(side: dict[str, Tensor], rows: np.ndarray) -> Arrays:
    return {
        name: (value.float() if value.is_floating_point() else value).cpu().numpy()[rows]
        for name, value in side.items()
    }


def _about(
    collection: Collection, protocol: Protocol, mine: Arrays, true: Arrays
) -> tuple[Arrays, Arrays]:
    """The same as the protocol's files have it: joint order, pixels, places on the surface, ids."""
    frames = collection.frames
    numbers = np.asarray(frames["sample_id"]).astype(np.int64)
    ids = true.pop("sample_id")
    place = np.argsort(numbers)[np.searchsorted(np.sort(numbers), ids)]
    table = frames.take(place)
    both: Arrays = {"id": ids.astype(str)}
    if protocol.kind in ("body", "hand"):
        _as_joints(collection, protocol, mine, true)
    if protocol.layout == "3dpw":
        text = {k: table[k].to_pylist() for k in ("sequence", "camera", "subject", "track")}
        several = len(set(text["camera"])) > 1
        both["sequence"] = np.array(
            [
                f"{s}_{c}" if several else s
                for s, c in zip(text["sequence"], text["camera"], strict=True)
            ]
        )
        both["person"] = np.array(
            [f"{s}/{t}" for s, t in zip(text["subject"], text["track"], strict=True)]
        )
        both["time"] = np.asarray(table["time"])
    if protocol.kind == "keypoints":
        both |= _as_pixels(collection, protocol, table, mine, true)
    elif "pck_005" in protocol.figures:
        true["joints2d"] = np.concatenate((true["joints2d"], true["confidence"][..., None]), -1)
        mine, true = {"joints2d": mine["joints2d"]}, {"joints2d": true["joints2d"]}
    if protocol.kind == "dense":
        mine, true = _as_points(collection, mine, true)
    return mine | both, true | both


def _as_joints(collection: Collection, protocol: Protocol, mine: Arrays, true: Arrays) -> None:
    """Joints in the protocol's order; only the mesh, where joints are to be regressed from it."""
    given = collection.manifest.get("joint_set")
    true["joints3d"] = np.concatenate((true["joints3d"], true.pop("known")[..., None]), -1)
    names = JOINT_SETS.get(given or "", ())
    if given != protocol.joint_set and sorted(names) == sorted(protocol.names()):
        order = [names.index(joint) for joint in protocol.names()]
        mine["joints3d"], true["joints3d"] = mine["joints3d"][:, order], true["joints3d"][:, order]
    elif given != protocol.joint_set and protocol.regressor and "vertices" in mine:
        del mine["joints3d"], true["joints3d"]
    else:
        protocol.check_joint_set(given, str(collection.folder))
    if protocol.layout != "3dpw":
        mine.pop("rotations", None)


def _as_pixels(
    collection: Collection, protocol: Protocol, table: Any, mine: Arrays, true: Arrays
) -> Arrays:
    """Joints in pixels of the whole pictures; sizes of people and numbers of pictures."""
    protocol.check_joint_set(collection.manifest.get("joint_set"), str(collection.folder))
    crop = np.array(table["crop"].to_pylist())
    for side in (mine, true):
        side["joints2d"] = side["joints2d"] * crop[:, None, 2:] + crop[:, None, :2]
        seen = side.pop("confidence")
        side["joints2d"] = np.concatenate((side["joints2d"], seen[..., None]), -1)
        side["score"] = seen.mean(1)
    box = np.array(table["box"].to_pylist())
    true["area"] = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    pictures = list(
        zip(*(table[k].to_pylist() for k in ("sequence", "camera", "time")), strict=True)
    )
    number = {picture: place for place, picture in enumerate(dict.fromkeys(pictures), start=1)}
    return {"image": np.array([number[picture] for picture in pictures])}


def _as_points(collection: Collection, mine: Arrays, true: Arrays) -> tuple[Arrays, Arrays]:
    """Places on the body's surface at points spread over each labelled person, and masks."""
    body_of_labels = collection.manifest["details"].get("body", SURFACE)
    if body_of_labels != SURFACE:
        raise ValueError(
            f"{collection.folder}: its surface labels are of the body {body_of_labels}, and places "
            f"are compared on the {SURFACE} body"
        )
    body = load_body(SURFACE)
    part, uv = body.vertex_part.numpy(), body.vertex_uv.numpy()
    sides: list[Arrays] = [{"vertex": np.full((len(true["part_map"]), POINTS), -1)} for _ in "ab"]
    for row, labelled in enumerate(true["part_map"]):
        y, x = np.nonzero(labelled)
        some = np.linspace(0, len(y) - 1, min(POINTS, len(y))).astype(int)
        for side, maps in zip(sides, (mine, true), strict=True):
            parts = maps["part_map"][row, y[some], x[some]]
            places = maps["uv_map"][row][:, y[some], x[some]].T
            side["vertex"][row, : len(some)] = closest_vertices(parts, places, part, uv)
    for side, maps in zip(sides, (mine, true), strict=True):
        side["mask"] = maps["part_map"] > 0
    rest = {"mesh_vertices": body.v_template.numpy(), "mesh_faces": body.faces.numpy()}
    return sides[0], sides[1] | rest


def _kept(protocol: Protocol, mine: Arrays, true: Arrays, folder: Path) -> None:
    """Write both files, score them as anybody's, and keep the figures."""
    names = FILES[protocol.layout]
    paths = [folder / FOLDER / name for name in names]
    sides = [Examples(str(path), side) for path, side in zip(paths, (mine, true), strict=True)]
    for path, side, truth in zip(paths, sides, (False, True), strict=True):
        if protocol.layout == "coco":
            write_coco(side, path, truth=truth)
        else:
            write(protocol, side, path)
    if protocol.regressor and "joints3d" not in mine:
        log.warning("%s: not scored, that needs the regressor %s", paths[0], protocol.regressor)
        return
    found = asdict(score_files(protocol, paths[0], paths[1]))
    scores = folder / SCORES_FILE
    before = json.loads(scores.read_text(encoding="utf-8")) if scores.is_file() else {}
    write_text(scores, json.dumps(before | {protocol.name: found}, indent=1))
