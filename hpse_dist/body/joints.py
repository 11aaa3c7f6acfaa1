"""Body joints: SMPL's 24 and other sets, left/right pairs, body parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpse_dist.body.picture_joints import PICTURE_SETS, WHOLEBODY_MORE

SMPL24 = (
    "pelvis",
    "left_hip",
    "right_hip",
    "spine1",
    "left_knee",
    "right_knee",
    "spine2",
    "left_ankle",
    "right_ankle",
    "spine3",
    "left_foot",
    "right_foot",
    "neck",
    "left_collar",
    "right_collar",
    "head",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hand",
    "right_hand",
)
"""SMPL's joints: 0 is turned by `global_orient`, k by numbers 3(k-1) to 3k-1 of `body_pose`."""

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Parent of each of SMPL24; every parent comes before its children."""

MANO21 = (
    "wrist",
    "index1",
    "index2",
    "index3",
    "middle1",
    "middle2",
    "middle3",
    "pinky1",
    "pinky2",
    "pinky3",
    "ring1",
    "ring2",
    "ring3",
    "thumb1",
    "thumb2",
    "thumb3",
    "thumb_tip",
    "index_tip",
    "middle_tip",
    "ring_tip",
    "pinky_tip",
)
"""MANO's 16 joints in its own order, then the five finger tips."""

MANO_PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14, 15, 3, 6, 12, 9)
"""Parent of each of MANO21; every parent comes before its children."""

COCO17 = (
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
)
"""COCO's keypoints in its order."""

H36M17 = (
    "pelvis",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "spine",
    "neck",
    "nose",
    "head_top",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
)
"""Human3.6M's 17 joints in the order of its motion capture; SMPL's regressor for them has rows for
the same places, and which leg comes first differs between copies of it."""

MPI17 = (
    "head_top",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "pelvis",
    "spine",
    "head",
)
"""MPI-INF-3DHP's 17 joints in the order of its test set."""

MPI28 = (
    "spine3",
    "spine4",
    "spine2",
    "spine",
    "pelvis",
    "neck",
    "head",
    "head_top",
    "left_clavicle",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "left_hand",
    "right_clavicle",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "right_hand",
    "left_hip",
    "left_knee",
    "left_ankle",
    "left_foot",
    "left_toe",
    "right_hip",
    "right_knee",
    "right_ankle",
    "right_foot",
    "right_toe",
)
"""All 28 joints of MPI-INF-3DHP's training set in its order; MPI17 are some of them."""

PANOPTIC19 = (
    "neck",
    "nose",
    "pelvis",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_eye",
    "left_ear",
    "right_eye",
    "right_ear",
)
"""CMU Panoptic's 19 joints (hdPose3d_stage1_coco19) in its order."""

_FINGERS = ("thumb", "index", "middle", "ring", "pinky")
FREIHAND21 = (
    "wrist",
    *(f"{finger}{part}" for finger in _FINGERS for part in ("1", "2", "3", "_tip")),
)
"""MANO21's places in FreiHAND's order: finger by finger, from the wrist to the tip."""

INTERHAND21 = (
    *(f"{finger}{part}" for finger in _FINGERS for part in ("_tip", "3", "2", "1")),
    "wrist",
)
"""One hand in InterHand2.6M's order: finger by finger, from the tip to the hand, the wrist last."""

INTERHAND42 = tuple(f"{side}_{name}" for side in ("right", "left") for name in INTERHAND21)
"""InterHand2.6M's joints: the right hand, then the left."""

JOINT_SETS: dict[str, tuple[str, ...]] = {
    "smpl24": SMPL24,
    "smplx22": SMPL24[:22],  # SMPL-X's body joints: SMPL's without the hands
    "coco17": COCO17,
    "mano21": MANO21,
    "freihand21": FREIHAND21,
    "interhand21": INTERHAND21,
    "interhand42": INTERHAND42,
    "h36m17": H36M17,
    "mpi17": MPI17,
    "mpi28": MPI28,
    "panoptic19": PANOPTIC19,
    "wholebody133": (*COCO17, *WHOLEBODY_MORE),
    **PICTURE_SETS,
}
"""Joint sets by name. A joint name in two sets is about the same place in both, not the same."""

PART_NAMES = (
    "background",
    "torso",
    "head",
    "left_upper_arm",
    "right_upper_arm",
    "left_lower_arm",
    "right_lower_arm",
    "left_hand",
    "right_hand",
    "left_upper_leg",
    "right_upper_leg",
    "left_lower_leg",
    "right_lower_leg",
    "left_foot",
    "right_foot",
)
"""Names of the values of `part_map`: 0 background, 1..14 body parts."""

NUM_PARTS = len(PART_NAMES) - 1

_PART_OF_JOINT = {
    "neck": "head",
    "head": "head",
    "shoulder": "upper_arm",
    "elbow": "lower_arm",
    "wrist": "hand",
    "hand": "hand",
    "hip": "upper_leg",
    "knee": "lower_leg",
    "ankle": "foot",
    "foot": "foot",
}


def left_right_order(names: Sequence[str]) -> tuple[int, ...]:
    """For each name the index of its mirror image: its twin's, or its own for a middle joint.

    Raises ValueError for a sided name whose other side is missing.
    """
    order = []
    for name in names:
        twin = mirrored(name)
        if twin not in names:
            raise ValueError(
                f"joint set has {name!r} but not {twin!r}, so left and right cannot be exchanged."
            )
        order.append(names.index(twin))
    return tuple(order)


def mirrored(name: str) -> str:
    """The name with left and right exchanged; a middle joint's own name."""
    if name.startswith("left_"):
        return "right_" + name.removeprefix("left_")
    if name.startswith("right_"):
        return "left_" + name.removeprefix("right_")
    return name


def part_of_joint(name: str) -> int:
    """Number 1..14 of the body part that a joint of SMPL24 moves; pelvis to collars are torso."""
    side, _, bare = name.partition("_")
    if not bare:
        return PART_NAMES.index(_PART_OF_JOINT.get(name, "torso"))
    part = _PART_OF_JOINT.get(bare)
    return PART_NAMES.index("torso" if part is None else f"{side}_{part}")


def parts_from_weights(weights: np.ndarray, joint_of_column: Sequence[int]) -> np.ndarray:
    """(V,) body part 1..14 of each vertex: the part whose joints carry most of it.

    weights: (V, K) skinning weights; joint_of_column: for each of K columns its joint in SMPL24.
    """
    shares = np.zeros((len(weights), NUM_PARTS + 1))
    for column, joint in enumerate(joint_of_column):
        shares[:, part_of_joint(SMPL24[joint])] += weights[:, column]
    return shares.argmax(axis=1)
