"""Joint names, mirror images and parts agree with one another."""

import numpy as np
import pytest

from hpse_dist.body import joints


def test_parents_come_before_their_children() -> None:
    assert len(joints.SMPL24) == len(joints.PARENTS) == 24
    assert joints.PARENTS[0] == -1
    assert all(0 <= parent < child for child, parent in enumerate(joints.PARENTS[1:], start=1))


@pytest.mark.parametrize("names", [*joints.JOINT_SETS.values(), joints.PART_NAMES])
def test_mirroring_twice_changes_nothing(names: tuple[str, ...]) -> None:
    order = joints.left_right_order(names)
    assert [order[index] for index in order] == list(range(len(names)))
    assert len(set(names)) == len(names)
    for here, there in enumerate(order):
        assert names[here].replace("left", "right") == names[there].replace("left", "right")


def test_the_tree_is_its_own_mirror_image() -> None:
    order = joints.left_right_order(joints.SMPL24)
    for joint, parent in enumerate(joints.PARENTS[1:], start=1):
        assert joints.PARENTS[order[joint]] == order[parent]


def test_a_lonely_side_is_refused() -> None:
    with pytest.raises(ValueError, match="'left_hip' but not 'right_hip'"):
        joints.left_right_order(("pelvis", "left_hip"))


def test_every_part_has_a_joint_and_keeps_its_side() -> None:
    parts = [joints.PART_NAMES[joints.part_of_joint(name)] for name in joints.SMPL24]
    assert set(parts) == set(joints.PART_NAMES[1:])
    for name, part in zip(joints.SMPL24, parts, strict=True):
        assert part == "torso" or part.split("_")[0] in (name.split("_")[0], "head")


def test_parts_follow_the_weights() -> None:
    weights = np.zeros((2, 24))
    weights[0, joints.SMPL24.index("left_elbow")] = 0.4
    weights[0, joints.SMPL24.index("left_wrist")] = 0.3
    weights[0, joints.SMPL24.index("left_hand")] = 0.3  # wrist and hand together outweigh
    weights[1, joints.SMPL24.index("spine2")] = 1
    parts = joints.parts_from_weights(weights, range(24))
    assert [joints.PART_NAMES[part] for part in parts] == ["left_hand", "torso"]
