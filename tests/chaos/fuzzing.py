"""Valid files of every kind that comes from strangers, and how each is read."""

from __future__ import annotations

import io
import json
import math
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from safetensors.torch import save_file

from hpse_dist.accounting import read_starts
from hpse_dist.body.clips import read_clip
from hpse_dist.body.poses import read_poses
from hpse_dist.body.smpl_files import read_body_file, read_pickled_arrays
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.checkpoint_files import MANIFEST, about_file, digest_of, problem_of
from hpse_dist.config import load
from hpse_dist.data.collection import Collection
from hpse_dist.data.importers import IMPORTERS, rig_boxes, video_boxes
from hpse_dist.data.importers.rig_calibrations import read_calibration
from hpse_dist.data.items import Source, read_items
from hpse_dist.data.publish import file_entry, write_manifest
from hpse_dist.data.unpack import UnpackConfig, unpack
from hpse_dist.data.verify import verify
from hpse_dist.engine.state import SavedState
from hpse_dist.guard import read_incidents
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.protocols.files import score_files
from hpse_dist.protocols.score import Regressor
from hpse_dist.recipe import DataRecipe, FinetuneRecipe, PretrainRecipe
from hpse_dist.report import write_report
from hpse_dist.report.runs import read_study
from hpse_dist.source import encoder_of, read_source, write_source
from hpse_dist.study_recipe import StudyRecipe
from hpse_dist.sweep import SweepRecipe
from hpse_dist.world import World
from tests.body.made_files import made_body
from tests.data.importers import test_rig_calibrations
from tests.data.importers.layouts import LAYOUTS, PICTURES
from tests.data.importers.test_hostile_annotation import read as read_records
from tests.data.made_collection import made_collection
from tests.engine.toys import TinyLoader, make_engine
from tests.protocols import made_examples
from tests.report.made_study import make_study
from tests.test_foreign import croco, dino, mae, vit

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = {
    "pretrain/demo": PretrainRecipe,
    "finetune/demo": FinetuneRecipe,
    "data/demo": DataRecipe,
    "study/labels": StudyRecipe,
    "sweep/pose2d": SweepRecipe,
}


ROOTS: dict[Path, Path] = {}
"""Where in a folder a dataset's layout begins."""


@dataclass(frozen=True)
class Target:
    """One kind of file."""

    write: Callable[[Path], list[Path]]
    """Puts valid files into a folder; returns those that are to be spoiled."""
    read: Callable[[Path], object]
    """Reads the folder."""
    seal: Callable[[Path], object] | None = None
    """Makes hashes fit what was spoiled, so that it is looked at all the same."""


def _bytes(name: str, make: Callable[[Path], object], folder: Path) -> list[Path]:
    make(folder / name)
    return [folder / name]


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(made_body(vertices=8), protocol=2))


def _npz(path: Path) -> None:
    np.savez(path, **made_body(vertices=8))  # type: ignore[arg-type]


def _checkpoint(pattern: str, folder: Path) -> list[Path]:
    Checkpoints(folder, 1, 1, "hash").save(make_engine("plain"), TinyLoader(World()), 1)
    return sorted((folder / "step_00000001").glob(pattern))


def _read_checkpoint(folder: Path) -> None:
    problem = problem_of(folder / "step_00000001")
    if problem is not None:
        raise ValueError(problem)


def _read_state(folder: Path) -> None:
    state = SavedState(folder / "step_00000001")
    for name, shape in state.shapes.items():
        if math.prod(shape) > 1 << 20:
            raise ValueError(f"{name}: no model here is so large")
        state.whole(name, torch.empty(shape))


def _resume(folder: Path) -> None:
    """On a copy: a broken one is set aside."""
    place = folder / "copy"
    shutil.copytree(folder / "step_00000001", place / "step_00000001")
    try:
        engine, loader = make_engine("plain"), TinyLoader(World())
        if Checkpoints(place, 1, 1, "hash").resume(engine, loader) == 0:
            raise ValueError("set aside")
    finally:
        shutil.rmtree(place)


def _seal_checkpoint(folder: Path) -> None:
    path = folder / "step_00000001" / MANIFEST
    found = json.loads(path.read_text(encoding="utf-8"))
    for name in found["files"]:
        found["files"][name] = about_file(path.with_name(name))
    found.pop("sha256", None)
    path.write_text(json.dumps({**found, "sha256": digest_of(found)}), encoding="utf-8")


def _collection(name: str, folder: Path) -> list[Path]:
    for path in made_collection().folder.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return [folder / name]


def _read_collection(folder: Path) -> None:
    collection = Collection.open(folder, check=False)
    assert all(path.parent == folder for path in collection.shards)
    _ = collection.spec, collection.label_fields, collection.num_frames
    verify(collection)
    items = read_items(Source(collection), "pairs")
    items.by_shard()
    ids = collection.frames["sample_id"].to_numpy()[:20]
    collection.read(ids, ["sample_id", "image", *collection.label_fields])


