"""Valid files of every kind that comes from strangers, how each is read, how to spoil it."""

from __future__ import annotations

import io
import pickle
import random
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
from safetensors.torch import save_file

from hpse_dist.body.clips import read_clip
from hpse_dist.body.poses import read_poses
from hpse_dist.body.smpl_files import read_body_file, read_pickled_arrays
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.checkpoint_files import problem_of
from hpse_dist.config import load
from hpse_dist.data.collection import Collection
from hpse_dist.data.importers import IMPORTERS
from hpse_dist.data.importers.rig_calibrations import read_calibration
from hpse_dist.data.items import Source, read_items
from hpse_dist.data.unpack import UnpackConfig, unpack
from hpse_dist.engine.state import SavedState
from hpse_dist.foreign import read_foreign
from hpse_dist.guard import read_incidents
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.protocols.files import score_files
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.report.runs import read_study
from hpse_dist.world import World
from tests.body.made_files import made_body
from tests.data.importers import test_rig_calibrations
from tests.data.importers.layouts import LAYOUTS
from tests.data.importers.test_hostile_annotation import read as read_records
from tests.data.made_collection import made_collection
from tests.engine.toys import TinyLoader, make_engine
from tests.protocols import made_examples
from tests.report.made_study import make_study
from tests.test_foreign import mae, vit

RECIPE = Path(__file__).parents[2] / "configs" / "pretrain" / "demo.yaml"
TOKENS = (
    *(b"1e999", b"-1", b"NaN", b"9" * 400, b"null", b'"x"', b"[]", b"{}", b"true", b"\0", b"\n"),
    *(b"!!python/object/apply:os.mkdir [x]", b"&a [*a, *a]", b"../../etc/passwd", b"\xff\xfe"),
)


@dataclass(frozen=True)
class Target:
    """One kind of file."""

    write: Callable[[Path], list[Path]]
    """Puts valid files into a folder; returns those that are to be spoiled."""
    read: Callable[[Path], object]
    """Reads the folder."""


def spoil(data: bytes, draw: random.Random, canary: Path) -> bytes:
    """A file's bytes changed at one to three places; of archives, more often a member's."""
    if data[:2] == b"PK" and draw.random() < 0.8:
        return _with_spoilt_member(data, draw, canary)
    for _ in range(draw.randint(1, 3)):
        at, length = draw.randrange(len(data) + 1), draw.randint(1, 12)
        new = draw.choice(
            [
                draw.randbytes(length),
                draw.choice(TOKENS),
                b"",
                data[draw.randrange(len(data) + 1) :][:length],
                # what a pickle that is read without an allow-list would run
                b"cos\nmkdir\n(V" + str(canary).encode() + b"\ntR",
            ]
        )
        data = data[:at] + new + data[at + draw.choice([0, len(new), length]) :]
        if draw.random() < 0.05:
            data = data[: draw.randrange(len(data) + 1)]
    return data


def _with_spoilt_member(data: bytes, draw: random.Random, canary: Path) -> bytes:
    source, made = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    chosen = draw.choice([name for name in names if name.endswith(".pkl")] or names)
    with zipfile.ZipFile(made, "w") as target:
        for name in names:
            inner = source.read(name)
            target.writestr(name, spoil(inner, draw, canary) if name == chosen else inner)
    return made.getvalue()


def _bytes(name: str, make: Callable[[Path], object], folder: Path) -> list[Path]:
    make(folder / name)
    return [folder / name]


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(made_body(vertices=8), protocol=2))


def _npz(path: Path) -> None:
    np.savez(path, **made_body(vertices=8))  # type: ignore[arg-type]


def _checkpoint(name: str, folder: Path) -> list[Path]:
    Checkpoints(folder, 1, 1, "hash").save(make_engine("plain"), TinyLoader(World()), 1)
    return [folder / "step_00000001" / name]


def _read_checkpoint(folder: Path) -> None:
    problem = problem_of(folder / "step_00000001")
    if problem is not None:
        raise ValueError(problem)


