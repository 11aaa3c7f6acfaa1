"""Figures of frames that a recipe names: other collections, split test, further tests."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from torch import Tensor

from hpse_dist.config import build, digest, dump
from hpse_dist.data.collection import Collection, write_collection
from hpse_dist.data.derive import split, subset
from hpse_dist.examples import FILE
from hpse_dist.fields import Batch
from hpse_dist.predict import Wanted, predict
from hpse_dist.recipe import FinetuneRecipe, HeldOut, PretrainRecipe
from hpse_dist.recipe_checks import check_recipe
from hpse_dist.records import Provenance
from hpse_dist.report import write_report
from hpse_dist.report.lineage import JUDGED, TEST, parts
from hpse_dist.report.runs import read_study
from hpse_dist.run import finetune
from hpse_dist.tasks.pose2d import Pose2d
from hpse_dist.world import World
from pipelines import run_command
from pipelines.finetune import main, parser
from tests.data.made_collection import frames, made_collection
from tests.fabricate import tiny_body_file
from tests.test_run import pretraining, recipe_of

POSE2D = {"name": "pose2d", "head_dim": 16}


@pytest.fixture(scope="module")
def whole() -> Collection:
    return made_collection()


@pytest.fixture(scope="module")
def apart(whole: Collection, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Collection]:
    """The same people in collections of one split each: train, val, and val called test."""
    folder = tmp_path_factory.mktemp("apart")
    made = {name: subset(whole, folder / name, {"split": (name,)}) for name in ("train", "val")}
    people = tuple(dict.fromkeys(made["val"].frames["subject"].to_pylist()))
    return made | {"test": split(made["val"], folder / "test", {"test": people})}


def recipe(folder: Path, collection: Collection, **changes: Any) -> FinetuneRecipe:
    return build(FinetuneRecipe, recipe_of(folder, collection, task=POSE2D, **changes))


def place(collection: Collection, split: str = "val") -> dict[str, str]:
    return {"path": str(collection.folder), "split": split}


def figures(folder: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "report.json").read_text())["metrics"]
    return found


def scores(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return found


@pytest.mark.parametrize("frozen", [False, True], ids=["pictures", "tokens"])
def test_figures_are_of_what_the_recipe_names(
    tmp_path: Path, whole: Collection, apart: dict[str, Collection], frozen: bool
) -> None:
    """The same frames elsewhere give the same figures; further tests give theirs besides."""
    usual = recipe(tmp_path / "usual", whole, encoder_frozen=frozen)
    named = recipe(
        tmp_path / "named",
        apart["train"],
        held_out=place(apart["val"]),
        tests=[place(apart["test"], "test"), place(whole)],
        encoder_frozen=frozen,
    )
    for one in (usual, named):
        finetune(one, World(), one.folder())
    expected = figures(usual.folder())
    assert figures(named.folder()) == pytest.approx(expected, rel=1e-6)
    rows = [pq.read_table(one.folder() / FILE) for one in (usual, named)]
    assert rows[0]["subject"].to_pylist() == rows[1]["subject"].to_pylist()
    found = scores(named.folder())
    assert set(found) == {"crop-pck on test, split test", f"crop-pck on {whole.name}, split val"}
    for score in found.values():
        assert score["examples"] == len(rows[0])
        each = pq.read_table(named.folder() / score["each"])
        assert each.column_names == rows[0].column_names
        for name in ("subject", *(n for n in each.column_names if n.startswith("metric/"))):
            assert each[name].to_pylist() == pytest.approx(rows[1][name].to_pylist(), nan_ok=True)
        for name, value in score["figures"].items():
            assert value == pytest.approx(expected[name], rel=1e-6), name
    assert not (usual.folder() / "scores.json").exists()


@pytest.mark.parametrize("frozen", [False, True], ids=["pictures", "tokens"])
def test_what_is_judged_may_lack_labels_that_only_training_needs(
    tmp_path: Path, whole: Collection, frozen: bool
) -> None:
    """As 3DPW does, whose people have no one body: their joints are enough."""
    people = [record for record in frames() if record.split == "val"]
    for record in people:
        record.labels = {name: record.labels[name] for name in ("joints2d", "joints3d")}
    provenance = Provenance("made", "CC0-1.0", True, "", "smpl24")
    joints = write_collection(tmp_path / "joints", people, whole.config, provenance)
    body = {"name": "body_mesh", "body": str(tiny_body_file(tmp_path))}
    task = body | {"head_dim": 32, "head_depth": 1, "heads": 1}
    values = recipe_of(tmp_path, whole, task=task, encoder_frozen=frozen)
    usual, named = (
        build(FinetuneRecipe, values | {"name": name} | changes)
        for name, changes in (
            ("usual", {}),
            ("named", {"held_out": place(joints), "tests": [place(joints)]}),
        )
    )
    for one in (usual, named):
        check_recipe(one, "recipe.yaml")
        finetune(one, World(), one.folder())
    expected, found = figures(usual.folder()), figures(named.folder())
    assert expected["pve"] > 0 and math.isnan(found["pve"]), "nobody's mesh is known"
    for name in ("pa_mpjpe", "mpjpe"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    predict(Wanted(named), World(), named.folder())
    every = scores(named.folder())
    assert set(every) == {"synthetic-24", "synthetic-24 on joints, split val"}
    for score in every.values():
        assert score["figures"]["pa_mpjpe"] == pytest.approx(expected["pa_mpjpe"], rel=1e-3)
        assert "pve" not in score["figures"]


def test_a_finished_run_predicts_frames_that_it_never_heard_of(
    tmp_path: Path, whole: Collection, apart: dict[str, Collection], capsys: Any
) -> None:
    (tmp_path / "recipe.yaml").write_text(dump(recipe(tmp_path, whole)))
    command = [str(tmp_path / "recipe.yaml"), "--without-ray", "--predict"]
    on = ["--on", str(apart["test"].folder), "--split", "test"]
    assert run_command(main, parser(), [*command, *on]) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "run"
    found = scores(folder)["crop-pck on test, split test"]
    assert f"joint_error {found['figures']['joint_error']:.4g}" in said
    assert f"({found['examples']} examples)" in said
    assert found["figures"]["joint_error"] == pytest.approx(figures(folder)["joint_error"], abs=0.1)
    assert [path.name for path in (folder / "predictions").iterdir()] == ["test_test"]
    own, each = (pq.read_table(folder / name) for name in (FILE, found["each"]))
    for name in ("subject", "metric/joint_error"):
        assert each[name].to_pylist() == pytest.approx(own[name].to_pylist(), nan_ok=True)
    predict(Wanted(recipe(tmp_path, whole)), World(), folder)  # its own, beside them
    assert set(scores(folder)) == {"crop-pck on test, split test", "crop-pck"}
    assert not scores(folder)["crop-pck"]["each"], "what the run itself has kept"
    page = write_report(folder).read_text(encoding="utf-8")
    assert "crop-pck on test, split test" in page and "Measured on test, split test." in page

    def refused(*arguments: str) -> str:
        assert run_command(main, parser(), [*command[:1], *arguments]) == 2
        return capsys.readouterr().err

    train = str(apart["train"].folder)
    assert "no frames of split val, only of train" in refused("--predict", "--on", train)
    assert "add what lacks" in refused(*on) and "add what lacks" in refused("--predict", *on[2:])


def test_what_a_recipe_names_has_to_suffice(
    tmp_path: Path, whole: Collection, apart: dict[str, Collection]
) -> None:
    def refused(**changes: Any) -> str:
        with pytest.raises(ValueError) as error:
            check_recipe(recipe(tmp_path, whole, **changes), "recipe.yaml")
        return str(error.value)

    check_recipe(recipe(tmp_path, whole, held_out=place(apart["test"], "test")), "recipe.yaml")
    assert "test holds no frames of split val, only of test" in refused(
        held_out=place(apart["test"])
    )
    there = Path("gone").resolve()
    assert f"yaml, tests: {there} is not a collection" in refused(tests=[{"path": "gone"}])
    assert f"yaml, held_out: {there} is not a collection" in refused(held_out={"path": "gone"})
    bare = made_collection(with_labels=False)
    assert "holds no joints2d, by which pose2d is measured" in refused(tests=[place(bare)])
    with pytest.raises(ValueError, match="tests names test, split test twice"):
        recipe(tmp_path, whole, tests=[place(apart["test"], "test")] * 2)
    alone = recipe(tmp_path, apart["val"])
    with pytest.raises(ValueError, match="val holds no frames of split train; name it as held_out"):
        check_recipe(alone, "recipe.yaml")


def test_a_prediction_that_is_no_number_leaves_no_figure(
    tmp_path: Path, whole: Collection, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Left out of the mean, as a row without its label is, it would make the model look better."""
    predict_ = Pose2d.predict

    def broken(self: Pose2d, batch: Batch) -> dict[str, Tensor]:
        made = predict_(self, batch)
        made["joints2d"][0] = math.nan
        return made

    monkeypatch.setattr(Pose2d, "predict", broken)
    made = recipe(tmp_path, whole)
    finetune(made, World(), made.folder())
    found = figures(made.folder())
    assert math.isnan(found["joint_error"]), found
    assert found["pck_005"] <= 100.0, "there a wrong place counts as wrong"
    assert "not finite (NaN or infinite): joint_error have no value" in caplog.text
    table = pq.read_table(made.folder() / FILE)
    assert all(math.isnan(value) for value in table["metric/joint_error"].to_pylist())
    assert not any(math.isnan(value) for value in table["metric/pck_005"].to_pylist())


