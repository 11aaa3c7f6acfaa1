"""Motions: inside the limits, smooth, gaits with legs and arms opposed, feet that stay put."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpse_dist.draws import generator
from hpse_dist.synth.actions import ACTIONS, POSTURES
from hpse_dist.synth.anatomy import (
    COLUMN,
    HIGHEST,
    LOWEST,
    RELAXED,
    _soles,
    joint_rotations,
    resolve,
    walk_path,
)
from hpse_dist.synth.gaits import GAITS, Manner
from hpse_dist.synth.motion import draw_manner, draw_motion, make_motion, motion_angles
from hpse_dist.synth.produce import Studio

CLOCK = np.arange(240) / 60.0


@pytest.fixture(scope="session")
def rest(studio: Studio) -> np.ndarray:
    return studio.body.rest_joints(torch.zeros(1, 10))[0].numpy()


@pytest.mark.parametrize("name", [*GAITS, *ACTIONS])
def test_angles_stay_inside_the_limits_and_are_smooth(name: str) -> None:
    rng = generator(0, "test.motion", len(name))
    angles = motion_angles(name, CLOCK, draw_manner(rng), rng)
    assert (angles >= LOWEST).all() and (angles <= HIGHEST).all()
    turning = np.delete(angles, COLUMN["lift"], axis=1)
    assert np.abs(np.diff(turning, axis=0)).max() * 60 < 1500  # degrees per second; a kick has 1000
    assert np.abs(np.diff(angles[:, COLUMN["lift"]])).max() * 60 < 4  # metres per second


def test_every_angle_of_every_posture_has_a_place() -> None:
    for posture in POSTURES.values():
        for side in "lr":
            assert np.isfinite(resolve(posture, side)).all()
    used = {posture for action in ACTIONS.values() for posture, _ in action.steps}
    assert used <= set(POSTURES)


def test_a_mirrored_posture_mirrors_the_joints(rest: np.ndarray) -> None:
    left, right = (resolve(POSTURES["punch"], side)[None] for side in "lr")
    mirror = np.diag([-1.0, 1.0, 1.0])
    swap = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20, 23, 22]
    symmetric = (rest + (rest[swap] @ mirror)) / 2
    one, two = joint_rotations(left, symmetric)[0], joint_rotations(right, symmetric)[0]
    np.testing.assert_allclose(mirror @ one[swap] @ mirror, two, atol=1e-9)


def test_relaxed_standing_lets_the_arms_hang(rest: np.ndarray) -> None:
    turns = joint_rotations(RELAXED[None], rest)[0]
    arm = turns[13] @ turns[16] @ (rest[18] - rest[16])
    assert arm[1] < -0.9 * np.linalg.norm(arm)  # left upper arm points down


def test_walking_legs_are_half_a_cycle_apart_and_arms_oppose() -> None:
    angles = motion_angles("walk", CLOCK, Manner(), generator(1, "test.walk"))
    left, right = angles[:, COLUMN["l_hip_flex"]], angles[:, COLUMN["r_hip_flex"]]
    assert np.corrcoef(left, right)[0, 1] < -0.7
    arm = angles[:, COLUMN["r_sh_flex"]]
    if np.ptp(arm) > 10:  # unless this walker carries something
        assert np.corrcoef(left, arm)[0, 1] > 0.5


def test_the_supporting_foot_stays_where_it_is(rest: np.ndarray) -> None:
    angles = motion_angles("walk", CLOCK, Manner(), generator(1, "test.walk"))
    turns = joint_rotations(angles, rest)
    path = walk_path(turns, rest, angles[:, COLUMN["lift"]], gait=True)
    speed = np.hypot(*np.diff(path, axis=0).T).mean() * 60
    assert 0.6 < speed < 2.0  # metres per second
    soles = _soles(turns, rest)
    lowest = soles[..., 1].argmin(1)
    same = np.flatnonzero(lowest[1:] == lowest[:-1])
    places = soles[..., [0, 2]] + path[:, None]
    steps = places[same + 1, lowest[same]] - places[same, lowest[same]]
    assert np.median(np.hypot(*steps.T)) * 60 < 0.25  # slides by less than a fifth of its speed


def test_motions_are_repeatable_and_unknown_ones_refused(rest: np.ndarray) -> None:
    times = np.arange(4) * 0.2
    one, two = (draw_motion(generator(5, "t"), Manner(), rest, times) for _ in range(2))
    np.testing.assert_array_equal(one.body_pose, two.body_pose)
    assert one.body_pose.shape == (4, 69) and one.root.shape == (4, 2)
    with pytest.raises(ValueError, match="no motion is called 'moonwalk'"):
        make_motion("moonwalk", generator(0, "t"), Manner(), rest, times)
