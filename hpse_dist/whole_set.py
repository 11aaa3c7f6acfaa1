"""Predictions of a whole held-out set beside its ground truth, as a protocol judges them.

Figures of a whole set, such as average precision and macro F1, are no means over examples: they
are made of the predictions of all ranks together, when a run has come to its end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.body.model import load_body
from hpse_dist.data.collection import Collection
from hpse_dist.engine import Engine
from hpse_dist.fields import Batch
from hpse_dist.metrics.dense import closest_vertices
from hpse_dist.protocols import PROTOCOLS, Protocol
from hpse_dist.protocols.examples import Examples
from hpse_dist.protocols.files import score_examples
from hpse_dist.protocols.score import Score
from hpse_dist.tasks.base import Prediction, Task

log = logging.getLogger(__name__)

SURFACE = "free"  # the body whose surface the labels of dense pose are drawn on
POINTS = 64  # of a person, at which dense pose is compared
BOX_SHARE = 0.53  # of a box is the person, as evaluations take it where no area is annotated
Arrays = dict[str, np.ndarray]


class Collector:
    """Takes in what this rank's batches are judged by, padding and rows without label left out."""

    def __init__(self, protocol: Protocol, collection: Collection) -> None:
        """ValueError where the collection's labels are not what the protocol judges."""
        self.protocol, self.collection = protocol, collection
        self.pieces: list[tuple[Arrays, Arrays]] = []
        self._surface = _Surface(collection) if protocol.kind == "dense" else None

    def __call__(self, module: Task, batch: Batch) -> None:
        """Predict one batch, in evaluation mode."""
        mine, true = _rows(module, self.protocol, module.predict(batch), module.truth(batch), batch)
        if self._surface is not None:  # a few points take less memory than maps
            mine, true = self._surface.points(mine, true)
        self.pieces.append((mine, true))

    def gathered(self, engine: Engine) -> tuple[Arrays, Arrays]:
        """Predictions and ground truth of all ranks, in the order of the collection; where a frame
        is in several pairs, what its first pair gave. Collective."""
        whole = [piece for rank in engine.gather(self.pieces) for piece in rank]
        sides = [
            {
                name: np.concatenate([piece[side][name] for piece in whole])
                for name in whole[0][side]
            }
            for side in (0, 1)
        ]
        _, order = np.unique(sides[1]["sample_id"], return_index=True)
        if len(order) == 0:
            raise ValueError("no held-out frame has the label that its prediction is judged by")
        mine, true = ({name: value[order] for name, value in side.items()} for side in sides)
        if not engine.world.is_main:
            return mine, true
        mine, true = _about(self.collection, self.protocol, mine, true)
        return mine, (true | self._surface.mesh() if self._surface is not None else true)


def collectors(task: Task, protocol: str, collection: Collection) -> list[Collector]:
    """For the protocols with figures of whole sets that a task's predictions can be judged by: the
    run's own, and others whose joints the collection has."""
    names = [protocol] if protocol else []
    given = collection.manifest.get("joint_set")
    names += [name for name in task.set_protocols if PROTOCOLS[name].joint_set == given]
    found = []
    for name in dict.fromkeys(names):
        if PROTOCOLS[name].set_figures:
            try:
                found.append(Collector(PROTOCOLS[name], collection))
            except ValueError as error:
                log.warning("%s: no figures of the whole set: %s", name, error)
    return found


def scores(engine: Engine, collected: Iterable[Collector]) -> dict[str, Score]:
    """What each protocol comes to, on the main process; {} elsewhere. Collective."""
    found = {}
    for collector in collected:
        protocol = collector.protocol
        try:
            mine, true = collector.gathered(engine)
            if engine.world.is_main:
                sides = Examples("predictions", mine), Examples("ground truth", true)
                found[protocol.name] = score_examples(protocol, *sides)
        except ValueError as error:  # a run that has come to its end is not lost for it
            log.warning("%s: no figures of the whole set: %s", protocol.name, error)
    return found


def _rows(
    module: Task, protocol: Protocol, guess: Prediction, truth: Prediction, batch: Batch
) -> tuple[Arrays, Arrays]:
    """What a protocol judges of one batch, as arrays; padding and rows without label left out."""
    keep = batch["valid"]
    lacks = set(judged(protocol)) - guess.keys()
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
        if "vertices" in true:  # a row without the label has a mesh too, of zeros
            true["vertices_known"] = batch[module.has]
    elif protocol.kind == "classes":
        true = {"label": batch["label"]}
    elif "part_map" in guess:
        keep = keep & batch["has_parts"]
    elif protocol.kind == "keypoints":  # COCO ignores who has no keypoint, and who is found there
        keep = keep & (truth["confidence"] > 0).any(1)
    true["sample_id"] = batch["sample_id"]
    rows = keep.cpu().numpy()
    return _numpy(mine, rows), _numpy(true, rows)


def judged(protocol: Protocol) -> tuple[str, ...]:
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
    true["area"] = _areas(collection, table)
    pictures = list(
        zip(*(table[k].to_pylist() for k in ("sequence", "camera", "time")), strict=True)
    )
    number = {picture: place for place, picture in enumerate(dict.fromkeys(pictures), start=1)}
    return {"image": np.array([number[picture] for picture in pictures])}


def _areas(collection: Collection, table: Any) -> np.ndarray:
    """(N,) area in pixels of the person in each frame of a table: of the mask, as COCO's area is of
    the outline, else as large a share of the box as COCO's people cover of theirs."""
    box, side = np.array(table["box"].to_pylist()), np.array(table["crop"].to_pylist())[:, 2]
    area: np.ndarray = BOX_SHARE * (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    masked = np.flatnonzero(table["has_mask"].to_numpy())
    if len(masked):
        ids = table["sample_id"].to_numpy()[masked]
        person = collection.read(ids, ["person"])["person"]
        area[masked] = person.mean((1, 2)) / 255 * side[masked] ** 2
    return area


class _Surface:
    """The body on whose surface the places of dense pose are compared."""

    def __init__(self, collection: Collection) -> None:
        labelled = collection.manifest["details"].get("body", SURFACE)
        if labelled != SURFACE:
            raise ValueError(
                f"{collection.folder}: its surface labels are of the body {labelled}, and places "
                f"are compared on the {SURFACE} body"
            )
        self.body = load_body(SURFACE)
        self.part, self.uv = self.body.vertex_part.numpy(), self.body.vertex_uv.numpy()

    def points(self, mine: Arrays, true: Arrays) -> tuple[Arrays, Arrays]:
        """Maps as vertices at points spread over each labelled person, and masks."""
        found: list[Arrays] = [
            {"vertex": np.full((len(true["part_map"]), POINTS), -1)} for _ in "ab"
        ]
        for row, labelled in enumerate(true["part_map"]):
            y, x = np.nonzero(labelled)
            some = np.linspace(0, len(y) - 1, min(POINTS, len(y))).astype(int)
            for side, maps in zip(found, (mine, true), strict=True):
                parts = maps["part_map"][row, y[some], x[some]]
                places = maps["uv_map"][row][:, y[some], x[some]].T
                side["vertex"][row, : len(some)] = closest_vertices(
                    parts, places, self.part, self.uv
                )
        for side, maps in zip(found, (mine, true), strict=True):
            side["mask"] = maps["part_map"] > 0
        return found[0], found[1] | {"sample_id": true["sample_id"]}

    def mesh(self) -> Arrays:
        """The body itself, as files of ground truth have it."""
        vertices, faces = self.body.v_template.numpy(), self.body.faces.numpy()
        return {"mesh_vertices": vertices, "mesh_faces": faces}
