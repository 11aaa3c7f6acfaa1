"""Pairs mined anew: no picture is touched, readers never see half of it, nothing is lost."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpse_dist.data.collection import SCHEMA_VERSION, Collection
from hpse_dist.data.mining.made import MadePerson, made_frames
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.data.publish import STAGED_MANIFEST, file_entry, write_manifest
from tests.waiting import until

PEOPLE = [MadePerson(4, 20), MadePerson(6, 10), MadePerson(1, 30)]


def folder_of(path: Path, frames: pa.Table | None = None) -> Path:
    """A collection without pictures: mining needs none."""
    frames = made_frames(PEOPLE) if frames is None else frames
    pq.write_table(frames, path / "frames.parquet")
    files = {"frames.parquet": file_entry(path / "frames.parquet")}
    counts = {"frames": frames.num_rows}
    write_manifest(path, {"schema": SCHEMA_VERSION, "counts": counts, "shards": [], "files": files})
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_other_rules_other_pairs_and_the_same_rules_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    first = write_pairs(Collection.open(folder), PairsConfig()).pairs
    before = content(folder)
    again = write_pairs(Collection.open(folder), PairsConfig())
    assert content(folder) == before and again.pairs.equals(first)
    capped = write_pairs(Collection.open(folder), PairsConfig(max_per_subject=5))
    counts = Collection.open(folder).manifest["pairs"]
    assert capped.pairs.num_rows == counts["view"] + counts["pose"] == 2 * (2 * 5 + 3 * 5)
    assert counts["config"]["max_per_subject"] == 5
    assert (folder / "frames.parquet").read_bytes() == before["frames.parquet"]
    # the same rules give the same bytes, whoever mines
    write_pairs(Collection.open(folder), PairsConfig())
    assert content(folder) == before


def test_tables_alone_have_no_pictures_to_read(tmp_path: Path) -> None:
    collection = Collection.open(folder_of(tmp_path))
    wanted = collection.frames["sample_id"].to_numpy()[:1].tolist()
    for read in (
        lambda: collection.read(wanted, ["image"]),
        lambda: collection.read_encoded(wanted),
    ):
        with pytest.raises(ValueError, match="tables without pictures, which can only be mined"):
            read()


def test_a_reader_at_the_same_time(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write_pairs(Collection.open(folder), PairsConfig())
    stop, seen, problems = threading.Event(), 0, []

    def read() -> None:
        nonlocal seen
        while not stop.is_set():
            try:
                assert Collection.open(folder).pairs.num_rows > 0
            except (ValueError, OSError, AssertionError) as error:
                problems.append(error)
            seen += 1

    reader = threading.Thread(target=read)
    reader.start()
    for cap in range(1, 13):
        write_pairs(Collection.open(folder), PairsConfig(max_per_subject=cap))
        until(lambda before=seen: seen > before, "the reader looks again")
    stop.set()
    reader.join()
    assert not problems


@pytest.mark.parametrize("renames", [0, 1])
def test_killed_at_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int) -> None:
    folder, real, done = folder_of(tmp_path), os.replace, []

    def replace(source: Path, target: Path) -> None:
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(real(source, target))

    old = write_pairs(Collection.open(folder), PairsConfig()).pairs
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            write_pairs(Collection.open(folder), PairsConfig(max_per_subject=5))
    assert (folder / STAGED_MANIFEST).is_file()
    found = Collection.open(folder)
    assert found.pairs.num_rows == (old.num_rows if renames == 0 else 50)
    assert found.manifest["files"]["pairs.parquet"] == file_entry(folder / "pairs.parquet")
    again = write_pairs(found, PairsConfig(max_per_subject=4))
    assert again.pairs.num_rows == Collection.open(folder).pairs.num_rows == 40
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_others_wrote_meanwhile_stays(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    opened = Collection.open(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, {**manifest, "leakage": {"clean": True}})
    write_pairs(opened, PairsConfig())
    assert Collection.open(folder).manifest["leakage"] == {"clean": True}
    opened = Collection.open(folder)
    folder_of(folder, made_frames(PEOPLE, seed=1))
    with pytest.raises(ValueError, match="replaced by another collection"):
        write_pairs(opened, PairsConfig(seed=1))


def test_nothing_left_says_which_rule_removed_how_much(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path)
    narrow = PairsConfig(view_angle_deg=(10, 11), pose_distance=(8, 9))
    with caplog.at_level("WARNING"):
        write_pairs(Collection.open(folder), narrow)  # nothing was there: it is said, and so it is
    (said,) = caplog.messages
    assert "no pair is left of" in said and "view: angle above 11 270" in said
    assert "pose: too alike" in said and "widen those rules under pairs" in said
    before = write_pairs(Collection.open(folder), PairsConfig()).pairs
    with pytest.raises(ValueError, match=r"angle above 11 270.*are kept as they were"):
        write_pairs(Collection.open(folder), narrow)
    assert Collection.open(folder).pairs.equals(before)
    for other in ("max_view_per_moment", "max_pose_per_frame"):  # of one kind alone
        before = write_pairs(Collection.open(folder), PairsConfig(**{other: 0})).pairs
        with pytest.raises(ValueError, match="are kept as they were"):
            write_pairs(Collection.open(folder), replace(narrow, **{other: 0}))
        assert Collection.open(folder).pairs.equals(before)


def test_no_candidates_at_all_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = made_frames([MadePerson(3, 4)])
    for column, value in (("subject", ""), ("track", None)):
        place = frames.schema.get_field_index(column)
        frames = frames.set_column(place, column, pa.array([value] * 12, pa.string()))
    with caplog.at_level("WARNING"):
        made = write_pairs(Collection.open(folder_of(tmp_path, frames)), PairsConfig())
    assert made.pairs.num_rows == 0
    assert "no two frames show one subject" in caplog.text
    assert "frames without a subject, for no cross-view pair 12" in caplog.text
    caplog.clear()
    kinds = PairsConfig(max_view_per_moment=0, max_pose_per_frame=0)
    assert write_pairs(Collection.open(tmp_path), kinds).pairs.num_rows == 0
    assert not caplog.messages, "none were asked for"
