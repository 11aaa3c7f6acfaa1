"""Checkpoints of a run: written whole or not at all, believed only when their hashes hold.

    checkpoints/step_00001000/   manifest.json   written last: step, loader, recipe, size and
                                                 sha256 of every file, and a hash of itself
                                 random-00000.json ...   one per rank
                                 what the engine writes
    checkpoints/.saving_step_00001000   while it is being written
    checkpoints/step_00000900.broken    set aside: a hash did not hold

The main process decides; every rank learns what it decided through the engine. A checkpoint may
be written in the background: training waits only for a copy in memory, and looks at every step
whether all ranks are through; nothing but the rename makes it one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from hpse_dist.checkpoint_files import (
    MANIFEST,
    about_file,
    digest_of,
    free_name,
    free_space,
    problem_of,
    put_aside,
    random_state,
    remove,
    set_random_state,
)
from hpse_dist.disk import disk_error, sync
from hpse_dist.safety import as_written
from hpse_dist.world import World

log = logging.getLogger(__name__)

SCHEMA = 2  # 1: DeepSpeed's own files, of one world size and one stage
FAILURES = 3  # checkpoints in a row that may fail before a run ends
_DRAFT = ".saving_"
_NAME = re.compile(r"^step_(\d{8,})$")
_FORGED = ("its hashes hold, but it is ", "; move it away, and the one before is taken")
First = Callable[[], object] | None


class Snapshot(Protocol):
    """A rank's share of the training state, copied; it writes itself."""

    rank: int

    def write(self, folder: Path) -> Path: ...


class Trained(Protocol):
    """What a checkpoint needs of an engine."""

    world: World

    def snapshot(self) -> Snapshot: ...
    def load(self, folder: Path) -> None: ...
    def any_rank(self, flag: bool) -> bool: ...
    def gather(self, value: Any) -> list[Any]: ...
    def from_main(self, value: Any) -> Any: ...


