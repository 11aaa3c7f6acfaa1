"""A collection made in parts: the same however often it was begun; one sentence when it fails."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hpse_dist import recipe as recipes
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.loader import Loader, Source
from hpse_dist.prepare import Task, prepare
from hpse_dist.recipe import DataRecipe
from hpse_dist.records import FrameRecord, Reject
from hpse_dist.world import World
from tests.data import made_rig
from tests.data.plain_shards import PlainWriter, plain_shards  # noqa: F401  a fixture

COLLECTION = CollectionConfig(crop_px=32, label_px=16, min_side_px=20, frames_per_shard=16)
SUBJECTS = 5


@dataclass(frozen=True)
class Config:
    """A source of these tests."""

    stop_at: int = 10**6
    """Where it fails, counted in records."""
    twisted: bool = False
    """The last subject takes up a moment of the first and asks for another split."""
    bare: int = 0
    """So many of the first subjects have no labels."""


def frames(config: Config) -> Iterator[FrameRecord | Reject]:
    records = made_rig.frames(SUBJECTS, moments=5, cameras=3)
    for number, record in enumerate(records):
        if number == config.stop_at:
            raise ValueError("clip7.mp4: cut short")
        subject = int(record.subject[1:])
        record.split = "train"
        if subject < config.bare:
            record = replace(record, labels={})
        if config.twisted and subject == SUBJECTS - 1 and record.time == 0:
            record = replace(record, subject="s0", sequence="s0-q0", source="twin")
        if config.twisted and subject == SUBJECTS - 1 and record.time == 0.25:
            record = replace(record, subject="s1", split="val", source="turncoat")
        yield record
        if number == 20:
            yield Reject("frame 21", "torn")


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    made = SimpleNamespace(Config=Config, frames=frames, provenance=lambda c: made_rig.PROVENANCE)
    monkeypatch.setitem(recipes.FRAME_SOURCES, "made", made)
    monkeypatch.setitem(recipes._SOURCE_CONFIGS, "made", Config)


def recipe(folder: Path, config: Config | None = None, **changes) -> DataRecipe:
    return DataRecipe("made", config or Config(), COLLECTION, out=folder, **changes)


def test_parts_hold_what_one_stream_holds(tmp_path: Path) -> None:
    """In FFCV's real shards, read back through the loader too."""
    whole = write_collection(tmp_path / "whole", frames(Config()), COLLECTION, made_rig.PROVENANCE)
    parts = prepare(recipe(tmp_path))
    assert parts.manifest["counts"]["rejects"] == {"torn": 1}
    assert {**parts.manifest["counts"], "shards": 0} == {**whole.manifest["counts"], "shards": 0}
    assert len(set(parts.sample_id_starts)) > 2 and parts.verify() == []
    assert parts.label_fields == whole.label_fields
    about = ("sample_id", "subject", "sequence", "camera", "time", "split", "source", "pose")
    for name in about:
        assert parts.frames[name].to_pylist() == whole.frames[name].to_pylist(), name
    ids = range(whole.num_frames)
    names = ["sample_id", "image", "person", *whole.label_fields]
    one, two = whole.read(ids, names), parts.read(ids, names)
    for name in names:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    loader = Loader(
        [Source(parts, split=None)],
        needs=["image", "sample_id"],
        sampling="frames",
        world=World(),
        seed=0,
        global_batch=15,
        micro_batch=15,
        augment=AugmentConfig(),
        image_px=32,
        patch_px=32,
    )
    batches = iter(loader)
    seen = [i for _ in range(5) for i in next(batches)["sample_id"].tolist()]
    loader.close()
    assert sorted(seen) == list(ids)
    assert not (tmp_path / ".made.parts").exists()


def made_parts(folder: Path) -> dict[str, int]:
    """Name -> inode of the finished parts."""
    return {p.name: p.stat().st_ino for p in sorted(folder.glob(".made.parts/part-*"))}


def test_begun_again_it_goes_on_with_what_is_lacking(tmp_path: Path, plain_shards) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"^part 2: clip7.mp4: cut short; 2 finished parts are k"):
        prepare(recipe(tmp_path, Config(stop_at=40)))
    before = made_parts(tmp_path)
    assert list(before) == ["part-00000", "part-00001"]
    assert not list(tmp_path.glob(".made.parts/.part*"))

    def check(task: Task, todo, meter) -> None:
        assert todo.finished.keys() == {0, 1} and made_parts(tmp_path) == before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(recipe(tmp_path, Config(stop_at=40)), carry_out=check)
    with pytest.raises(ValueError, match="2 finished parts made by another recipe"):
        prepare(recipe(tmp_path))
    assert made_parts(tmp_path) == before
    assert prepare(recipe(tmp_path), overwrite=True).num_frames == 75
    assert not made_parts(tmp_path)


def test_a_damaged_part_is_made_again(tmp_path: Path, plain_shards) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="cut short"):
        prepare(recipe(tmp_path, Config(stop_at=40)))
    shard = tmp_path / ".made.parts" / "part-00001" / "frames-00000.beton"
    shard.write_bytes(shard.read_bytes()[:-1])
    half_written = tmp_path / ".made.parts" / ".part-00002.abc.partial"
    half_written.mkdir()

    def check(task: Task, todo, meter) -> None:
        assert todo.finished.keys() == {0} and not half_written.exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(recipe(tmp_path, Config(stop_at=40)), carry_out=check)


def test_parts_settle_what_they_disagree_on(tmp_path: Path, plain_shards) -> None:  # noqa: F811
    made = prepare(recipe(tmp_path, Config(twisted=True)))
    reasons = {row["source"]: row["reason"] for row in made.rejects.to_pylist()}
    assert reasons.keys() == {"frame 21", "twin", "turncoat"}
    assert "must come together" in reasons["twin"]
    assert reasons["turncoat"] == "subject s1 is in split train already, here it is in val"
    assert made.num_frames == 75 - 6 and made.verify() == []
    assert made.manifest["counts"]["rejects"]["torn"] == 1
    ids = made.frames["sample_id"].to_pylist()
    assert len(set(ids)) == 69 and ids == sorted(ids)
    assert made.read(ids[-1:], ["sample_id"])["sample_id"].tolist() == ids[-1:]


def test_labels_that_come_later_are_a_sentence(tmp_path: Path, plain_shards) -> None:  # noqa: F811
    with pytest.raises(ValueError, match=r"part 2: .*carries joints2d.*name every label to store"):
        prepare(recipe(tmp_path, Config(bare=2)))
    assert len(made_parts(tmp_path)) == 2


def test_a_full_disk_keeps_finished_parts(tmp_path: Path, plain_shards, monkeypatch) -> None:  # noqa: F811
    write, written = PlainWriter.write, []

    def fills(self, path, rows, spec) -> None:
        written.append(path)
        if len(written) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(self, path, rows, spec)

    monkeypatch.setattr(PlainWriter, "write", fills)
    with pytest.raises(OSError, match=r"disk is full; nothing was published, \d finished parts"):
        prepare(recipe(tmp_path))
    kept = made_parts(tmp_path)
    assert kept and not (tmp_path / "made").exists()
    assert prepare(recipe(tmp_path)).num_frames == 75
    assert Collection.open(tmp_path / "made").verify() == []


def test_a_meter_learns_how_much_there_is(tmp_path: Path, plain_shards) -> None:  # noqa: F811
    class Meter:
        n = initial = 0
        total = None

        def update(self, n: int) -> None:
            self.n += n

        def refresh(self) -> None:
            pass

    meter = Meter()
    prepare(recipe(tmp_path), meter=meter)
    assert meter.n == 76
