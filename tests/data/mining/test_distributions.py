"""How candidates and kept pairs are spread: the numbers of a small table by hand."""

from __future__ import annotations

import numpy as np

from hpse_dist.data.mining.candidates import Pairs, join
from hpse_dist.data.mining.distributions import CANDIDATES, KEPT, Distributions, bin_edges
from hpse_dist.data.mining.frames import Names
from hpse_dist.data.mining.made import MadePerson, made_frames
from hpse_dist.data.mining.rules import POSE, VIEW, PairsConfig

CONFIG = PairsConfig(time_gap_s=(0.25, 4.0))
NAMES = Names.of(made_frames([MadePerson(3, 2), MadePerson(1, 3)]))  # frames 0..5 and 6..8


def pairs(a: list[int], b: list[int], gap: float = 0.0, angle: float = 30.0) -> Pairs:
    known = np.full(len(a), 1.0)
    empty = np.full(len(a), np.nan)
    ends = np.array(a), np.array(b)
    return Pairs(*ends, angle * known, gap * known, empty, 0.5 * known, empty, known > 1)


def test_pairs_are_counted_for_whom_they_are_of() -> None:
    """A cross-view pair is one of both its cameras, a cross-pose pair of its only one."""
    counts = Distributions(NAMES, CONFIG)
    counts.add(VIEW, CANDIDATES, pairs([0, 0, 1, 3], [1, 2, 2, 4]))
    counts.add(VIEW, KEPT, pairs([0], [1]))
    counts.add(POSE, CANDIDATES, pairs([0, 6, 7], [3, 7, 8]))
    view, pose = counts.summary()["view"], counts.summary()["pose"]
    assert (view[CANDIDATES], view[KEPT], pose[CANDIDATES], pose[KEPT]) == (4, 1, 3, 0)
    for found, owner, number, most, least, share in (
        (view, "subject", 1, 4, 4, 1.0),
        (view, "moment", 2, 3, 1, 0.75),
        (view, "camera", 3, 3, 2, 0.375),  # 3, 3 and 2: each pair twice
        (pose, "subject", 2, 2, 1, 0.6667),
        (pose, "camera", 1, 3, 3, 1.0),  # cameras of one name
    ):
        told = found[f"per_{owner}"]
        spread = told[CANDIDATES]["most_to_least"]
        assert (told["number"], spread[0], spread[-1]) == (number, most, least), owner
        assert told[CANDIDATES]["largest_share"] == share, owner
    assert view["per_camera"][KEPT]["largest_share"] == 0.5
    assert pose["per_subject"][KEPT] == {"most_to_least": [0] * 11, "largest_share": 0.0}


def test_measures_are_counted_in_bins_and_the_unknown_in_none() -> None:
    """Angles by 10 degrees, time gaps evenly on their logarithm; the outermost hold what is over
    them."""
    counts = Distributions(NAMES, CONFIG)
    gaps = [pairs([6], [7], gap) for gap in (0.2, 0.99, 1.01, 9.0)]
    counts.add(POSE, CANDIDATES, join(gaps))
    counts.add(VIEW, CANDIDATES, pairs([0], [1], angle=35.0))
    found = counts.summary()
    assert bin_edges("time_gap_s", CONFIG)[[0, 3, 6, 12]].tolist() == [0.25, 0.5, 1.0, 4.0]
    assert np.flatnonzero(found["pose"]["time_gap_s"][CANDIDATES]).tolist() == [0, 5, 6, 11]
    assert np.flatnonzero(found["view"]["angle_deg"][CANDIDATES]).tolist() == [3]
    assert found["view"]["angle_deg"]["edges"][3:5] == [30.0, 40.0]
    assert "pose_distance" not in found["pose"] and "difficulty" not in found["view"]


def test_a_candidate_is_dropped_once_for_its_first_reason() -> None:
    counts = Distributions(NAMES, CONFIG)
    for _ in range(2):
        reasons = {"near": np.array([1, 1, 0, 0]) > 0, "far": np.array([1, 0, 1, 0]) > 0}
        assert counts.drop(POSE, reasons).tolist() == [3]
    assert counts.summary()["pose"]["left_out"] == {"near": 4, "far": 2}
