"""Ray workers make the parts of a collection: killed ones cost nothing, the result is the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.prepare import with_workers
from hpse_dist import recipe as recipes
from hpse_dist.data.collection import Collection, CollectionConfig
from hpse_dist.prepare import prepare
from hpse_dist.recipe import DataRecipe
from pipelines.bench_prepare import differences
from tests.integration import dying_source
from tests.integration.clusters import ROOT
from tests.integration.dying_source import Config

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
