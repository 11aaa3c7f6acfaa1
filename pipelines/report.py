"""`python -m pipelines.report <study or run folder>`: tables and one HTML page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hpse_dist.report import write_report
from pipelines import command_parser, run_command


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "report",
        "Make one self-contained HTML page, with tables as CSV beside it, from what runs left in "
        "their folders.",
        "python -m pipelines.report runs/demo",
    )
    made.add_argument("folder", type=Path, help="a study's folder, or one run's")
    made.add_argument("--out", type=Path, help="the page; otherwise report.html in the folder")
    return made


def main(options: argparse.Namespace) -> None:
    page = write_report(options.folder, options.out)
    size = page.stat().st_size / 1e6
    tables = page.with_name(f"{page.stem}-tables")
    print(f"report: {page} ({size:.1f} MB), tables: {tables}")


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
