from __future__ import annotations

import gc
import itertools
import shutil
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpse_dist.data import beton, prefetch
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection
from hpse_dist.data.decode import Decoder, Rows
from hpse_dist.data.items import read_items
from hpse_dist.data.loader import Loader, Source, evaluation_batches
from hpse_dist.fields import FIELDS, IMAGE_MEAN, IMAGE_STD, Batch
from hpse_dist.world import World
from tests.data.made_collection import CROP_PX, made_collection
from tests.waiting import until

PAIR_NEEDS = ["image", "image_ref", "sample_id", "epoch", "subject", "pair_kind", "pair_weight"]
PAIR_NEEDS += ["person"]
BODY = ["global_orient", "body_pose", "betas", "transl", "has_body", "intrinsics"]
BODY_NEEDS = ["image", "sample_id", "joints2d", "joints3d", *BODY]
BODY_NEEDS += ["part_map", "uv_map", "has_parts"]


def loader(*sources: Source, **settings: Any) -> Loader:
    defaults: dict[str, Any] = {
        "needs": PAIR_NEEDS,
        "sampling": "pairs",
        "world": World(),
        "seed": 0,
        "global_batch": 16,
        "micro_batch": 16,
        "augment": AugmentConfig(),
        "image_px": 48,
        "patch_px": 8,
        "window": 2,
    }
    return Loader(sources or [Source(made_collection())], **{**defaults, **settings})


def take(source: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(source, count))


