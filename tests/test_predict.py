"""A finished run's predictions as files: whole, in order, scored, and shown by the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpse_dist import predict as module
from hpse_dist import whole_set
from hpse_dist.config import ConfigError, build, dump
from hpse_dist.data.collection import Collection
from hpse_dist.data.derive import split
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.predict import Wanted, predict
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.protocols.files import FILES, read, score_files
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe
from hpse_dist.recipe_checks import check_fields, load_checked
from hpse_dist.report import write_report
from hpse_dist.run import finetune
from hpse_dist.world import World
from pipelines import run_command
from pipelines.finetune import main, parser
from tests.data.made_collection import made_collection, other_manifest
from tests.fabricate import tiny_body_file
from tests.test_run import recipe_of

HELD_OUT = made_collection().manifest["counts"]["splits"]["val"]


@pytest.fixture(scope="module")
def collection() -> Collection:
    return made_collection()


@pytest.fixture(scope="module")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_body_file(tmp_path_factory.mktemp("body"))


def trained(
    folder: Path, collection: Collection, task: dict[str, Any], **changes: Any
) -> FinetuneRecipe:
    values = recipe_of(folder, collection, task=task, steps=6, **changes)
    recipe = build(FinetuneRecipe, values)
    finetune(recipe, World(), recipe.folder())
    return recipe


def metrics(recipe: FinetuneRecipe) -> dict[str, float]:
    report = json.loads((recipe.folder() / "report.json").read_text())
    assert report["protocol"] == recipe.protocol()
    return report["metrics"]


def test_meshes_are_written_in_two_layouts_and_score_as_while_training(
    tmp_path: Path, collection: Collection, body_file: Path
) -> None:
    task = {
        "name": "body_mesh",
        "body": str(body_file),
        "head_dim": 32,
        "head_depth": 1,
        "heads": 1,
    }
    recipe = trained(tmp_path, collection, task)
    folder = recipe.folder()
    predict(Wanted(recipe), World(), folder)
    predict(Wanted(recipe, "3dpw-challenge"), World(), folder)
    scores = json.loads((folder / "scores.json").read_text())
    assert set(scores) == {"synthetic-24", "3dpw-challenge"}
    found = scores["synthetic-24"]
    assert found["examples"] == HELD_OUT
    for name in ("pa_mpjpe", "mpjpe"):  # not pve: the made joints are not those of the made body
        assert found["figures"][name] == pytest.approx(metrics(recipe)[name], rel=1e-3), name
    challenge = scores["3dpw-challenge"]["figures"]["mpjpe"]  # the same joints and root
    assert challenge == pytest.approx(found["figures"]["mpjpe"], rel=1e-6)
    mine, true = (read(PROTOCOLS["synthetic-24"], folder / "predictions" / n) for n in FILES["npz"])
    assert len(mine) == len(true) == HELD_OUT
    assert mine["id"].tolist() == true["id"].tolist()
    assert [int(name) for name in mine["id"]] == sorted(int(name) for name in mine["id"])
    exact = score_files(PROTOCOLS["synthetic-24"], *([folder / "predictions" / "truth.npz"] * 2))
    assert exact.figures["mpjpe"] == 0.0
    with pytest.raises(
        ValueError, match="its joints are smpl24 and protocol h36m-p1 judges h36m17"
    ):
        predict(Wanted(recipe, "h36m-p1"), World(), folder)
    with pytest.raises(ValueError, match="judges part_map, which BodyMesh does not predict"):
        predict(Wanted(recipe, "part-pixels"), World(), folder)
    page = write_report(folder).read_text()
    assert "Protocol 3dpw-challenge: " in page and "Run, synthetic-24" not in page
    assert "Body mesh, synthetic-24" in page and "Body mesh, 3dpw-challenge" in page


def test_joints_in_the_picture(tmp_path: Path, collection: Collection) -> None:
    recipe = trained(tmp_path, collection, {"name": "pose2d", "head_dim": 16})
    predict(Wanted(recipe), World(), recipe.folder())
    figures = json.loads((recipe.folder() / "scores.json").read_text())["crop-pck"]["figures"]
    for name, value in figures.items():
        assert value == pytest.approx(metrics(recipe)[name], abs=0.2), name
    with pytest.raises(ValueError, match="its joints are smpl24 and protocol coco-keypoints"):
        predict(Wanted(recipe, "coco-keypoints"), World(), recipe.folder())


def test_results_of_coco_are_in_the_pixels_of_whole_pictures(
    tmp_path: Path, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The made people have 24 joints; 17 of them stand in for COCO's."""
    monkeypatch.setitem(collection.manifest, "joint_set", "coco17")
    rows = np.flatnonzero([s == "val" for s in collection.frames["split"].to_pylist()])
    table = collection.frames.take(rows)
    rng = np.random.default_rng(0)
    joints = rng.uniform(size=(len(rows), 17, 2))
    mine = {"joints2d": joints, "confidence": np.ones((len(rows), 17))}
    true = {k: v.copy() for k, v in mine.items()}
    true["sample_id"] = np.asarray(table["sample_id"]).astype(np.int64)
    protocol = PROTOCOLS["coco-keypoints"]
    mine, true = whole_set._about(collection, protocol, mine, true)
    recipe = build(FinetuneRecipe, recipe_of(tmp_path, collection, task={"name": "pose2d"}))
    score = module._scored(Wanted(recipe, protocol.name), protocol, mine, true, tmp_path)
    assert score is not None and score.figures["ap"] == pytest.approx(100.0)
    first = json.loads((tmp_path / "predictions" / "results.json").read_text())[0]
    x, y, side = table["crop"].to_pylist()[0]
    wanted = joints[0, 0] * side + [x, y] - 0.5  # COCO counts from the first pixel's middle
    assert first["keypoints"][:2] == pytest.approx(wanted.tolist())


