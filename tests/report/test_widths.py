"""The page in a real browser: nothing runs out of it sideways, at a desk or on a phone."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hpse_dist.report import write_report
from tests.report.made_study import make_wide_study
from tests.waiting import PATIENCE_S

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PROBE = """<html><body style="margin:0">
<iframe id="f" src="{page}" style="width:{width}px; height:900px; border:0"></iframe>
<p id="said">waiting</p><script>
document.getElementById("f").onload = e => {{
  const whole = e.target.contentDocument.documentElement;
  document.getElementById("said").textContent =
    "scroll " + whole.scrollWidth + " client " + whole.clientWidth;
}};</script></body></html>"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium here to look with")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_runs_out_sideways(tmp_path: Path, width: int) -> None:
    page = write_report(make_wide_study(tmp_path / "study", settings=True))
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(page=page.as_uri(), width=width))
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    command = [BROWSER, *options, "--window-size=1400,1000", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    shown = done.stdout
    said = shown.partition('id="said">')[2].partition("<")[0].split()
    assert said[0] == "scroll", shown[-300:]
    assert int(said[1]) <= int(said[3]) <= width