def joined(batches: list[Batch]) -> Batch:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def equal(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    if decoding_threads():
        gc.collect()
    until(lambda: not decoding_threads(), "the decoding threads end")
    until(lambda: threading.active_count() <= before, "all threads end")


def test_fields_have_the_vocabularys_shapes_and_types() -> None:
    pairs = next(iter(loader()))
    assert list(pairs) == PAIR_NEEDS
    assert pairs["image"].shape == pairs["image_ref"].shape == (16, 3, 48, 48)
    assert pairs["person"].shape == (16, 6, 6)
    assert 0.05 < pairs["person"].mean() < 0.95
    assert not torch.equal(pairs["image"], pairs["image_ref"])
    body = next(iter(loader(needs=BODY_NEEDS, sampling="frames")))
    kinds = {"float": torch.float32, "int": torch.int64, "bool": torch.bool}
    for name, value in {**pairs, **body}.items():
        assert value.dtype == kinds[FIELDS[name].dtype], name
    assert body["uv_map"].shape == (16, 2, 48, 48)
    assert body["has_body"].all()
    assert body["has_parts"].all()


def test_labels_are_the_rows_own() -> None:
    """2D joints are the projected 3D joints after decoding, cropping and turning."""
    config = AugmentConfig(crop_scale=(0.6, 1.2), rotation_deg=30)
    run = loader(needs=BODY_NEEDS, sampling="frames", augment=config)
    for batch in take(iter(run), 4):
        image = batch["joints3d"][..., :3] @ batch["intrinsics"].mT
        projected = image[..., :2] / image[..., 2:]
        assert (projected - batch["joints2d"][..., :2]).abs().max() < 1e-4


def test_a_picture_that_is_wanted_twice_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """(a, b) and (b, a), and a in another pair: equal to every place read by itself."""
    items = read_items(Source(made_collection()), "pairs")
    decoder = Decoder([items], [])
    pairs = list(zip(items.first.tolist(), items.second.tolist(), strict=True))
    both = pairs.index(pairs[0][::-1])
    others = [n for n, pair in enumerate(pairs) if pairs[0][0] in pair and n not in (0, both)]
    item = np.array([0, both, *others[:2], 0])
    whole, size = np.zeros(len(item), np.int64), len(item)
    rows = Rows(whole, item, whole, np.ones(size, np.float32), np.ones(size, bool))
    asked: list[int] = []
    read = beton.Shard.read

    def counted(shard: beton.Shard, name: str, rows: np.ndarray, *where: np.ndarray) -> None:
        asked.extend(rows.tolist() if name == "image" else ())
        read(shard, name, rows, *where)

    monkeypatch.setattr(beton.Shard, "read", counted)
    buffer = decoder.fill(rows, decoder.buffer(size, pinned=False))
    frames = {"image": items.first[item], "image_ref": items.second[item]}
    assert len(asked) == len(np.unique(np.concatenate([*frames.values()]))) < 2 * size
    for name, wanted in frames.items():
        for place, frame in enumerate(wanted):
            shard = beton.Shard(made_collection().shards[items.shard[frame]])
            alone = shard.read_many(["image"], items.row[[frame]])["image"][0]
            assert np.array_equal(buffer.arrays[name][place], alone)


def test_each_sample_once_per_epoch_and_batches_straddle() -> None:
    run = loader(sampling="frames", needs=["sample_id", "epoch"], micro_batch=8)
    frames = made_collection().frames
    train = frames.filter(np.asarray(frames["split"]) == "train")["sample_id"].to_pylist()
    n = run.samples_per_epoch
    assert n == len(train)
    assert n % 16, "this test wants batches that straddle epochs"
    stream = joined(take(iter(run), 2 + 4 * n // 8))
    for epoch in range(3):
        ids = stream["sample_id"][epoch * n : (epoch + 1) * n].tolist()
        assert sorted(ids) == train
        assert set(stream["epoch"][epoch * n : (epoch + 1) * n].tolist()) == {epoch}


def test_pairs_are_the_collections_and_weights_balance_kinds() -> None:
    collection = made_collection()
    run = loader(needs=["image", "sample_id", "epoch", "pair_kind", "pair_weight"])
    batches = take(iter(run), run.samples_per_epoch // 16)
    for batch in batches:
        for kind in (0, 1):
            assert (batch["pair_weight"] * (batch["pair_kind"] == kind)).mean().item() in (
                pytest.approx(1.0),
                0.0,
            )
    stream = joined(batches)
    keys = list(zip(stream["sample_id"].tolist(), stream["epoch"].tolist(), strict=True))
    assert len(set(keys)) == len(keys), "pairs that begin with one frame draw differently"
    pairs = collection.pairs
    kinds = np.asarray(pairs["kind"])
    assert {0, 1} == set(kinds.tolist())
    only = loader(Source(collection, kinds=("view",)), needs=["sample_id", "pair_kind"])
    assert not joined(take(iter(only), 3))["pair_kind"].any()
    assert only.samples_per_epoch < run.samples_per_epoch < len(kinds)


@pytest.mark.parametrize(("size", "micro", "threads"), [(1, 4, 2), (2, 8, 1), (4, 4, 3)])
def test_global_batches_do_not_depend_on_who_makes_them(
    size: int, micro: int, threads: int
) -> None:
    expected = take(iter(loader(seed=5)), 12)
    ranks = [
        iter(loader(seed=5, world=World(rank, size), micro_batch=micro, threads=threads))
        for rank in range(size)
    ]
    for whole in expected:
        parts = [joined(take(rank, 16 // size // micro)) for rank in ranks]
        assert equal(joined(parts), whole)
    other = next(iter(loader(seed=6)))
    assert not torch.equal(other["sample_id"], expected[0]["sample_id"])


def test_resuming_in_the_middle_is_exact() -> None:
    run = loader(micro_batch=4)
    batches = iter(run)
    take(batches, 4 * 13 + 3)
    state = run.state_dict()  # 13 global batches are done, the 14th is not
    assert state == {"epoch": 13 * 16 // run.samples_per_epoch, "cursor": 208 % 160}
    assert run.samples_per_epoch == 160
    for _ in range(1):
        next(batches)
    assert run.state_dict()["cursor"] == 224 % 160
    rest = take(batches, 8)
    again = loader(micro_batch=4, threads=2)
    again.load_state_dict(state)
    assert again.state_dict() == state
    resumed = iter(again)
    take(resumed, 4)
    assert equal(joined(take(resumed, 8)), joined(rest))
    # iterating anew goes on; a loader that was moved ends its old iterator
    assert equal(next(iter(again)), next(batches))
    again.load_state_dict({"epoch": 0, "cursor": 0})
    with pytest.raises(RuntimeError, match="ended"):
        next(resumed)
    for wrong in (
        {"epoch": 0, "cursor": 3},
        {"epoch": 0, "cursor": 160},
        {"epoch": -1, "cursor": 0},
    ):
        with pytest.raises(ValueError, match="does not fit"):
            again.load_state_dict(wrong)


def test_nothing_is_left_when_it_is_dropped() -> None:
    run = loader(threads=3)
    batches = iter(run)
    next(batches)
    assert len(decoding_threads()) == 3
    gone = [weakref.ref(run), weakref.ref(run._decoder), weakref.ref(run._active)]
    del run, batches
    gc.collect()
    assert not decoding_threads()
    assert [ref() for ref in gone] == [None] * 3
    run = loader()
    for _ in range(5):  # next(iter(...)) in a loop must not collect threads
        next(iter(run))
        assert len(decoding_threads()) <= 1
    run.close()
    assert not decoding_threads()


def test_batches_are_not_overwritten() -> None:
    run = loader(sampling="frames", needs=[*BODY_NEEDS], global_batch=4, micro_batch=4)
    kept = take(iter(run), 12)
    again = take(
        iter(loader(sampling="frames", needs=BODY_NEEDS, global_batch=4, micro_batch=4)), 12
    )
    assert all(equal(a, b) for a, b in zip(kept, again, strict=True))


def copied(folder: Path) -> Collection:
    shutil.copytree(made_collection().folder, folder)
    return Collection.open(folder)


def test_a_shard_of_another_collection_is_refused(tmp_path: Path) -> None:
    collection = copied(tmp_path / "c")
    first, second, *_ = collection.shards
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(ValueError, match="changed since it was written"):
        loader(Source(collection), sampling="frames", needs=["image"])
    files = collection.manifest["files"]
    files[first.name], files[second.name] = files[second.name], files[first.name]
    with pytest.raises(ValueError, match=r"not those of frames\.parquet"):
        take(iter(loader(Source(collection), sampling="frames", needs=["image"])), 20)


@pytest.mark.parametrize("error", [MemoryError("no room"), SystemExit(3)])
def test_an_exception_while_decoding_is_raised(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loader()
    batches = iter(run)
    next(batches)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(beton.Shard, "read", fail)
    with pytest.raises((MemoryError, RuntimeError), match=r"no room|SystemExit"):
        take(batches, 10)


def test_a_dead_thread_is_an_error_and_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch, "_work", lambda todo, fill: todo.get())  # takes a job and dies
    with pytest.raises(RuntimeError, match="thread has died"):
        next(iter(loader()))


def test_two_collections_are_mixed_by_weight() -> None:
    bare = made_collection(with_labels=False)
    sources = [Source(made_collection()), Source(bare, weight=0.5)]
    run = loader(
        *sources, sampling="frames", needs=["sample_id", "joints2d", "has_body", "subject"]
    )
    stream = joined(take(iter(run), 3 * run.samples_per_epoch // 16))
    second = stream["sample_id"] >= 1 << 40
    assert 0.25 < second.float().mean() < 0.42
    assert torch.equal(stream["has_body"], ~second)
    assert (stream["joints2d"][..., 2] > 0).all(1).equal(~second)
    assert not set(stream["subject"][second].tolist()) & set(stream["subject"][~second].tolist())
    with pytest.raises(ValueError, match="no field intrinsics; there are image"):
        loader(*sources, sampling="frames", needs=["intrinsics"])


def test_collections_of_other_joints_are_not_mixed(tmp_path: Path) -> None:
    """Equally many joints of another set: only what holds no joints goes together."""
    other = copied(tmp_path / "other")
    other.manifest = {**other.manifest, "joint_set": "own24"}
    sources = [Source(made_collection()), Source(other)]
    for name in ("joints2d", "joints3d"):
        with pytest.raises(ValueError, match=r"other: joints are own24, of .* smpl24; they do not"):
            loader(*sources, sampling="frames", needs=["image", name])
    assert "part_map" in next(iter(loader(*sources, sampling="frames", needs=["part_map"])))
    other.manifest = {**other.manifest, "joint_set": None}
    assert "joints2d" in next(iter(loader(*sources, sampling="frames", needs=["joints2d"])))


def test_label_fractions_are_nested_and_fixed() -> None:
    parts = []
    for fraction, seed in ((0.2, 0), (0.2, 9), (0.6, 1), (1.0, 2)):
        run = loader(sampling="frames", needs=["sample_id"], label_fraction=fraction, seed=seed)
        ids = joined(take(iter(run), -(-run.samples_per_epoch // 16)))["sample_id"]
        parts.append(set(ids[: run.samples_per_epoch].tolist()))
    assert parts[0] == parts[1]
    assert parts[0] < parts[2] < parts[3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_batch": 20}, "multiple of 1 processes x micro_batch 16, found 20"),
        ({"world": World(0, 3)}, "multiple of 3 processes"),
        ({"threads": 0}, "threads"),
        ({"needs": ["image", "people2d"]}, "no field people2d; there are image"),
        ({"needs": ["imago"]}, "not a field: imago"),
    ],
)
def test_impossible_loaders(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loader(**settings)


def test_empty_selections_are_said() -> None:
    collection = made_collection()
    with pytest.raises(ValueError, match="split test: it holds no pairs of kind view"):
        loader(Source(collection, split="test", kinds=("view",)))
    with pytest.raises(ValueError, match="split test: it holds no frames"):
        loader(Source(collection, split="test"), sampling="frames", needs=["image"])
    with pytest.raises(ValueError, match="kinds must be among view, pose"):
        loader(Source(collection, kinds=("time",)))


def evaluation(size: int = 1, rank: int = 0, **settings: Any) -> list[Batch]:
    defaults: dict[str, Any] = {
        "needs": ["image", "sample_id", "subject", "valid"],
        "sampling": "frames",
        "world": World(rank, size),
        "micro_batch": 8,
        "image_px": CROP_PX,
        "patch_px": 8,
    }
    source = Source(made_collection(), split=None)
    return list(evaluation_batches(source, **{**defaults, **settings}))


def test_evaluation_sees_every_sample_once_over_all_ranks() -> None:
    everyone = list(range(made_collection().num_frames))
    for size in (1, 2, 3):
        ranks = [evaluation(size, rank) for rank in range(size)]
        assert len({len(batches) for batches in ranks}) == 1, "ranks meet in collectives"
        assert all(len(batch["image"]) == 8 for batches in ranks for batch in batches)
        stream = joined([batch for batches in ranks for batch in batches])
        assert sorted(stream["sample_id"][stream["valid"]].tolist()) == everyone
        assert not stream["valid"].all() or len(everyone) % (8 * size) == 0


def test_evaluation_is_plain_and_mixes_subjects() -> None:
    batches = evaluation()
    again = evaluation()
    assert all(equal(a, b) for a, b in zip(batches, again, strict=True))
    first = batches[0]
    shards = [beton.Shard(path) for path in made_collection().shards]
    stored = [
        shard.read_many(["sample_id", "image"], np.arange(shard.num_rows)) for shard in shards
    ]
    pictures = {
        int(i): image for s in stored for i, image in zip(s["sample_id"], s["image"], strict=True)
    }
    mean, std = (np.array(v)[:, None, None] for v in (IMAGE_MEAN, IMAGE_STD))
    for sample_id, image in zip(first["sample_id"].tolist(), first["image"].numpy(), strict=True):
        seen = (image * std + mean) * 255
        assert np.abs(seen - pictures[sample_id].transpose(2, 0, 1)).max() < 0.01
    subject = joined(batches)["subject"]
    assert (subject[1:] != subject[:-1]).float().mean() > 0.95
    limited = joined(evaluation(limit=10))
    assert limited["valid"].sum() == 10
    assert len(limited["subject"][limited["valid"]].unique()) == 5
    pairs = evaluation(sampling="pairs", needs=PAIR_NEEDS, image_px=48)
    assert {"valid", *PAIR_NEEDS} == set(pairs[0])
    with pytest.raises(ValueError, match="limit"):
        evaluation(limit=0)


def test_a_dropped_evaluation_leaves_nothing() -> None:
    batches = evaluation_batches(
        Source(made_collection()),
        needs=["image"],
        sampling="frames",
        world=World(),
        micro_batch=4,
        image_px=32,
        patch_px=8,
    )
    next(batches)
    assert decoding_threads()
    del batches
    assert not decoding_threads()


def test_waiting_is_measured() -> None:
    run = loader()
    assert run.wait_seconds == 0
    take(iter(run), 3)
    assert run.wait_seconds > 0
