"""`python -m pipelines.prepare <recipe.yaml> [key=value ...]`: from pictures to a collection."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.prepare import with_workers
from hpse_dist.config import ConfigError, load
from hpse_dist.data.collection import Collection
from hpse_dist.data.duplicates import across, check_list_name, counts, write_list
from hpse_dist.data.leakage import CHECKS, guard
from hpse_dist.data.mining.distributions import KEPT
from hpse_dist.data.reprojection import sentences
from hpse_dist.data.verify import verify as look_through
from hpse_dist.prepare import CarryOut, in_this_process, prepare, unpack_first
from hpse_dist.recipe import DataRecipe
from pipelines import command_parser, place, progress_bar, run_command


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "prepare",
        "Make a collection, its pairs and contact sheets; run again, it says that it is done.",
        "python -m pipelines.prepare configs/data/demo.yaml collection.crop_px=128\n"
        "  python -m pipelines.prepare collections/demo --verify\n"
        "  python -m pipelines.prepare collections/rig --leakage collections/demo\n"
        "  python -m pipelines.prepare collections/demo --duplicates twice.csv",
    )
    made.add_argument(
        "recipe", type=place, help="a YAML under configs/data (or, to look closer, a folder)"
    )
    made.add_argument("overrides", nargs="*", metavar="key=value", help="such as pairs.seed=1")
    looks = made.add_mutually_exclusive_group()
    looks.add_argument(
        "--verify",
        action="store_true",
        help="check a finished collection: every file's sha256, every frame decoded, tables, pairs "
        "and sheets",
    )
    looks.add_argument(
        "--leakage",
        type=place,
        nargs="+",
        metavar="FOLDER",
        help="compare its training frames with the held-out frames of these collections, and stamp "
        "the result into its manifest; 1 where something leaks",
    )
    made.add_argument(
        "--by", nargs="+", default=CHECKS, choices=CHECKS, help="what --leakage compares: all three"
    )
    looks.add_argument(
        "--duplicates",
        type=Path,
        metavar="LIST",
        help="write a .csv or .parquet of pictures that are in it twice",
    )
    made.add_argument(
        "--with",
        type=place,
        nargs="+",
        default=(),
        dest="others",
        metavar="FOLDER",
        help="--duplicates: or also in these collections",
    )
    made.add_argument(
        "--without-ray",
        action="store_true",
        help="make all parts in this process, whatever machine.workers says",
    )
    made.add_argument(
        "--overwrite", action="store_true", help="replace a collection made by another recipe"
    )
    return made


def main(options: argparse.Namespace) -> None:
    if options.verify:
        verify(_folder(options))
        return
    if options.leakage:
        leakage(_folder(options), options.leakage, tuple(options.by))
        return
    if options.duplicates:
        duplicates(_folder(options), options.others, options.duplicates)
        return
    if options.others:
        raise ConfigError("--with goes with --duplicates")
    recipe = load(DataRecipe, options.recipe, options.overrides)
    known = recipe.folder() / "manifest.json"
    before = known.read_bytes() if known.is_file() else None
    if recipe.unpack.archives is not None:
        with progress_bar(None, "unpack", "B") as bar:
            unpacked = unpack_first(recipe, overwrite=options.overwrite, progress=bar.update)
        if unpacked:
            print(f"unpacked: {', '.join(archive.name for archive in unpacked)}")
    with progress_bar(None, recipe.name, "frame") as bar:
        collection = prepare(
            recipe, overwrite=options.overwrite, meter=bar, carry_out=_carry_out(recipe, options)
        )
    for line in summary(collection):
        print(line)
    print(f"{'done before' if known.read_bytes() == before else 'done'}: {collection.folder}")


def _carry_out(recipe: DataRecipe, options: argparse.Namespace) -> CarryOut:
    """Here, or by Ray workers where the recipe asks for more than one."""
    machine = recipe.machine
    if options.without_ray or machine.workers == 1:
        return in_this_process
    return with_workers(machine.workers, max_failures=machine.max_failures, debug=options.debug)


def _folder(options: argparse.Namespace) -> Path:
    """The collection's folder: given as such, or as the recipe that makes it."""
    if not options.recipe.is_dir():
        return load(DataRecipe, options.recipe, options.overrides).folder()
    if options.overrides:
        raise ConfigError(f"{options.recipe} is a folder; key=value goes with a recipe")
    return options.recipe


