"""Records that cannot be decoded, shards that changed, and decoding threads that hang."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpse_dist import run
from hpse_dist.data import beton
from hpse_dist.data.collection import Collection
from hpse_dist.data.items import Source
from hpse_dist.data.loader import evaluation_batches
from hpse_dist.data.publish import file_entry, write_manifest
from hpse_dist.guard import read_incidents
from hpse_dist.log import read_metrics
from hpse_dist.world import World
from tests.data.made_collection import CROP_PX, made_collection
from tests.data.test_loader import joined, loader, take
from tests.test_run import pretraining

FRAMES: dict[str, Any] = {"sampling": "frames", "needs": ["image", "sample_id", "joints2d"]}
BAD = {(0, 3), (1, 0), (1, 5)}  # shard, row


def with_damage(folder: Path, bad: set[tuple[int, int]] = BAD) -> Collection:
    """A copy with pictures that were damaged before the hashes were made."""
    shutil.copytree(made_collection().folder, folder)
    collection = Collection.open(folder)
    for shard, row in bad:
        path = collection.shards[shard]
        start = beton.Shard(path)._ranges["image"][0][row]
        data = bytearray(path.read_bytes())
        data[start + 100 : start + 160] = bytes(60)
        path.write_bytes(data)
    files = {name: file_entry(folder / name) for name in collection.manifest["files"]}
    write_manifest(folder, {**collection.manifest, "files": files})
    return Collection.open(folder)


def ids_of(collection: Collection, bad: set[tuple[int, int]] = BAD) -> set[int]:
    columns = [collection.frames[name].to_pylist() for name in ("shard", "row", "sample_id")]
    return {sample for shard, row, sample in zip(*columns, strict=True) if (shard, row) in bad}


@pytest.mark.parametrize("size", [1, 2])
def test_others_stand_for_them_whoever_makes_the_batches(tmp_path: Path, size: int) -> None:
    collection = with_damage(tmp_path / "c")
    source = Source(collection, split=None)
    whole = loader(Source(made_collection(), split=None), **FRAMES)
    sound = joined(take(iter(whole), 8))["sample_id"]
    ranks = [
        loader(source, world=World(rank, size), micro_batch=8, threads=1 + rank, **FRAMES)
        for rank in range(size)
    ]
    steps = [take(iter(rank), 16 // size) for rank in ranks]
    per_step = 2 // size
    order = [
        batch
        for start in range(0, len(steps[0]), per_step)
        for rank in steps
        for batch in rank[start : start + per_step]
    ]
    found = joined(order)
    if size == 1:
        alone = loader(source, **FRAMES)
        assert torch.equal(joined(take(iter(alone), 8))["image"], found["image"])
        alone.load_state_dict({"epoch": 0, "cursor": 32})
        assert torch.equal(joined(take(iter(alone), 2))["image"], found["image"][32:64])
        alone.close()
    bad = torch.isin(sound, torch.tensor(sorted(ids_of(collection))))
    assert bad.sum() >= 3 and torch.equal(found["sample_id"] == sound, ~bad)
    named = {record.sample_id for rank in ranks for record in rank.bad_records}
    assert named == ids_of(collection)
    shards = dict(
        zip(*(collection.frames[n].to_pylist() for n in ("sample_id", "shard")), strict=True)
    )
    for old, new in zip(sound[bad].tolist(), found["sample_id"][bad].tolist(), strict=True):
        assert shards[old] == shards[new]
    for rank in [*ranks, whole]:
        rank.close()


def test_a_pair_is_replaced_by_a_pair_of_its_kind(tmp_path: Path) -> None:
    collection = with_damage(tmp_path / "c")
    run_of_pairs = loader(Source(collection, split=None))
    sound = joined(take(iter(loader(Source(made_collection(), split=None))), 10))
    found = joined(take(iter(run_of_pairs), 10))
    assert torch.equal(found["pair_kind"], sound["pair_kind"])
    assert run_of_pairs.bad_records and (found["sample_id"] != sound["sample_id"]).any()
    run_of_pairs.close()


def test_a_shard_without_a_sound_record_and_an_evaluation_are_errors(tmp_path: Path) -> None:
    made = made_collection()
    everything = {(0, row) for row in range(beton.Shard(made.shards[0]).num_rows)}
    collection = with_damage(tmp_path / "c", everything)
    run_of_frames = loader(Source(collection, split=None), **FRAMES)
    assert len(joined(take(iter(run_of_frames), 6))["image"])  # others' shards help out
    run_of_frames.close()
    with pytest.raises(ValueError, match=r"frames-00000\.beton: row \d+: the picture is damaged"):
        list(
            evaluation_batches(
                *(Source(collection, split=None),),
                **FRAMES,
                world=World(),
                micro_batch=8,
                image_px=CROP_PX,
                patch_px=8,
            )
        )


def test_a_shard_that_changed_is_not_read(tmp_path: Path) -> None:
    shutil.copytree(made_collection().folder, tmp_path / "c")
    collection = Collection.open(tmp_path / "c")
    for path in collection.shards:
        data = np.fromfile(path, np.uint8)
        data[len(data) // 2 :] = 0
        data.tofile(path)
    with pytest.raises(ValueError, match=r"beton: changed since it was written; check the coll"):
        loader(Source(collection, split=None), **FRAMES)


def test_a_hung_thread_is_named_and_another_does_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    calm = loader(**FRAMES)
    wanted = take(iter(calm), 10)
    hanging = loader(decode_limit_s=1.0, **FRAMES)
    batches, answered, hung = iter(hanging), threading.Event(), []
    found = [next(batches)]
    read = beton.Shard.read

    def stall(self: beton.Shard, *values: Any) -> None:
        if not hung:
            hung.append(threading.current_thread())
            answered.wait(600)
        read(self, *values)

    monkeypatch.setattr(beton.Shard, "read", stall)
    found += take(batches, 9)  # more than are decoded ahead
    for name in ("image", "sample_id"):
        assert torch.equal(joined(found)[name], joined(wanted)[name])
    assert {incident.kind for incident in hanging.incidents} == {"hung_decode"}
    named = f"{hung[0].name} has been at "  # on a busy machine others may be that slow
    (incident, *_) = [one for one in hanging.incidents if named in one.why]
    assert ".beton for " in incident.why
    answered.set()
    hung[0].join(600)
    assert not hung[0].is_alive()
    hanging.close()
    calm.close()


def test_a_disk_that_never_answers_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, answered = loader(decode_limit_s=0.2, **FRAMES), threading.Event()
    monkeypatch.setattr(beton.Shard, "read", lambda *_: answered.wait(600))
    with pytest.raises(TimeoutError, match=r"the disk or the store does not answer; look at it"):
        next(iter(hanging))
    answered.set()


def test_a_run_names_what_it_replaced_and_stops_at_too_many(tmp_path: Path) -> None:
    recipe = pretraining(tmp_path, with_damage(tmp_path / "c"), name="some", steps=8)
    some = replace(recipe, machine=replace(recipe.machine, bad_records=0.5, log_every=1))
    run.pretrain(some, World(), some.folder())
    named = read_incidents(some.folder() / "incidents.jsonl")
    named = [x for x in named if x["kind"] != "data_bound"]  # as where others use the machine
    assert {x["kind"] for x in named} == {"bad_record"}
    assert len(named) == len({x["sample"] for x in named})
    assert all("frames-0000" in x["where"] and ", row " in x["where"] for x in named)
    rows = read_metrics(some.folder() / "metrics.jsonl")
    counts = [row["run/bad_records"] for row in rows if "run/bad_records" in row]
    assert counts[-1] == len(named) and counts == sorted(counts)
    none = replace(some, name="none", machine=replace(some.machine, bad_records=0.0))
    with pytest.raises(ValueError, match=r"more than machine\.bad_records, 0, allows; check the"):
        run.pretrain(none, World(), none.folder())
    assert not (none.folder() / "DONE").exists()
    assert json.loads((some.folder() / "report.json").read_text())["steps"] == 8