class Positioned(Protocol):
    """What a checkpoint needs of a loader, and of whatever else has a state of plain values."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Checkpoints:
    """The checkpoints of one run folder: every so many steps, the last few kept."""

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int,
        recipe_hash: str,
        also: Mapping[str, Positioned] | None = None,
    ) -> None:
        """`also`: what else is brought back with the weights, by name."""
        if every < 1:
            raise ValueError(f"checkpoints must come every 1 step or more, found {every}")
        if keep < 1:
            raise ValueError(f"at least 1 checkpoint must be kept, found {keep}")
        self.folder = Path(folder)
        self.every = every
        self.keep = keep
        self.recipe_hash = recipe_hash
        self.also = dict(also or {})
        self._writing: _Writing | None = None
        self._failures = 0  # in a row

    def due(self, step: int) -> bool:
        """True on the steps to save after."""
        return step % self.every == 0

    def save(self, engine: Trained, loader: Positioned, step: int, before: First = None) -> Path:
        """Write the state after `step`; collective. On failure, of what has to be on the disk
        `before` too, every rank raises one OSError."""
        self.settle(engine, wait=True)
        failure = self._start(engine, loader, step, before) or self._end(engine)
        if failure is not None:
            raise disk_error(failure)
        return self.folder / _name(step)

    def begin(self, engine: Trained, loader: Positioned, step: int, before: First = None) -> None:
        """As `save`, in the background: `settle` makes it a checkpoint. Collective."""
        self.settle(engine, wait=True)
        failure = self._start(engine, loader, step, before)
        if failure is not None:
            self._note(failure)

    def settle(self, engine: Trained, *, wait: bool = False) -> None:
        """Publish what `begin` began once all ranks have written it; collective.

        A failure is said aloud and training goes on with the checkpoints that are there; the
        third in a row is an OSError.
        """
        if self._writing is None:
            return
        if not wait and engine.any_rank(self._writing.is_busy()):
            return
        self._note(self._end(engine))

    def _note(self, failure: str | None) -> None:
        self._failures = 0 if failure is None else self._failures + 1
        if failure is None:
            return
        if self._failures == FAILURES:
            raise disk_error(f"{failure}. It was the {FAILURES}rd checkpoint in a row that failed")
        log.warning("%s; training goes on", failure)

    def _start(self, engine: Trained, loader: Positioned, step: int, before: First) -> str | None:
        """Copy the state and let a thread write it; what went wrong, if anything."""
        target = self.folder / _name(step)
        draft = self.folder / f"{_DRAFT}{target.name}"
        failure = one_failure(engine, lambda: self._open(engine, draft, before))
        if failure is not None:
            return self._sentence(engine, target, draft, failure)
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "step": step,
            "recipe_hash": self.recipe_hash,
            "world_size": engine.world.size,
            "loader": loader.state_dict(),
            "also": {name: part.state_dict() for name, part in self.also.items()},
            "versions": {"torch": torch.__version__},
        }
        snapshot = engine.snapshot()
        self._writing = _Writing(target, draft, manifest, snapshot)
        return None

    def _end(self, engine: Trained) -> str | None:
        """Wait for the writers of all ranks and publish; what went wrong, if anything."""
        writing, self._writing = self._writing, None
        assert writing is not None
        failure = one_failure(engine, writing.finish)
        files: dict[str, Any] = {}
        if failure is None:
            for of_rank in engine.gather(writing.files):
                files |= of_rank
            failure = one_failure(engine, lambda: self._publish(engine, writing, files))
        if failure is not None:
            return self._sentence(engine, writing.target, writing.draft, failure)
        return None

    def _sentence(self, engine: Trained, target: Path, draft: Path, failure: str) -> str:
        if engine.world.is_main:
            shutil.rmtree(draft, ignore_errors=True)
        return engine.from_main(
            f"{target}: the checkpoint could not be written ({failure}); "
            f"{free_space(self.folder)} free there. Earlier checkpoints are untouched: make room "
            "and start the same command again"
        )

    def _open(self, engine: Trained, draft: Path, before: First) -> None:
        if before is not None:
            before()
        if engine.world.is_main:
            shutil.rmtree(draft, ignore_errors=True)  # of a run that was killed here
            draft.mkdir(parents=True)

    def _publish(self, engine: Trained, writing: _Writing, files: dict[str, Any]) -> None:
        """Write the manifest of what all ranks have written, rename, drop the oldest."""
        if not engine.world.is_main:
            return
        draft, target = writing.draft, writing.target
        manifest = {**writing.manifest, "files": dict(sorted(files.items()))}
        manifest = json.loads(json.dumps(manifest))  # keys become text, as they are read again
        text = json.dumps({**manifest, "sha256": digest_of(manifest)}, indent=1)
        with (draft / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        sync(draft)
        replaced = put_aside(target) if target.exists() else None  # saved again, after a return
        draft.rename(target)
        sync(self.folder)
        if replaced is not None:
            shutil.rmtree(replaced)
        for old in published(self.folder)[self.keep :]:
            remove(old)

    def resume(self, engine: Trained, loader: Positioned) -> int:
        """Bring engine, loader and random states to the newest good checkpoint; collective.

        Returns its step, 0 if there is none. Broken checkpoints are set aside and said aloud; one
        of another recipe is a ValueError.
        """
        folder, manifest = self._chosen(engine, None)
        if folder is None:
            return 0
        self._load(engine, folder, manifest)
        path = folder / f"random-{engine.world.rank:05d}.json"
        with as_written(folder, *_FORGED):
            loader.load_state_dict(manifest["loader"])
            if path.is_file():  # a run that has grown has ranks without one
                set_random_state(json.loads(path.read_text(encoding="utf-8")))
        return int(manifest["step"])

    def go_back(self, engine: Trained, before: int) -> int | None:
        """Bring all but the loader to the newest good checkpoint up to step `before`; collective.

        Where all are later, to the oldest. Returns its step, None if there is none. Later ones are
        deleted, for a restart would go on from weights that were given up; OSError where they stay.
        """
        folder, manifest = self._chosen(engine, before)
        if folder is None:
            return None
        self._load(engine, folder, manifest)
        failure = one_failure(engine, lambda: self._forget_after(engine, int(manifest["step"])))
        if failure is not None:
            raise OSError(
                f"{self.folder}: the checkpoints after step {manifest['step']}, to which the run "
                f"goes back, could not be deleted ({failure}); delete them and start the same "
                "command again"
            )
        return int(manifest["step"])

    def _forget_after(self, engine: Trained, step: int) -> None:
        if engine.world.is_main:
            for later in published(self.folder):
                if _step(later) > step:
                    remove(later)

    def _load(self, engine: Trained, folder: Path, manifest: dict[str, Any]) -> None:
        with as_written(folder, *_FORGED):
            engine.load(folder)
            for name, part in self.also.items():
                if name in manifest["also"]:
                    part.load_state_dict(manifest["also"][name])

    def _chosen(self, engine: Trained, before: int | None) -> tuple[Path | None, dict[str, Any]]:
        """What the main process chooses, told to all."""
        name, manifest, problem = None, {}, None
        if engine.world.is_main:
            try:
                path, manifest = self.newest_good(before) or (None, {})
                name = path.name if path else None
            except (ValueError, OSError) as error:
                problem = str(error)
        name, manifest, problem = engine.from_main((name, manifest, problem))
        if problem is not None:
            raise ValueError(problem)
        return (self.folder / name if name else None), manifest

    def newest_good(self, before: int | None = None) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint whose hashes hold, and its manifest; for the main process only.

        With `before`, the newest up to that step, else the oldest.
        """
        if self.folder.is_dir():
            self._clear()
        found = published(self.folder)
        if before is not None:
            late = [path for path in found if _step(path) > before]
            found = [path for path in found if path not in late] + late[::-1]
        for folder in found:
            problem = problem_of(folder)
            if problem is None:
                manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
                self._check_recipe(folder, manifest)
                return folder, manifest
            aside = free_name(folder)
            folder.rename(aside)
            log.warning(
                "checkpoint %s is broken (%s): set aside as %s, trying the one before",
                folder,
                problem,
                aside.name,
            )
        return None

    def _clear(self) -> None:
        """Delete what a kill has left; a draft that lacks nothing but its name gets it."""
        for draft in self.folder.glob(f"{_DRAFT}*"):
            target = self.folder / draft.name.removeprefix(_DRAFT)
            if _NAME.match(target.name) and not target.exists() and problem_of(draft) is None:
                draft.rename(target)
            else:
                shutil.rmtree(draft)
        for leftover in self.folder.glob(".removing_*"):
            shutil.rmtree(leftover)

    def _check_recipe(self, folder: Path, manifest: dict[str, Any]) -> None:
        if manifest["schema"] != SCHEMA:
            age = "a newer" if manifest["schema"] > SCHEMA else "an older"
            raise ValueError(
                f"{folder}: written by {age} version of this program (schema {manifest['schema']}, "
                f"this one reads {SCHEMA}); go on with that version, or start another run folder"
            )
        if manifest["recipe_hash"] != self.recipe_hash:
            raise ValueError(
                f"{folder}: saved by another recipe ({manifest['recipe_hash'][:12]}, this one is "
                f"{self.recipe_hash[:12]}); go back to the recipe of this run folder, or start "
                "another run folder"
            )