def _read_state(folder: Path) -> None:
    state = SavedState(folder / "step_00000001")
    for name, shape in state.shapes.items():
        state.whole(name, torch.empty(shape))


def _collection(name: str, folder: Path) -> list[Path]:
    for path in made_collection().folder.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    return [folder / name]


def _read_collection(folder: Path) -> None:
    collection = Collection.open(folder, check=False)
    assert all(path.parent == folder for path in collection.shards)
    _ = collection.spec, collection.label_fields, collection.num_frames, collection.pairs
    read_items(Source(collection), "pairs")


def _layout(name: str, pattern: str, folder: Path) -> list[Path]:
    made = LAYOUTS[name].write(folder)
    assert made is None or made == folder
    return sorted(folder.rglob(pattern))


def _read_layout(name: str, folder: Path) -> None:
    keys = {k: tuple(v) if isinstance(v, list) else v for k, v in LAYOUTS[name].keys.items()}
    read_records(name, IMPORTERS[name].Config(root=folder, **keys))


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


def _torch_file(path: Path) -> None:
    torch.save(mae(vit()), path)


def _safetensors(path: Path) -> None:
    save_file({k: v.contiguous() for k, v in vit().state_dict().items()}, path)


def _study(folder: Path) -> list[Path]:
    make_study(folder)
    for run in folder.rglob("report.json"):
        line = '{"kind": "skip", "step": 3, "why": "loss", "samples": [1, 2]}\n'
        (run.parent / "incidents.jsonl").write_text(line)
    return [p for p in folder.rglob("*") if p.suffix in (".json", ".jsonl", ".yaml", ".parquet")]


def _read_study(folder: Path) -> None:
    read_study(folder)
    for path in folder.rglob("incidents.jsonl"):
        read_incidents(path)


def _read_one(reader: Callable[[Path], object], folder: Path) -> None:
    reader(next(path for path in folder.iterdir()))


def _file(name: str, make: Callable[[Path], object], reader: Callable[[Path], object]) -> Target:
    return Target(partial(_bytes, name, make), partial(_read_one, reader))


TARGETS = {
    "recipe": _file(
        "a.yaml", lambda p: p.write_bytes(RECIPE.read_bytes()), partial(load, PretrainRecipe)
    ),
    "body_pickle": _file("a.pkl", _pickle, read_body_file),
    "body_npz": _file("a.npz", _npz, read_body_file),
    "clip": _file("a.npz", _clip, read_clip),
    "poses": _file("a.npz", _clip, partial(read_poses, rest=torch.zeros(24, 3))),
    "archive_zip": Target(partial(_archive, "a.zip"), _unpack),
    "archive_tar": Target(partial(_archive, "a.tar"), _unpack),
    "pickled_table": _file("a.pkl", _pickle, partial(read_pickled_arrays, names=("f", "weights"))),
    "torch_file": _file("a.pth", _torch_file, read_foreign),
    "safetensors": _file("a.safetensors", _safetensors, read_foreign),
    "checkpoint": Target(partial(_checkpoint, "manifest.json"), _read_checkpoint),
    "state": Target(partial(_checkpoint, "state-00000.safetensors"), _read_state),
    "manifest": Target(partial(_collection, "manifest.json"), _read_collection),
    "frames": Target(partial(_collection, "frames.parquet"), _read_collection),
    "study": Target(_study, _read_study),
    **{
        f"annotation_{name}": Target(partial(_layout, name, pattern), partial(_read_layout, name))
        for name, pattern in (("coco", "*.json"), ("lsp", "*.mat"), ("mpii", "*.mat"))
    },
    **{
        f"cameras_{kind}": Target(
            partial(_calibration, getattr(test_rig_calibrations, f"write_{kind}")), _read_cameras
        )
        for kind in ("toml", "opencv", "easymocap")
    },
    **{
        f"predictions_{layout}": Target(partial(_predictions, layout), partial(_score, layout))
        for layout in ("npz", "freihand", "3dpw", "coco")
    },
}
