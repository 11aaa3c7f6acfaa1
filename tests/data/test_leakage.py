"""The leakage guard on planted cases: altered test pictures, shared names, and clean sets."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hpse_dist.data import beton
from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.duplicates import across, counts, within, write_list
from hpse_dist.data.hamming import near
from hpse_dist.data.hashes import WINDOWS, fitted_looks, frame_hashes, picture_hashes
from hpse_dist.data.leakage import KEY, compare, guard, identity, inherit
from hpse_dist.data.parts import make_part
from hpse_dist.data.publish import held_folder
from hpse_dist.data.work import Work
from hpse_dist.records import FrameRecord, Provenance
from hpse_dist.stamps import VERSION
from pipelines import prepare, run_command
from tests.data.made_collection import picture
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

PX = 96
MADE = Provenance("made", "CC0-1.0", True, "", None)
CONFIG = CollectionConfig(
    crop_px=PX, box_scale=1.0, image_mode="raw", min_side_px=20, frames_per_shard=8
)

pytestmark = pytest.mark.usefixtures("plain_shards")


def record(subject: str, moment: int, split: str, image: np.ndarray | None = None) -> FrameRecord:
    key = [ord(letter) for letter in subject] + [moment]
    image = picture(np.random.default_rng(key), 160) if image is None else image
    height, width = image.shape[:2]
    return FrameRecord(
        image=image,
        box=(0, 0, width, height),
        subject=subject,
        sequence=f"{subject}-walk",
        camera="cam",
        time=float(moment),
        source=f"{subject} {moment}",
        split=split,
    )


def written(
    folder: Path, records: Iterable[FrameRecord], provenance: Provenance = MADE
) -> Collection:
    return write_collection(folder, records, CONFIG, provenance)


def altered(image: np.ndarray, side: int, quality: int, crop: float = 0.0) -> np.ndarray:
    """Cut by a share of its side off its middle, resized, recompressed."""
    size = image.shape[0] * (1 - crop)
    x, y = 0.7 * (image.shape[0] - size), 0.2 * (image.shape[0] - size)
    resized = Image.fromarray(image).resize((side, side), box=(x, y, x + size, y + size))
    file = io.BytesIO()
    resized.save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def people(names: str, split: str, moments: int = 6) -> list[FrameRecord]:
    return [record(name, moment, split) for name in names for moment in range(moments)]


@pytest.fixture
def judged(tmp_path: Path) -> Collection:
    return written(tmp_path / "judged", [*people("ab", "train"), *people("cd", "val")])


def test_a_clean_set_passes_and_says_so_in_the_manifest(tmp_path, judged):
    clean = written(tmp_path / "clean", people("efghij", "train"))
    found = guard(clean, judged)
    assert not found.leaks and found.held_out_frames == 12 and found.training_frames == 36
    stamp = Collection.open(clean.folder).manifest[KEY][identity(judged)]
    assert stamp["judged"] == "judged" and stamp["frames"] == 0
    assert clean.verify() == []


def test_a_stamp_of_an_earlier_rule_is_not_inherited(tmp_path, judged):
    clean = written(tmp_path / "clean", people("ef", "train"))
    guard(clean, judged)
    stamp = clean.manifest[KEY][identity(judged)]
    assert stamp["version"] == VERSION
    for version in (VERSION - 1, None):
        old = Collection.open(clean.folder)
        old.manifest = {**old.manifest, KEY: {identity(judged): {**stamp, "version": version}}}
        made = written(tmp_path / f"made{version}", people("ef", "train"))
        inherit(made, [old])
        assert KEY not in made.manifest
    inherit(made, [clean])
    assert made.manifest[KEY][identity(judged)]["inherited_from"] == ["clean"]


def test_what_others_wrote_meanwhile_stays(tmp_path, judged):
    """Two processes that opened the collection at the same time, and one whose place was taken."""
    clean = written(tmp_path / "clean", people("efghij", "train"))
    other = written(tmp_path / "other", people("kl", "val"))
    late = Collection.open(clean.folder)
    guard(clean, judged)
    guard(late, other)
    stamps = Collection.open(clean.folder).manifest[KEY]
    assert set(stamps) == {identity(judged), identity(other)} == set(late.manifest[KEY])
    with held_folder(clean.folder):  # nobody holds it any more
        shutil.rmtree(clean.folder)
    written(clean.folder, people("mn", "train"))
    with pytest.raises(ValueError, match="clean: replaced by another collection since"):
        inherit(late, [clean])
    assert KEY not in Collection.open(clean.folder).manifest


ALTERED = (  # side, JPEG quality, share of the side that is cut off
    (160, 20, 0.0),
    (70, 90, 0.0),
    (230, 60, 0.0),
    (120, 60, 0.03),
    (120, 60, 0.06),
    (120, 60, 0.1),
)


@pytest.mark.parametrize("planted_in", ["training", "held out"])
def test_planted_pictures_are_found(tmp_path, judged, planted_in):
    """Whichever of the two collections holds the altered one: `c` is held out in `judged`."""
    copies = [
        record(f"x{moment}", 0, "train", altered(record("c", moment, "").image, *how))
        for moment, how in enumerate(ALTERED)
    ]
    if planted_in == "training":
        found = guard(written(tmp_path / "new", [*people("ef", "train"), *copies]), judged)
    else:
        held_out = [replace(copy, split="test") for copy in copies]
        own = written(tmp_path / "own", people("cef", "train"))
        found = guard(own, written(tmp_path / "new", held_out))
    assert found.pictures == found.frames == 6 and found.exact == 0
    assert found.subjects == found.sequences == 0
    assert any("c 0" in example for example in found.examples)


def test_mirrored_pictures_are_found(tmp_path, judged):
    """Mirrored, recompressed, resized, cut; whichever of two holds them, and inside one."""
    copies = [
        record(f"x{moment}", 0, "train", altered(record("c", moment, "").image[:, ::-1], *how))
        for moment, how in enumerate(ALTERED)
    ]
    new = written(tmp_path / "new", [*people("ef", "train"), *copies])
    found = guard(new, judged)
    assert found.pictures == found.mirrored == found.frames == 6 and found.exact == 0
    assert any("c 0 is x0 0, mirrored" in example for example in found.examples)
    held_out = written(tmp_path / "test", [replace(copy, split="test") for copy in copies])
    found = compare(written(tmp_path / "own", people("cef", "train")), held_out)
    assert found.mirrored == 6
    both = written(tmp_path / "both", [*people("c", "train"), *copies[:3]])  # whole pictures
    table = within(both)
    assert table.num_rows == 3 and table["mirrored"].to_pylist() == [True] * 3
    assert counts(table)["mirrored"] == 3 and {*table["source_b"].to_pylist()} == {
        *("x0 0", "x1 0", "x2 0")
    }


def test_a_picture_like_its_mirror_image_is_told_as_it_is(tmp_path):
    half = record("a", 0, "").image[:, :80]
    image = np.concatenate([half, half[:, ::-1]], axis=1)
    again = record("b", 0, "train", image)
    table = within(written(tmp_path / "one", [record("a", 0, "train", image), again]))
    assert table["mirrored"].to_pylist() == [False]


def test_equal_pictures_and_names_are_found(tmp_path, judged):
    same = [replace(record("c", moment, "train"), subject="z", sequence="z") for moment in (1, 2)]
    found = compare(written(tmp_path / "same", [*people("e", "train"), *same]), judged)
    assert (found.pictures, found.exact, found.frames, found.subjects) == (2, 2, 2, 0)
    other = [record("c", moment, "train") for moment in range(20, 23)]
    named = written(tmp_path / "named", [*people("e", "train"), *other])
    found = compare(named, judged)
    assert (found.pictures, found.subjects, found.sequences, found.frames) == (0, 1, 1, 6)
    shared = [replace(frame, subject="somebody") for frame in other]
    found = compare(written(tmp_path / "shared", shared), judged)
    assert (found.subjects, found.sequences, found.frames) == (0, 1, 6)
    assert found.examples == ("sequence c-walk",)
    assert not compare(named, judged, ("pictures",)).leaks
    with pytest.raises(ValueError, match="must be among pictures, subjects, sequences"):
        compare(named, judged, ("faces",))


def test_only_training_frames_leak_and_only_into_held_out_ones(tmp_path, judged):
    assert not compare(judged, judged).leaks
    swapped = [*people("ab", "val"), *people("ef", "train")]  # a and b are trained on over there
    assert not compare(written(tmp_path / "swapped", swapped), judged).leaks
    all_train = written(tmp_path / "whole", people("ef", "train"))  # a test set without splits
    assert compare(judged, all_train).held_out_frames == 12
    with pytest.raises(ValueError, match="no frame of the split train"):
        compare(written(tmp_path / "test", people("e", "test")), judged)


def test_equal_names_in_another_dataset_are_told_and_no_leak(tmp_path, judged):
    elsewhere = replace(MADE, importer="elsewhere")
    frames = [record("c", moment, "train") for moment in range(20, 23)]
    found = compare(written(tmp_path / "other", frames, elsewhere), judged)
    assert not found.leaks and found.alike == 2
    assert "2 names are shared with another dataset" in found.sentence("other")


def test_pictures_of_one_grey_tell_nothing(tmp_path):
    black = np.zeros((80, 80, 3), np.uint8)
    one = written(tmp_path / "one", [record("a", 0, "train", black), *people("b", "train")])
    two = written(tmp_path / "two", [record("c", 0, "val", black), *people("d", "val")])
    found = compare(one, two)
    assert not found.leaks and found.plain == 1


def test_hashes_are_kept_and_reread(tmp_path, judged, monkeypatch):
    first = frame_hashes(judged)
    assert judged.verify() == []
    monkeypatch.setattr(beton, "read_rows", None)
    again = frame_hashes(Collection.open(judged.folder))
    for name in ("exact", "windows", "mirrored", "plain"):
        assert np.array_equal(getattr(first, name), getattr(again, name))


def test_hashes_are_in_the_order_of_the_frames(judged):
    images = judged.read(judged.frames["sample_id"].to_pylist(), ["image"])["image"]
    assert np.array_equal(picture_hashes(images)[0], frame_hashes(judged).windows)


def test_what_a_join_left_out_of_a_shard_is_not_hashed(tmp_path, judged):
    """A subject of two splits: its second part's rows stay in the shard, without a frame."""
    late = [replace(frame, sequence="late") for frame in people("x", "test", 4)]
    parts = (people("x", "train", 2), [*late, *people("ce", "train")])
    config = replace(CONFIG, frames_per_shard=64)
    work = Work(tmp_path / "joined", "mark")
    with work.begin(), beton.BetonWriter() as writer:
        work.note_count(len(parts))
        for number, records in enumerate(parts):
            make_part(work.place, number, iter(records), config, writer=writer)
        work.join(config, MADE, "mark", False)
    joined = Collection.open(tmp_path / "joined")
    assert joined.frames["row"].to_pylist() == [0, 1, *range(4, 16)]
    images = joined.read(joined.frames["sample_id"].to_pylist(), ["image"])["image"]
    assert np.array_equal(picture_hashes(images)[0], frame_hashes(joined).windows)
    assert compare(joined, judged, ("pictures",)).pictures == 6  # those of c


