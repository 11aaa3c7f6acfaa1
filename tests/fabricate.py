"""Batches made up from the names of fields, for the tests of objectives and tasks.

The pictures have structure (smooth colours that shift between the two of a pair) so that a model
can learn something; body labels are consistent with one another through a body.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.body.joints import MANO_PARENTS, PARENTS
from hpse_dist.body.model import Body, Hand, load_body
from hpse_dist.fields import FIELDS, Batch


def fabricate(
    needs: Iterable[str],
    *,
    batch: int = 8,
    image_px: int = 32,
    patch_px: int = 8,
    seed: int = 0,
    body: Body | None = None,
    hand: Hand | None = None,
) -> Batch:
    """A batch of exactly the fields in `needs`; labels of a body or a hand need one."""
    rng = torch.Generator().manual_seed(seed)
    fields = _pictures(batch, image_px, patch_px, rng) | _ids(batch) | _crowd(batch, rng)
    fields |= _surface(batch, image_px) | {"label": torch.arange(batch) % 3}
    if body is not None:
        fields |= _body(batch, body, rng)
    if hand is not None:
        fields |= _hand(batch, hand, rng)
    needs = list(needs)
    for name in needs:
        assert name in FIELDS, f"{name} is not in the vocabulary"
        assert name in fields, f"tests/fabricate.py cannot make the field {name!r} yet: add it"
    return {name: fields[name] for name in needs}


def rows(batch: Batch, start: int, stop: int) -> Batch:
    """A contiguous part of a batch."""
    return {name: value[start:stop] for name, value in batch.items()}


def _pictures(batch: int, image_px: int, patch_px: int, rng: torch.Generator) -> Batch:
    noise = torch.randn(batch, 3, 5, 5, generator=rng)
    size = (image_px + patch_px, image_px + patch_px)
    wide = F.interpolate(noise, size, mode="bicubic", align_corners=False)
    side = image_px // patch_px
    return {
        "image": wide[..., :image_px, :image_px].contiguous(),
        "image_ref": wide[..., patch_px:, patch_px:].contiguous(),
        "person": torch.rand(batch, side, side, generator=rng),
    }


def _ids(batch: int) -> Batch:
    """Three subjects take turns; kinds are uneven, and weighted as a loader weights them."""
    kinds = (torch.arange(batch) % 3 == 1).long()
    counts = torch.bincount(kinds, minlength=2)
    return {
        "sample_id": torch.arange(batch) + 100,
        "epoch": torch.full((batch,), 2),
        "subject": torch.arange(batch) // 2 % 3,
        "pair_kind": kinds,
        "pair_weight": batch / counts[kinds].float(),
        "valid": torch.ones(batch, dtype=torch.bool),
    }


def _crowd(batch: int, rng: torch.Generator) -> Batch:
    """Three people of 24 joints to a picture, one of them missing in some, and 40 relations."""
    people = torch.rand(batch, 3, 24, 3, generator=rng)
    people[..., 2] = (people[..., 2] > 0.2).float()
    people[::3, 2, :, 2] = 0.0
    pairs = torch.randint(0, 72, (batch, 40, 2), generator=rng)
    order = torch.randint(-1, 2, (batch, 40), generator=rng).float()
    seen = people[..., 2].flatten(1)
    both = seen.gather(1, pairs[..., 0]) * seen.gather(1, pairs[..., 1])
    trust = torch.tensor([0.0, 0.25, 1.0])[torch.randint(0, 3, (batch, 40), generator=rng)]
    depth = 3 + 4 * torch.rand(batch, 3, 24, 1, generator=rng)
    people3d = torch.cat((people[..., :2] * depth, depth, people[..., 2:]), -1)
    return {
        "people2d": people,
        "joints2d": people[:, 0].clone(),
        "people3d": people3d,
        "joints3d": people3d[:, 0].clone(),
        "depth_pairs": pairs,
        "depth_order": order,
        "depth_confidence": trust * both,
    }


def _surface(batch: int, image_px: int) -> Batch:
    """A person who is a disc of 14 parts, sectors of it, a little elsewhere in every picture."""
    steps = (torch.arange(image_px) + 0.5) / image_px
    middle = 0.4 + 0.2 * torch.arange(batch) / batch
    x, y = steps - middle[:, None, None], (steps[:, None] - 0.5).expand(batch, -1, image_px)
    x = x.expand_as(y)
    angle, radius = torch.atan2(y, x) / (2 * torch.pi) + 0.5, torch.hypot(x, y)
    person = radius < 0.35
    parts = (1 + (14 * angle).long().clamp(max=13)) * person
    uv = torch.stack((radius / 0.35, (14 * angle) % 1.0), dim=1) * person[:, None]
    return {"part_map": parts, "uv_map": uv, "has_parts": torch.ones(batch, dtype=torch.bool)}


def _body(batch: int, body: Body, rng: torch.Generator) -> Batch:
    """People standing four metres away, seen by a camera that does not look straight at them."""
    turn = torch.tensor([torch.pi, 0.0, 0.0]) + 0.2 * torch.randn(batch, 3, generator=rng)
    pose = 0.2 * torch.randn(batch, 69, generator=rng)
    betas = torch.randn(batch, 10, generator=rng)
    transl = torch.tensor([0.4, -0.1, 4.0]) + 0.1 * torch.randn(batch, 3, generator=rng)
    intrinsics = torch.tensor([[1.8, 0.0, 0.3], [0.0, 1.8, 0.55], [0.0, 0.0, 1.0]])
    joints = body(turn, pose, betas, transl).joints
    seen = joints @ intrinsics.T
    one = torch.ones(batch, joints.shape[1], 1)
    return {
        "global_orient": turn,
        "body_pose": pose,
        "betas": betas,
        "transl": transl,
        "has_body": torch.ones(batch, dtype=torch.bool),
        "intrinsics": intrinsics.expand(batch, 3, 3).clone(),
        "joints3d": torch.cat((joints, one), -1),
        "joints2d": torch.cat((seen[..., :2] / seen[..., 2:], one), -1),
    }


def _hand(batch: int, hand: Hand, rng: torch.Generator) -> Batch:
    """Right hands, 60 cm away and a little off the middle."""
    orient = 0.5 * torch.randn(batch, 3, generator=rng)
    pose = 0.3 * torch.randn(batch, 45, generator=rng)
    betas = torch.randn(batch, 10, generator=rng)
    transl = torch.tensor([0.1, -0.02, 0.6]) + 0.01 * torch.randn(batch, 3, generator=rng)
    intrinsics = torch.tensor([[2.5, 0.0, 0.3], [0.0, 2.5, 0.55], [0.0, 0.0, 1.0]])
    joints = hand(orient, pose, betas, transl).joints
    seen = joints @ intrinsics.T
    one = torch.ones(batch, joints.shape[1], 1)
    return {
        "hand_orient": orient,
        "hand_pose": pose,
        "hand_betas": betas,
        "hand_transl": transl,
        "has_hand": torch.ones(batch, dtype=torch.bool),
        "intrinsics": intrinsics.expand(batch, 3, 3).clone(),
        "joints3d": torch.cat((joints, one), -1),
        "joints2d": torch.cat((seen[..., :2] / seen[..., 2:], one), -1),
    }


def tiny_hand_folder(folder: Path) -> Path:
    """A folder with a right hand of 84 vertices in MANO's format: four around each joint and tip,
    fingers side by side along -x, so that all numbers have a hand's size."""
    rng = np.random.default_rng(0)
    at = np.zeros((21, 3))
    for joint, parent in enumerate(MANO_PARENTS[1:], start=1):
        across = 0.02 * ((joint - 1) // 3 - 2) if parent == 0 else at[parent, 2]
        at[joint] = [at[parent, 0] - (0.08 if parent == 0 else 0.025), 0.0, across]
    ring = np.array([[0.008, 0, 0], [-0.008, 0, 0], [0, 0.005, 0.008], [0, -0.005, -0.008]])
    vertices = (at[:, None] + ring).reshape(-1, 3)
    moved_by = np.repeat([*range(16), *MANO_PARENTS[16:]], 4)
    corners = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    np.savez(
        folder / "MANO_RIGHT.npz",
        v_template=vertices,
        f=(corners[None] + 4 * np.arange(21)[:, None, None]).reshape(-1, 3),
        J_regressor=(np.repeat(np.arange(21), 4)[None] == np.arange(16)[:, None]) / 4.0,
        weights=np.eye(16)[moved_by],
        shapedirs=0.02 * vertices[..., None] * rng.normal(size=(1, 1, 10)),
        posedirs=np.zeros((len(vertices), 3, 135)),
        kintree_table=np.stack([np.array(MANO_PARENTS[:16]), np.arange(16)]),
        hands_mean=0.1 * rng.normal(size=45),
        tips=4 * np.arange(16, 21),
    )
    return folder


def tiny_body_file(folder: Path) -> Path:
    """A body of 96 vertices in SMPL's file format: four around each joint, person-sized."""
    rng = np.random.default_rng(0)
    joints = _rest_joints()
    ring = np.array([[0.08, 0, 0], [-0.08, 0, 0], [0, 0.05, 0.08], [0, -0.05, -0.08]])
    vertices = (joints[:, None] + ring).reshape(-1, 3)
    owner = np.repeat(np.arange(24), 4)
    regressor = (owner[None] == np.arange(24)[:, None]) / 4.0
    corners = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    path = folder / "tiny_body.npz"
    np.savez(
        path,
        v_template=vertices,
        f=(corners[None] + 4 * np.arange(24)[:, None, None]).reshape(-1, 3),
        J_regressor=regressor,
        weights=np.eye(24)[owner],
        shapedirs=0.02 * vertices[..., None] * rng.normal(size=(1, 1, 10)),
        posedirs=1e-3 * rng.normal(size=(len(vertices), 3, 207)),
        kintree_table=np.stack([np.array(PARENTS), np.arange(24)]),
    )
    return path


def _rest_joints() -> np.ndarray:
    """Plain joints of a T-pose, metres, y up, facing +z."""
    steps = {
        1: (0.1, -0.1, 0), 2: (-0.1, -0.1, 0), 3: (0, 0.12, 0), 4: (0, -0.4, 0), 5: (0, -0.4, 0),
        6: (0, 0.13, 0), 7: (0, -0.4, 0), 8: (0, -0.4, 0), 9: (0, 0.06, 0), 10: (0, -0.06, 0.12),
        11: (0, -0.06, 0.12), 12: (0, 0.2, 0), 13: (0.08, 0.1, 0), 14: (-0.08, 0.1, 0),
        15: (0, 0.1, 0.04), 16: (0.1, 0.03, 0), 17: (-0.1, 0.03, 0), 18: (0.26, 0, 0),
        19: (-0.26, 0, 0), 20: (0.25, 0, 0), 21: (-0.25, 0, 0), 22: (0.08, 0, 0), 23: (-0.08, 0, 0),
    }  # fmt: skip
    joints = np.zeros((24, 3))
    joints[0] = (-0.002, -0.223, 0.028)  # about SMPL's: not at the origin, where it would hide
    for joint, step in steps.items():
        joints[joint] = joints[PARENTS[joint]] + step
    return joints


def tiny_body(folder: Path) -> Body:
    """The body of `tiny_body_file`."""
    return load_body(tiny_body_file(folder))


def gradients(module: torch.nn.Module, batches: list[Batch]) -> dict[str, Tensor]:
    """Gradients of the mean loss over micro-batches, by parameter name."""
    module.zero_grad(set_to_none=True)
    for batch in batches:
        (module(batch)["loss"] / len(batches)).backward()
    return {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
