"""From run folders to tables, figures and one HTML page that can be mailed."""

from __future__ import annotations

from pathlib import Path

from hpse_dist.disk import write_text
from hpse_dist.report.export import write_tables
from hpse_dist.report.page import render
from hpse_dist.report.runs import read_study


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write the page of a study's or a run's folder, and its tables as CSV beside it.

    Returns the page's path, `report.html` in the folder unless `out` says otherwise; the tables
    stand in `<page without .html>-tables/`.
    """
    study = read_study(folder)
    page = out or folder / "report.html"
    if page.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the page must be called something.html, found {page}")
    page.parent.mkdir(parents=True, exist_ok=True)
    write_tables(study, page.with_name(f"{page.stem}-tables"))
    write_text(page, render(study))
    return page