def test_a_window_is_fitted():
    image = picture(np.random.default_rng(3), 200)
    assert fitted_looks(image, altered(image, 90, 70, 0.1), WINDOWS[5]) > 0.98
    assert fitted_looks(image, picture(np.random.default_rng(4), 90), WINDOWS[5]) < 0.8


@pytest.mark.parametrize("radius", [0, 5, 8, 11])
def test_near_codes_are_those_of_a_full_comparison(radius):
    rng = np.random.default_rng(radius)
    a = rng.integers(0, 2**64, 400, dtype=np.uint64)
    flips = (rng.random((150, 64)) < rng.uniform(0, 0.25, (150, 1))).astype(np.uint8)
    b = a[:150] ^ np.packbits(flips, axis=1).view(np.uint64)[:, 0]
    distance = np.bitwise_count(a[:, None] ^ b)
    wanted = {(i, j, distance[i, j]) for i, j in np.argwhere(distance <= radius).tolist()}
    assert set(zip(*(part.tolist() for part in near(a, b, radius)), strict=True)) == wanted
    swapped = {(j, i, d) for i, j, d in wanted}
    assert set(zip(*(part.tolist() for part in near(b, a, radius)), strict=True)) == swapped


def test_of_many_equal_codes_the_first_are_kept():
    i, j, distance = near(np.zeros(50, np.uint64), np.zeros(3, np.uint64), 4, limit=5)
    assert len(i) == 15 and set(i.tolist()) == set(range(5)) and not distance.any()
    with pytest.raises(ValueError, match=r"radius must be 0\.\.11"):
        near(i.astype(np.uint64), j.astype(np.uint64), 12)


