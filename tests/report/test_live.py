"""The page follows the runs of its study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hpse_dist.report import live
from hpse_dist.report.live import LivePage
from tests.report.made_study import make_finetuning, make_study
from tests.waiting import until


def wait_for(page: Path, words: str) -> str:
    def text() -> str:
        found = page.read_text(encoding="utf-8") if page.is_file() else ""
        return found if words in found else ""

    return until(text, f"{words!r} stands on the page")


def test_the_page_is_rewritten_when_a_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SHARE", 0)
    make_study(tmp_path, done=False)
    seen = []
    with LivePage(tmp_path, every_s=0.05, on_change=lambda: seen.append(1)):
        text = wait_for(tmp_path / "report.html", "1 of 7 runs are not done (1 running)")
        assert 'http-equiv="refresh"' in text
        folder = tmp_path / "completion-body_mesh-seed2"
        made = make_finetuning(tmp_path / "elsewhere" / folder.name, "completion", 2, 60.1)
        (made / "DONE").unlink()
        shutil.copytree(made, folder, dirs_exist_ok=True)
        (folder / "DONE").touch()  # last, as a run does

        def done() -> str:
            text = (tmp_path / "report.html").read_text(encoding="utf-8")
            return "" if "are not done" in text else text

        text = until(done, "the page says that all runs are done")
    assert 'http-equiv="refresh"' not in text
    assert len(seen) == 2


def test_a_failed_run_says_why_and_what_waits_for_it(tmp_path: Path) -> None:
    make_study(tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    for row in plan["runs"]:
        row["after"] = ["completion"] if row["source"] == "completion" and row["task"] else []
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "completion" / "DONE").unlink()
    (tmp_path / "completion" / "logs").mkdir()
    said = {"kind": "ValueError", "sentence": "the disk <b>is full"}
    (tmp_path / "completion" / "logs" / "final_0.json").write_text(json.dumps(said))
    waiting = tmp_path / "completion-body_mesh-seed2"
    for path in sorted(waiting.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    with LivePage(tmp_path, every_s=0.05):
        text = wait_for(tmp_path / "report.html", "failed: the disk &lt;b&gt;is full")
    assert "2 of 7 runs are not done (1 failed, 1 waiting)" in text
    assert "<b>completion-body_mesh-seed2</b> waiting: for completion" in text


def test_a_page_left_by_ctrl_c_says_what_was_stopped(tmp_path: Path) -> None:
    """It said "running" for good, and loaded itself again and again."""
    make_study(tmp_path, done=False)
    folder = tmp_path / "completion-body_mesh-seed2"
    with pytest.raises(KeyboardInterrupt), LivePage(tmp_path):
        wait_for(tmp_path / "report.html", "(1 running)")
        (folder / "starts.json").write_text(json.dumps([{"ended": "told to stop"}]))
        raise KeyboardInterrupt
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "1 of 7 runs are not done (1 stopped)" in text and 'http-equiv="refresh"' not in text
