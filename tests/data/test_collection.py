"""Collections: what goes in comes out, whole or not at all, and a changed byte is found."""

from __future__ import annotations

import dataclasses
import errno
import json
import pickle
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hpse_dist.data import beton
from hpse_dist.data.collection import (
    SCHEMA_VERSION,
    Collection,
    CollectionConfig,
    write_collection,
)
from hpse_dist.data.crops import Pictures, prepare_frame
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.data.publish import partial_folder
from hpse_dist.records import FrameRecord, Reject
from tests.data import made_rig
from tests.data.made_rig import PROVENANCE
from tests.data.plain_shards import PlainWriter, plain_shards  # noqa: F401  a fixture

CONFIG = CollectionConfig(crop_px=32, label_px=16, min_side_px=20, frames_per_shard=40)


def flip_byte(path: Path, where: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if where < 0 else where] ^= 1
    path.write_bytes(bytes(data))


def write(folder: Path, records=None, config=CONFIG, **options) -> Collection:
    records = made_rig.frames() if records is None else records
    return write_collection(folder, records, config, PROVENANCE, **options)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """A collection in real FFCV shards, one of them with frames of other labels."""
    records = [*made_rig.frames(subjects=1), *made_rig.frames(subjects=1, labels=False)]
    for index, record in enumerate(records[24:]):
        record.subject, record.sequence = "bare", f"bare{index // 24}"
    folder = tmp_path_factory.mktemp("real") / "made"
    return write_collection(folder, records, CONFIG, PROVENANCE)


def test_what_goes_in_comes_out_of_real_shards(real):
    records = list(made_rig.frames(subjects=1))
    assert real.num_frames == 48 and [path.name for path in real.shards] == [
        "frames-00000.beton",
        "frames-00001.beton",
    ]
    names = ["image", "sample_id", *real.label_fields]
    stored = real.read([20, 3, 47, 24], names)
    assert stored["sample_id"].tolist() == [20, 3, 47, 24]
    for place, index in ((0, 20), (1, 3)):
        row = prepare_frame(records[index], CONFIG, Pictures()).row
        for name in real.label_fields:
            truth = row.get(name, np.array(1))
            assert np.array_equal(stored[name][place], truth), name
        assert np.abs(stored["image"][place].astype(int) - row["image"]).mean() < 12
    assert stored["has_body"].tolist() == [1, 1, 0, 0] == stored["has_parts"].tolist()
    assert not stored["joints2d"][2:].any() and not stored["part_map"][2:].any()
    assert stored["person"][2:].any() and stored["intrinsics"][2:].any()


def test_verify_finds_a_flipped_byte_and_names_the_file(real, tmp_path):
    assert real.verify() == []
    shard = real.shards[1]
    whole = shard.read_bytes()
    try:
        flip_byte(shard)
        (problem,) = Collection.open(real.folder).verify()
        assert problem.startswith("frames-00001.beton: changed")
        shard.unlink()
        with pytest.raises(ValueError, match=r"frames-00001.beton: .* no such file"):
            Collection.open(real.folder)
        (problem,) = Collection.open(real.folder, check=False).verify()
        assert "no such file" in problem
    finally:
        shard.write_bytes(whole)


def test_verify_decodes_what_hashes_cannot_tell(real):
    """Shards whose bytes are as listed, but whose rows are not the table's."""
    changed = json.loads(json.dumps(real.manifest))
    changed["shards"].reverse()
    problems = Collection(real.folder, changed).verify()
    assert len(problems) == 2 and "are not frames.parquet's" in problems[0]