def test_places_on_the_surface(
    tmp_path: Path, collection: Collection, body_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_set, "SURFACE", str(body_file))
    recipe = trained(tmp_path, collection, {"name": "dense_pose", "head_dim": 16})
    predict(Wanted(recipe), World(), recipe.folder())
    figures = json.loads((recipe.folder() / "scores.json").read_text())["synthetic-dense"][
        "figures"
    ]
    assert {"gps_ap", "gpsm_ap"} <= figures.keys() and 0 <= figures["gps_ap"] <= 100
    files = [recipe.folder() / "predictions" / name for name in FILES["npz"]]
    exact = read(PROTOCOLS["synthetic-dense"], files[1])
    assert exact["vertex"].shape == (HELD_OUT, whole_set.POINTS)
    assert score_files(PROTOCOLS["synthetic-dense"], files[1], files[1]).figures["gpsm_ap"] == 100.0
    again = trained(tmp_path / "parts", collection, {"name": "part_segmentation", "head_dim": 16})
    predict(Wanted(again), World(), again.folder())
    scores = json.loads((again.folder() / "scores.json").read_text())
    for name, value in scores["part-pixels"]["figures"].items():
        assert value == pytest.approx(metrics(again)[name], abs=0.1), name


def test_the_command(tmp_path: Path, collection: Collection, capsys: Any) -> None:
    values = recipe_of(tmp_path, collection, task={"name": "pose2d", "head_dim": 16}, steps=3)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(build(FinetuneRecipe, values)))
    given = [str(path), "--without-ray", "--predict"]
    assert run_command(main, parser(), [*given, "--protocol", "hagrid"]) == 2
    assert "judges probability, which task pose2d does not predict" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # it is not trained first
    assert run_command(main, parser(), given) == 0, capsys.readouterr().err
    assert "predictions for protocol crop-pck: " in capsys.readouterr().out
    assert run_command(main, parser(), [*given[:2], "--protocol", "crop-pck"]) == 2
    assert "add --predict" in capsys.readouterr().err
    scores = (tmp_path / "run" / "scores.json").read_text()
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # as a study frees it
    assert run_command(main, parser(), given) == 0
    assert (tmp_path / "run" / "scores.json").read_text() == scores
    (tmp_path / "run" / "head.safetensors").unlink()
    assert run_command(main, parser(), given) == 1
    assert "head.safetensors: not there" in capsys.readouterr().err
    (tmp_path / "run" / "DONE").unlink()
    with pytest.raises(ValueError, match="the run is not done"):
        predict(Wanted(build(FinetuneRecipe, values)), World(), tmp_path / "run")