def _seal_collection(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for name in manifest["files"]:
        manifest["files"][name] = file_entry(folder / name)
    write_manifest(folder, manifest)


def _layout(name: str, folder: Path) -> list[Path]:
    """All of it but pictures and videos, whose decoders SECURITY.md speaks of."""
    ROOTS[folder] = LAYOUTS[name].write(folder) or folder
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [
        path for path in files if path.suffix.lower() not in (*PICTURES, ".avi", ".mp4", ".mov")
    ]


def _read_layout(name: str, folder: Path) -> None:
    keys = {k: tuple(v) if isinstance(v, list) else v for k, v in LAYOUTS[name].keys.items()}
    read_records(name, IMPORTERS[name].Config(root=ROOTS[folder], **keys))


def _boxes(what: str, path: Path) -> None:
    rows = [{what: "a", "frame": i, "x0": 1, "y0": 2.5, "x1": 30, "y1": 40} for i in range(3)]
    texts = {
        ".csv": "\n".join([",".join(rows[0]), *(",".join(map(str, r.values())) for r in rows)]),
        ".json": json.dumps(rows),
        ".jsonl": "\n".join(map(json.dumps, rows)),
    }
    path.write_text(texts[path.suffix])


def _regressor(path: Path) -> None:
    np.save(path, np.full((16, 778), 1 / 778))


def _calibration(write: Callable[[Path], Path], folder: Path) -> list[Path]:
    write(folder)
    return [path for path in folder.iterdir() if path.is_file()]


def _read_cameras(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        if path.stem in ("calibration", "intri"):
            read_calibration(path)


def _archive(name: str, folder: Path) -> list[Path]:
    content = {"a/one.txt": b"1" * 600, "two.json": b"{}"}
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in content.items():
                archive.writestr(path, data)
        return [folder / name]
    with tarfile.open(folder / name, "w", format=tarfile.PAX_FORMAT) as tar:
        for path, data in content.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.pax_headers = len(data), {"comment": "c" * 40}
            tar.addfile(entry, io.BytesIO(data))
    return [folder / name]


def _unpack(folder: Path) -> None:
    """Into a folder in the middle of the folder, and away with it: what stays lay outside."""
    into = folder / "deep" / "down"
    try:
        unpack(UnpackConfig(archives=folder, keep_free_gb=0.0), into)
    finally:
        shutil.rmtree(into, ignore_errors=True)
        into.parent.rmdir()


def _clip(path: Path) -> None:
    frames = np.linspace(0, 1, 20)[:, None]
    np.savez(path, poses=frames * np.ones(156), trans=frames * np.ones(3), mocap_framerate=30.0)


def _predictions(layout: str, folder: Path) -> list[Path]:
    protocol = _protocol(layout)
    found = made_examples.files(protocol, folder, *made_examples.made(protocol))
    return [p for one in found for p in (one.rglob("*") if one.is_dir() else [one]) if p.is_file()]


def _protocol(layout: str) -> Any:
    return next(p for p in PROTOCOLS.values() if p.layout == layout)


def _score(layout: str, folder: Path) -> None:
    names = made_examples.FILES[layout]
    score_files(_protocol(layout), folder / names[0], folder / names[1])


def _torch_file(layout: str, path: Path) -> None:
    if layout == "vitpose":
        model = vit(class_token=False, global_pool="avg", fc_norm=False)
        state = {k.replace("fc_norm", "last_norm"): v for k, v in model.state_dict().items()}
        state = {
            k.replace("norm.", "last_norm.") if k[:5] == "norm." else k: v for k, v in state.items()
        }
        state["pos_embed"] = torch.zeros(1, 4 * 3 + 1, 192)
        torch.save({"state_dict": {f"backbone.{k}": v for k, v in state.items()}}, path)
    elif layout == "dinov2":
        state = vit(init_values=0.3, reg_tokens=4, no_embed_class=True).state_dict()
        state["pos_embed"] = torch.cat((state["pos_embed"][:, :1], state["pos_embed"]), dim=1)
        state["register_tokens"] = state.pop("reg_token")
        torch.save(state, path)
    elif layout == "croco":
        torch.save({"model": croco(False)[0], "croco_kwargs": {"pos_embed": "cosine"}}, path)
    else:
        torch.save({"mae": mae, "dino": dino}[layout](vit()), path)


def _resnet(path: Path) -> None:
    """Its names; of each tensor a corner."""
    state = torchvision.models.resnet18().state_dict()
    small = {
        k: v[:2, :2].clone() if v.ndim > 1 else v[:2].clone() for k, v in state.items() if v.ndim
    }
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in small.items()}}, path)


