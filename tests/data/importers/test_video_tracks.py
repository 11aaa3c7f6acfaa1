"""Tracks: people are followed, and where they cross nobody becomes somebody else."""

from __future__ import annotations

import numpy as np
import pytest

from hpse_dist.data.importers.video_people import Found, Outline, colours
from hpse_dist.data.importers.video_tracks import Track, TrackConfig, Tracker
from tests.data.importers.walkers import BLUE, RED, draw, room

RATE = 10.0
Truth = dict[tuple[int, float], str]


def crossing(
    shirts: dict[str, tuple[int, int, int]], *, hidden: bool = False, seed: int = 0
) -> tuple[list[list[Found]], Truth]:
    """Two people who walk past each other; each frame's boxes in random order, and whose they are.

    hidden: while they overlap, the one behind is not found.
    """
    rng, background = np.random.default_rng(seed), room(seed)
    frames, truth = [], {}
    for n in range(40):
        image, boxes = background.copy(), {}
        places = {"a": 40 + 6 * n, "b": 280 - 6 * n}
        for who, shirt in shirts.items():
            boxes[who] = draw(image, places[who], swing=0.3 + 0.3 * np.sin(0.8 * n), shirt=shirt)
        found = []
        for who, box in boxes.items():
            if hidden and who == "a" and abs(places["a"] - places["b"]) < 30:
                continue
            box = box + rng.normal(0, 1.5, 4)
            truth[n, float(box[0])] = who
            found.append(Found(n, n / RATE, box, colours(image, box)))
        frames.append([found[i] for i in rng.permutation(len(found))])
    return frames, truth


def follow(frames: list[list[Found]], config: TrackConfig | None = None) -> list[Track]:
    tracker = Tracker(config or TrackConfig())
    for n, found in enumerate(frames):
        tracker.add(n / RATE, found)
    return tracker.finish()


def people(track: Track, truth: Truth) -> set[str]:
    return {truth[one.index, float(one.box[0])] for one in track.founds}


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_people_in_other_clothes_cross_and_stay_themselves(hidden: bool, seed: int) -> None:
    frames, truth = crossing({"a": RED, "b": BLUE}, hidden=hidden, seed=seed)
    tracks = follow(frames)
    assert all(len(people(track, truth)) == 1 for track in tracks), "a swap"
    assert len(tracks) == 2, "nobody needed to be lost"


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_twins_are_rather_lost_than_swapped(hidden: bool, seed: int) -> None:
    frames, truth = crossing({"a": RED, "b": RED}, hidden=hidden, seed=seed)
    tracks = follow(frames)
    assert all(len(people(track, truth)) == 1 for track in tracks), "a swap"
    assert 2 <= len(tracks) <= 16
    assert max(len(track.founds) for track in tracks) >= 10


def test_a_gap_is_bridged_or_ends_the_track() -> None:
    frames, _ = crossing({"a": RED})
    missing = [found if n not in (12, 13, 14) else [] for n, found in enumerate(frames)]
    assert len(follow(missing)) == 1
    long = [found if not 12 <= n < 22 else [] for n, found in enumerate(frames)]
    assert [len(track.founds) for track in follow(long)] == [12, 18]


def test_a_jump_to_elsewhere_or_another_size_is_another_person() -> None:
    box = np.array([100.0, 50, 160, 200])
    away = [[Found(n, n / RATE, box + (400 if n > 5 else 0))] for n in range(12)]
    assert len(follow(away)) == 2
    grown = [[Found(n, n / RATE, box * (3 if n > 5 else 1))] for n in range(12)]
    assert len(follow(grown)) == 2


def test_names_of_a_file_are_believed_whatever_the_gap() -> None:
    box = np.array([100.0, 50, 160, 200])
    frames = [[Found(n, n / RATE, box + 90 * n, name="anna")] for n in range(20)]
    frames[5:15] = [[] for _ in range(10)]
    (track,) = follow(frames)
    assert len(track.founds) == 10


def test_an_outline_over_two_people_is_in_no_track() -> None:
    """Silhouettes of two who meet become one; when they part, each goes on."""
    masks: np.ndarray = np.ones((150, 40), bool)
    frames = []
    for n in range(14):
        left, right = 40 + 8 * min(n, 6), 260 - 8 * min(n, 6)
        if n > 8:
            left, right = left - 8 * (n - 8), right + 8 * (n - 8)
        boxes = [(left, left + 60), (right, right + 60)]
        if 6 <= n <= 8:
            boxes = [(left, right + 60)]
        frames.append(
            [
                Found(n, n / RATE, np.array([x0, 50.0, x1, 200]), None, outline=Outline.of(masks))
                for x0, x1 in boxes
            ]
        )
    tracker = Tracker(TrackConfig())
    for n, found in enumerate(frames):
        tracker.add(n / RATE, found)
    assert len(tracker.several) == 3
    assert all(one.box[2] - one.box[0] == 60 for t in tracker.finish() for one in t.founds)


def test_an_outline_comes_back_as_it_was() -> None:
    mask = np.zeros((90, 160), bool)
    mask[20:70, 30:55], mask[30:40, 60:66] = True, True
    outline = Outline.of(mask)
    assert np.array_equal(outline.mask(90, 160), mask)
    large = outline.mask(360, 640)
    assert abs(large.mean() - mask.mean()) < 0.003 and large[120, 160] and not large[20, 20]
    assert len(outline.packed) < 100


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_gap_s must be above 0"):
        TrackConfig(max_gap_s=0)
    with pytest.raises(ValueError, match="max_growth"):
        TrackConfig(max_growth=1)
    with pytest.raises(ValueError, match="min_track_frames"):
        TrackConfig(min_track_frames=0)
