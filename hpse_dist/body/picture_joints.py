"""Joint sets of datasets of pictures, most with 2D annotation, each in its dataset's own order.

A sided joint is left_ or right_ of the person, so that every set knows its mirror image.
"""

from __future__ import annotations

_SIDES = ("left", "right")


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name}{number}" for number in range(1, count + 1))


def _paired(*names: str) -> tuple[str, ...]:
    """left_a, right_a, left_b, ..."""
    return tuple(f"{side}_{name}" for name in names for side in _SIDES)


def _hand(side: str) -> tuple[str, ...]:
    fingers = ("thumb", "index", "middle", "ring", "pinky")
    return (
        f"{side}_hand_root",
        *(name for finger in fingers for name in _numbered(f"{side}_hand_{finger}", 4)),
    )


# 68 landmarks of a face seen from the front, from the left of the picture (the person's right)
_FACE68 = (
    *_numbered("right_jaw", 8),
    "chin",
    *reversed(_numbered("left_jaw", 8)),
    *_numbered("right_brow", 5),
    *reversed(_numbered("left_brow", 5)),
    *_numbered("nose_bridge", 4),
    *("right_nostril1", "right_nostril2", "nose_base", "left_nostril2", "left_nostril1"),
    *_numbered("right_eye_rim", 6),
    *(f"left_eye_rim{number}" for number in (4, 3, 2, 1, 6, 5)),
    *_numbered("right_lip", 3),
    "upper_lip",
    *reversed(_numbered("left_lip", 3)),
    *("left_lip5", "left_lip4", "lower_lip", "right_lip4", "right_lip5"),
    *_numbered("right_inner_lip", 2),
    "upper_inner_lip",
    *reversed(_numbered("left_inner_lip", 2)),
    *("left_inner_lip3", "lower_inner_lip", "right_inner_lip3"),
)

WHOLEBODY_MORE = (
    *("left_big_toe", "left_small_toe", "left_heel"),
    *("right_big_toe", "right_small_toe", "right_heel"),
    *_FACE68,
    *_hand("left"),
    *_hand("right"),
)
"""COCO-WholeBody's 116 places after COCO17: 6 of the feet, 68 of the face, 21 of each hand."""

POSETRACK17 = (
    *("nose", "head_bottom", "head_top", "left_ear", "right_ear"),
    *_paired("shoulder", "elbow", "wrist", "hip", "knee", "ankle"),
)
"""PoseTrack18: COCO17 with head_bottom and head_top for the eyes; ears are never annotated."""

CROWDPOSE14 = (*_paired("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), "head", "neck")
"""CrowdPose: `head` is the head's top."""

AIC14 = (
    *(f"{side}_{name}" for side in ("right", "left") for name in ("shoulder", "elbow", "wrist")),
    *(f"{side}_{name}" for side in ("right", "left") for name in ("hip", "knee", "ankle")),
    *("head_top", "neck"),
)
"""AI Challenger's human keypoints."""

_LEGS = ("right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle")
_ARMS = ("right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow")

MPII16 = (*_LEGS, "pelvis", "thorax", "upper_neck", "head_top", *_ARMS, "left_wrist")
"""MPII Human Pose, by its point ids 0 to 15."""

LSP14 = (*_LEGS, *_ARMS, "left_wrist", "neck", "head_top")
"""Leeds Sports Pose and its extension."""

PENN13 = ("head", *_paired("shoulder", "elbow", "wrist", "hip", "knee", "ankle"))
"""Penn Action."""

JHMDB15 = (
    *("neck", "belly", "face"),
    *(
        f"{side}_{name}"
        for name in ("shoulder", "hip", "elbow", "knee", "wrist", "ankle")
        for side in ("right", "left")
    ),
)
"""J-HMDB's puppet joints."""

MCPC14 = (*_paired("shoulder", "elbow", "wrist", "hip", "knee", "ankle"), "neck", "head_top")
"""What COCO, MPII, PoseTrack18 and CrowdPose share, and neck and head where they are annotated."""

_RIGHT_THEN_LEFT = ("right", "left")

MUCO21 = (
    *("head_top", "neck"),
    *(f"{side}_{name}" for side in _RIGHT_THEN_LEFT for name in ("shoulder", "elbow", "wrist")),
    *(f"{side}_{name}" for side in _RIGHT_THEN_LEFT for name in ("hip", "knee", "ankle")),
    *("pelvis", "spine", "head", "right_hand", "left_hand", "right_toe", "left_toe"),
)
"""MuCo-3DHP: the 17 of MPI-INF-3DHP's test set, hands and toes."""

BODY25 = (
    *("nose", "neck"),
    *(f"{side}_{name}" for side in _RIGHT_THEN_LEFT for name in ("shoulder", "elbow", "wrist")),
    "pelvis",
    *(f"{side}_{name}" for side in _RIGHT_THEN_LEFT for name in ("hip", "knee", "ankle")),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
    *("left_big_toe", "left_small_toe", "left_heel"),
    *("right_big_toe", "right_small_toe", "right_heel"),
)
"""OpenPose's BODY_25, as HUMBI has it."""

PICTURE_SETS: dict[str, tuple[str, ...]] = {
    "posetrack17": POSETRACK17,
    "crowdpose14": CROWDPOSE14,
    "aic14": AIC14,
    "mpii16": MPII16,
    "lsp14": LSP14,
    "penn13": PENN13,
    "jhmdb15": JHMDB15,
    "mcpc14": MCPC14,
    "muco21": MUCO21,
    "body25": BODY25,
}
"""The sets of this module by name."""
