"""How hard a pair is."""

from __future__ import annotations

import numpy as np

from hpse_dist.data.mining.made import MadePerson, made_frames
from hpse_dist.data.mining.rules import POSE, VIEW, PairsConfig, difficulty
from hpse_dist.data.pairs import mine

NAN = float("nan")
RULES = PairsConfig(time_gap_s=(0.1, 10.0))


def hard(kind: int, angle: float, gap: float, distance: float, overlap: float) -> float:
    values = (np.array([value]) for value in (angle, gap, distance, overlap))
    return float(difficulty(kind, *values, RULES)[0])


def test_the_mean_of_what_is_known() -> None:
    assert hard(VIEW, 45, 0, NAN, NAN) == 0.5
    assert np.isclose(hard(VIEW, 45, 0, NAN, 0.2), (0.5 + 0.8) / 2)
    assert hard(VIEW, 170, 0, NAN, 0) == 1
    assert np.isnan(hard(VIEW, NAN, 0, NAN, NAN))
    assert np.isclose(hard(POSE, 0, 1.0, 0.4, 0.7), (0.4 + 0.5 + 0.3) / 3), "1 s is in the middle"
    assert np.isclose(hard(POSE, 0, 0.1, NAN, 0.7), (0 + 0.3) / 2)
    assert hard(POSE, 0, 10.0, 3.0, 0) == 1


def test_it_grows_with_every_measure() -> None:
    for kind, easy in ((VIEW, (20, 0, NAN, 0.8)), (POSE, (0, 0.4, 0.2, 0.8))):
        steps = {VIEW: ((0, 30), (3, -0.3)), POSE: ((1, 1.0), (2, 0.3), (3, -0.3))}[kind]
        for place, change in steps:
            harder = [value + change * (i == place) for i, value in enumerate(easy)]
            assert hard(kind, *harder) > hard(kind, *easy)


def test_it_is_stored_with_the_pair() -> None:
    pairs = mine(made_frames([MadePerson(6, 20)]), PairsConfig())
    for kind in (VIEW, POSE):
        rows = pairs.filter(pairs["kind"].to_numpy() == kind)
        columns = [
            rows[name].to_numpy()
            for name in ("angle_deg", "time_gap_s", "pose_distance", "overlap", "difficulty")
        ]
        assert len(rows) and np.isfinite(columns[-1]).all()
        assert np.allclose(columns[-1], difficulty(kind, *columns[:-1], PairsConfig()), atol=1e-6)
