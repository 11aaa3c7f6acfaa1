"""The batch vocabulary: every name a loader may provide and an objective or task may need.

Units: metres, radians, pixels of the crop divided by its side (so 0..1); the camera frame has x to
the right, y down and z forward. B batch, J joints, P people, Q pairs of points, H W pixels of the
crop, h w its patch grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

Batch = dict[str, Tensor]

IMAGE_MEAN = (0.485, 0.456, 0.406)  # ImageNet's, RGB: one input normalisation for every source
IMAGE_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Field:
    """One entry of a batch."""

    shape: str
    """Dimensions after B, in the letters of this module's legend."""
    dtype: str
    """What the tensor holds: float, int or bool."""
    doc: str
    """Meaning and unit."""


FIELDS: dict[str, Field] = {
    "image": Field("3 H W", "float", "normalised RGB of one person (or of a whole picture)"),
    "image_ref": Field("3 H W", "float", "the second frame of the pair"),
    "sample_id": Field("", "int", "unique among the run's samples: the key of every random draw"),
    "epoch": Field("", "int", "pass over the data this sample belongs to: the draws' second key"),
    "subject": Field("", "int", "number of the person; frames of one subject share it"),
    "pair_kind": Field("", "int", "0 view, 1 pose"),
    "pair_weight": Field(
        "",
        "float",
        "global batch / number of this kind in the global batch: the mean of weight * loss over "
        "all micro-batches and ranks is the sum over kinds of each kind's mean",
    ),
    "person": Field("h w", "float", "share of each patch covered by the person, 0..1"),
    "joints2d": Field("J 3", "float", "x, y in 0..1 of the crop, confidence"),
    "people2d": Field("P J 3", "float", "joints of up to P people, for whole-picture frames"),
    "joints3d": Field("J 4", "float", "x, y, z in metres in the camera frame, confidence"),
    "people3d": Field("P J 4", "float", "the same of up to P people, row by row of people2d"),
    "global_orient": Field("3", "float", "smplx, axis-angle, in the camera frame"),
    "body_pose": Field("69", "float", "smplx, 23 axis-angles"),
    "betas": Field("10", "float", "smplx shape components"),
    "transl": Field("3", "float", "smplx translation in the camera frame, metres"),
    "has_body": Field("", "bool", "the smplx parameters of this row are real"),
    "hand_orient": Field("3", "float", "MANO's global_orient, axis-angle, in the camera frame"),
    "hand_pose": Field("45", "float", "MANO, 15 axis-angles, added to the mean pose"),
    "hand_betas": Field("10", "float", "MANO shape components"),
    "hand_transl": Field("3", "float", "MANO translation in the camera frame, metres"),
    "has_hand": Field("", "bool", "the MANO parameters of this row are real"),
    "intrinsics": Field("3 3", "float", "camera matrix for 0..1 coordinates of the crop"),
    "part_map": Field("H W", "int", "body part 1..P of each pixel, 0 background"),
    "uv_map": Field("2 H W", "float", "surface coordinates 0..1 of each pixel"),
    "has_parts": Field("", "bool", "part_map of this row is real, and uv_map, where it is stored"),
    "depth_pairs": Field(
        "Q 2", "int", "two joints each, by index in the P J of people2d, or the J"
    ),
    "depth_order": Field("Q", "float", "-1 the first is nearer, 0 level, +1 farther"),
    "depth_confidence": Field("Q", "float", "0..1 trust in a relation; 0 where there is none"),
    "label": Field("", "int", "class"),
    "valid": Field("", "bool", "False on padding rows in evaluation"),
}


def missing(needs: Iterable[str], provides: Iterable[str]) -> list[str]:
    """The needed fields that are not provided, in order; a name outside the vocabulary raises."""
    needs, provided = list(needs), set(provides)
    unknown = sorted(name for name in {*needs, *provided} if name not in FIELDS)
    if unknown:
        raise ValueError(f"not a field: {', '.join(unknown)}; the fields are {', '.join(FIELDS)}")
    return [name for name in needs if name not in provided]