def verify(folder: Path) -> None:
    """Print a line for each bad file; ValueError that names them all if there are any."""
    collection = Collection.open(folder, check=False)
    files = collection.manifest["files"]
    with progress_bar(len(files), "verify", "file") as bar:
        found = look_through(collection, bar.update)
    problems = found.problems
    for line in found.checked:
        print(f"checked: {line}")
    for problem in problems:
        print(f"bad: {problem}")
    if problems:
        names = ", ".join(dict.fromkeys(problem.partition(":")[0] for problem in problems))
        raise ValueError(f"{folder}: {len(problems)} bad of {len(files)} files ({names})")
    print(f"every file is as written, all {collection.num_frames} frames decode: {folder}")


def leakage(folder: Path, others: Sequence[Path], checks: tuple[str, ...]) -> None:
    """Print what the guard found for each of the others; ValueError where something leaks."""
    collection = Collection.open(folder)
    leaks = []
    for judged in [Collection.open(other) for other in others]:
        with progress_bar(None, f"hashes, {judged.name}", "frame") as bar:
            found = guard(collection, judged, checks, bar.update)
        if found.leaks:
            leaks.append(found.sentence(folder.name))
        else:
            print(found.sentence(folder.name))
        for example in found.examples:
            print(f"  {example}")
    if leaks:
        raise ValueError("; ".join(leaks))
    print(f"clean, and stamped into {folder / 'manifest.json'}")


def duplicates(folder: Path, others: Sequence[Path], path: Path) -> None:
    """Print how many pictures are there twice and write which."""
    check_list_name(path)
    opened = [Collection.open(other) for other in (folder, *others)]
    with progress_bar(None, "hashes", "frame") as bar:
        found = across(opened[0], opened[1:], bar.update)
    for where, table in found:
        told = ", ".join(f"{count} {what}" for what, count in counts(table).items())
        print(f"{where}: {table.num_rows} pairs of duplicates ({told})")
    write_list(found, path)
    print(f"list: {path}")


def summary(collection: Collection) -> list[str]:
    """What is in a collection, in a few lines."""
    counts = collection.manifest["counts"]
    splits = ", ".join(f"{count} {name}" for name, count in counts["splits"].items())
    whose = _who(collection), _number(counts["sequences"], "sequence")
    cameras = _number(counts["cameras"], "camera") if counts["cameras"] else "cameras not known"
    lines = [f"{_number(counts['frames'], 'frame')} ({splits}) of {', '.join(whose)}, {cameras}"]
    pairs = collection.manifest.get("pairs")
    if pairs:
        lines.append(_pairs(pairs))
        dropped = pairs["dropped"].items()
        lines += [f"left out of the pairs: {count} x {reason}" for reason, count in dropped]
    lines += sentences(collection.manifest)
    lines += [f"left out: {count} x {reason}" for reason, count in counts["rejects"].items()]
    return lines


def _who(collection: Collection) -> str:
    """Whom the frames show, as far as the source knows."""
    subjects = collection.manifest["counts"]["subjects"]
    if subjects:
        return _number(subjects, "subject")
    tracks = set(collection.frames["track"].to_pylist()) - {"", None}
    return _number(len(tracks), "track") + " (subjects not known)" if tracks else "unknown subjects"


def _pairs(pairs: dict[str, Any]) -> str:
    """How many there are; sheets and what is left out count two frames once."""
    text = f"{pairs['view']} cross-view pairs, {pairs['pose']} cross-pose pairs"
    once = [pairs.get("spread", {}).get(kind, {}).get(KEPT, 0) for kind in ("view", "pose")]
    if not 0 < 2 * sum(once) == pairs["view"] + pairs["pose"]:
        return text
    return f"{text} ({once[0]} and {once[1]}, each in both orders)"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
