"""What fuzzing has found, once each: a sentence now, where a traceback was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from hpse_dist.arrays import read_npz
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.config import Choice, ConfigError, build, read_yaml
from hpse_dist.data.collection import Collection
from hpse_dist.data.importers import mupots
from hpse_dist.data.importers.bedlam_labels import read_labels
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.rest_skeleton import Posed
from hpse_dist.data.importers.rig_boxes import read_boxes
from hpse_dist.data.items import Source, read_items
from hpse_dist.data.verify import verify
from hpse_dist.engine.state import SavedState
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.protocols.files import read_json, score_files
from hpse_dist.report import write_report
from hpse_dist.report.runs import read_study
from hpse_dist.source import read_source
from hpse_dist.sweep import SweepRecipe
from hpse_dist.world import World
from tests.chaos.fuzzing import _seal_checkpoint, _seal_collection
from tests.data.importers import test_bedlam
from tests.data.made_collection import made_collection
from tests.engine.toys import TinyLoader, make_engine
from tests.protocols import made_examples
from tests.report.made_study import make_study
from tests.test_foreign import vit


@dataclass(frozen=True)
class Part:
    """A component."""


@dataclass(frozen=True)
class Small:
    """A recipe."""

    steps: int = 1
    lr: float = 1.0
    part: Annotated[object, Choice({"one": Part})] = "one"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": float("inf")}, "steps: found inf, needed is a whole number"),
        ({"lr": 10**400}, "lr: found 1000"),
        ({"part": {"name": {"x": 1}}}, "unknown name"),
        ({"steps": ["x" * 99_999]}, "steps: found"),
    ],
)
def test_values_that_no_number_holds(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        build(Small, values)
    assert len(str(error.value)) < 1000


def test_a_tensor_that_is_missing_is_told_with_its_file(tmp_path: Path) -> None:
    state = {k: v.contiguous() for k, v in vit().state_dict().items()}
    del state["patch_embed.proj.weight"]
    save_file(state, tmp_path / "it.safetensors")
    with pytest.raises(
        ValueError, match=r"it\.safetensors: its names are those of ViT, but a tensor"
    ):
        read_source(tmp_path / "it.safetensors")


@pytest.mark.parametrize("shape", [[2.5], [[2]], [-2], [True]])
def test_a_state_whose_shapes_are_none(tmp_path: Path, shape: Any) -> None:
    about = {"facts": {"updates": 1, "moved": 1}, "shapes": {"weight:a": shape}}
    _state(tmp_path, about, {"weight:a@0": torch.ones(2)})
    with pytest.raises(ValueError, match=r"no training state, or a damaged one .*has no shape"):
        SavedState(tmp_path)


def test_a_state_whose_stretches_or_facts_are_none(tmp_path: Path) -> None:
    about: dict[str, Any] = {"facts": {"updates": 1, "moved": 1}, "shapes": {"weight:a": [2]}}
    _state(tmp_path, about, {"weight:a@00": torch.ones(2)})
    with pytest.raises(ValueError, match="is no stretch of a tensor"):
        SavedState(tmp_path)
    for facts in ({"updates": 1}, {"updates": 1, "moved": float("inf")}):
        _state(tmp_path, {**about, "facts": facts}, {"weight:a@0": torch.ones(2)})
        with pytest.raises(ValueError, match="no training state"):
            SavedState(tmp_path)


def _state(folder: Path, about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "state-00000.safetensors", {"about": json.dumps(about)})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", ["recipe_hash", "loader", "also", "step"])
def test_a_forged_checkpoint_that_lacks_something_is_set_aside(tmp_path: Path, key: str) -> None:
    engine, loader = make_engine("plain"), TinyLoader(World())
    checkpoints = Checkpoints(tmp_path, 1, 2, "hash")
    path = checkpoints.save(engine, loader, 1) / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))
    _seal_checkpoint(tmp_path)
    assert checkpoints.resume(engine, loader) == 0
    assert (tmp_path / "step_00000001.broken").is_dir()


@pytest.mark.parametrize("state", ["null", "{}", '{"torch": "00", "cuda": null}'])
def test_forged_random_states(tmp_path: Path, state: str) -> None:
    engine, loader = make_engine("plain"), TinyLoader(World())
    checkpoints = Checkpoints(tmp_path, 1, 2, "hash")
    folder = checkpoints.save(engine, loader, 1)
    (folder / "random-00000.json").write_text(state)
    _seal_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"step_00000001: its hashes hold, but|no state of torch"):
        checkpoints.resume(engine, loader)


@pytest.mark.parametrize("name", ["imgname", "pose_cam", "shape", "gtkps"])
def test_arrays_of_one_number_are_no_rows(tmp_path: Path, name: str) -> None:
    content = test_bedlam.labels(people=1)
    np.savez(tmp_path / "a.npz", **{**content, name: np.float64(1)})
    with pytest.raises(Bad, match=name):
        read_labels(tmp_path / "a.npz", "smplx")


def test_texts_of_numbers_that_no_letter_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", names=np.array([0x110000, 65], "u4").view("U2"))
    with pytest.raises(ValueError, match="holds texts that are none"):
        read_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", names=np.array(["é", "\U0010ffff"], ">U2"))
    assert read_npz(tmp_path / "a.npz")["names"].tolist() == ["é", "\U0010ffff"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"][0].pop("area"), "needs an area, and four numbers as bbox"),
        (lambda d: d["annotations"][0].update(bbox=[1]), "needs an area, and four numbers"),
        (lambda d: d["annotations"][0].update(id="x"), "id of entry 0 must be a whole number"),
        (lambda d: d["annotations"][0].update(area=10**400), "needs an area"),
        (lambda d: d.pop("categories"), "categories must be a list of entries with an id"),
        (lambda d: d.update(images=7), "images must be a list of entries with an id"),
        (lambda d: d.update(images=[[]]), "images must be a list of entries with an id"),
    ],
)
def test_coco_annotation_that_its_evaluation_does_not_check(
    tmp_path: Path, change: Callable[[Any], object], said: str
) -> None:
    protocol = next(p for p in PROTOCOLS.values() if p.layout == "coco")
    found, truth = made_examples.files(protocol, tmp_path, *made_examples.made(protocol))
    document = json.loads(truth.read_text())
    change(document)
    truth.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=said):
        score_files(protocol, found, truth)


def _table(change: Callable[[pa.Table], pa.Table], name: str, folder: Path) -> Collection:
    """A collection of its own, with one of its tables changed and all hashes made to fit."""
    shutil.copytree(made_collection().folder, folder)
    pq.write_table(change(pq.read_table(folder / name)), folder / name)
    _seal_collection(folder)
    return Collection.open(folder)


def _numbered(column: str, values: Callable[[np.ndarray], np.ndarray]) -> Callable[..., pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        made = pa.array(values(table[column].to_numpy()))
        return table.set_column(table.column_names.index(column), column, made)

    return change


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("frames.parquet", lambda t: t.drop_columns(["track"]), "it has no column track"),
        ("pairs.parquet", lambda t: t.drop_columns(["kind"]), "it has no column kind"),
        ("pairs.parquet", lambda t: t.append_column("a", t["b"]), "not readable as a table"),
        ("pairs.parquet", _numbered("a", lambda v: v.astype(str)), "in place of int64 in column a"),
        ("pairs.parquet", _numbered("b", lambda v: v + 10**6), "pairs of frames that are not in"),
        ("frames.parquet", _numbered("shard", lambda v: v + 90), "shards 90 to "),
        ("frames.parquet", lambda t: t.slice(0, 1), "that are not in frames.parquet"),
    ],
)
def test_tables_that_are_no_collections(
    tmp_path: Path, name: str, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    collection = _table(change, name, tmp_path / "made")
    with pytest.raises(ValueError, match=said):
        read_items(Source(collection), "pairs")


def test_a_damaged_table_is_named_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    shutil.copytree(made_collection().folder, folder)
    data = (folder / "pairs.parquet").read_bytes()
    (folder / "pairs.parquet").write_bytes(data[:-60] + b"\xff" * 52 + data[-8:])
    with pytest.raises(ValueError, match=r"pairs\.parquet: not readable as a table") as error:
        _ = Collection.open(folder).pairs
    assert "\n" not in str(error.value)


def test_a_manifest_may_say_nothing_of_fields(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    shutil.copytree(made_collection().folder, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["fields"]
    path.write_text(json.dumps(manifest))
    _seal_collection(folder)
    assert Collection.open(folder).label_fields == ()
    assert not verify(Collection.open(folder)).problems


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("report.json", {"metrics": "x", "seconds": [], "account": {"wall_s": 1}}, None),
        ("report.json", {"seed": None}, "not as this program writes it"),
        ("report.json", {"history": 7}, "not as this program writes it"),
        ("environment.json", {"a": json.loads("[" * 300 + "]" * 300)}, "nested over 32 levels"),
        ("report.json", {"metrics": {"pa_mpjpe": 10**400}}, None),
    ],
)
def test_runs_whose_reports_were_changed(
    tmp_path: Path, file: str, change: dict[str, Any], said: str | None
) -> None:
    make_study(tmp_path)
    path = next(tmp_path.rglob(file))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    if said is None:
        read_study(tmp_path)
        assert write_report(tmp_path).is_file()
    else:
        with pytest.raises(ValueError, match=said):
            read_study(tmp_path)


DEEP = "[" * 100_000  # more than Python's own reader can follow


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5", "needed is a list of boxes, found int"),
        (DEEP, "JSON nested too deep"),
        ('[{"camera": "a", "frame": 1e999, "x0": 0, "y0": 0, "x1": 1, "y1": 1}]', "box 1: needs"),
        ('[{"camera": "a", "frame": 1, "x0": 0, "y0": 0, "x1": 1, "y1": 1e300}]', "beyond all b"),
    ],
)
def test_boxes_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "boxes.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_boxes(tmp_path / "boxes.json", ["a"])


def test_brackets_without_end_are_no_predictions(tmp_path: Path) -> None:
    (tmp_path / "pred.json").write_text(DEEP)
    with pytest.raises(ValueError, match=r"pred\.json: not readable as JSON .*nested too deep"):
        read_json(tmp_path / "pred.json")


@pytest.mark.filterwarnings("error")
def test_numbers_that_are_none_warn_nobody() -> None:
    signalling = np.array([0x7FA00000], "u4").view("f4")
    with pytest.raises(Bad, match="holds NaN or infinity"):
        numbers(signalling, 1, "it")
    at_the_camera = Posed(
        np.eye(3)[None, None].repeat(24, axis=1), np.eye(3)[None], np.zeros((1, 3)), np.eye(3)[None]
    )
    assert not np.isfinite(at_the_camera.pixels(np.zeros((24, 3)))).any()


def test_people_of_mupots_that_are_texts() -> None:
    said = mupots._read(np.array(["x"], dtype=object))
    assert isinstance(said, str) and said.startswith("its labels cannot be read")


def test_a_metric_of_several_lines_is_said_in_one() -> None:
    values = read_yaml(Path("configs/sweep/pose2d.yaml")) | {"metric": "a\nb"}
    with pytest.raises(ValueError, match=r"'a\\nb' ranks nothing") as error:
        build(SweepRecipe, values)
    assert "\n" not in str(error.value)
