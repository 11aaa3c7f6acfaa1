"""Subsets of subsets through FFCV's own files: JPEG is copied, never encoded once more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hpse_dist.data import beton
from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.derive import merge, subset
from tests.data import made_rig


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    config = CollectionConfig(
        crop_px=48, label_px=16, min_side_px=20, frames_per_shard=8, jpeg_quality=80
    )
    records = [
        replace(record, split="val" if record.subject == "s2" else "train")
        for record in made_rig.frames(3, moments=2, cameras=2)
    ]
    folder = tmp_path_factory.mktemp("copied") / "whole"
    return write_collection(folder, records, config, made_rig.PROVENANCE)


def pictures(collection: Collection) -> dict[str, bytes]:
    """The stored JPEG of every frame by where it came from."""
    ids = collection.frames["sample_id"].to_pylist()
    stored = collection.read_encoded(ids)
    sources = collection.frames["source"].to_pylist()
    return {name: jpeg.tobytes() for name, jpeg in zip(sources, stored, strict=True)}


def test_pictures_of_every_part_are_bit_identical(whole: Collection, tmp_path: Path) -> None:
    before = pictures(whole)
    assert len(before) == whole.num_frames
    assert all(
        jpeg.startswith(b"\xff\xd8") and jpeg.endswith(b"\xff\xd9") for jpeg in before.values()
    )
    part = subset(whole, tmp_path / "part", {"subject": ("s0", "s2")})
    smaller = subset(part, tmp_path / "smaller", {"subject": ("s2",)})
    both = merge([part, smaller], tmp_path / "both")
    for made in (part, smaller, both):
        assert made.verify() == []
        after = pictures(made)
        assert after and all(before[name] == jpeg for name, jpeg in after.items())
    everything = subset(whole, tmp_path / "everything", {"split": ("train", "val")})
    assert [path.read_bytes() for path in everything.shards] == [
        path.read_bytes() for path in whole.shards
    ]


def test_jpeg_is_decoded_for_a_collection_of_raw_pictures(
    whole: Collection, tmp_path: Path
) -> None:
    records = [
        replace(record, subject="s9", sequence="s9", split="train")
        for record in made_rig.frames(1, moments=1, cameras=1)
    ]
    config = replace(whole.config, image_mode="raw")
    raw = write_collection(tmp_path / "raw", records, config, made_rig.PROVENANCE)
    both = merge([raw, whole], tmp_path / "both")
    assert both.verify() == [] and both.config.image_mode == "raw"
    images = [
        one.read(one.frames["sample_id"].to_pylist(), ["image"])["image"]
        for one in (raw, whole, both)
    ]
    assert np.array_equal(np.concatenate(images[:2]), images[2])


def test_what_is_no_jpeg_is_not_stored(tmp_path: Path) -> None:
    spec = beton.ShardSpec(crop_px=16)
    row = {"sample_id": np.array(0), "image": np.zeros(0, np.uint8)}
    with pytest.raises(ValueError, match="image is no JPEG that fits a row"):
        beton.write_shard(tmp_path / "a.beton", [row], spec)
    with pytest.raises(OSError):
        beton.write_shard(tmp_path / "a.beton", [{**row, "image": np.zeros(99, np.uint8)}], spec)
    assert not (tmp_path / "a.beton").exists()
