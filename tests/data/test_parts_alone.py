"""Part maps without surface coordinates: stored, offered as such, and never mixed with both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.derive import merge
from hpse_dist.data.mixing import provided_by
from hpse_dist.data.sheets import write_sheets
from hpse_dist.records import FrameRecord
from tests.data import made_rig
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("plain_shards")


def records(alone: bool, name: str = "") -> Iterator[FrameRecord]:
    for record in made_rig.frames(subjects=1, moments=2, cameras=2):
        record.subject, record.sequence = record.subject + name, record.sequence + name
        if alone:
            del record.labels["uv_map"]
        yield record


def write(folder: Path, frames: list[FrameRecord], **changes: object) -> Collection:
    config = CollectionConfig(crop_px=64, label_px=16, min_side_px=20, **changes)  # type: ignore[arg-type]
    return write_collection(folder, frames, config, made_rig.PROVENANCE)


@pytest.mark.parametrize("named", [(), ("parts",)])
def test_parts_are_offered_and_coordinates_are_not(tmp_path: Path, named: tuple[str]) -> None:
    made = write(tmp_path / "made", list(records(alone=True)), labels=named)
    stored = made.read([0], ["part_map", "has_parts"])
    assert stored["part_map"].any() and stored["has_parts"].all()
    assert "uv_map" not in made.fields and "uv_map" not in provided_by([made], pairs=False)
    assert {"part_map", "has_parts"} <= {*provided_by([made], pairs=False)}
    write_sheets(made)
    both = write(tmp_path / "both", list(records(alone=False)))
    assert "uv_map" in provided_by([both], pairs=False)
    assert "uv_map" not in provided_by([made, both], pairs=False)
    with pytest.raises(ValueError, match="part_map without uv_map"):
        merge([made, both], tmp_path / "merged")


@pytest.mark.parametrize("alone", [False, True])
def test_within_a_collection_they_do_not_mix(tmp_path: Path, alone: bool) -> None:
    made = write(tmp_path / "made", [*records(alone), *records(not alone, "b")])
    assert made.num_frames == 4 and made.rejects.num_rows == 4
    assert "uv_map, earlier frames" in made.rejects["reason"][0].as_py()
    bad = next(records(alone=False))
    del bad.labels["part_map"]
    again = write(tmp_path / "again", [*records(alone=False, name="c"), bad])
    assert again.rejects["reason"].to_pylist() == ["part_map must come with uv_map"]
