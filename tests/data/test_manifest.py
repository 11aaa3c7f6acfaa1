"""What a manifest must hold, so that all who read it can rely on its keys."""

from __future__ import annotations

from typing import Any

import pytest

from hpse_dist.data.manifest import checked_shape, seal_holds, sealed_text

SOUND: dict[str, Any] = {
    "importer": "rig",
    "joint_set": None,
    "counts": {"frames": 3, "splits": {"train": 3}, "rejects": {"blurred": 1}},
    "shards": ["a.beton"],
    "files": {"a.beton": {"bytes": 7, "sha256": "0"}},
    "fields": {"betas": {"shape": [10], "dtype": "float32"}},
    "details": {"parts": [{"importer": "rig"}]},
    "pairs": {"view": 2, "pose": 0},
}


def test_a_sound_one_is_taken_as_it_is_and_its_seal_holds() -> None:
    assert checked_shape(SOUND) is SOUND
    assert seal_holds(sealed_text(SOUND))
    assert not seal_holds(sealed_text(SOUND).replace("rig", "rog"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"importer": 7}, "importer is no text"),
        ({"joint_set": ["smpl24"]}, "joint_set is no text"),
        ({"counts": {"frames": "3"}}, "counts.frames"),
        ({"counts": {"frames": 3, "splits": ["train"]}}, "counts.splits"),
        ({"counts": {"frames": 3, "rejects": {"blurred": "1"}}}, "counts.rejects"),
        ({"counts": 3}, "counts is missing or damaged"),
        ({"shards": ["b.beton"]}, "'b.beton' is not among the files"),
        ({"files": {"../a": {"bytes": 7, "sha256": "0"}}}, "the entry of '../a'"),
        ({"fields": {"betas": {"shape": [10], "dtype": "object"}}}, "the entry of 'betas'"),
        ({"details": []}, "details is missing or damaged"),
        ({"details": {"parts": 5}}, "details.parts"),
        ({"details": {"parts": [{"name": "x"}]}}, "details.parts"),
        ({"pairs": 1.5}, "pairs is missing or damaged"),
        ({"pairs": {"view": [2]}}, "pairs.view"),
    ],
)
def test_what_is_not_as_it_is_written_is_named(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checked_shape(SOUND | changed)
