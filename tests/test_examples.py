"""Examples of several ranks and batches, in the order of evaluation."""

from __future__ import annotations

import numpy as np

from hpse_dist.examples import in_order


def batch(ids: list[int], valid: list[bool] | None = None, **metrics: list[float]) -> dict:
    found = {"sample_id": np.array(ids), "valid": np.array(valid or [True] * len(ids))}
    return found | {name: np.array(value, np.float32) for name, value in metrics.items()}


def test_rounds_of_ranks_are_put_in_order_and_padding_is_cut() -> None:
    """Two ranks, batches of two: rank 0 holds 0 1 | 4 5, rank 1 holds 2 3 | 6 and one to fill."""
    ranks = [
        [batch([0, 1], error=[0, 10]), batch([4, 5], error=[40, 50])],
        [batch([2, 3], error=[20, 30]), batch([6, 0], [True, False], error=[60, 0])],
    ]
    found = in_order(ranks)
    assert found["sample_id"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert found["error"].tolist() == [0, 10, 20, 30, 40, 50, 60] and "valid" not in found


def test_a_metric_that_a_batch_lacks_is_unknown_there() -> None:
    found = in_order([[batch([1, 2], a=[1, 2], b=[3, 4]), batch([3], a=[5])]])
    assert found["a"].tolist() == [1.0, 2.0, 5.0]
    assert found["b"][:2].tolist() == [3.0, 4.0] and np.isnan(found["b"][2])