def _safetensors(path: Path) -> None:
    save_file({k: v.contiguous() for k, v in vit().state_dict().items()}, path)


def _own_source(path: Path) -> None:
    config = EncoderConfig("custom", 32, 8, 24, 2, 3)
    write_source(path, config, build_encoder(config).state_dict(), {"name": "own"})


@torch.no_grad()
def _encoder(path: Path) -> None:
    source = read_source(path)
    encoder_of(source, source.config.image_px)


def _study(folder: Path) -> list[Path]:
    make_study(folder)
    for run in folder.rglob("report.json"):
        line = '{"kind": "skip", "step": 3, "why": "loss", "samples": [1, 2]}\n'
        (run.parent / "incidents.jsonl").write_text(line)
        start = {"launch": "a", "began": 1.0, "first": 2.0, "last": 3.0, "ended": None}
        (run.parent / "starts.json").write_text(json.dumps([start]))
    return [p for p in folder.rglob("*") if p.suffix in (".json", ".jsonl", ".yaml", ".parquet")]


def _read_study(folder: Path) -> None:
    for run in read_study(folder).runs:
        assert all(isinstance(value, (int, float)) for value in run.metrics.values())
        read_starts(run.folder / "starts.json")
        read_incidents(run.folder / "incidents.jsonl")


def _read_one(reader: Callable[[Path], object], folder: Path) -> None:
    reader(next(path for path in folder.iterdir()))


def _file(name: str, make: Callable[[Path], object], reader: Callable[[Path], object]) -> Target:
    return Target(partial(_bytes, name, make), partial(_read_one, reader))


TARGETS = {
    **{
        f"recipe_{name.partition('/')[0]}": _file(
            "a.yaml",
            lambda p, name=name: p.write_bytes((CONFIGS / f"{name}.yaml").read_bytes()),
            partial(load, kind),
        )
        for name, kind in RECIPES.items()
    },
    "body_pickle": _file("a.pkl", _pickle, read_body_file),
    "body_npz": _file("a.npz", _npz, read_body_file),
    "clip": _file("a.npz", _clip, read_clip),
    "poses": _file("a.npz", _clip, partial(read_poses, rest=torch.zeros(24, 3))),
    "archive_zip": Target(partial(_archive, "a.zip"), _unpack),
    "archive_tar": Target(partial(_archive, "a.tar"), _unpack),
    "pickled_table": _file("a.pkl", _pickle, partial(read_pickled_arrays, names=("f", "weights"))),
    **{
        f"foreign_{layout}": _file("a.pth", partial(_torch_file, layout), _encoder)
        for layout in ("mae", "dino", "dinov2", "vitpose", "croco")
    },
    "foreign_resnet": _file("a.pth", _resnet, read_source),
    "foreign_safetensors": _file("a.safetensors", _safetensors, _encoder),
    "source": _file("a.safetensors", _own_source, _encoder),
    "checkpoint": Target(partial(_checkpoint, MANIFEST), _read_checkpoint),
    "state": Target(partial(_checkpoint, "state-*"), _read_state),
    "resume": Target(partial(_checkpoint, "*"), _resume, _seal_checkpoint),
    **{
        name: Target(partial(_collection, file), _read_collection, _seal_collection)
        for name, file in (
            ("manifest", "manifest.json"),
            ("frames", "frames.parquet"),
            ("pairs", "pairs.parquet"),
            ("shard", "frames-00000.beton"),
        )
    },
    "study": Target(_study, _read_study),
    "report": Target(_study, write_report),
    **{
        f"annotation_{name}": Target(partial(_layout, name), partial(_read_layout, name))
        for name in LAYOUTS
        if name not in ("image_folder", "gun71", "mcpc")  # no annotation, and others' together
    },
    **{
        f"cameras_{kind}": Target(
            partial(_calibration, getattr(test_rig_calibrations, f"write_{kind}")), _read_cameras
        )
        for kind in ("toml", "opencv", "easymocap")
    },
    **{
        f"boxes_rig_{kind}": _file(
            f"a.{kind}", partial(_boxes, "camera"), partial(rig_boxes.read_boxes, cameras=["a"])
        )
        for kind in ("csv", "json")
    },
    **{
        f"boxes_video_{kind}": _file(
            f"a.{kind}", partial(_boxes, "video"), partial(video_boxes.read_boxes, videos=["a"])
        )
        for kind in ("csv", "jsonl")
    },
    **{
        f"predictions_{layout}": Target(partial(_predictions, layout), partial(_score, layout))
        for layout in ("npz", "freihand", "3dpw", "coco")
    },
    "regressor": _file("a.npy", _regressor, Regressor.read),
}
