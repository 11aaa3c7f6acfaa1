"""The files of a checkpoint: their hashes, what is wrong with them, and moving them safely."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpse_dist.safety import parsed_json

MANIFEST = "manifest.json"
_KEYS: dict[str, type] = {
    **{"schema": int, "step": int, "recipe_hash": str, "loader": dict, "also": dict},
    **{"files": dict, "sha256": str},
}


def problem_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, None if every hash holds; unpickles nothing."""
    path = folder / MANIFEST
    try:
        manifest = parsed_json(path.read_text(encoding="utf-8"))
        lacking = [key for key, kind in _KEYS.items() if not isinstance(manifest.get(key), kind)]
        if lacking:
            return f"{MANIFEST} lacks {', '.join(lacking)}"
        claimed = manifest.pop("sha256")
        if claimed != digest_of(manifest):
            return f"{MANIFEST} does not have its own hash"
        for name, about in manifest["files"].items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if (folder / name).stat().st_size != about["size"]:
                return f"{name} has another size"
        found = hashes(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{MANIFEST} or a file is not readable: {type(error).__name__}: {error}"
    for name, about in manifest["files"].items():
        if found.get(name) != about:
            return f"{name} does not have the hash it was written with"
    return None


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST)


def hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file but the manifest."""
    paths = list(_files(folder))
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing leaves the interpreter free
        found = list(pool.map(about_file, paths))
    names = [path.relative_to(folder).as_posix() for path in paths]
    return dict(zip(names, found, strict=True))


def about_file(path: Path, *, sync: bool = False) -> dict[str, Any]:
    """Size and sha256 of a file; with `sync`, safely on the disk."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def digest_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def remove(folder: Path) -> None:
    """Delete a checkpoint; killed half-way, it is not mistaken for a broken one."""
    shutil.rmtree(put_aside(folder))


def put_aside(folder: Path) -> Path:
    """Rename a checkpoint that is to be deleted, and return its new place."""
    doomed = folder.with_name(f".removing_{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    return folder.rename(doomed)


def free_name(folder: Path) -> Path:
    """step_x.broken, or the first of step_x.broken2, ... that is not taken."""
    aside, number = folder.with_name(f"{folder.name}.broken"), 2
    while aside.exists():
        aside, number = folder.with_name(f"{folder.name}.broken{number}"), number + 1
    return aside


def free_space(folder: Path) -> str:
    """Free space where a folder is or will be."""
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return f"{shutil.disk_usage(place).free / 1e6:,.1f} MB"


def random_state() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global generators as plain values.

    The recipes draw by counter and need none of it; what a third party draws does.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": torch.cuda.get_rng_state().numpy().tobytes().hex()
        if torch.cuda.is_available()
        else None,
        "numpy": [str(kind), np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave."""
    try:
        torch.set_rng_state(_bytes_tensor(state["torch"]))
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(_bytes_tensor(state["cuda"]))
    except RuntimeError as error:
        raise ValueError(f"no state of torch's generator: {error}") from None
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _bytes_tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8).clone()
