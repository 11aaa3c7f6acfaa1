"""Shots: made cuts, dissolves and fades are found; pans, flashes and lamps are none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hpse_dist.data.importers.shots import (
    Change,
    Shot,
    ShotConfig,
    ShotFinder,
    shots_between,
)
from tests.data.importers.walkers import dissolve, pan, walk

RATE = 25.0


def changes(pictures: list[np.ndarray], config: ShotConfig | None = None) -> list[Change]:
    finder, found = ShotFinder(config or ShotConfig()), []
    for index, picture in enumerate(pictures):
        found += finder.add(index, index / RATE, picture)
    return [*found, *finder.finish()]


def shots(pictures: list[np.ndarray]) -> list[Shot]:
    times: np.ndarray = np.arange(len(pictures)) / RATE
    return shots_between(changes(pictures), times, 0.3)


def test_precision_and_recall_of_made_cuts(capsys: pytest.CaptureFixture[str]) -> None:
    """A film of twelve clips of lengths from 0.5 s, some panned, with a flash in the middle."""
    rng, clips = np.random.default_rng(0), []
    for seed in range(12):
        frames = int(rng.integers(13, 40))
        still = walk(frames, 60, 60 + 4 * frames, seed=seed)[0]
        clips.append(pan(seed, frames, float(rng.uniform(1, 12))) if seed % 3 == 2 else still)
    film = [picture for clip in clips for picture in clip]
    truth = set(np.cumsum([len(clip) for clip in clips])[:-1].tolist())
    for flash in (5, 6, 140):
        film[flash] = np.clip(film[flash].astype(int) * 2 + 90, 0, 255).astype(np.uint8)
    found = {change.first for change in changes(film)}
    hits = len(found & truth)
    with capsys.disabled():
        print(f" cuts: precision {hits}/{len(found)}, recall {hits}/{len(truth)}", end="")
    assert hits >= 10 and len(found) - hits <= 1


@pytest.mark.parametrize("frames", [8, 15, 25])
def test_a_dissolve_is_one_change_and_its_mixtures_are_of_no_shot(frames: int) -> None:
    first, second = walk(50, 60, 150, seed=1)[0], walk(50, 250, 160, seed=2)[0]
    before, after = shots(dissolve(first, second, frames))
    middle = 50 - frames / 2
    assert before.start == 0 and after.stop == 100 - frames
    assert before.stop <= middle <= after.start
    assert after.start >= 50 - 0.35 * frames, "mixtures are given to the second shot"


def test_a_fade_through_black_ends_a_shot() -> None:
    first, second = walk(50, 60, 150, seed=1)[0], walk(50, 250, 160, seed=2)[0]
    out = [(p * (1 - (n + 1) / 12)).astype(np.uint8) for n, p in enumerate(first[-12:])]
    back = [(p * ((n + 1) / 12)).astype(np.uint8) for n, p in enumerate(second[:12])]
    before, after = shots([*first[:-12], *out, *back, *second[12:]])
    assert before.stop <= 51 and after.start >= 49


@pytest.mark.parametrize("step", [1.0, 4.0, 10.0, 20.0])
def test_a_pan_is_one_shot(step: float) -> None:
    assert changes(pan(3, 60, step)) == []


def test_a_flash_and_a_lamp_are_no_cuts() -> None:
    pictures = walk(60, 60, 200, seed=4)[0]
    for n in (20, 21, 22):
        pictures[n] = np.clip(pictures[n].astype(int) * 2 + 90, 0, 255).astype(np.uint8)
    pictures[40:] = [(p * 0.5).astype(np.uint8) for p in pictures[40:]]
    assert changes(pictures) == []


def test_what_is_remembered_does_not_grow_with_the_video() -> None:
    finder = ShotFinder(ShotConfig())
    sizes = []
    for index, picture in enumerate(itertools.islice(itertools.cycle(pan(5, 30, 2)), 400)):
        finder.add(index, index / RATE, picture)
        sizes.append(len(finder._looks))
    assert max(sizes) <= 4 * RATE + 2 and sizes[-1] == sizes[200]


def test_short_shots_are_left_out_but_not_a_short_video() -> None:
    times = np.arange(30) / RATE
    two = [Change(9, 10), Change(12, 13)]
    assert shots_between(two, times, 0.3) == [Shot(0, 10), Shot(13, 30)]
    assert shots_between([], times[:4], 0.3) == [Shot(0, 4)]


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="change must be in"):
        ShotConfig(change=0)
    with pytest.raises(ValueError, match="mixture"):
        ShotConfig(mixture=1)
