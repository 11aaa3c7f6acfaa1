"""Which frames a share of the labels is: nested, fixed, the same everywhere, never none."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from hpse_dist.data import items
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.items import Source, _fraction, read_items
from hpse_dist.data.loader import Loader
from hpse_dist.world import World
from tests.data.made_collection import made_collection

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def loader(fraction: float, world: World | None = None, seed: int = 0, **changes: Any) -> Loader:
    settings: dict[str, Any] = {"global_batch": 16, "micro_batch": 4, **changes}
    world = world or World()
    return Loader(
        [Source(made_collection())], needs=("sample_id", "epoch"), sampling="frames", world=world,
        seed=seed, augment=AugmentConfig(), image_px=64, patch_px=8, label_fraction=fraction,
        **settings,
    )  # fmt: skip


def ids(made: Loader, batches: int) -> list[int]:
    found = [batch["sample_id"] for batch in itertools.islice(made, batches)]
    made.close()
    return torch.cat(found).tolist()


def test_shares_are_nested_and_of_their_size() -> None:
    sample_id = np.arange(1000) * 3 + 7
    frames = np.flatnonzero(sample_id % 2)
    parts = [_fraction(frames, sample_id, fraction) for fraction in FRACTIONS]
    assert [len(part) for part in parts] == [5, 25, 50, 125, 250, 500]
    for less, more in itertools.pairwise(parts):
        assert set(less.tolist()) < set(more.tolist()) <= set(frames.tolist())
    spread = parts[3] / 1000  # of the whole collection, not of its beginning
    assert abs(spread.mean() - 0.5) < 0.1


def test_the_same_frames_on_every_machine() -> None:
    """Integers that any machine must come to: the draws are 64-bit integer arithmetic."""
    found = _fraction(np.arange(400), np.arange(400) + 1, 0.02)
    assert found.tolist() == [19, 81, 85, 131, 178, 211, 375, 376]


def test_frames_of_all_subjects() -> None:
    some = read_items(Source(made_collection()), "frames", label_fraction=0.5)
    whole = read_items(Source(made_collection()), "frames")
    assert set(some.subject[some.first]) == set(whole.subject[whole.first])


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_same_for_every_world_and_seed(fraction: float) -> None:
    steps = 8
    alone = ids(loader(fraction), 4 * steps)
    ranks = [ids(loader(fraction, World(r, 2, r, 2)), 2 * steps) for r in range(2)]
    shares = [[rank[8 * step : 8 * step + 8] for rank in ranks] for step in range(steps)]
    together = [number for step in shares for rank in step for number in rank]
    assert together == alone
    assert set(ids(loader(fraction, seed=9), 4 * steps)) == set(alone)


def test_fewer_frames_than_a_batch_go_round() -> None:
    made = loader(0.01)
    assert made.samples_per_epoch == 1
    batches = list(itertools.islice(made, 8))
    made.close()
    assert {int(i) for batch in batches for i in batch["sample_id"]} == {
        int(batches[0]["sample_id"][0])
    }
    epochs = torch.cat([batch["epoch"] for batch in batches])
    assert epochs.tolist() == list(range(32)), "every time it is augmented anew"
    again = loader(0.01)
    again.load_state_dict({"epoch": 16, "cursor": 0})
    assert torch.equal(next(iter(again))["epoch"], batches[4]["epoch"])
    again.close()


def test_pairs_have_the_labels_of_the_same_frames() -> None:
    """Pairs that begin with a labelled frame, and no others; shares nest as frames' do."""
    source = Source(made_collection())
    whole = read_items(source, "pairs")
    assert whole.second is not None
    before: set[tuple[int, int]] = set()
    for fraction in (0.25, 0.5, 1.0):
        frames = read_items(source, "frames", label_fraction=fraction).first
        found = read_items(source, "pairs", label_fraction=fraction)
        assert found.second is not None
        pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
        wanted = set(zip(whole.first.tolist(), whole.second.tolist(), strict=True))
        assert pairs == {pair for pair in wanted if pair[0] in set(frames.tolist())}
        assert before < pairs
        before = pairs
    assert before == wanted


def test_a_share_without_pairs_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one labelled frame of 1 % begins no pair."""
    alone = read_items(Source(made_collection()), "frames", label_fraction=0.01).first
    pairs = items._pairs

    def others(*given: Any) -> Any:
        found = pairs(*given)
        keep = found[0] != alone[0]
        return tuple(None if column is None else column[keep] for column in found)

    monkeypatch.setattr(items, "_pairs", others)
    with pytest.raises(ValueError, match=r"leaves 1 labelled frames, and none of the \d+ pairs"):
        read_items(Source(made_collection()), "pairs", label_fraction=0.01)
