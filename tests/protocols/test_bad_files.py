"""Files of predictions that cannot be scored: each is one sentence that names what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.protocols import PROTOCOLS
from pipelines import run_command
from pipelines.report import main, parser
from tests.protocols.made_examples import files, made


def _nan_label(mine: dict[str, Any], true: dict[str, Any]) -> None:
    true["joints3d"][2, 5, 0] = np.nan


def _nan_prediction(mine: dict[str, Any], true: dict[str, Any]) -> None:
    mine["joints3d"][1, 0, 0] = np.inf


def _nan_unsure(mine: dict[str, Any], true: dict[str, Any]) -> None:
    """Left out, these would make the mean better: they are what a model finds hard."""
    mine["joints3d"] = np.concatenate([mine["joints3d"], np.ones((6, 24, 1))], -1)
    mine["joints3d"][[2, 4], 3] = [np.nan, np.nan, np.nan, 0.0]


def _nan_mesh(mine: dict[str, Any], true: dict[str, Any]) -> None:
    mine["vertices"][3], mine["vertices_known"] = np.nan, np.arange(6) != 3


def _joint_set(mine: dict[str, Any], true: dict[str, Any]) -> None:
    mine["joints3d"] = mine["joints3d"][:, :17]


def _vertices(mine: dict[str, Any], true: dict[str, Any]) -> None:
    mine["vertices"] = mine["vertices"][:, :40]


def _twice(mine: dict[str, Any], true: dict[str, Any]) -> None:
    mine["id"][3] = "s1"


def _stranger(mine: dict[str, Any], true: dict[str, Any]) -> None:
    mine["id"][3] = "t9"


def _lacks(mine: dict[str, Any], true: dict[str, Any]) -> None:
    mine["joints"] = mine.pop("joints3d")


def _rows(mine: dict[str, Any], true: dict[str, Any]) -> None:
    mine["joints3d"] = mine["joints3d"][:5]


def _nothing(mine: dict[str, Any], true: dict[str, Any]) -> None:
    for name in list(mine):
        mine[name] = mine[name][:0]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_nan_label, "true.npz: joints3d of example s2 is not a number"),
        (_nan_prediction, "mine.npz: joints3d of example s1 is not a number"),
        (
            _nan_unsure,
            "joints3d of 2 of 6 predictions are no numbers (NaN or inf",
        ),
        (_nan_mesh, "vertices of 1 of 6 predictions are no numbers (NaN or inf"),
        (_joint_set, "17 joints, and protocol synthetic-24 needs the 24 of smpl24"),
        (_vertices, "its meshes have 40 vertices, and protocol synthetic-24 compares meshes of 50"),
        (_twice, "example s1 is there twice"),
        (_stranger, "1 predictions are of no example in"),
        (_lacks, "protocol synthetic-24 needs joints of smpl24"),
        (_rows, "vertices has 6 rows and other arrays have 5"),
        (_nothing, "mine.npz: it holds no examples"),
    ],
)
def test_bad_arrays_are_one_sentence(
    spoil: Callable[[dict, dict], None], sentence: str, tmp_path: Path, capsys: Any
) -> None:
    mine, true = (
        {k: v.copy() for k, v in e.arrays.items()} for e in made(PROTOCOLS["synthetic-24"])
    )
    spoil(mine, true)
    np.savez(tmp_path / "mine.npz", **mine)
    np.savez(tmp_path / "true.npz", **true)
    _said(["mine.npz", "true.npz"], "synthetic-24", sentence, tmp_path, capsys)


def _said(names: list[str], protocol: str, sentence: str, folder: Path, capsys: Any) -> None:
    """The command fails with that one sentence."""
    paths = [str(folder / name) for name in names]
    assert run_command(main, parser(), ["score", *paths, "--protocol", protocol]) == 1
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1 and "unexpected" not in told


@pytest.mark.parametrize(
    ("text", "protocol", "sentence"),
    [
        ("", "freihand", "the file is empty"),
        ("[[[0.1, 0.2", "freihand", "not readable as JSON"),
        ("[[[0.1, 0.2", "coco-keypoints", "not readable as JSON"),
        ("[[], []]", "freihand", "it holds no examples"),
        ("{}", "freihand", "a list of two: joints, vertices"),
        ("[[[[0, 1]], [[0, 1], [2]]], [[[0, 1, 2]]]]", "freihand", "as many for every example"),
        ("[[[[0, 0, 1" + "0" * 400 + "]]], [[[0, 0, 0]]]]", "freihand", "joints3d must be numbers"),
        ("[[[[0, 0, NaN]]], [[[0, 0, 0]]]]", "freihand", "joints3d of example 0 is not a number"),
        ("[]", "coco-keypoints", "it holds no predictions"),
        (
            '[{"image_id": 1, "keypoints": [1, 2, 3], "score": 1}]',
            "coco-keypoints",
            "1 joints, and",
        ),
        ('[{"image_id": 1}]', "coco-keypoints", "entry 0 has no image_id or no keypoints"),
    ],
)
def test_bad_json_is_one_sentence(
    text: str, protocol: str, sentence: str, tmp_path: Path, capsys: Any
) -> None:
    _, truth = files(PROTOCOLS[protocol], tmp_path, *made(PROTOCOLS[protocol]))
    (tmp_path / "bad.json").write_text(text)
    _said(["bad.json", truth.name], protocol, sentence, tmp_path, capsys)


def test_bad_results_of_coco_are_one_sentence(tmp_path: Path, capsys: Any) -> None:
    protocol = PROTOCOLS["coco-keypoints"]
    pred, truth = files(protocol, tmp_path, *made(protocol))
    rows = json.loads(pred.read_text())
    for change, sentence in (
        ({"image_id": 99}, "1 image_id are not among the images"),
        ({"score": None}, "every entry needs a score"),
        ({"keypoints": [float("nan")] * 51}, "keypoints of entry 0 are not numbers"),
        ({"keypoints": [10**400] * 51}, "keypoints must be numbers"),
        ({"category_id": 10**400}, "category_id of entry 0 must be a whole number"),
    ):
        pred.write_text(json.dumps([rows[0] | change, *rows[1:]]))
        _said([pred.name, truth.name], "coco-keypoints", sentence, tmp_path, capsys)


def test_a_file_cut_off_or_not_there_is_one_sentence(tmp_path: Path, capsys: Any) -> None:
    protocol = PROTOCOLS["synthetic-24"]
    mine, _ = files(protocol, tmp_path, *made(protocol))
    mine.write_bytes(mine.read_bytes()[:-100])
    _said([mine.name, "truth.npz"], "synthetic-24", "is it whole?", tmp_path, capsys)
    _said(["none.npz", "truth.npz"], "synthetic-24", "no such file or folder", tmp_path, capsys)
    (tmp_path / "x.json").write_text("[]")
    _said(["x.json", "truth.npz"], "synthetic-24", "is scored from .npz", tmp_path, capsys)


@pytest.mark.parametrize(
    ("name", "wrong", "sentence"),
    [
        ("label", -1, "label must be 0 to 2147483647, found -1 to 2"),
        ("probability", 7.5, "probability must be 0 to 1, found 0 to 7.5"),  # logits
        ("probability", -0.5, "probability must be 0 to 1, found -0.5 to 1"),
        ("part_map", -1, "part_map must be 0 to 255, found -1 to 4"),
        ("part_map", 10**9, "part_map must be 0 to 255, found 0 to 1e+09"),
    ],
)
def test_classes_and_parts_beyond_their_range_are_one_sentence(
    name: str, wrong: float, sentence: str
) -> None:
    """In tables of classes they would count for another one, or take all memory."""
    for side in made(PROTOCOLS["part-pixels" if name == "part_map" else "classes"]):
        if name in side:
            side[name].flat[0] = wrong
            with pytest.raises(ValueError, match=re.escape(f"{side.where}: {sentence}")):
                side.taken(np.arange(len(side)))
