"""Collections decoded once and held in memory give the batches of those that are not."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.data import beton, resident
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.items import Source
from tests.data.made_collection import CROP_PX, made_collection
from tests.data.test_bad_records import with_damage
from tests.data.test_loader import BODY_NEEDS, PAIR_NEEDS, equal, joined, loader, take

FRAMES = {"sampling": "frames", "needs": ["image", "sample_id", "joints2d", "has_body"]}


@pytest.mark.parametrize(
    "settings",
    [
        {"needs": PAIR_NEEDS, "threads": 2},
        {"needs": BODY_NEEDS, "sampling": "frames", "label_fraction": 0.5},
        {"needs": PAIR_NEEDS, "augment": AugmentConfig(flip=0.5, rotation_deg=20)},
    ],
    ids=["pairs", "labels", "turned"],
)
def test_the_same_batches_bit_for_bit(settings: dict[str, Any]) -> None:
    calm = iter(loader(**settings))
    held = loader(kind="resident", **settings)
    assert equal(joined(take(iter(held), 12)), joined(take(calm, 12)))  # more than an epoch
    held.close()
    held.load_state_dict({"epoch": 0, "cursor": 16})  # and resumed in the middle
    again = loader(**settings)
    again.load_state_dict({"epoch": 0, "cursor": 16})
    assert equal(joined(take(iter(held), 3)), joined(take(iter(again), 3)))


def test_two_collections_are_mixed(caplog: pytest.LogCaptureFixture) -> None:
    sources = [Source(made_collection()), Source(made_collection("raw", False), weight=0.5)]
    calm, held = loader(*sources, **FRAMES), loader(*sources, kind="resident", **FRAMES)
    with caplog.at_level(logging.INFO, "hpse_dist"):
        assert equal(joined(take(iter(held), 6)), joined(take(iter(calm), 6)))
    frames = sum(len(items.first) for items in held.items)
    assert f"{frames} frames are decoded and held in memory: 0.00" in caplog.text


def test_pictures_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    read = beton.Shard.read

    def counted(self: beton.Shard, name: str, rows: np.ndarray, *rest: Any) -> None:
        decoded.extend(rows.tolist() if name == "image" else [])
        read(self, name, rows, *rest)

    monkeypatch.setattr(beton.Shard, "read", counted)
    held = loader(kind="resident", **FRAMES)
    take(iter(held), 8)
    take(iter(held), 2)
    assert len(decoded) == held.samples_per_epoch  # the held-out people are not among them


def test_damaged_records_are_replaced_by_the_same(tmp_path: Path) -> None:
    source = Source(with_damage(tmp_path / "c"))
    calm, held = (loader(source, kind=kind, **FRAMES) for kind in ("inline", "resident"))
    assert equal(joined(take(iter(calm), 8)), joined(take(iter(held), 8)))
    assert held.bad_records and {*calm.bad_records} == {*held.bad_records}


def test_what_does_not_fit_is_refused_with_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "free_memory", lambda: 500_000)
    held = loader(kind="resident", **FRAMES)
    with pytest.raises(ValueError, match=r"0\.0005 GB of memory are free here") as said:
        next(iter(held))
    needed = re.search(r"made decoded needs ([\d.]+) GB", str(said.value))
    least = held.samples_per_epoch * (CROP_PX**2 * 3 + 24 * 3 * 4) / 1e9
    assert needed and float(needed[1]) == pytest.approx(least, rel=0.01)
    assert "set machine.loader to inline or workers" in str(said.value)
