"""Groups: everybody's labels are exact, and who stands behind somebody is marked."""

from __future__ import annotations

import numpy as np
import pytest

from hpse_dist.draws import generator
from hpse_dist.records import FrameRecord
from hpse_dist.synth.groups import (
    HIDDEN,
    GroupsConfig,
    GroupStudio,
    draw_spots,
    provenance,
)

SMALL = GroupsConfig(
    num_groups=3,
    people=(3, 4),
    max_people=4,
    moments_per_group=1,
    cameras=(2, 2),
    spread=(0.9, 1.5),
    picture_px=64,
    child_ratio=0.5,
    seed=2,
)


@pytest.fixture(scope="module")
def studio() -> GroupStudio:
    return GroupStudio(SMALL)


@pytest.fixture(scope="module")
def records(studio: GroupStudio) -> list[FrameRecord]:
    found = [record for group in range(SMALL.num_groups) for record in studio.sequence(group)]
    return [record for record in found if isinstance(record, FrameRecord)]


def test_everybody_is_where_the_labels_say(records: list[FrameRecord]) -> None:
    assert len(records) >= 4
    masked, hidden = [], 0
    for record in records:
        people2d, people3d = record.labels["people2d"], record.labels["people3d"]
        assert people2d.shape == (4, 24, 3) and people3d.shape == (4, 24, 4)
        there = people3d[:, 0, 3] > 0
        assert 3 <= there.sum() <= 4 and not people2d[~there].any() and not people3d[~there].any()
        image = people3d[there, :, :3] @ record.intrinsics.T
        image = image[..., :2] / image[..., 2:]
        np.testing.assert_allclose(image, people2d[there, :, :2], atol=1e-3)
        inside = ((image >= 0) & (image < 64)).all(-1)
        sure = people2d[there, :, 2]
        assert set(np.unique(sure)) <= {0.0, HIDDEN, 1.0} and not sure[~inside].any()
        assert (sure[inside] > 0).all()
        hidden += int((sure == HIDDEN).sum())
        column, row = np.floor(image[sure == 1]).astype(int).T
        masked.append(record.mask[row, column].mean())
        world = (people3d[there, :, :3] - record.translation) @ record.rotation
        assert world[..., 1].min() > -0.02  # everybody stands on the floor
        apart = np.linalg.norm(world[:, None, 0, [0, 2]] - world[:, 0, [0, 2]], axis=-1)
        assert apart[np.triu_indices(there.sum(), 1)].min() > 0.3
    assert np.median(masked) > 0.9 and hidden > 0


def test_hidden_joints_are_those_behind_somebody_else(records: list[FrameRecord]) -> None:
    """A joint hidden by a person has another person's joints nearer to the camera about it."""
    nearer, all_joints = [], []
    for record in records:
        people2d, people3d = record.labels["people2d"], record.labels["people3d"]
        depth = people3d[..., 0, 2]
        for person in range(4):
            share = (people2d[person, :, 2] == HIDDEN).mean()
            others = depth[(depth > 0) & (np.arange(4) != person)]
            if depth[person] > 0:
                (nearer if share > 0.3 else all_joints).append((depth[person] > others).mean())
    assert nearer and np.mean(nearer) > np.mean(all_joints)


def test_children_are_smaller_and_splits_share_nobody(records: list[FrameRecord]) -> None:
    def stature(joints: np.ndarray) -> float:
        ends = [(12, 9), (9, 0), (1, 4), (4, 7)]
        return sum(float(np.linalg.norm(joints[a, :3] - joints[b, :3])) for a, b in ends)

    sizes = [stature(p) for r in records for p in r.labels["people3d"] if p[0, 3] > 0]
    assert max(sizes) / min(sizes) > 1.3
    assert {record.split for record in records if record.subject == "g00002"} <= {"train"}
    halves = GroupsConfig(num_groups=10, heldout=0.2)
    assert [halves.split(g) for g in range(10)] == ["train"] * 8 + ["val"] * 2


def test_the_same_group_is_drawn_again(studio: GroupStudio, records: list[FrameRecord]) -> None:
    again = next(r for r in studio.sequence(0) if isinstance(r, FrameRecord))
    np.testing.assert_array_equal(again.image, records[0].image)
    np.testing.assert_allclose(again.labels["people2d"], records[0].labels["people2d"], atol=1e-4)


def test_people_find_room() -> None:
    spots = draw_spots(generator(0, "test.spots"), 12, 0.8)
    gaps = np.linalg.norm(spots[:, None] - spots, axis=-1)[np.triu_indices(12, 1)]
    assert spots.shape == (12, 2) and gaps.min() >= 0.7


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("people", (1, 3), "2 <= least"),
        ("people", (2, 9), "max_people 5"),
        ("spread", (0.1, 2.0), "spread must be two rising"),
        ("framing", (2.0, 1.0), "framing must be two rising"),
        ("picture_px", 8, "picture_px must be 32..1024"),
        ("child_ratio", 2.0, "child_ratio must be in"),
    ],
)
def test_impossible_configs_are_refused(field: str, value: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        GroupsConfig(**{field: value})  # type: ignore[arg-type]


def test_the_licence_follows_the_body() -> None:
    assert provenance(SMALL).commercial and provenance(SMALL).importer == "synthetic_groups"
    assert provenance(SMALL).joint_set == "smpl24"