def test_tables_and_manifest(real):
    frames = real.frames.to_pylist()
    assert [frame["sample_id"] for frame in frames] == list(range(48))
    assert [(frame["shard"], frame["row"]) for frame in frames] == [
        divmod(i, 24) for i in range(48)
    ]
    one = frames[5]
    record = next(r for i, r in enumerate(made_rig.frames(subjects=1)) if i == 5)
    assert np.allclose(one["R"], record.rotation.reshape(-1)) and one["time"] == record.time
    assert np.allclose(one["box"], record.box) and one["source"] == record.source
    assert one["has_parts"] and not frames[-1]["has_parts"] and one["pose_kind"] == "joints3d"
    assert frames[-1]["pose"] is None and not frames[-1]["has_mask"]
    manifest = real.manifest
    assert manifest["licence"] == "CC0-1.0" and manifest["commercial"] is True
    assert manifest["counts"]["subjects"] == 2 and manifest["counts"]["cameras"] == 4
    assert real.config == CONFIG
    assert set(manifest["files"]) == {
        "frames.parquet",
        "rejects.parquet",
        "frames-00000.beton",
        "frames-00001.beton",
    }
    again = pickle.loads(pickle.dumps(real))
    assert again.num_frames == 48 and again.frames.num_rows == 48


def test_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, plain_shards):  # noqa: F811
    def write_until_full(self, path, rows, spec):
        if path.name > "frames-00000.beton":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.write_bytes(bytes(1 << 20))

    closed = []

    def records() -> Iterator[FrameRecord]:
        try:
            yield from made_rig.frames(subjects=4)
        finally:
            closed.append(True)

    monkeypatch.setattr(PlainWriter, "write", write_until_full)
    with pytest.raises(OSError, match="the disk is full; nothing was published"):
        write(tmp_path / "made", source := records())
    assert list(tmp_path.iterdir()) == []
    assert closed and source.gi_frame is None  # not left to the garbage collector


