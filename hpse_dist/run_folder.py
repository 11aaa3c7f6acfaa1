"""A run's folder on disk: what is written before and beside training.

Opening it again with another recipe, or with other data under the same path, is refused: what it
holds would no longer be what its recipe.yaml says.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from hpse_dist.accounting import STARTS_FILE
from hpse_dist.config import ConfigError, build, dump, flat, read_yaml, to_dict
from hpse_dist.disk import write_text
from hpse_dist.installed import version_of
from hpse_dist.log import METRICS_FILE
from hpse_dist.protocols.score import Score
from hpse_dist.recipe import TrainingRecipe, collection_of, component
from hpse_dist.report.runs import LOCK_FILE
from hpse_dist.safety import parsed_json
from hpse_dist.world import World

DATA_FILE = "collections.json"
SCORES_FILE = "scores.json"
PACKAGES = ("torch", "deepspeed", "ray", "ffcv", "timm", "smplx", "xformers", "tensorboard")


def is_done(folder: Path) -> bool:
    """Whether the run in a folder has ended well."""
    return (folder / "DONE").is_file()


def has_work(folder: Path) -> bool:
    """Whether a folder holds anything that a run has made: a line of its log, a checkpoint."""
    return (
        is_done(folder)
        or (folder / METRICS_FILE).is_file()
        or any((folder / "checkpoints").glob("*"))
    )


def check_folder(recipe: TrainingRecipe, folder: Path) -> None:
    """A folder that already holds another recipe's run is a ConfigError; a start that failed
    before it made anything is no run."""
    changed = _changed(recipe, folder)
    if changed and has_work(folder):
        raise ConfigError(
            f"{folder} holds a run of another recipe, different in {', '.join(changed)}; "
            "give this one another name, or remove that folder"
        )


def _changed(recipe: TrainingRecipe, folder: Path) -> list[str]:
    """The keys in which a folder's recipe is another one."""
    path = folder / "recipe.yaml"
    if not path.is_file():
        return []
    before = build(type(recipe), read_yaml(path), where=str(path))
    if before.hash() == recipe.hash():
        return []
    old, new = (flat(to_dict(one), ignore=("machine",)) for one in (before, recipe))
    return [k for k in old | new if old.get(k) != new.get(k)]


@contextlib.contextmanager
def opened(recipe: TrainingRecipe, world: World, folder: Path) -> Iterator[bool]:
    """A run's folder, made or opened again, for this run alone; False when its run is done."""
    check_folder(recipe, folder)
    if is_done(folder):
        yield False
    elif not world.is_main:
        yield True
    else:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder):
            check_folder(recipe, folder)  # whoever held it until now may have begun
            if _changed(recipe, folder):
                # only a failed start of another recipe: this one is no restart of it
                for file in (folder / STARTS_FILE, *folder.glob("events.*")):
                    file.unlink(missing_ok=True)
            write_text(folder / "recipe.yaml", dump(recipe))
            write_text(folder / "environment.json", json.dumps(environment(), indent=1))
            check_data(recipe, folder)
            write_text(folder / DATA_FILE, json.dumps(_data(recipe), indent=1))
            yield True


@contextlib.contextmanager
def held(folder: Path, patience_s: float = 30.0) -> Iterator[None]:
    """A folder for one process, until that ends however it ends; ValueError if another has it.

    A worker that was killed a moment ago may still be going: `patience_s` waits for its end.
    """
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + patience_s
        while not _locked(file):
            if time.monotonic() > deadline:
                file.seek(0)
                raise ValueError(
                    f"{folder}: {file.read().strip() or 'another process'} is at this run; wait "
                    "for its end, or give this one another name"
                )
            time.sleep(0.2)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def check_data(recipe: TrainingRecipe, folder: Path) -> None:
    """The collections are those that the run in a folder began with, or a ConfigError: a path says
    little. Pairs count for runs that see pairs; a folder without a run is fine.
    """
    path = folder / DATA_FILE
    if not path.is_file() or not has_work(folder):
        return
    before = parsed_json(path.read_text(encoding="utf-8"))
    tables = ("frames.parquet", *(["pairs.parquet"] if "image_ref" in component(recipe)[1] else []))
    changed = [
        name
        for name, found in _data(recipe).items()
        if any(found.get(table) != before.get(name, {}).get(table) for table in tables)
    ]
    if changed:
        raise ConfigError(
            f"{', '.join(changed)} has other frames or pairs than when {folder} began; bring that "
            "collection back, or give the run (or its study) another name, or remove that folder"
        )


def _data(recipe: TrainingRecipe) -> dict[str, dict[str, str]]:
    """sha256 of the tables of each collection, by its path."""
    found = {}
    for use in recipe.judged_and_learnt():
        files = collection_of(use, recipe.machine).manifest["files"]
        tables = ("frames.parquet", "pairs.parquet")
        found[str(use.path)] = {name: files[name]["sha256"] for name in tables if name in files}
    return found


def keep_scores(folder: Path, scores: Mapping[str, Score]) -> None:
    """Add figures of a run, by protocols other than its own or of its files, to scores.json."""
    now = {name: asdict(score) for name, score in scores.items()}
    write_text(folder / SCORES_FILE, json.dumps(kept_scores(folder) | now, indent=1))


def kept_scores(folder: Path) -> dict[str, Any]:
    """What a run's folder holds of them."""
    path = folder / SCORES_FILE
    return parsed_json(path.read_text(encoding="utf-8")) if path.is_file() else {}


def environment() -> dict[str, Any]:
    """Versions and the machine, as far as they may matter to a result."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: version for name in PACKAGES if (version := version_of(name))},
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }
