"""Left and right exchanged: a stored row becomes the row of the scene seen in a mirror.

The mirror is the camera's plane x = 0: x of every point in the camera frame changes its sign, the
picture is reversed, and what was a left knee is a right knee, so that every label still belongs to
its place. A body's mirror image has the same shape numbers, as bodies are symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from hpse_dist.body.joints import JOINT_SETS, PART_NAMES, left_right_order
from hpse_dist.body.symmetry import free_body_uv_mirror
from hpse_dist.constants import at_hand, constant_like, numbers
from hpse_dist.draws import uniform
from hpse_dist.fields import Batch

_OF_JOINTS = ("joints2d", "people2d", "joints3d", "people3d")
_OF_BODY = ("global_orient", "body_pose", "transl", "intrinsics")
_MIRRORED = {"image", "image_ref", "person", "part_map", "uv_map", "depth_pairs"}
_MIRRORED |= {*_OF_JOINTS, *_OF_BODY}
_THE_SAME = {"sample_id", "epoch", "subject", "pair_kind", "pair_weight", "betas", "has_body"}
_THE_SAME |= {"has_parts", "depth_order", "depth_confidence", "label", "valid"}
_OF_RIGHT_HANDS = {"hand_orient", "hand_pose", "hand_betas", "hand_transl", "has_hand"}
SMPL24 = JOINT_SETS["smpl24"]


class HasManifest(Protocol):
    """What is needed of a collection."""

    manifest: dict[str, Any]
    folder: Any

    @property
    def fields(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Mirror:
    """Which joints, parts and surface coordinates change places; None where no label needs it."""

    joints: Tensor | None = None
    """(J,) for each joint the number of its mirror image."""
    parts: Tensor | None = None
    """(1 + P,) the same of `part_map`'s values."""
    uv: Tensor | None = None
    """(S, S, 2) a table over surface coordinates, see body.symmetry."""

    def on(self, device: torch.device) -> Mirror:
        """The same with its tables on a device."""
        tables = (self.joints, self.parts, self.uv)
        return Mirror(*(None if table is None else table.to(device) for table in tables))


def mirror_of(collections: Sequence[HasManifest], names: Sequence[str]) -> Mirror:
    """The mirror for the fields `names` of these collections; ValueError for what has none."""
    handed = sorted({*names} & _OF_RIGHT_HANDS)
    if handed:
        raise ValueError(
            f"augment.flip: in a mirror a right hand is a left one, and {', '.join(handed)} are "
            "parameters of MANO's right hand, which has no left poses; set augment.flip to 0"
        )
    strange = sorted({*names} - _MIRRORED - _THE_SAME)
    if strange:
        raise ValueError(
            f"augment.flip: it is not known what the field {', '.join(strange)} becomes in a "
            "mirror; set augment.flip to 0"
        )
    having = {n: [c for c in collections if n in c.fields] for n in names}
    of_joints = [c for n in (*_OF_JOINTS, "depth_pairs") for c in having.get(n, [])]
    joints = parts = uv = None
    if of_joints:
        joints = torch.tensor(_joint_order(of_joints))
    if "part_map" in names:
        parts = torch.tensor(left_right_order(PART_NAMES))
    if "uv_map" in names:
        for collection in having["uv_map"]:
            body = collection.manifest.get("details", {}).get("body", "unknown")
            if body != "free":
                raise ValueError(
                    f"augment.flip: {collection.folder} has surface coordinates of the body "
                    f"{body}, whose mirror image is known for the free body only; set "
                    "augment.flip to 0"
                )
        uv = free_body_uv_mirror()
    return Mirror(joints, parts, uv)


def _joint_order(collections: Sequence[HasManifest]) -> tuple[int, ...]:
    sets = {c.manifest.get("joint_set") or "unknown" for c in collections}
    if len(sets) != 1 or not sets <= {*JOINT_SETS}:
        raise ValueError(
            f"augment.flip needs one known joint set ({', '.join(JOINT_SETS)}) to tell left from "
            f"right, and these collections have {' and '.join(sorted(sets))}; set augment.flip to 0"
        )
    return left_right_order(JOINT_SETS[sets.pop()])


def chosen(raw: Batch, probability: float, seed: int) -> Tensor:
    """(B,) bool: the rows to be mirrored. One draw to a row: both pictures of a pair, or none."""
    draw = uniform(seed, "augment.flip", raw["epoch"], raw["sample_id"])[:, 0]
    return draw < probability