@pytest.mark.usefixtures("plain_shards")
class TestWriting:
    def test_frames_of_a_moment_and_short_sequences_share_a_shard(self, tmp_path):
        records = made_rig.frames(subjects=3, sequences=2, moments=5)  # 20 frames a sequence
        frames = write(tmp_path / "made", records).frames.to_pylist()
        shards = defaultdict(set)
        for frame in frames:
            shards[frame["subject"], frame["sequence"]].add(frame["shard"])
        assert all(len(found) == 1 for found in shards.values())
        assert max(frame["row"] for frame in frames) == 39

    def test_a_long_sequence_is_cut_between_moments(self, tmp_path):
        config = dataclasses.replace(CONFIG, frames_per_shard=10)
        frames = write(tmp_path / "made", made_rig.frames(subjects=1), config).frames.to_pylist()
        moments = defaultdict(set)
        for frame in frames:
            moments[frame["time"]].add(frame["shard"])
        assert all(len(found) == 1 for found in moments.values()) and len(moments) == 6
        assert max(frame["shard"] for frame in frames) >= 2

    def test_a_frame_that_comes_after_its_moment_was_written_is_rejected(self, tmp_path):
        frames = made_rig.frames(subjects=1, moments=50, cameras=2)
        made = write(tmp_path / "made", sorted(frames, key=lambda record: record.camera))
        assert made.num_frames == 60 and made.rejects.num_rows == 40
        assert "frames of one moment must come together" in made.rejects["reason"][0].as_py()

    def test_rejects_are_kept_with_reasons(self, tmp_path):
        def records() -> Iterator[FrameRecord | Reject]:
            yield Reject("a.mp4, frame 3", "truncated video")
            for record in made_rig.frames(subjects=1, moments=1):
                yield record
                yield dataclasses.replace(record, box=(0, 0, 5, 5), source=f"small {record.camera}")
            yield dataclasses.replace(record, image=Path("nowhere.jpg"), source="no file")

        seen = []
        made = write(tmp_path / "made", records(), progress=seen.append)
        assert made.num_frames == 4 and sum(seen) == 10
        rejects = made.rejects.to_pylist()
        assert rejects[0] == {"source": "a.mp4, frame 3", "reason": "truncated video"}
        assert rejects[-1]["source"] == "no file"
        assert made.manifest["counts"]["rejects"]["the box is N px, below min_side_px"] == 4

    def test_nothing_usable_is_an_error_that_says_why(self, tmp_path):
        with pytest.raises(ValueError, match=r"2 x clip N is cut; such as a\.mp4: clip 7 is cut"):
            write(tmp_path / "made", [Reject("a.mp4", "clip 7 is cut")] * 2)
        with pytest.raises(ValueError, match=r"frame: 2 x nobody moves; such as a\.mp4$"):
            write(tmp_path / "made", [Reject("a.mp4", "nobody moves")] * 2)
        with pytest.raises(ValueError, match="the source holds none"):
            write(tmp_path / "made", [])
        assert list(tmp_path.iterdir()) == []

    def test_run_again(self, tmp_path):
        def never() -> Iterator[FrameRecord]:
            raise AssertionError("a finished collection reads no record")
            yield

        folder = tmp_path / "made"
        first = write(folder, recipe_digest="one")
        before = (folder / "manifest.json").read_bytes()
        assert write(folder, never(), recipe_digest="one").manifest == first.manifest
        with pytest.raises(ValueError, match="made by another recipe"):
            write(folder, never(), recipe_digest="two")
        assert (folder / "manifest.json").read_bytes() == before
        made = write(folder, made_rig.frames(subjects=1), recipe_digest="two", overwrite=True)
        assert made.num_frames == 24 and [path.name for path in tmp_path.iterdir()] == ["made"]

    def test_a_folder_with_other_things_is_left_alone(self, tmp_path):
        (tmp_path / "thesis.txt").write_text("do not lose")
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="is not a collection"):
                write(tmp_path, overwrite=overwrite)
        assert (tmp_path / "thesis.txt").is_file()

    def test_an_error_or_a_killed_run_leaves_nothing_published(self, tmp_path):
        def breaking() -> Iterator[FrameRecord]:
            yield from made_rig.frames()
            raise KeyboardInterrupt

        folder = tmp_path / "made"
        with pytest.raises(KeyboardInterrupt):
            write(folder, breaking())
        assert list(tmp_path.iterdir()) == []
        (tmp_path / ".made.partial").mkdir()  # as SIGKILL leaves it
        (tmp_path / ".made.partial" / "frames-00000.beton").write_bytes(b"half")
        assert write(folder).num_frames == 48
        assert [path.name for path in tmp_path.iterdir()] == ["made"]

    def test_two_at_once(self, tmp_path):
        folder = tmp_path / "made"
        with partial_folder(folder), pytest.raises(ValueError, match="another process"):
            write(folder)
        assert write(folder).num_frames == 48

    def test_newer_schema_and_other_bad_manifests(self, tmp_path):
        made = write(tmp_path / "made")
        path = made.folder / "manifest.json"
        path.write_text(json.dumps({**made.manifest, "schema": SCHEMA_VERSION + 1}))
        with pytest.raises(ValueError, match=f"schema {SCHEMA_VERSION + 1}.*update the program"):
            Collection.open(made.folder)
        path.write_text("{")
        with pytest.raises(ValueError, match="cannot be read"):
            Collection.open(made.folder)
        with pytest.raises(ValueError, match="no collection here"):
            Collection.open(tmp_path)
        escape = {"../thesis.txt": {"bytes": 0, "sha256": ""}}
        path.write_text(json.dumps({**made.manifest, "files": escape}))
        with pytest.raises(ValueError, match=r"the entry of '\.\./thesis\.txt' is damaged"):
            Collection.open(made.folder)

    def test_labels_that_come_late(self, tmp_path):
        bare = list(made_rig.frames(subjects=2, labels=False))
        full = list(made_rig.frames(subjects=1))
        for record in full:
            record.subject = record.sequence = "labelled"
        with pytest.raises(ValueError, match=r"name every label .* such as labels: \[joints2d\]"):
            write(tmp_path / "made", [*bare, *full])
        config = dataclasses.replace(CONFIG, labels=("body", "parts"))
        made = write(tmp_path / "made", [*bare, *full], config)
        assert "joints2d" not in made.fields and made.fields["uv_map"] == ((2, 16, 16), "float16")
        assert made.read([0, 71], ["has_body"])["has_body"].tolist() == [0, 1]
        last = made.frames.to_pylist()[-1]
        assert last["has_body"] and not last["has_joints2d"]
        config = dataclasses.replace(CONFIG, labels=("joints3d",))
        with pytest.raises(ValueError, match="labels names joints3d, but no frame of the first"):
            write(tmp_path / "more", bare, config)

    def test_another_number_of_joints_is_rejected(self, tmp_path):
        records = list(made_rig.frames(subjects=1, moments=2))
        records[5].labels["joints2d"] = np.ones((17, 3))
        made = write(tmp_path / "made", records)
        assert made.num_frames == 7
        assert made.rejects["reason"][0].as_py() == (
            "joints2d has shape (17, 3), earlier frames (24, 3)"
        )

    def test_splits_are_by_subject(self, tmp_path):
        config = dataclasses.replace(CONFIG, val_ratio=0.4)
        records = list(made_rig.frames(subjects=12, moments=1, sequences=2, cameras=2))
        frames = write(tmp_path / "made", records, config).frames.to_pylist()
        splits = defaultdict(set)
        for frame in frames:
            splits[frame["subject"]].add(frame["split"])
        assert all(len(found) == 1 for found in splits.values())
        assert {split for found in splits.values() for split in found} == {"train", "val"}
        for record in records:  # the same people without names: by sequence
            record.subject, record.track = "", record.subject
        frames = write(tmp_path / "more", records, config).frames.to_pylist()
        splits = defaultdict(set)
        for frame in frames:
            splits[frame["sequence"]].add(frame["split"])
        assert all(len(found) == 1 for found in splits.values())

    def test_a_subject_in_two_splits_is_rejected(self, tmp_path):
        records = list(made_rig.frames(subjects=1, moments=2))
        for index, record in enumerate(records):
            record.split = "train" if index < 4 else "val"
        made = write(tmp_path / "made", records)
        assert made.manifest["counts"]["splits"] == {"train": 4}
        assert "subject s0 is in split train already" in made.rejects["reason"][0].as_py()

    def test_pairs_are_mined_once_and_again_when_the_limits_change(self, tmp_path, monkeypatch):
        made = write(tmp_path / "made")
        assert made.pairs.num_rows == 0
        write_pairs(made, PairsConfig())
        count = made.pairs.num_rows
        assert (
            count > 0 and made.manifest["pairs"]["view"] + made.manifest["pairs"]["pose"] == count
        )
        assert Collection.open(made.folder).pairs.equals(made.pairs)
        stamp = (made.folder / "pairs.parquet").stat().st_mtime_ns
        monkeypatch.setattr(beton, "read_rows", None)  # no image is read from here on
        write_pairs(made, PairsConfig())
        assert (made.folder / "pairs.parquet").stat().st_mtime_ns == stamp
        write_pairs(made, PairsConfig(max_pose_per_frame=0))
        assert set(made.pairs["kind"].to_pylist()) == {0}
        assert Collection.open(made.folder).pairs.equals(made.pairs)

    def test_a_pair_table_that_cannot_be_written_leaves_the_old_one(self, tmp_path, monkeypatch):
        made = write_pairs(write(tmp_path / "made"), PairsConfig())
        count = made.pairs.num_rows

        def fail(table, path):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("hpse_dist.data.pairs.pq.write_table", fail)
        with pytest.raises(OSError, match="No space"):
            write_pairs(made, PairsConfig(seed=1))
        assert Collection.open(made.folder).pairs.num_rows == count == made.pairs.num_rows
        assert not list(made.folder.glob(".*"))

    def test_memory_is_that_of_one_shard(self, tmp_path, monkeypatch):
        held, alive = [], []
        original = PlainWriter.write

        def counting(self, path, rows, spec):
            alive.append(len(rows))
            original(self, path, rows, spec)

        monkeypatch.setattr(PlainWriter, "write", counting)

        def records() -> Iterator[FrameRecord]:
            for index, record in enumerate(made_rig.frames(subjects=5)):
                held.append(index - sum(alive))
                yield record

        write(tmp_path / "made", records())
        assert max(held) <= 41 and max(alive) <= 40
