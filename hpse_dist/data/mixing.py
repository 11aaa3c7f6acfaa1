"""Whether collections go together in one batch, and which fields it then has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hpse_dist.data import depth_order
from hpse_dist.data.collection import Collection
from hpse_dist.data.items import FLAGS, Items
from hpse_dist.data.prefetch import Layout

FLAGGED = {  # a label a source may lack, since its rows say so themselves
    "joints2d": "its confidence",
    "joints3d": "its confidence",
    "people2d": "its confidence",
    "people3d": "its confidence",
    **dict.fromkeys(("global_orient", "body_pose", "betas", "transl"), "has_body"),
    **dict.fromkeys(("hand_orient", "hand_pose", "hand_betas", "hand_transl"), "has_hand"),
    **dict.fromkeys(("part_map", "uv_map"), "has_parts"),
}
_OF_JOINTS = {"joints2d", "joints3d", "people2d", "people3d", "depth_pairs"}  # see joint_set


def one_layout(name: str, collections: Sequence[Collection]) -> Layout:
    """(shape, dtype) of a label, the same in every collection that has it."""
    layouts = {
        (tuple(shape), np.dtype(dtype))
        for collection in collections
        for shape, dtype in [collection.fields.get(name, ((-1,), "u1"))]
        if shape != (-1,)
    }
    if len(layouts) > 1:
        raise ValueError(
            f"field {name} has different shapes in these collections: "
            f"{' and '.join(str(shape) for shape, _ in sorted(layouts, key=str))}"
        )
    shape, dtype = layouts.pop()
    if shape == ():  # FFCV keeps numbers in 8 bytes
        dtype = np.dtype(np.float64 if dtype.kind == "f" else np.int64)
    return shape, dtype


def provided(sources: Sequence[Items], beside: Sequence[Collection] = ()) -> tuple[str, ...]:
    """Fields that every source has, or that a row can say it lacks.

    beside: see `decode.Decoder`.
    """
    collections = [*(items.source.collection for items in sources), *beside]
    return provided_by(collections, pairs=sources[0].second is not None)


def provided_by(collections: Sequence[Collection], pairs: bool) -> tuple[str, ...]:
    """Fields that batches mixed from these collections have, as single frames or as pairs."""
    names = ["image", "sample_id", "epoch", "subject"]
    if pairs:
        names += ["image_ref", "pair_kind", "pair_weight"]
    having = [{*collection.label_fields} - {*FLAGS} for collection in collections]
    common, some = set.intersection(*having), set.union(*having)
    labels = common | {name for name in some if name in FLAGGED}
    if any("part_map" in fields and "uv_map" not in fields for fields in having):
        labels -= {"uv_map"}  # has_parts would call its zeros real
    flags = {FLAGGED[name] for name in labels if name in FLAGGED} & {*FLAGS}
    if "depth_pairs" not in labels and depth_order.basis(collections):
        labels |= {*depth_order.FIELDS}  # made of the joints, batch by batch
    return (*names, *sorted(labels | flags))


def check_crops(collections: Sequence[Collection]) -> None:
    """ValueError where the stored pictures of these collections differ in size."""
    for other in collections[1:]:
        mine, its = collections[0].config.crop_px, other.config.crop_px
        if mine != its:
            raise ValueError(
                f"{other.folder}: its crops have {its} pixels, those of {collections[0].folder} "
                f"{mine}; they do not mix, so prepare both with one crop_px"
            )


def check_joint_sets(collections: Sequence[Collection], names: Sequence[str]) -> None:
    """ValueError where the fields `names` are of different joints in these collections.

    Equally many joints have equal shapes, and then nothing else would tell them apart.
    """
    wanted = _OF_JOINTS & {*names}
    having = [c for c in collections if wanted & {*c.fields} and c.manifest.get("joint_set")]
    for other in having[1:]:
        mine, its = having[0].manifest["joint_set"], other.manifest["joint_set"]
        if mine != its:
            raise ValueError(
                f"{other.folder}: joints are {its}, of {having[0].folder} {mine}; they do not mix, "
                "so train on collections of one joint set"
            )


def check_joint_count(collection: Collection, names: Sequence[str], wanted: int, key: str) -> None:
    """ValueError where the fields `names` have other than `wanted` joints, the recipe's `key`."""
    for name in sorted((_OF_JOINTS - {"depth_pairs"}) & {*names} & {*collection.fields}):
        found = collection.fields[name][0][-2]
        if found != wanted:
            raise ValueError(
                f"{collection.folder}: {name} has {found} joints and {key} is {wanted}; "
                f"set {key}={found}"
            )
