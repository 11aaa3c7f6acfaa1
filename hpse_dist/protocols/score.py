"""Figures of predictions beside ground truth, by a protocol: per example, and over a whole set.

Figures of a whole set (average precision, macro F1) are no means over examples, so they are made
here, of files, and not in the loop that evaluates while training.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hpse_dist.arrays import read_npy
from hpse_dist.metrics import hand
from hpse_dist.metrics.classes import accuracy, macro_f1
from hpse_dist.metrics.pose2d import joint_error, pck
from hpse_dist.metrics.pose3d import pa_pve, pve
from hpse_dist.metrics.surface import part_iou, person_iou
from hpse_dist.models.maps import in_crop
from hpse_dist.protocols.base import Protocol
from hpse_dist.protocols.dense import dense_figures
from hpse_dist.protocols.examples import WIDTHS, Examples, matched
from hpse_dist.protocols.joints import Figures, joint_figures

_AT_ONCE = 64  # examples with meshes


@dataclass(frozen=True)
class Regressor:
    """The matrix (J, V) that makes a protocol's joints of a mesh."""

    matrix: np.ndarray
    sha256: str

    @staticmethod
    def read(path: Path) -> Regressor:
        """From a .npy file; ValueError for anything else."""
        try:
            matrix = read_npy(path)
        except ValueError as error:
            raise ValueError(f"{path}: not a regressor as .npy ({error})") from None
        if matrix.ndim != 2 or matrix.dtype.kind != "f" or not np.isfinite(matrix).all():
            raise ValueError(f"{path}: a regressor is a table of numbers, joints x vertices")
        return Regressor(matrix, hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass(frozen=True)
class Score:
    """What a file of predictions came to."""

    protocol: str
    figures: dict[str, float]
    """By their names in report.tables.METRICS; a figure that nothing was there for is left out."""
    examples: int
    """Examples of ground truth."""
    regressor: str = ""
    """sha256 of the regressor that was used."""
    each: str = ""
    """Name of the file in the run's folder with what each example gave; empty: none was kept."""


def score(
    protocol: Protocol, predicted: Examples, true: Examples, regressor: Regressor | None = None
) -> Score:
    """Every figure of the protocol that both sides hold enough for; ValueError with what lacks."""
    if protocol.kind == "dense":
        return Score(protocol.name, dense_figures(protocol, predicted, true), len(true))
    count, found = len(true), len(predicted)
    predicted, true = matched(predicted, true, protocol.complete)
    _check_predicted(predicted, true)
    used = ""
    if protocol.kind == "body":
        if "joints3d" not in predicted or "joints3d" not in true:
            used = regressor.sha256 if regressor else ""
        each = _in_pieces(
            lambda a, b: _body(protocol, a, b, regressor), predicted, true, "vertices" in true
        )
    elif protocol.kind == "hand":
        each = _in_pieces(lambda a, b: _hand(protocol, a, b), predicted, true, True)
    elif protocol.kind == "classes":
        given = _classes(predicted, true)
        return Score(protocol.name, {n: given[n] for n in protocol.figures if n in given}, count)
    else:
        assert protocol.kind == "pixels", protocol.kind
        each = _pixels(protocol, predicted, true)
    figures = {name: _mean(values) for name, values in each.items()}
    if not protocol.complete:
        figures |= _found(figures, len(true), count, found)
    figures = {n: figures[n] for n in protocol.figures if math.isfinite(figures.get(n, math.nan))}
    if not figures:
        raise ValueError(
            f"{true.where}: it has no label that protocol {protocol.name} could judge by"
        )
    return Score(protocol.name, figures, count, used)


def _body(
    protocol: Protocol, predicted: Examples, true: Examples, regressor: Regressor | None
) -> Figures:
    mine, _ = _joints(protocol, predicted, regressor)
    there, known = _joints(protocol, true, regressor)
    figures = joint_figures(protocol, mine, there, known)
    if {"pve", "pa_pve"} & {*protocol.figures} and "vertices" in predicted and "vertices" in true:
        meshes = _meshes(protocol, predicted, true)
        root = protocol.names().index(protocol.root) if protocol.root else 0
        lacks = ~_meshes_known(true)
        placed = known[:, root] > 0  # vertices are compared from there
        apart = pve(*meshes, mine[:, root], there[:, root])
        figures["pve"] = apart.where(placed & ~lacks, math.nan)
        if "pa_pve" in protocol.figures:
            figures["pa_pve"] = pa_pve(*meshes).masked_fill(lacks, math.nan)
        if "f_5" in protocol.figures:
            fitted = hand.freihand_align(*meshes)
            for name, limit in (("f_5", 5.0), ("f_15", 15.0)):
                figures[name] = hand.f_score(fitted, meshes[1], limit).masked_fill(lacks, math.nan)
    return figures


def _joints(
    protocol: Protocol, examples: Examples, regressor: Regressor | None
) -> tuple[Tensor, Tensor]:
    """Places (N, J, 3) and confidence (N, J): the file's own, or regressed from its vertices."""
    if "joints3d" in examples:
        joints = _double(examples["joints3d"])
        protocol.check_joint_count(joints.shape[1], examples.where)
        known = joints[..., 3] if joints.shape[2] == 4 else torch.ones_like(joints[..., 0])
        return joints[..., :3], known
    vertices = _double(examples["vertices"])
    if not protocol.regressor or regressor is None:
        needed = f"joints of {protocol.joint_set}"
        if protocol.regressor:
            needed += f", or --regressor with {protocol.regressor}"
        raise ValueError(f"{examples.where}: protocol {protocol.name} needs {needed}")
    matrix = _double(regressor.matrix)
    if matrix.shape != (len(protocol.names()), vertices.shape[1]):
        raise ValueError(
            f"{examples.where}: the mesh has {vertices.shape[1]} vertices, and the regressor is "
            f"{matrix.shape[0]} x {matrix.shape[1]}; protocol {protocol.name} uses "
            f"{protocol.regressor}"
        )
    labelled = _meshes_known(examples)
    joints = torch.einsum("jv,nvc->njc", matrix, vertices)
    return joints, labelled[:, None].expand(joints.shape[:2]).to(joints.dtype)


def _meshes(protocol: Protocol, predicted: Examples, true: Examples) -> tuple[Tensor, Tensor]:
    wanted = protocol.vertices or true["vertices"].shape[1]
    for side in (true, predicted):
        if side["vertices"].shape[1] != wanted:
            raise ValueError(
                f"{side.where}: its meshes have {side['vertices'].shape[1]} vertices, and "
                f"protocol {protocol.name} compares meshes of {wanted}"
            )
    known = _meshes_known(true)[:, None, None]  # another's vertices may be anything, NaN too
    mine, there = (_double(side["vertices"]).where(known, 0.0) for side in (predicted, true))
    return mine, there


def _meshes_known(examples: Examples) -> Tensor:
    """(N,) bool, the examples with a mesh."""
    if "vertices_known" not in examples:
        return torch.ones(len(examples), dtype=torch.bool)
    return torch.from_numpy(examples["vertices_known"].astype(bool))


def _hand(protocol: Protocol, predicted: Examples, true: Examples) -> Figures:
    mine, _ = _joints(protocol, predicted, None)
    there, seen = _joints(protocol, true, None)
    whole, labelled = (seen > 0).all(1), _meshes_known(true)  # a hand is fitted whole or not at all
    joints = [side.where(whole[:, None, None], 0.0) for side in (mine, there)]
    mesh = _meshes(protocol, predicted, true)
    fitted = hand.freihand_align(*joints), hand.freihand_align(*mesh)
    of_joints = {
        "joint_aligned": hand.distance_mm(fitted[0], joints[1]),
        "joint_auc": hand.curve_area(fitted[0], joints[1]),
    }
    of_mesh = {
        "mesh_aligned": hand.distance_mm(fitted[1], mesh[1]),
        "f_5": hand.f_score(fitted[1], mesh[1], 5.0),
        "f_15": hand.f_score(fitted[1], mesh[1], 15.0),
        "mesh_auc": hand.curve_area(fitted[1], mesh[1]),
    }
    sides = (of_joints, whole), (of_mesh, labelled)
    return {n: v.where(known, math.nan) for side, known in sides for n, v in side.items()}


def _classes(predicted: Examples, true: Examples) -> dict[str, float]:
    label = torch.from_numpy(true["label"].astype(np.int64))
    if "probability" in predicted:
        probability = _double(predicted["probability"])
        if int(label.max()) >= probability.shape[1]:
            raise ValueError(
                f"{predicted.where}: probabilities of {probability.shape[1]} classes, and "
                f"{true.where} has class {int(label.max())}"
            )
        mine = probability.argmax(1)
        given = probability.gather(1, label[:, None])[:, 0]
        figures = {"uncertainty": _mean(100 * (1 - given))}
    else:
        mine, figures = torch.from_numpy(predicted["label"].astype(np.int64)), {}
    return {
        "accuracy": _mean(accuracy(mine, label)),
        "macro_f1": macro_f1(mine, label),
        **figures,
    }


def _pixels(protocol: Protocol, predicted: Examples, true: Examples) -> Figures:
    if "part_iou" in protocol.figures:
        maps = [torch.from_numpy(side["part_map"].astype(np.int64)) for side in (predicted, true)]
        if maps[0].shape != maps[1].shape:
            raise ValueError(
                f"{predicted.where}: part maps of {tuple(maps[0].shape[1:])} pixels, and "
                f"{true.where} has {tuple(maps[1].shape[1:])}"
            )
        parts = int(max(m.max() for m in maps))
        return {
            "part_iou": part_iou(maps[0], maps[1], parts),
            "person_iou": person_iou(maps[0], maps[1]),
        }
    mine, there = _double(predicted["joints2d"]), _double(true["joints2d"])
    if mine.shape[1] != there.shape[1]:
        raise ValueError(
            f"{predicted.where}: {mine.shape[1]} joints, and {true.where} has {there.shape[1]}"
        )
    if there.shape[2] == 2:
        there = torch.cat((there, torch.ones_like(there[..., :1])), dim=2)
    mine, there, known = mine[..., :2], there[..., :2], in_crop(there)
    return {
        "joint_error": joint_error(mine, there, known),
        "pck_005": pck(mine, there, known, 0.05),
        "pck_01": pck(mine, there, known, 0.1),
    }


def _found(figures: dict[str, float], both: int, people: int, predictions: int) -> dict[str, float]:
    """F1 of finding people, and the errors over it (AGORA)."""
    f1 = 2 * both / (people + predictions)
    found = {"f1": 100 * f1}
    for name, of in (("nmje", "mpjpe"), ("nmve", "pve")):
        if of in figures:
            found[name] = figures[of] / f1
    return found


def _in_pieces(
    judge: Callable[[Examples, Examples], Figures], mine: Examples, true: Examples, large: bool
) -> Figures:
    """Figures of all examples; of meshes a few at a time, for the sake of memory."""
    step = _AT_ONCE if large else max(len(true), 1)
    pieces = []
    for start in range(0, len(true), step):
        rows = np.arange(start, min(start + step, len(true)))
        pieces.append(judge(mine.taken(rows), true.taken(rows)))
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _check_predicted(predicted: Examples, true: Examples) -> None:
    """ValueError for predicted places that are no numbers where the truth knows them: confidence 0
    excuses ground truth alone, or who says nothing of hard examples would have the better mean."""
    for name in ("joints3d", "joints2d", "vertices"):
        if name not in predicted:
            continue
        bad = ~np.isfinite(predicted[name]).all(-1)
        if name == "vertices" and "vertices_known" in true:
            bad &= true["vertices_known"][:, None].astype(bool)
        elif name in true and true[name].shape == (*bad.shape, max(WIDTHS[name])):
            bad &= true[name][..., -1] > 0
        rows = np.flatnonzero(bad.any(1))
        if len(rows):
            raise ValueError(
                f"{predicted.where}: {name} of {len(rows)} of {len(predicted)} predictions are no "
                f"numbers (NaN or infinite), such as of {predicted.name(int(rows[0]))}; predict "
                "every place, whatever its confidence"
            )


def _double(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))


def _mean(values: Tensor) -> float:
    return float(values.double().nanmean())