def test_runs_of_before_keep_their_hash(tmp_path: Path, whole: Collection) -> None:
    """They named nothing, so what they held out is what they hold out now."""
    made = recipe(tmp_path, whole)
    assert made.hash() == digest(made, ignore=("machine", "held_out", "tests"))
    named = replace(made, held_out=HeldOut(whole.folder))
    tested = replace(made, tests=(HeldOut(whole.folder),))
    assert len({made.hash(), named.hash(), tested.hash()}) == 3
    before = pretraining(tmp_path, whole)
    assert isinstance(before, PretrainRecipe)
    assert before.hash() != replace(before, held_out=HeldOut(whole.folder)).hash()


def test_a_test_set_that_was_made_anew_is_another(
    tmp_path: Path, whole: Collection, apart: dict[str, Collection]
) -> None:
    test = subset(apart["val"], tmp_path / "test", {"split": ("val",)})
    made = recipe(tmp_path, whole, tests=[place(test)], held_out=place(apart["test"], "test"))
    finetune(made, World(), made.folder())
    card = parts(read_study(made.folder()).runs[0])
    named = {part.what: part.name for part in card if part.what in (JUDGED, TEST)}
    assert named == {JUDGED: "test, split test", TEST: "test, split val"}
    for file in test.folder.iterdir():
        if file.is_file():
            file.unlink()
    test.folder.rename(tmp_path / "old")
    camera = whole.frames["camera"][-1].as_py()
    subset(whole, tmp_path / "test", {"split": ("val",), "camera": (camera,)})
    with pytest.raises(ValueError, match="has other frames or pairs than when"):
        predict(Wanted(made), World(), made.folder())
