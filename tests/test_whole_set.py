"""Figures of the whole held-out set stand in a finished run's report, without files."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpse_dist import whole_set
from hpse_dist.body.model import load_hand
from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.predict import Wanted, predict
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.recipe import FinetuneRecipe
from hpse_dist.records import Provenance
from hpse_dist.report.runs import read_run
from hpse_dist.tasks import build
from hpse_dist.whole_set import Collector
from hpse_dist.world import World
from tests.data.made_collection import CROP_PX, frames, made_collection, other_manifest
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture
from tests.fabricate import fabricate, tiny_body_file, tiny_hand_folder
from tests.tasks.test_hand_mesh import SMALL
from tests.test_predict import trained

HEAD = {"name": "pose2d", "head_dim": 16}


def report_of(recipe: FinetuneRecipe) -> dict[str, Any]:
    return json.loads((recipe.folder() / "report.json").read_text())


def from_files(recipe: FinetuneRecipe, protocol: str = "") -> dict[str, float]:
    """What the run's files of predictions score."""
    predict(Wanted(recipe, protocol), World(), recipe.folder())
    scores = json.loads((recipe.folder() / "scores.json").read_text())
    return scores[protocol or recipe.protocol()]["figures"]


def test_which_figures_are_of_sets() -> None:
    found = {name: protocol.set_figures for name, protocol in PROTOCOLS.items()}
    assert found["hagrid"] == found["classes"] == found["gun71"] == ("macro_f1",)
    assert found["coco-keypoints"] == PROTOCOLS["coco-keypoints"].figures
    assert found["synthetic-dense"] == PROTOCOLS["synthetic-dense"].figures[3:]
    assert found["agora"] == ("nmje", "nmve", "f1")
    assert found["synthetic-24"] == found["crop-pck"] == found["freihand"] == ()


def test_macro_f1_of_a_run(tmp_path: Path) -> None:
    recipe = trained(tmp_path, made_collection(hands=True), {"name": "classify", "num_classes": 3})
    report = report_of(recipe)
    first, last = report["history"]
    assert "macro_f1" not in first and last["macro_f1"] == report["metrics"]["macro_f1"]
    files = from_files(recipe)
    assert report["metrics"] == pytest.approx(files, rel=1e-4)


def test_a_frozen_encoder_is_judged_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPSE_CACHE", str(tmp_path / "cache"))
    task = {"name": "classify", "num_classes": 3}
    recipe = trained(tmp_path, made_collection(hands=True), task, encoder_frozen=True)
    assert 0 <= report_of(recipe)["metrics"]["macro_f1"] <= 100


def test_precision_on_the_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_set, "SURFACE", str(tiny_body_file(tmp_path)))
    recipe = trained(tmp_path, made_collection(), {"name": "dense_pose", "head_dim": 16})
    metrics = report_of(recipe)["metrics"]
    assert {"surface_right", "gps_ap", "gpsm_ap_75"} <= metrics.keys()
    files = from_files(recipe)
    for name in PROTOCOLS["synthetic-dense"].set_figures:
        assert metrics[name] == pytest.approx(files[name], abs=0.5), name


def test_labels_of_another_surface_cost_the_figures_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collection = made_collection()
    copy = other_manifest(collection, tmp_path / "other", details={"body": "smpl"})
    with caplog.at_level(logging.WARNING):
        task = {"name": "dense_pose", "head_dim": 16}
        recipe = trained(tmp_path, Collection.open(copy), task)
    metrics = report_of(recipe)["metrics"]
    assert "surface_right" in metrics and "gps_ap" not in metrics
    assert "synthetic-dense: no figures of the whole set: " in caplog.text
    assert "its surface labels are of the body smpl" in caplog.text


@pytest.mark.parametrize("name", SMALL)
def test_meshes_of_hands_without_a_label_are_told(name: str, tmp_path: Path) -> None:
    hand = str(tiny_hand_folder(tmp_path))
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2))
    task = build(SMALL[name](hand), encoder, seed=3).eval()
    batch = fabricate(task.needs, hand=load_hand(hand, "right"), batch=4)
    batch |= {"sample_id": torch.arange(4), "valid": torch.tensor([True, True, True, False])}
    batch["has_hand"] = torch.tensor([True, False, True, True])
    collector = Collector(PROTOCOLS["synthetic-hand"], made_collection(hands=True))
    collector(task, batch)
    assert collector.pieces[0][1]["vertices_known"].tolist() == [True, False, True]


@pytest.mark.usefixtures("plain_shards")
def test_the_area_of_a_person_is_that_of_the_mask(tmp_path: Path) -> None:
    """COCO's similarity is relative to it: a whole box's is twice as large, and errors small."""
    records = list(frames())[-12:]
    masks = []
    for number, record in enumerate(records):
        x0, y0, x1, y1 = record.box
        y, x = np.mgrid[:200, :200] + 0.5
        leaning = (x > x0) & (x < x1) & (y > y0) & (y < y1) & (x - x0 < (y - y0) / 2 + 9)
        record.labels = {"joints2d": record.labels["joints2d"][:17]}
        record.mask = leaning if number % 3 else None
        masks.append(float(leaning.sum()) if number % 3 else 0.53 * (x1 - x0) * (y1 - y0))
    config = CollectionConfig(crop_px=CROP_PX, box_scale=1.2, image_mode="raw")
    about = Provenance("made", "CC0-1.0", True, "", "coco17")
    collection = write_collection(tmp_path / "coco", records, config, about)
    order = [record.source for record in records]
    table = collection.frames
    wanted = [masks[order.index(source)] for source in table["source"].to_pylist()]
    ids = np.asarray(table["sample_id"]).astype(np.int64)
    joints = {"joints2d": np.full((len(ids), 17, 2), 0.5), "confidence": np.ones((len(ids), 17))}
    sides = dict(joints), joints | {"sample_id": ids}
    _, true = whole_set._about(collection, PROTOCOLS["coco-keypoints"], *sides)
    assert true["area"] == pytest.approx(wanted, rel=0.01)


def test_precision_of_coco_joints_has_a_column_of_its_own(tmp_path: Path) -> None:
    """AP is of another protocol than the task's PCK, so it is not among its metrics."""
    records = list(frames())
    for record in records:
        record.labels = {"joints2d": record.labels["joints2d"][:17]}
    config = CollectionConfig(crop_px=CROP_PX, box_scale=1.2, label_px=32)
    about = Provenance("made", "CC0-1.0", True, "", "coco17")
    collection = write_collection(tmp_path / "coco", records, config, about)
    recipe = trained(tmp_path, collection, HEAD | {"num_joints": 17})
    assert {*report_of(recipe)["metrics"]} == {"joint_error", "pck_005", "pck_01"}
    score = json.loads((recipe.folder() / "scores.json").read_text())["coco-keypoints"]
    assert score["examples"] == collection.manifest["counts"]["splits"]["val"]
    assert score["figures"].keys() >= {"ap", "ap_50", "ar"}
    shown = read_run(recipe.folder())
    assert shown.scores["coco-keypoints"] == score["figures"]
    assert from_files(recipe, "coco-keypoints") == pytest.approx(score["figures"], abs=0.5)
    other = trained(tmp_path / "smpl", made_collection(), HEAD)
    assert not (other.folder() / "scores.json").exists()