def mirrored(raw: Batch, rows: Tensor, mirror: Mirror) -> Batch:
    """Stored fields with some rows (B,) bool exchanged; the others, and the input, as they were."""
    result = dict(raw)
    for name, value in raw.items():
        if name in _MIRRORED:
            shape = (-1, *[1] * (value.ndim - 1))
            opposite = _opposite(name, raw, mirror).to(value.dtype)
            result[name] = torch.where(rows.view(shape), opposite, value)
    return result


def _opposite(name: str, raw: Batch, mirror: Mirror) -> Tensor:
    """One field of all rows in the mirror."""
    value = raw[name]
    if name in ("image", "image_ref"):
        return value.flip(2)  # (B, H, W, 3)
    if name == "person":
        return value.flip(-1)
    if name == "part_map":
        return _parts(value.flip(-1), mirror)
    if name == "uv_map":
        return _uv(value.flip(-1), mirror)
    if name in (*_OF_JOINTS, "depth_pairs"):
        return _joints(name, value, mirror)
    if name == "intrinsics":
        return _intrinsics(value)
    if name == "transl":
        return _transl(raw)
    assert name in ("global_orient", "body_pose")
    turns = value.unflatten(1, (-1, 3)) * constant_like(value, (1.0, -1.0, -1.0))
    if name == "body_pose":  # joint k + 1 of SMPL24 is turned by the k-th three numbers
        order = tuple(k - 1 for k in left_right_order(SMPL24)[1:])
        turns = turns[:, numbers(order, turns.device)]
    return turns.flatten(1)


def _joints(name: str, value: Tensor, mirror: Mirror) -> Tensor:
    order = _on(mirror.joints, value, name)
    if name == "depth_pairs":  # person * J + joint
        return value.long() // len(order) * len(order) + order[value.long() % len(order)]
    if value.shape[-2] != len(order):
        raise ValueError(
            f"augment.flip: {name} has {value.shape[-2]} joints and its joint set {len(order)}; "
            "prepare the collection again, or set augment.flip to 0"
        )
    value = value[..., order, :]
    x, rest = value[..., :1], value[..., 1:]
    return torch.cat((1.0 - x if name in ("joints2d", "people2d") else -x, rest), -1)


def _intrinsics(camera: Tensor) -> Tensor:
    """Of the reversed picture and frame: x' = 1 - x of the picture, -x of the point."""
    sign = constant_like(camera, ((1.0, -1.0, -1.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)))
    known = camera[:, 0, 0] > 0  # a camera that is not known is zeros and stays so
    shift = torch.zeros_like(camera)
    shift[:, 0, 2] = known.to(camera.dtype)
    return camera * sign + shift


def _transl(raw: Batch) -> Tensor:
    """So that the pelvis, J0 + transl, goes to its mirror image: J0, of the shape, stays.

    Without a known pelvis J0 is taken to lie in the body's own mirror plane.
    """
    transl, opposite = raw["transl"], raw["transl"] * constant_like(raw["transl"], (-1.0, 1.0, 1.0))
    if "joints3d" not in raw:
        return opposite
    rest = (raw["joints3d"][:, 0, :3] - transl) * constant_like(transl, (-2.0, 0.0, 0.0))
    known = raw["joints3d"][:, 0, 3] > 0
    return opposite + rest * known[:, None]


def _parts(parts: Tensor, mirror: Mirror) -> Tensor:
    order = _on(mirror.parts, parts, "part_map")
    if at_hand(parts) and int(parts.max()) >= len(order):
        raise ValueError(
            f"augment.flip: part_map has part {int(parts.max())}, and left and right are known of "
            f"the parts 1..{len(order) - 1}; set augment.flip to 0"
        )
    return order[parts.long()]


def _uv(uv: Tensor, mirror: Mirror) -> Tensor:
    table = _on(mirror.uv, uv, "uv_map")
    side = len(table)
    u, v = (uv.float() * side).long().clamp(0, side - 1).unbind(1)
    opposite = table[v, u].movedim(-1, 1)
    return opposite * (uv != 0).any(1, keepdim=True)  # the background has none


def _on(table: Tensor | None, value: Tensor, name: str) -> Tensor:
    assert table is not None, f"no mirror was made for {name}"
    return table.to(value.device)  # where it is already, see `Mirror.on`