class _Writing:
    """A rank's share of a checkpoint on its way to the disk, in a thread of its own."""

    def __init__(
        self, target: Path, draft: Path, manifest: dict[str, Any], snapshot: Snapshot
    ) -> None:
        self.target, self.draft, self.manifest = target, draft, manifest
        self.files: dict[str, dict[str, Any]] = {}
        """Name -> size and sha256, once they are written."""
        self._error: Exception | None = None
        random = json.dumps(random_state())
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, random), name="checkpoint", daemon=True
        )
        self._thread.start()

    def _write(self, snapshot: Snapshot, random: str) -> None:
        try:
            paths = [snapshot.write(self.draft)]
            paths.append(self.draft / f"random-{snapshot.rank:05d}.json")
            paths[-1].write_text(random, encoding="utf-8")
            self.files = {path.name: about_file(path, sync=True) for path in paths}
        except Exception as error:  # raised by `finish`, in the thread that asks
            self._error = error

    def is_busy(self) -> bool:
        return self._thread.is_alive()

    def finish(self) -> None:
        """Wait for the end; raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def published(folder: Path) -> list[Path]:
    """A run's checkpoints, newest first, good or not; drafts and what was set aside are none."""
    if not folder.is_dir():
        return []
    named = [path for path in folder.iterdir() if _NAME.match(path.name)]
    return sorted(named, key=_step, reverse=True)


def _name(step: int) -> str:
    return f"step_{step:08d}"


def _step(folder: Path) -> int:
    """The step of a checkpoint's folder."""
    found = _NAME.match(folder.name)
    assert found is not None
    return int(found.group(1))


def one_failure(engine: Trained, work: Callable[[], Any]) -> str | None:
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
