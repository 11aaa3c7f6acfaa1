"""The page: self-contained, escaped, light, and right in what it says."""

from __future__ import annotations

import errno
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpse_dist.report import write_report
from hpse_dist.report.figures import Curve, colours, curves_svg, interval_svg, span
from hpse_dist.report.fine_print import duration
from hpse_dist.report.pictures import Wanted, embed
from hpse_dist.report.statistics import interval
from tests.report.made_study import make_finetuning, make_pretraining, make_study

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Strict(HTMLParser):
    """Fails on tags that do not nest, and collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            assert not name.startswith("on"), f"{tag} {name}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(page: Path) -> Strict:
    reader = Strict()
    reader.feed(page.read_text(encoding="utf-8"))
    assert not reader.open
    return reader


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(make_study(tmp_path_factory.mktemp("study")))


def test_the_page_needs_nothing_beside_it(page: Path) -> None:
    reader = parsed(page)
    assert all(link.startswith(("data:image/", "#")) for link in reader.links)
    anchors = {link[1:] for link in reader.links if link.startswith("#")}
    assert anchors <= set(reader.ids)
    assert not reader.tags & {"script", "link", "iframe", "object", "embed", "form"}
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"url\(\s*['\"]?http|@import", text)
    assert page.stat().st_size < 1_000_000
    assert page.with_name("report-tables").joinpath("summary.csv").is_file()


def test_the_answer_comes_first_and_the_rest_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    places = [
        text.index(part)
        for part in (
            "<title>demo</title>",
            "Lowest PA-MPJPE on body mesh (synthetic-24): completion with 61.5 mm",
            "against random",
            "PA-MPJPE, held-out subjects",
            "The same people by every source",
            "Reference gain",
            "of worker time in all",
            "source: random",
            "torch 2.10.0",
            "Made by hpse_dist",
        )
    ]
    assert places == sorted(places)
    assert "are not done" not in text


def test_a_study_under_way_says_what_is_missing(tmp_path: Path) -> None:
    text = write_report(make_study(tmp_path, done=False)).read_text(encoding="utf-8")
    assert "1 of 7 runs are not done" in text
    assert "<b>completion-body_mesh-seed2</b> running: step 400" in text


def test_whatever_comes_from_files_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('x')</script>$x^2$"
    make_study(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["study"] = bad
    for row in plan["runs"]:
        row["source"] = row["source"] + bad
        row["task"] = row["task"] and bad
        row["name"] = row["name"] + bad
        folder = Path(row["folder"])
        (folder / "recipe.yaml").write_text(f"name: {bad}\n")
        (folder / "environment.json").write_text(json.dumps({bad: {bad: bad}}))
        report = json.loads((folder / "report.json").read_text())
        report["metrics"][bad] = 1.0
        report["history"][-1][bad] = 1.0
        (folder / "report.json").write_text(json.dumps(report))
    plan["baseline"] += bad
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    page = write_report(tmp_path)
    assert "script" not in parsed(page).tags
    assert "&lt;script&gt;" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_one_run_is_a_page_too(tmp_path: Path, kind: str) -> None:
    if kind == "pretrain":
        make_pretraining(tmp_path / "run")
    else:
        make_finetuning(tmp_path / "run", "random", 0, 70.0)
    page = write_report(tmp_path / "run", tmp_path / "out" / "page.html")
    parsed(page)
    words = "The error of run on hidden" if kind == "pretrain" else "random with 70.0 mm"
    assert words.replace("of run", "of completion") in page.read_text(encoding="utf-8")


def test_a_run_that_has_only_begun_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "No run of this study is done yet." in text


def test_a_page_must_be_html(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"something\.html"):
        write_report(make_study(tmp_path), tmp_path / "page.pdf")


def test_pictures_are_shrunk_until_they_fit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wanted = []
    for number in range(2):
        path = tmp_path / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (300, 1200, 3), dtype=np.uint8)).save(path)
        wanted.append(Wanted(path, "c", "d", "a"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    full, lost = embed([*wanted, Wanted(broken, "c", "d", "a")], 10_000_000)
    assert (len(full), full[0].width, lost) == (2, 1000, 1)
    small, lost = embed(wanted, 130_000)
    assert small and small[0].width < 1000
    assert sum(len(picture.data) for picture in small) <= 130_000
    none, lost = embed(wanted, 1000)
    assert (none, lost) == ([], 2)


def test_a_curve_with_gaps_and_many_points_stays_small() -> None:
    steps = np.arange(1, 5001)
    values = np.stack([1.0 / steps, np.where(steps % 7 == 0, np.nan, 2.0 / steps)])
    svg = curves_svg("a < b", [Curve("x", "#000", steps, values)], name="loss")
    assert len(svg) < 40_000
    assert "<style" not in svg and "a &lt; b" in svg
    assert "nan" not in svg.lower()


def test_ticks_that_lie_close_together_are_told_apart() -> None:
    values = np.array([[0.7801, 0.7805, 0.7809]])
    svg = curves_svg("close", [Curve("x", "#000", np.array([1, 2, 3]), values)], name="loss")
    ticks = [text for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg) if text[:3] == "0.7"]
    assert len(ticks) > 2
    assert len({*ticks}) == len(ticks)


def test_the_baseline_is_grey_and_colours_do_not_depend_on_it() -> None:
    assert colours(["random", "a", "b"], "random")["a"] == colours(["a", "b", "random"])["a"]
    assert colours(["random", "a"], "random")["random"] == "#7a7a7a"


def test_a_huge_interval_does_not_squeeze_the_others() -> None:
    rows = [interval([60.0, 61.0]), interval([10.0, 120.0])]
    low, high = span(rows, [60.0, 61.0, 62.0])
    assert 50 < low < 60 and 65 < high < 75
    drawn = interval_svg(rows[1], [10.0, 120.0], low, high, "#000")
    numbers = [float(x) for x in re.findall(r'<rect x="([-\d.]+)"', drawn)]
    assert numbers[0] >= 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (48.2, "48 s"), (600, "10 min"), (11_100, "3 h 05 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_protocol_stands_under_the_table(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    assert "Protocol synthetic-24: " in text and "Joints: all 24 of smpl24" in text
    study = make_study(tmp_path)
    for folder in study.glob("completion-*"):
        report = json.loads((folder / "report.json").read_text())
        (folder / "report.json").write_text(json.dumps(report | {"protocol": "made-up"}))
    text = write_report(study).read_text()
    assert "Body mesh, made-up" in text and "Body mesh, synthetic-24" in text
    assert "made-up, which this version does not know" in text


def test_a_folder_of_runs_says_what_it_shows_and_how_they_differ(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No plan tells them apart: two runs of one source and seed, and unequal numbers of steps."""
    for name, source, steps in (("x", "random", 100), ("y", "random", 400), ("z", "other", 1600)):
        make_finetuning(tmp_path / name, source, 0, 70.0, steps=steps)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    said = "tables take one of each: x is shown, not y. To see another"
    assert said in text and said in caplog.text
    assert "; fine-tuning differed: 100 steps of 32 samples (random), 1,600 steps of 32" in text
    assert "every source was" not in text
    caplog.clear()
    shutil.rmtree(tmp_path / "y")
    make_finetuning(tmp_path / "z", "other", 0, 70.0, steps=100)
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "; every source was fine-tuned for 100 steps of 32 samples" in text
    assert not caplog.text and "is shown" not in text


def test_a_disk_that_fills_up_leaves_every_file_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_study(tmp_path)
    page = write_report(tmp_path)
    before = {path: path.read_bytes() for path in (page, *(tmp_path / "report-tables").iterdir())}
    monkeypatch.setattr(Path, "write_text", _half_written)
    with pytest.raises(OSError, match="No space left"):
        write_report(tmp_path)
    assert len(before) > 5
    assert {path: path.read_bytes() for path in before} == before


def _half_written(path: Path, text: str, **_: Any) -> int:
    path.write_bytes(text.encode()[: len(text) // 2])
    raise OSError(errno.ENOSPC, "No space left on device")
