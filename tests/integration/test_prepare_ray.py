"""Ray workers make the parts of a collection: killed ones cost nothing, the result is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray  # before its environment is set, as a user's script may
from tqdm import tqdm

from cluster.prepare import with_workers
from hpse_dist import recipe as recipes
from hpse_dist.data.collection import Collection, CollectionConfig
from hpse_dist.prepare import prepare
from hpse_dist.recipe import DataRecipe
from pipelines.bench_prepare import differences
from tests.integration import dying_source
from tests.integration.clusters import ROOT
from tests.integration.dying_source import Config
from tests.waiting import until

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("cluster")]
COLLECTION = CollectionConfig(crop_px=32, label_px=16, min_side_px=20, frames_per_shard=16)


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.FRAME_SOURCES, "dying", dying_source)
    monkeypatch.setitem(recipes._SOURCE_CONFIGS, "dying", Config)


def recipe(folder: Path, **config: object) -> DataRecipe:
    marks = folder / "marks"
    marks.mkdir(parents=True, exist_ok=True)
    return DataRecipe("made", Config(marks, **config), COLLECTION, out=folder)  # type: ignore[arg-type]


def test_killed_workers_change_nothing(tmp_path: Path) -> None:
    alone = prepare(recipe(tmp_path / "alone"))
    harmed = recipe(tmp_path / "harmed", deaths=(20, 70))
    many = prepare(harmed, carry_out=with_workers(3))
    assert sorted(path.name for path in harmed.source.marks.iterdir()) == ["died-20", "died-70"]
    assert many.verify() == [] and len(many.shards) == dying_source.SUBJECTS
    assert differences(alone, many) == []
    assert not (tmp_path / "harmed" / ".made.parts").exists()


def test_errors_are_one_sentence_and_keep_what_is_finished(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^part 4: clip7.mp4: cut short; \d+ finished parts are"):
        prepare(recipe(tmp_path / "a", fails=70), carry_out=with_workers(1))
    assert len(list((tmp_path / "a" / ".made.parts").glob("part-*"))) == 4
    # the other worker may be at the next part by then, and reads over the same record
    said = r"workers died 2 times at part [23] .*the same comm"
    with pytest.raises(ChildProcessError, match=said):
        prepare(recipe(tmp_path / "b", always=40), carry_out=with_workers(2, max_failures=1))
    assert not (tmp_path / "b" / "made").exists()
    assert any((tmp_path / "b" / ".made.parts").glob("part-*"))


def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path) -> None:
    """In a process of its own, without Ray: the lock must end with it."""
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.integration import test_prepare_ray as t\n"
        "from hpse_dist import recipe as r\n"
        "r.FRAME_SOURCES['dying'] = t.dying_source; r._SOURCE_CONFIGS['dying'] = t.Config\n"
        "t.prepare(t.recipe(Path(sys.argv[1]), deaths=(50,)))"
    )
    again = [sys.executable, "-c", script, str(tmp_path)]
    first = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
    assert first.returncode == -signal.SIGKILL
    parts = tmp_path / ".made.parts"
    before = {path.stat().st_ino for path in parts.glob("part-*/*.beton")}
    assert len(before) == 3 and not (tmp_path / "made").exists()
    second = subprocess.run(again, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    made = Collection.open(tmp_path / "made")
    assert made.verify() == [] and before < {path.stat().st_ino for path in made.shards}


def test_a_driver_killed_under_ray_goes_on_where_it_was(tmp_path: Path) -> None:
    """Its worker has finished three parts and waits in the fourth: that one alone is made again."""
    script = (
        "import sys; from pathlib import Path\n"
        "from tests.integration import test_prepare_ray as t\n"
        "from hpse_dist import recipe as r\n"
        "r.FRAME_SOURCES['dying'] = t.dying_source; r._SOURCE_CONFIGS['dying'] = t.Config\n"
        "t.prepare(t.recipe(Path(sys.argv[1]), waits=50), carry_out=t.with_workers(1))"
    )
    cluster = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    driver = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, env=cluster)
    waiting = recipe(tmp_path, waits=50)
    try:
        mark = waiting.source.marks / "waited-50"
        until(lambda: mark.exists() or driver.poll() is not None, "the worker waits")
    finally:
        driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert len(list((tmp_path / ".made.parts").glob("part-*"))) == 3
    assert not (tmp_path / "made").exists()
    meter = tqdm(disable=True)
    made = prepare(waiting, meter=meter, carry_out=with_workers(1))
    assert meter.initial == 3 * dying_source.MOMENTS * dying_source.CAMERAS
    assert made.verify() == [] and differences(prepare(recipe(tmp_path / "alone")), made) == []
