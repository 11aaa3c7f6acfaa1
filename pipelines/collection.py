"""`python -m pipelines.collection subset | merge | split`: collections made of collections."""

from __future__ import annotations

import argparse
import sys

from hpse_dist.config import ConfigError
from hpse_dist.data.collection import Collection
from hpse_dist.data.derive import keys_and_values, merge, split, subset
from hpse_dist.data.sheets import write_sheets
from pipelines import command_parser, new_place, place, progress_bar, run_command
from pipelines.prepare import summary


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "collection",
        "Make a part of a collection, merge several, or split one anew. Licences, labels and "
        "reasons go along, a subject stays in one split, and pairs are mined again.",
        "python -m pipelines.collection subset collections/demo collections/some split=train\n"
        "  python -m pipelines.collection subset collections/demo collections/small frames=500\n"
        "  python -m pipelines.collection merge collections/a collections/b collections/both\n"
        "  python -m pipelines.collection split collections/demo collections/new val=s00001,s00002",
    )
    made.add_argument("action", choices=("subset", "merge", "split"))
    made.add_argument(
        "what",
        nargs="+",
        metavar="FOLDER | key=value,value",
        help="the collections, the new one last; then what to keep by subject, sequence, camera, "
        "track or split, and at most how much of it, as frames or gb (the same share of every "
        "person and sequence); or which subjects are held out as val or test",
    )
    return made


def _most(choice: dict[str, tuple[str, ...]], collection: Collection) -> int | None:
    """How many frames `frames` and `gb` let a subset have; both leave the choice."""
    found = []
    for key, each in (("frames", 1.0), ("gb", _gigabytes(collection) / collection.num_frames)):
        for text in choice.pop(key, ()):
            try:
                found.append(int(float(text) / each))
            except (ValueError, OverflowError, ZeroDivisionError):
                raise ConfigError(f"{key} is a number, such as {key}=20, found {text!r}") from None
    return min(found, default=None)


def _gigabytes(collection: Collection) -> float:
    return sum(path.stat().st_size for path in collection.shards) / 1e9


def main(options: argparse.Namespace) -> None:
    choice = keys_and_values([text for text in options.what if "=" in text])
    folders = [text for text in options.what if "=" not in text]
    if (options.action == "merge") == bool(choice):
        raise ConfigError(
            f"{options.action} takes "
            + ("folders only" if choice else "key=value,value as well, such as split=train")
        )
    if len(folders) < 2 or (options.action != "merge" and len(folders) > 2):
        raise ConfigError(f"{options.action} needs the folders it reads and, last, the new one")
    sources = [Collection.open(place(text)) for text in folders[:-1]]
    folder = new_place(folders[-1])
    with progress_bar(sum(one.num_frames for one in sources), folder.name, "frame") as bar:
        if options.action == "merge":
            made = merge(sources, folder, bar.update)
        elif options.action == "subset":
            most = _most(choice, sources[0])
            made = subset(sources[0], folder, choice, bar.update, most)
        else:
            made = split(sources[0], folder, choice, bar.update)
    write_sheets(made)
    for line in summary(made):
        print(line)
    print(f"done: {made.folder}")


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
