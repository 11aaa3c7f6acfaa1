"""`python -m pipelines.report <study or run folder>`: tables and one HTML page.

`python -m pipelines.report score <predictions> <ground truth> --protocol NAME`: figures of a file.
`python -m pipelines.report ledger <run folder> --step N`: the samples of a step.
`python -m pipelines.report checkpoints <run folder>`: which of them are whole.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from hpse_dist.checkpoint import published
from hpse_dist.checkpoint_files import problem_of
from hpse_dist.config import ConfigError
from hpse_dist.ledger import Ledger
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.protocols.files import score_files
from hpse_dist.report import write_report
from hpse_dist.report.export import markdown, printed, write_tables
from hpse_dist.report.lineage import commercial
from hpse_dist.report.runs import read_study
from hpse_dist.report.tables import figure, metric
from pipelines import command_parser, place, run_command


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "report",
        "Make one self-contained HTML page, with tables as CSV, LaTeX and Markdown beside it, from "
        "what runs left in their folders. Or score a file of predictions, ours or anybody's, by a "
        "named protocol.",
        "python -m pipelines.report runs/demo\n"
        "  python -m pipelines.report runs/demo --tables\n"
        "  python -m pipelines.report runs/demo --commercial\n"
        "  python -m pipelines.report score pred.json freihand/ --protocol freihand\n"
        "  python -m pipelines.report ledger runs/demo_completion --step 120\n"
        "  python -m pipelines.report checkpoints runs/demo_completion",
    )
    made.add_argument(
        "folder",
        type=place,
        help="a study's folder, or one run's; or the word score, ledger or checkpoints",
    )
    made.add_argument(
        "files",
        type=place,
        nargs="*",
        help="after score: the predictions, the ground truth; after ledger or checkpoints: a run's "
        "folder",
    )
    made.add_argument(
        "--tables",
        action="store_true",
        help="only the tables, as CSV, LaTeX and Markdown; the ranked ones are printed too",
    )
    made.add_argument("--out", type=Path, help="the page; otherwise report.html in the folder")
    made.add_argument("--step", type=int, help="for ledger: the step whose samples are asked for")
    made.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        metavar="NAME",
        help=f"for score: {', '.join(PROTOCOLS)}",
    )
    made.add_argument(
        "--commercial",
        action="store_true",
        help="only say whether all licences behind it, those of its sources included, allow "
        "commercial use; 1 where one does not",
    )
    made.add_argument(
        "--regressor", type=place, help="for score: the .npy that makes joints of a mesh's vertices"
    )
    return made


def score(options: argparse.Namespace) -> None:
    """Print a file's figures with their protocol; --out keeps them as JSON."""
    if len(options.files) != 2 or not options.protocol:
        raise ConfigError(
            "score needs a file of predictions, one of ground truth, and --protocol with one of "
            f"{', '.join(PROTOCOLS)}"
        )
    protocol = PROTOCOLS[options.protocol]
    found = score_files(protocol, options.files[0], options.files[1], options.regressor)
    for name, value in found.figures.items():
        what = metric(name)
        print(f"{what.label:14}{figure(value, what)}")
    print(f"protocol {protocol.describe()}")
    if found.regressor:
        print(f"regressor sha256 {found.regressor}")
    if options.out:
        options.out.write_text(json.dumps(asdict(found), indent=1), encoding="utf-8")
    kept = f", kept in {options.out}" if options.out else ""
    print(f"scored: {options.files[0]} ({found.examples} examples){kept}")


def ledger(options: argparse.Namespace) -> None:
    """Print the samples of one step of a run; --out keeps its batch and pictures."""
    if len(options.files) != 1 or options.step is None:
        raise ConfigError("ledger needs a run's folder and --step with a number of its steps")
    found = Ledger.open(options.files[0])
    for entry in found.entries(options.step):
        print(entry)
    why = found.why_skipped(options.step)
    skipped = f"; the step was skipped: {why}" if why else ""
    print(f"step {options.step}: {found.recipe.global_batch} samples{skipped}")
    if options.out:
        batch, picture = found.write(options.step, options.out)
        print(f"as training saw them: {batch}, {picture}")


def checkpoints(options: argparse.Namespace) -> None:
    """Print which checkpoints of a run are as they were written, by their hashes."""
    if len(options.files) != 1:
        raise ConfigError("checkpoints needs a run's folder")
    found = published(options.files[0] / "checkpoints")
    if not found:
        raise ValueError(
            f"{options.files[0]}: no checkpoints; a study removes those of finished fine-tunings"
        )
    problems = {path: problem_of(path) for path in found}
    for path, problem in problems.items():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{path.name}  {size / 1e6:10,.1f} MB  {problem or 'whole'}")
    newest = next((path for path in found if problems[path] is None), None)
    print(f"the run goes on from: {newest or 'its beginning, none is whole'}")


WORDS = {"score": score, "ledger": ledger, "checkpoints": checkpoints}


def main(options: argparse.Namespace) -> None:
    if word := WORDS.get(str(options.folder)):
        word(options)
        return
    if options.files or options.protocol or options.regressor or options.step is not None:
        raise ConfigError(
            "more than a folder: files, --protocol and --step belong to the words "
            f"{', '.join(WORDS)}"
        )
    if options.commercial:
        print(commercial(read_study(options.folder)))
        return
    if options.tables:
        page = options.out or options.folder / "report.html"
        study = read_study(options.folder)
        paths = write_tables(study, page.with_name(f"{page.stem}-tables"))
        print(markdown(printed(study)))
        print(f"tables: {', '.join(str(path) for path in paths)}")
        return
    page = write_report(options.folder, options.out)
    size = page.stat().st_size / 1e6
    tables = page.with_name(f"{page.stem}-tables")
    print(f"report: {page} ({size:.1f} MB), tables: {tables}")


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