def test_people_held_out_since_are_not_predicted(tmp_path: Path, collection: Collection) -> None:
    """A collection split anew under the same path: whom the run was trained on is held out now."""
    place = tmp_path / "data"
    shutil.copytree(collection.folder, place)
    task = {"name": "pose2d", "head_dim": 16}
    recipe = trained(tmp_path, Collection.open(place), task)
    rules = PairsConfig(time_gap_s=(0.4, 1.0), pose_distance=(0.01, 9.0))
    write_pairs(Collection.open(place), rules)  # pairs, which it never sees
    predict(Wanted(recipe), World(), recipe.folder())
    split(collection, tmp_path / "new", {"val": ("s0",)})
    shutil.rmtree(place)
    (tmp_path / "new").rename(place)
    with pytest.raises(ConfigError, match=r"data has other frames or pairs than when .*run began"):
        predict(Wanted(recipe), World(), recipe.folder())


def test_a_collection_of_other_joints_is_refused_before_training(
    tmp_path: Path, collection: Collection
) -> None:
    copy = other_manifest(collection, tmp_path / "other", joint_set="coco17")
    for part, kind in (("task", FinetuneRecipe), ("objective", PretrainRecipe)):
        values = recipe_of(tmp_path, collection, **{part: {"name": "body_mesh"}})
        values["collections"] = [{"path": str(copy)}]
        path = tmp_path / f"{part}.yaml"
        path.write_text(dump(build(kind, values)))
        with pytest.raises(ConfigError, match="joints are coco17 and protocol synthetic-24 judges"):
            load_checked(kind, path)


def test_parameters_of_another_body_are_refused_before_training(
    tmp_path: Path, collection: Collection, body_file: Path
) -> None:
    copy = other_manifest(collection, tmp_path / "other", details={"body": "free"})
    mesh = {"name": "body_mesh", "body": str(body_file)}
    for part, kind in (("task", FinetuneRecipe), ("objective", PretrainRecipe)):
        values = recipe_of(tmp_path, collection, **{part: mesh})
        check_fields(build(kind, values))  # who does not say whose they are
        values["collections"] = [{"path": str(copy)}]
        check_fields(build(kind, values | {part: mesh | {"body": "free"}}))
        with pytest.raises(ValueError, match=f"of the body free, and {part}.body is /"):
            check_fields(build(kind, values))


@pytest.mark.parametrize(("name", "key"), [("hand_mesh", "body"), ("hand_mesh_free", "hand")])
def test_parameters_of_another_hand_are_refused_before_training(
    name: str, key: str, tmp_path: Path
) -> None:
    collection = made_collection(hands=True)
    copy = other_manifest(collection, tmp_path / "other", details={"hand_model": "MANO"})
    for part, kind in (("task", FinetuneRecipe), ("objective", PretrainRecipe)):
        values = recipe_of(tmp_path, collection, **{part: {"name": name}})
        check_fields(build(kind, values))  # who does not say whose they are
        values["collections"] = [{"path": str(copy)}]
        check_fields(build(kind, values | {part: {"name": name, key: "/models/mano"}}))
        with pytest.raises(ValueError, match=f"of MANO, and {part}.{key} is free"):
            check_fields(build(kind, values))


def test_ranks_together_write_what_one_would(collection: Collection) -> None:
    """Rows of all ranks, sorted: padding left out, every frame once."""

    class Two:
        def gather(self, pieces: list[Any]) -> list[list[Any]]:
            return [pieces[1::2], pieces[::2]]

        world = World(1, 2, 1, 2)

    class Model:
        def predict(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"probability": batch["sample_id"][:, None].double()}

        truth = predict

    batches = [
        {
            "sample_id": torch.tensor(ids),
            "label": torch.tensor(ids),
            "valid": torch.tensor([True, n < 2]),
        }
        for n, ids in enumerate(([4, 1], [0, 3], [2, 4]))
    ]
    collector = whole_set.Collector(PROTOCOLS["classes"], collection)
    for batch in batches:
        collector(Model(), batch)  # type: ignore[arg-type]
    mine, true = collector.gathered(Two())  # type: ignore[arg-type]
    assert true["label"].tolist() == mine["probability"][:, 0].tolist() == [0, 1, 2, 3, 4]
