"""Draws depend on (seed, stream, epoch, sample id) and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpse_dist import draws


def test_known_numbers_never_change() -> None:
    """A recipe's result hangs on these: another machine or a later version must draw the same."""
    ids = torch.tensor([0, 5, 2**62, -7])
    drawn = (draws.uniform(3, "mask", 1, ids, 2) * 2**24).long().tolist()
    assert drawn == [
        [6599291, 1029683],
        [1460166, 15095438],
        [5696852, 3121199],
        [16251738, 4804754],
    ]


def test_a_draw_does_not_depend_on_the_batch_around_it() -> None:
    ids = torch.arange(1000, 1064)
    whole = draws.uniform(7, "crop", 3, ids, 4)
    halves = torch.cat([draws.uniform(7, "crop", 3, part, 4) for part in ids.split(9)])
    assert torch.equal(whole, halves)
    assert torch.equal(whole[:, :2], draws.uniform(7, "crop", 3, ids, 2))


def test_narrow_ids_draw_as_wide_ones() -> None:
    ids = torch.tensor([3, -2, 2**31 - 1])
    assert torch.equal(draws.uniform(7, "crop", 3, ids.int()), draws.uniform(7, "crop", 3, ids))


def test_epoch_may_differ_by_sample() -> None:
    ids, epochs = torch.tensor([4, 4, 9, 4]), torch.tensor([0, 1, 2, 10**6])
    rows = draws.uniform(0, "x", epochs, ids, 3)
    for row, sample, epoch in zip(rows, ids, epochs, strict=True):
        assert torch.equal(row, draws.uniform(0, "x", int(epoch), sample[None], 3)[0])


@pytest.mark.parametrize("other", [(1, "a", 0), (0, "b", 0), (0, "a", 1)])
def test_every_key_matters(other: tuple[int, str, int]) -> None:
    ids = torch.arange(256)
    assert (draws.uniform(0, "a", 0, ids) != draws.uniform(*other, ids)).float().mean() > 0.99


def test_uniform_is_uniform_and_uncorrelated() -> None:
    u = draws.uniform(1, "z", 0, torch.arange(200_000), 2).double()
    assert u.min() >= 0 and u.max() < 1
    counts = torch.histc(u[:, 0], 50, 0, 1)
    chi2 = ((counts - 4000) ** 2 / 4000).sum()
    assert chi2 < 95  # 49 degrees of freedom: 1 in 10,000 above
    neighbours = torch.stack([u[:-1, 0], u[1:, 0], u[:-1, 1]])
    assert torch.corrcoef(neighbours).fill_diagonal_(0).abs().max() < 0.012


def test_permutation() -> None:
    order = draws.permutation(0, "order", 2, 1000)
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, draws.permutation(0, "order", 3, 1000))
    assert np.array_equal(order, draws.permutation(0, "order", 2, 1000))


def test_generators_are_keyed() -> None:
    a, b, c = (draws.generator(0, "s", k).normal(size=4) for k in (1, 1, 2))
    assert np.array_equal(a, b) and not np.array_equal(a, c)
