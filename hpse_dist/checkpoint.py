"""Checkpoints of a run: written whole or not at all, believed only when their hashes hold.

    checkpoints/step_00001000/   manifest.json   written last: step, loader, recipe, size and
                                                 sha256 of every file, and a hash of itself
                                 random-00000.json ...   one per rank
                                 what the engine writes
    checkpoints/.saving_step_00001000   while it is being written
    checkpoints/step_00000900.broken    set aside: a hash did not hold

The main process decides; every rank learns what it decided through the engine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from hpse_dist.world import World

log = logging.getLogger(__name__)

SCHEMA = 2
MANIFEST = "manifest.json"
_NAME = re.compile(r"^step_(\d{8,})$")


class Trained(Protocol):
    """What a checkpoint needs of an engine."""

    world: World

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def gather(self, value: Any) -> list[Any]: ...
    def from_main(self, value: Any) -> Any: ...


class Positioned(Protocol):
    """What a checkpoint needs of a loader."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpoints:
    """The checkpoints of one run folder: every so many steps, the last few kept."""

    def __init__(self, folder: Path, every: int, keep: int, recipe_hash: str) -> None:
        if every < 1:
            raise ValueError(f"checkpoints must come every 1 step or more, found {every}")
        if keep < 1:
            raise ValueError(f"at least 1 checkpoint must be kept, found {keep}")
        self.folder = Path(folder)
        self.every = every
        self.keep = keep
        self.recipe_hash = recipe_hash

    def due(self, step: int) -> bool:
        """True on the steps to save after."""
        return step % self.every == 0

    def save(self, engine: Trained, loader: Positioned, step: int) -> Path:
        """Write the state after `step`; collective. On failure every rank raises one OSError."""
        target = self.folder / f"step_{step:08d}"
        draft = self.folder / f".saving_{target.name}"
        failure = _attempt(engine, lambda: self._open(engine, draft))
        if failure is None:
            failure = _attempt(engine, lambda: self._write_state(engine, draft))
        if failure is None:
            failure = _attempt(engine, lambda: self._publish(engine, loader, step, draft, target))
        if failure is not None:
            if engine.world.is_main:
                shutil.rmtree(draft, ignore_errors=True)
            sentence = (
                f"{target}: the checkpoint could not be written ({failure}); "
                f"{_free(self.folder)} free there. Earlier checkpoints are untouched: make room "
                "and start the same command again"
            )
            raise OSError(engine.from_main(sentence))
        return target

    def _open(self, engine: Trained, draft: Path) -> None:
        if engine.world.is_main:
            shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed here
            draft.mkdir(parents=True)

    def _write_state(self, engine: Trained, draft: Path) -> None:
        engine.save(draft)
        path = draft / f"random-{engine.world.rank:05d}.json"
        path.write_text(json.dumps(random_state()), encoding="utf-8")

    def _publish(
        self, engine: Trained, loader: Positioned, step: int, draft: Path, target: Path
    ) -> None:
        """Hash what all ranks have written, write the manifest, rename, drop the oldest."""
        if not engine.world.is_main:
            return
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "step": step,
            "recipe_hash": self.recipe_hash,
            "world_size": engine.world.size,
            "loader": loader.state_dict(),
            "versions": {"torch": torch.__version__},
            "files": _hashes(draft, sync=True),
        }
        manifest = json.loads(json.dumps(manifest))  # keys become text, as they are read again
        text = json.dumps({**manifest, "sha256": _digest(manifest)}, indent=1)
        with (draft / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        for folder in {path.parent for path in draft.rglob("*")}:
            _sync(folder)
        if target.exists():
            _remove(target)
        draft.rename(target)
        _sync(self.folder)
        for old in self.found()[self.keep :]:
            _remove(old)

    def resume(self, engine: Trained, loader: Positioned) -> int:
        """Bring engine, loader and random states to the newest good checkpoint; collective.

        Returns its step, 0 if there is none. Broken checkpoints are set aside and said aloud; one
        of another recipe is a ValueError.
        """
        name, manifest, problem = None, {}, None
        if engine.world.is_main:
            try:
                path, manifest = self.newest_good() or (None, {})
                name = path.name if path else None
            except (ValueError, OSError) as error:
                problem = str(error)
        name, manifest, problem = engine.from_main((name, manifest, problem))
        if problem is not None:
            raise ValueError(problem)
        if name is None:
            return 0
        folder = self.folder / name
        engine.load(folder)
        loader.load_state_dict(manifest["loader"])
        path = folder / f"random-{engine.world.rank:05d}.json"
        if path.is_file():  # a run that has grown has ranks without one
            set_random_state(json.loads(path.read_text(encoding="utf-8")))
        return int(manifest["step"])

    def newest_good(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint whose hashes hold, and its manifest; for the main process only."""
        if self.folder.is_dir():
            for leftover in self.folder.glob(".saving_*"):
                shutil.rmtree(leftover)
            for leftover in self.folder.glob(".removing_*"):
                shutil.rmtree(leftover)
        for folder in self.found():
            problem = problem_of(folder)
            if problem is None:
                manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
                self._check_recipe(folder, manifest)
                return folder, manifest
            aside = _free_name(folder)
            folder.rename(aside)
            log.warning(
                "checkpoint %s is broken (%s): set aside as %s, trying the one before",
                folder,
                problem,
                aside.name,
            )
        return None

    def _check_recipe(self, folder: Path, manifest: dict[str, Any]) -> None:
        if manifest["schema"] > SCHEMA:
            raise ValueError(
                f"{folder}: written by a newer version of this program (schema "
                f"{manifest['schema']}, known are up to {SCHEMA}); update it, or start another "
                "run folder"
            )
        if manifest["recipe_hash"] != self.recipe_hash:
            raise ValueError(
                f"{folder}: saved by another recipe ({manifest['recipe_hash'][:12]}, this one is "
                f"{self.recipe_hash[:12]}); go back to the recipe of this run folder, or start "
                "another run folder"
            )

    def found(self) -> list[Path]:
        """Published checkpoints, newest first, good or not."""
        if not self.folder.is_dir():
            return []
        named = [
            (match, path) for path in self.folder.iterdir() if (match := _NAME.match(path.name))
        ]
        return [path for _, path in sorted(named, key=lambda pair: -int(pair[0].group(1)))]


def problem_of(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, None if every hash holds; unpickles nothing."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        claimed = manifest.pop("sha256")
        if claimed != _digest(manifest):
            return f"{MANIFEST} does not have its own hash"
        for name, about in manifest["files"].items():
            if not (folder / name).is_file():
                return f"{name} is missing"
            if (folder / name).stat().st_size != about["size"]:
                return f"{name} has another size"
        found = _hashes(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} or a file is not readable: {type(error).__name__}: {error}"
    for name, about in manifest["files"].items():
        if found.get(name) != about:
            return f"{name} does not have the hash it was written with"
    return None


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
    torch.set_rng_state(_bytes_tensor(state["torch"]))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(_bytes_tensor(state["cuda"]))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _bytes_tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8).clone()


def _attempt(engine: Trained, work: Callable[[], Any]) -> str | None:
    """Do `work` on every rank; the first rank's failure, told to all, or None."""
    error: Exception | None = None
    try:
        work()
    except Exception as caught:  # raised again below, once no other rank waits for this one
        error = caught
    reason = None if error is None else getattr(error, "strerror", None) or str(error)
    reasons = engine.gather(reason)
    if error is not None and not isinstance(error, OSError):
        raise error
    return next((found for found in reasons if found is not None), None)


def _files(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != MANIFEST)


def _hashes(folder: Path, *, sync: bool = False) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file but the manifest; with `sync`, safely on the disk."""

    def about(path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            if sync:
                os.fsync(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"size": path.stat().st_size, "sha256": digest}

    paths = list(_files(folder))
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing leaves the interpreter free
        found = list(pool.map(about, paths))
    names = [path.relative_to(folder).as_posix() for path in paths]
    return dict(zip(names, found, strict=True))


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(folder: Path) -> None:
    """Delete a checkpoint; killed half-way, it is not mistaken for a broken one."""
    doomed = folder.with_name(f".removing_{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _free_name(folder: Path) -> Path:
    """step_x.broken, or the first of step_x.broken2, ... that is not taken."""
    aside, number = folder.with_name(f"{folder.name}.broken"), 2
    while aside.exists():
        aside, number = folder.with_name(f"{folder.name}.broken{number}"), number + 1
    return aside


def _free(folder: Path) -> str:
    """Free space where a folder is or will be."""
    place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    return f"{shutil.disk_usage(place).free / 1e6:,.1f} MB"