def test_duplicates_within_and_between(tmp_path, judged):
    twice = [
        replace(record("c", 0, "train"), subject="z", sequence="z", source="copy"),
        record("y", 0, "train", altered(record("a", 1, "").image, 100, 50)),
        record("x", 0, "train", altered(record("x", 1, "").image, 100, 50)),
        record("x", 1, "train"),
    ]
    other = written(tmp_path / "other", [*people("e", "train"), *twice])
    table = within(other)
    assert counts(table) == {"exact": 0, "near": 1, "mirrored": 0} | {
        "in one sequence": 1,
        "across sequences": 0,
    }
    found = across(judged, [other])
    assert [where for where, _ in found] == ["judged within", "other within", "judged and other"]
    assert counts(found[2][1]) | {"in one sequence": 0} == {
        "exact": 1,
        "near": 1,
        "mirrored": 0,
        "in one sequence": 0,
        "across sequences": 2,
    }
    assert set(found[2][1]["source_b"].to_pylist()) == {"copy", "y 0"}
    write_list(found, tmp_path / "list.parquet")
    assert pq.read_table(tmp_path / "list.parquet").num_rows == 3
    with pytest.raises(ValueError, match=r"something\.parquet or something\.csv"):
        write_list(found, tmp_path / "list.txt")


def test_commands(tmp_path, judged, capsys):
    planted = altered(record("c", 0, "").image, 120, 40)
    leaky = written(tmp_path / "leaky", [*people("e", "train"), record("x", 0, "train", planted)])

    def run(*arguments: object) -> int:
        return run_command(prepare.main, prepare.parser(), [str(text) for text in arguments])

    assert run(leaky.folder, "--leakage", judged.folder) == 1
    shown = capsys.readouterr()
    assert "leaky leaks into judged: 1 of its 12 held-out frames" in shown.err
    assert shown.err.count("\n") == 1 and "c 0 is x 0 (correlation" in shown.out
    assert run(judged.folder, "--leakage", judged.folder, "--by", "pictures") == 0
    assert "clean, and stamped into" in capsys.readouterr().out
    path = tmp_path / "twice.csv"
    assert run(judged.folder, "--duplicates", path, "--with", leaky.folder) == 0
    assert "judged and leaky: 1 pairs of duplicates (0 exact, 1 near" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) == 2
    assert run(judged.folder, "--duplicates", tmp_path / "twice.txt") == 1
