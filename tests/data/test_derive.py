"""Parts of collections, several as one, other splits: what must be kept is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpse_dist.data import derive
from hpse_dist.data.bodies import check_body
from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.derive import keys_and_values, merge, split, subset
from hpse_dist.data.leakage import compare, guard
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.data.publish import write_manifest
from hpse_dist.records import Provenance, Reject
from pipelines import collection as command
from pipelines import run_command
from tests.data import made_rig
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("plain_shards")
FREE = made_rig.PROVENANCE
LAB = replace(FREE, importer="lab", licence="research only", commercial=False, citation="a paper")


CONFIG = CollectionConfig(
    crop_px=32, label_px=16, min_side_px=20, frames_per_shard=8, image_mode="raw"
)


def made(
    folder: Path,
    subjects: dict[int, str],
    provenance: Provenance = FREE,
    labels: bool = True,
    **changes: Any,
) -> Collection:
    """Subjects by number with their splits; changes: of the config."""
    records = []
    for record in made_rig.frames(max(subjects) + 1, moments=3, cameras=2, labels=labels):
        number = int(record.subject[1:])
        if number in subjects:
            records.append(replace(record, split=subjects[number]))
    config = replace(CONFIG, **changes)
    return write_pairs(write_collection(folder, records, config, provenance), PairsConfig())


def splits(collection: Collection) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in collection.frames.select(["subject", "split"]).to_pylist():
        found.setdefault(row["subject"], set()).add(row["split"])
    return found


def test_a_subset_keeps_everything_of_the_frames_it_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(derive, "_CHUNK", 5)
    whole = made(tmp_path / "whole", {0: "train", 1: "train", 2: "val"}, LAB)
    part = subset(whole, tmp_path / "part", {"subject": ("s1", "s2"), "camera": ("cam0", "cam1")})
    assert part.num_frames == 12 and part.verify() == []
    assert splits(part) == {"s1": {"train"}, "s2": {"val"}}
    for key in ("importer", "licence", "commercial", "citation", "joint_set", "fields"):
        assert part.manifest[key] == whole.manifest[key]
    assert part.manifest["details"]["derived"]["subset_of"] == "whole"
    old = np.flatnonzero(np.asarray(whole.frames["subject"].to_pylist()) != "s0")
    names = ["image", *whole.label_fields]
    before, after = whole.read(old, names), part.read(np.arange(12), names)
    assert all(np.array_equal(before[name], after[name]) for name in names)
    dropped = ["sample_id", "shard", "row"]
    assert whole.frames.take(old).drop_columns(dropped) == part.frames.drop_columns(dropped)
    assert part.manifest["pairs"]["config"] == whole.manifest["pairs"]["config"]
    assert part.pairs.num_rows > 0
    with pytest.raises(ValueError, match="track or split, found time"):
        subset(whole, tmp_path / "none", {"time": ("0.0",)})
    with pytest.raises(ValueError, match="no frame of subject s9"):
        subset(whole, tmp_path / "none", {"subject": ("s9",)})
    with pytest.raises(ValueError, match="exists already"):
        subset(whole, tmp_path / "part", {"subject": ("s1",)})
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "part"}


def test_a_small_subset_has_everybody_and_pairs_to_learn_from(tmp_path):
    whole = made(tmp_path / "whole", {0: "train", 1: "train", 2: "val"})
    small = subset(whole, tmp_path / "small", {}, most=13)
    assert small.num_frames == 12 and splits(small) == splits(whole)
    assert set(small.pairs["kind"].to_pylist()) == set(whole.pairs["kind"].to_pylist())
    assert small.manifest["details"]["derived"]["most"] == 13
    with pytest.raises(ValueError, match="1 frames are too few"):
        subset(whole, tmp_path / "none", {}, most=1)


def test_a_frame_that_lacks_labels_lacks_them_still(tmp_path):
    records = list(made_rig.frames(1, moments=4, cameras=2))
    for record in records[::2]:
        record.labels, record.intrinsics, record.split = {}, None, "train"
    whole = write_collection(tmp_path / "whole", records, CONFIG, FREE)
    part = subset(whole, tmp_path / "part", {"subject": ("s0",)})
    assert part.frames == whole.frames and part.rejects.num_rows == 0
    assert part.frames["has_body"].to_pylist() == [False, True] * 4


def test_labels_that_a_collection_left_out_are_another_ones(tmp_path):
    """Which labels are kept is said of one importing, not of what is made of its collection."""
    records = list(made_rig.frames(2, moments=2, cameras=2))
    config = replace(CONFIG, labels=("parts",))
    few = write_collection(tmp_path / "few", records[:4], config, FREE)
    both = merge([few, made(tmp_path / "all", {1: "train"})], tmp_path / "both")
    assert "joints3d" not in few.fields and "joints3d" in both.fields and both.config.labels == ()


def test_keys_may_be_given_twice_and_need_values():
    found = keys_and_values(["test=a,b", "val=c", "test=d"])
    assert found == {"test": ("a", "b", "d"), "val": ("c",)}
    for text in ("test", "test="):
        with pytest.raises(ValueError, match=f"needed as key=value,value, found '{text}'"):
            keys_and_values([text])


def test_merging_one_dataset_never_trains_on_a_held_out_subject(tmp_path):
    one = made(tmp_path / "one", {0: "train", 1: "train"})
    two = write_pairs(
        made(tmp_path / "two", {0: "test", 1: "val", 2: "train"}), PairsConfig(seed=3)
    )
    both = merge([one, two], tmp_path / "both")
    assert splits(both) == {"s0": {"test"}, "s1": {"val"}, "s2": {"train"}}
    assert both.num_frames == 18 and both.verify() == []
    assert both.manifest["pairs"]["config"] == one.manifest["pairs"]["config"]
    reasons = set(both.rejects["reason"].to_pylist())
    assert reasons == {
        f"its subject is in split {where} of another collection, here it is in train"
        for where in ("test", "val")
    }
    again = merge([one, made(tmp_path / "copy", {0: "train"})], tmp_path / "again")
    assert again.num_frames == 12
    assert set(again.rejects["reason"].to_pylist()) == {"in an earlier collection already"}


@pytest.mark.parametrize("named", [{"subject": "s0"}, {"subject": "", "track": "s0"}])
def test_namesakes_are_not_merged_into_one_person(tmp_path, named):
    """Two own rigs, or synthetic people of two seeds: same names, moments and cameras."""
    records = list(made_rig.frames(2, moments=3, cameras=2))
    people = [
        [replace(r, sequence="s0-q0", split="train", **named) for r in person]
        for person in (records[:6], records[6:])
    ]
    one = write_collection(tmp_path / "one", people[0], CONFIG, FREE)
    repainted = [replace(r, image=255 - r.image) for r in people[0]]
    for name, frames in (("elsewhere", people[1]), ("repainted", repainted)):
        other = write_collection(tmp_path / name, frames, CONFIG, FREE)
        with pytest.raises(ValueError, match=f"{name}: s0 of s0-q0 is another, or elsewhere, than"):
            merge([one, other], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_one_person_twice_is_no_namesake(tmp_path):
    """Labelled a little otherwise, compressed once more, or in another sequence."""
    one = made(tmp_path / "one", {0: "train"})
    records = [replace(r, split="train") for r in made_rig.frames(1, moments=3, cameras=2)]
    moved, away = ([tuple(edge + by for edge in r.box) for r in records] for by in (1, 30))
    others = {
        "relabelled": [replace(r, box=box) for r, box in zip(records, moved, strict=True)],
        "recompressed": [replace(r, image=r.image ^ 3) for r in records],
        "later": [
            replace(r, box=box, sequence="s0-q1") for r, box in zip(records, away, strict=True)
        ],
    }
    counts = [
        merge(
            [one, write_collection(tmp_path / name, frames, CONFIG, FREE)], tmp_path / f"{name} too"
        ).num_frames
        for name, frames in others.items()
    ]
    assert counts == [12, 6, 12]


def test_merging_datasets_keeps_people_licences_and_labels_apart(tmp_path):
    free = made(tmp_path / "free", {0: "train"}, labels=False, frames_per_shard=4)
    lab = made(tmp_path / "lab", {0: "val", 1: "train"}, LAB)
    both = merge([free, lab], tmp_path / "both")
    assert splits(both) == {"made/s0": {"train"}, "lab/s0": {"val"}, "lab/s1": {"train"}}
    manifest = both.manifest
    assert manifest["commercial"] is False and manifest["importer"] == "merged"
    assert manifest["licence"] == "free: CC0-1.0; lab: research only"
    assert manifest["citation"] == "nobody; a paper"
    assert [part["name"] for part in manifest["details"]["parts"]] == ["free", "lab"]
    assert "joints3d" in both.fields  # which the first shards' frames do not carry
    assert both.frames["has_body"].to_pylist() == [False] * 6 + [True] * 12
    found = compare(both, made(tmp_path / "test", {1: "test"}, LAB), ("subjects",))
    assert found.subjects == 1  # known under its own name
    more = made(tmp_path / "more", {5: "train"}, replace(FREE, citation=""))
    deeper = merge([more, both], tmp_path / "deeper")
    assert deeper.manifest["citation"] == manifest["citation"]
    assert set(splits(deeper)) == {"made/s0", "lab/s0", "lab/s1", "made/s5"}
    assert len(deeper.manifest["details"]["parts"]) == 3


def test_merged_before_it_was_said_whose_labels_are_whose(tmp_path):
    gendered = {"body_model": "SMPL, male or female as the subject's name says"}
    for labelled in (False, True):
        place = tmp_path / str(labelled)
        lab = replace(LAB, details=gendered)
        both = merge(
            [
                made(place / "free", {0: "train"}, replace(FREE, details={"body": "free"})),
                made(place / "lab", {1: "train"}, lab, labels=labelled),
            ],
            place / "both",
        )
        said = both.manifest["details"]["parts"]
        parts = [{key: part[key] for key in part if key != "labels"} for part in said]
        write_manifest(both.folder, {**both.manifest, "details": {"parts": parts}})
        old = Collection.open(both.folder)
        again = merge([old, made(place / "more", {2: "train"})], place / "again")
        found = again.manifest["details"]["parts"]
        assert [set(part["labels"]) for part in found[:2]] == [set(part["labels"]) for part in said]
        for one in (old, again):
            if labelled:
                with pytest.raises(ValueError, match="are of SMPL, male or female"):
                    check_body(one, "free", "task.body")
            else:
                check_body(one, "free", "task.body")


def test_what_does_not_fit_together_is_refused(tmp_path):
    one = made(tmp_path / "one", {0: "train"})
    with pytest.raises(ValueError, match="joints are hand21"):
        merge(
            [one, made(tmp_path / "two", {1: "train"}, replace(LAB, joint_set="hand21"))],
            one.folder,
        )
    with pytest.raises(ValueError, match="two collections or more"):
        merge([one], tmp_path / "both")
    for number, (key, value) in enumerate((("crop_px", 48), ("box_scale", 1.5), ("label_px", 32))):
        other = made(tmp_path / str(number), {1: "train"}, **{key: value})
        with pytest.raises(
            ValueError, match=f"{number}: {key} is {value}, of .*; prepare one again"
        ):
            merge([one, other], tmp_path / "both")
    record = next(made_rig.frames(1, moments=1, cameras=1))
    record.labels = {"joints2d": record.labels["joints2d"][:17]}
    other = write_collection(tmp_path / "other", [replace(record, subject="s9")], CONFIG, FREE)
    with pytest.raises(ValueError, match="other: joints2d is "):
        merge([one, other], tmp_path / "both")


def test_people_without_names_are_merged_once_and_split_by_sequence(tmp_path):
    """Two in each picture of two films, where only box and time tell frames apart."""
    boxes = {record.subject: record.box for record in made_rig.frames(2, moments=1, cameras=1)}
    records = [
        replace(
            record, subject="", sequence=film, source=film, split="train", box=boxes[record.subject]
        )
        for record in made_rig.frames(2, moments=3, cameras=1)
        for film in ("walk", "run")
    ]
    whole = write_collection(tmp_path / "whole", records, CONFIG, FREE)
    walk = subset(whole, tmp_path / "walk", {"sequence": ("walk",)})
    both = merge([walk, whole], tmp_path / "both")
    assert both.num_frames == whole.num_frames == 12
    assert both.rejects["reason"].to_pylist() == ["in an earlier collection already"] * 6
    apart = split(whole, tmp_path / "apart", {"val": ("walk",)})
    columns = (apart.frames[name].to_pylist() for name in ("sequence", "split"))
    assert {*zip(*columns, strict=True)} == {("walk", "val"), ("run", "train")}


def test_a_collection_of_before_a_label_was_known_is_read(tmp_path):
    whole = made(tmp_path / "whole", {0: "train", 1: "val"})
    fewer = whole.frames.drop_columns(["has_people3d"])
    whole.update_file("frames.parquet", lambda path: pq.write_table(fewer, path))
    part = subset(whole, tmp_path / "part", {"split": ("val",)})
    assert part.frames["has_people3d"].to_pylist() == [False] * 6


def test_other_splits(tmp_path):
    whole = made(tmp_path / "whole", {0: "train", 1: "val", 2: "train"})
    new = split(whole, tmp_path / "new", {"val": ("s0",), "test": ("s2",)})
    assert splits(new) == {"s0": {"val"}, "s1": {"train"}, "s2": {"test"}}
    with pytest.raises(ValueError, match="s0 cannot be in two splits"):
        split(whole, tmp_path / "bad", {"val": ("s0",), "test": ("s0",)})
    with pytest.raises(ValueError, match="no subject s7"):
        split(whole, tmp_path / "bad", {"val": ("s7",)})


def test_subjects_of_two_importers_are_told_apart(tmp_path):
    one = made(tmp_path / "one", {0: "train", 1: "train"}, labels=False)
    two = made(tmp_path / "two", {0: "train", 2: "train"}, LAB, labels=False)
    both = merge([one, two], tmp_path / "both")
    with pytest.raises(ValueError, match="both: s0 is lab/s0 and made/s0; name one of them"):
        split(both, tmp_path / "bad", {"val": ("s0",)})
    new = split(both, tmp_path / "new", {"val": ("made/s0",), "test": ("s2", "lab/s2")})
    held = {"made/s0": {"val"}, "lab/s2": {"test"}}
    assert splits(new) == {"made/s1": {"train"}, "lab/s0": {"train"}, **held}


def test_command(tmp_path, capsys):
    whole = made(tmp_path / "whole", {0: "train", 1: "val"})

    def run(*arguments: object) -> int:
        return run_command(command.main, command.parser(), [str(text) for text in arguments])

    assert run("subset", whole.folder, tmp_path / "part", "split=train") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"done: {tmp_path / 'part'}"
    assert (tmp_path / "part" / "sheets" / "frames.png").is_file()
    assert run("split", whole.folder, tmp_path / "new", "test=s0,s1") == 0
    assert run("merge", tmp_path / "part", whole.folder, tmp_path / "both") == 0
    for arguments in (("merge", whole.folder), ("subset", whole.folder, tmp_path / "x")):
        assert run(*arguments) == 2
    mine = sum(path.stat().st_size for path in whole.shards) / 2e9
    assert run("subset", whole.folder, tmp_path / "half", f"gb={mine}") == 0
    assert 0 < Collection.open(tmp_path / "half").num_frames <= whole.num_frames // 2
    assert run("subset", whole.folder, tmp_path / "few", "gb=1", "frames=9,5") == 0
    assert Collection.open(tmp_path / "few").num_frames == 4
    capsys.readouterr()
    assert run("subset", whole.folder, tmp_path / "x", "gb=much") == 2
    assert "gb is a number, such as gb=20, found 'much'" in capsys.readouterr().err


def test_what_the_guard_found_and_what_was_left_out_go_along(tmp_path):
    whole = made(tmp_path / "whole", {0: "train", 1: "train", 2: "val"})
    other = made(tmp_path / "other", {5: "train"})
    judged = made(tmp_path / "judged", {7: "test"}, LAB)
    bad = [Reject("a, frame 3", "no joint is labelled")]
    table = pa.Table.from_pylist([{"source": r.source, "reason": r.reason} for r in bad])
    whole.update_file("rejects.parquet", lambda path: pq.write_table(table, path))
    for one in (whole, other):
        guard(one, judged, ("subjects", "sequences"))
    part = subset(whole, tmp_path / "part", {"subject": ("s0", "s2")})
    assert part.rejects.to_pylist() == table.to_pylist()
    assert part.manifest["counts"]["rejects"] == {"no joint is labelled": 1}
    (stamp,) = part.manifest["leakage"].values()
    assert stamp["frames"] == 0 and stamp["inherited_from"] == ["whole"]
    both = merge([whole, other], tmp_path / "both")
    (stamp,) = both.manifest["leakage"].values()
    assert stamp["frames"] == 0 and stamp["inherited_from"] == ["whole", "other"]
    # a part that was never compared is not known to be clean, nor a subject that was not trained on
    unknown = merge([both, made(tmp_path / "third", {8: "train"})], tmp_path / "unknown")
    assert "leakage" not in unknown.manifest
    assert "leakage" not in split(whole, tmp_path / "new", {"test": ("s0",)}).manifest
    held = split(whole, tmp_path / "held", {"val": ("s0", "s2")})
    assert next(iter(held.manifest["leakage"].values()))["frames"] == 0
    # what leaks in one part leaks in the whole
    guard(other, made(tmp_path / "same", {5: "test"}), ("subjects",))
    leaky = merge([whole, other], tmp_path / "leaky")
    assert sorted(stamp["frames"] for stamp in leaky.manifest["leakage"].values()) == [0, 6]
