from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest

from hpse_dist.data.order import Order, evenly_mixed, share_of_rank


def shards(*sizes: int) -> list[np.ndarray]:
    """Item numbers of consecutive shards."""
    ends = np.cumsum(sizes)
    return [np.arange(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def counts(order: Order, start: int, stop: int, source: int, items: int) -> np.ndarray:
    part = order.between(start, stop)
    return np.bincount(part.item[part.source == source], minlength=items)


def test_each_item_once_per_epoch_and_another_order_each_time() -> None:
    order = Order([shards(7, 5, 9, 4)], [1.0], seed=3, window=2)
    assert order.items_per_epoch == 25
    first, second = order.epoch(0), order.epoch(1)
    assert sorted(first.item) == sorted(second.item) == list(range(25))
    assert not np.array_equal(first.item, second.item)
    assert set(first.repeat) == {0}
    assert set(second.repeat) == {1}
    assert not np.array_equal(first.item, Order([shards(7, 5, 9, 4)], [1.0], 4, 2).epoch(0).item)


def test_any_cut_of_the_sequence_is_the_same() -> None:
    sources = [shards(7, 5, 9, 4), shards(6, 6)]
    whole = Order(sources, [1.0, 1.5], seed=0, window=3).between(0, 200)
    order = Order(sources, [1.0, 1.5], seed=0, window=3)
    for start, stop in ((150, 200), (0, 1), (40, 130), (43, 43 + order.items_per_epoch)):
        part = order.between(start, stop)
        for name in ("source", "item", "repeat"):
            assert np.array_equal(getattr(part, name), getattr(whole, name)[start:stop])


def test_the_sequence_is_the_one_that_runs_were_begun_with() -> None:
    """Resuming, and the ledger of which samples made a step, rely on it."""
    order = Order([shards(7, 5, 9, 4), shards(6, 6), shards(30)], [1.0, 1.5, 0.3], seed=5, window=3)
    part = order.between(0, 3 * order.items_per_epoch)
    text = np.stack([part.source, part.item, part.repeat]).astype("<i8").tobytes()
    assert hashlib.sha256(text).hexdigest() == (
        "6d69bf21fc54f8ae3c377de6359bf016dadf80c936719b966da2ae58cbbe4a4b"
    )


def test_memory_is_a_window_s_however_many_shards_there_are() -> None:
    def peak(num_shards: int) -> int:
        order = Order([shards(*[1000] * num_shards)], [1.0], seed=0, window=4)
        order.between(0, 64)
        tracemalloc.start()
        try:
            order.between(64, 128)
            order.between(order.items_per_epoch - 64, order.items_per_epoch + 64)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # the least of some: other threads of this process may have asked for memory meanwhile
    many, few = (min(peak(number) for _ in range(3)) for number in (160, 8))
    assert many < 1.5 * few, "an epoch is twenty times as long"


def test_weights_repeat_and_rotate() -> None:
    sources = [shards(10), shards(9, 11), shards(6)]
    order = Order(sources, [2.0, 0.5, 1.5], seed=0)
    n = order.items_per_epoch
    assert n == 20 + 10 + 9
    assert set(counts(order, 0, n, 0, 10)) == {2}
    assert set(counts(order, 0, n, 1, 20)) == {0, 1}
    assert set(counts(order, 0, 2 * n, 1, 20)) == {1}, "two halves make the whole"
    assert set(counts(order, 0, 2 * n, 2, 6)) == {3}
    part = order.between(0, 6 * n)
    keys = set(zip(part.source, part.item, part.repeat, strict=True))
    assert len(keys) == len(part), "no item comes twice with the same repeat: draws would be equal"


def test_the_least_weight_still_takes_an_item_of_each_epoch() -> None:
    order = Order([shards(2, 3), shards(20)], [0.01, 1.0], seed=0)
    assert order.items_per_epoch == order.items_per_window == 21
    for first in range(3):  # any five epochs have all five
        assert set(counts(order, first * 21, (first + 5) * 21, 0, 5)) == {1}


def test_a_window_bounds_the_open_shards_and_mixes_sources() -> None:
    order = Order([shards(*[50] * 12), shards(*[25] * 4)], [1.0, 1.0], seed=1, window=4)
    part = order.epoch(0)
    windows = np.array_split(np.arange(700), 4)
    for window in windows:
        mine = window[part.source[window] == 0]
        others = window[part.source[window] == 1]
        assert len(mine) == 150
        assert len(others) == 25
        assert len(np.unique(part.item[mine] // 50)) == 3
        assert len(np.unique(part.item[others] // 25)) == 1
        # shuffled inside, not shard after shard
        assert len(np.unique(part.item[mine[:30]] // 50)) > 1


def test_impossible_orders() -> None:
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight"):
            Order([shards(3)], [weight], seed=0)
    with pytest.raises(ValueError, match="window"):
        Order([shards(3)], [1.0], seed=0, window=0)
    with pytest.raises(ValueError, match="empty"):
        Order([[]], [1.0], seed=0)


def test_ranks_share_a_global_batch() -> None:
    total = Order([shards(30)], [1.0], seed=0).between(20, 44)
    parts = [share_of_rank(total, rank, 3).item for rank in range(3)]
    assert np.array_equal(np.concatenate(parts), total.item)


def test_evenly_mixed_parts_neighbours() -> None:
    groups = np.repeat(np.arange(12), 25)
    order = evenly_mixed(groups, seed=0)
    assert sorted(order) == list(range(300))
    mixed = groups[order]
    assert not np.any(mixed[1:] == mixed[:-1])
    assert set(np.bincount(mixed[:60])) <= {4, 5, 6}, "a limit takes from every group"
    uneven = np.repeat(np.arange(3), [60, 20, 20])
    mixed = uneven[evenly_mixed(uneven, seed=0)]
    assert np.sum(mixed[1:] == mixed[:-1]) < 30, "60 of 100 must meet at least 20 times"
    assert len(evenly_mixed(np.zeros(0), seed=0)) == 0
