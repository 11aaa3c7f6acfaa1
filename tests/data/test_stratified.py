"""A smaller collection has the same share of everybody, whole moments, evenly over the time."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from hpse_dist.data import stratified

GAP_S = 0.5


def spread(frames: pa.Table, most: int) -> np.ndarray:
    return stratified.spread(frames, most, GAP_S)


def table(rows: list[tuple[str, str, str, str, float]]) -> pa.Table:
    """(subject, sequence, camera, split, time) each."""
    names = ("subject", "sequence", "camera", "split", "time")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return pa.table(columns | {"track": [""] * len(rows)})


def rig(lengths: dict[str, int], cameras: int = 2) -> pa.Table:
    """Everybody before all cameras, at so many moments a tenth of a second apart."""
    return table(
        [
            (who, "take", f"cam{camera}", "train", moment / 10)
            for who, moments in lengths.items()
            for moment in range(moments)
            for camera in range(cameras)
        ]
    )


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_everybody_keeps_the_same_share(share: float) -> None:
    lengths = {"long": 400, "middle": 100, "short": 20}
    frames = rig(lengths)
    rows = spread(frames, round(share * len(frames)))
    assert share * len(frames) - 4 < len(rows) <= share * len(frames)
    kept = Counter(frames["subject"].take(rows).to_pylist())
    for who, moments in lengths.items():
        assert abs(kept[who] / 2 - share * moments) <= 2


def test_cameras_see_whole_moments_two_by_two_that_lie_evenly() -> None:
    frames = rig({"one": 200}, cameras=4)
    rows = spread(frames, 80)
    times = frames["time"].to_numpy()[rows]
    moments, cameras = np.unique(times, return_counts=True)
    assert (cameras == 4).all() and len(moments) == 20
    partners = np.isclose(moments[:, None] - moments, GAP_S).any(0)
    assert partners.sum() == 10  # the first of each two
    gaps = np.diff([*moments[partners], 20.0])
    assert gaps.max() <= 4 and gaps.min() >= 0.9  # two seconds on average


def test_less_is_a_part_of_more_and_the_same_each_time() -> None:
    frames = rig({"a": 37, "b": 90, "c": 5})
    found = [spread(frames, most) for most in (0, 1, 3, 50, 51, 130, 264, 1000)]
    for few, many in itertools.pairwise(found):
        assert set(few) <= set(many)
    assert [len(rows) for rows in found[:5]] == [0, 0, 0, 48, 48]  # two cameras, two moments
    assert np.array_equal(found[-1], np.arange(264)) and np.array_equal(found[-2], found[-1])
    assert np.array_equal(spread(frames, 130), found[5])


def test_single_pictures_are_drawn_from_all_over() -> None:
    """Without times each is a moment of its own, without names of a person each sequence is one."""
    frames = table([(f"p{i}", f"s{i}", "", "train", np.nan) for i in range(1000)])
    rows = spread(frames, 300)
    assert len(rows) == 300
    tenths = np.histogram(rows, bins=10, range=(0, 1000))[0]
    assert tenths.min() >= 15 and tenths.max() <= 45  # 30, give or take three deviations
    nameless = table(
        [("", "one", "", "train", np.nan)] * 80 + [("", "two", "", "val", np.nan)] * 20
    )
    kept = Counter(nameless["sequence"].take(spread(nameless, 50)).to_pylist())
    assert kept["one"] + kept["two"] == 50 and abs(kept["two"] - 10) <= 1
