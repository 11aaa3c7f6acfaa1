"""Parametric body (SMPL's form) and hand (MANO's form): pose and shape in, mesh and joints out. The only door of smplx.

The linear blend skinning is smplx's. Files are read by `smpl_files`, so smplx's own unpickling loader is never called, and
only the joints of the file are given out: smplx would append vertices picked at SMPL's own numbers, which on another
mesh are other places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from smplx.lbs import lbs
from torch import Tensor, nn

from hpse_dist.body import joints
from hpse_dist.body.free_body import free_body_path
from hpse_dist.body.smpl_files import read_body_file
from hpse_dist.geometry.rotations import axis_angle_to_matrix

Arrays = Mapping[str, NDArray[Any]]

NUM_BETAS = 10
GENDERS = ("neutral", "female", "male")

# Joints of SMPL-H and SMPL-X files that SMPL's left_hand and right_hand stand for: all five finger bases, index, middle,
# little, ring, thumb. The middle finger's base is the place of the joint.
_FIRST_FINGER = {52: (22, 37), 55: (25, 40)}
_FINGER_BASES = (0, 3, 6, 9, 12)
_MIDDLE_FINGER = 3

# Vertices of MANO's mesh at the tips of thumb, index, middle, ring and little finger.
_MANO_TIPS = (745, 317, 445, 556, 673)
_MANO_VERTICES = 778


class BodyOutput(NamedTuple):
    """What a body or hand gives: `vertices` (B, V, 3) and `joints` (B, J, 3), metres."""

    vertices: Tensor
    joints: Tensor


class SkinnedMesh(nn.Module):
    """Shape components, pose correctives and linear blend skinning on the arrays of one file.

    Its buffers stay float32 whatever the module around it is cast to (bfloat16 would move a vertex two metres away by
    millimetres) and are not part of any state dict: licensed arrays never end up in a checkpoint.
    """

    faces: Tensor
    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    joint_regressor: Tensor
    skinning_weights: Tensor

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        num_vertices = len(arrays["v_template"])
        posedirs = np.asarray(arrays["posedirs"], dtype=np.float32).reshape(3 * num_vertices, -1).T
        for name, array in (
            ("v_template", arrays["v_template"]),
            ("shapedirs", arrays["shapedirs"][..., :NUM_BETAS]),
            ("posedirs", posedirs),
            ("joint_regressor", arrays["J_regressor"]),
            ("skinning_weights", arrays["weights"]),
        ):
            # A copy of our own, contiguous: torch warns about arrays it may not write to.
            self._keep(name, torch.from_numpy(np.array(array, dtype=np.float32, order="C")))
        self._keep("faces", torch.from_numpy(np.array(arrays["f"], dtype=np.int64)))
        # On the CPU for good: smplx uses these numbers as list positions, which on a GPU would wait for it 23 times.
        self.file_parents = torch.from_numpy(_parents(arrays["kintree_table"]))
        self.num_vertices = num_vertices

    def skin(self, rotations: Tensor, betas: Tensor, transl: Tensor) -> BodyOutput:
        """rotations (B, J, 3, 3) of every joint of the file, betas (B, 10), transl (B, 3) -> mesh and all joints."""
        with torch.autocast(device_type=rotations.device.type, enabled=False):
            vertices, places = lbs(
                betas.float(),
                rotations.float(),
                self.v_template,
                self.shapedirs,
                self.posedirs,
                self.joint_regressor,
                self.file_parents,
                self.skinning_weights,
                pose2rot=False,
            )
            shift = transl.float()[:, None]
        return BodyOutput(vertices + shift, places + shift)

    def rest_joints(self, betas: Tensor) -> Tensor:
        """betas (B, 10) -> (B, J, 3) joints of the file in the zero pose, before `transl`, metres."""
        shaped = self.v_template + torch.einsum("bk,vck->bvc", betas.float(), self.shapedirs)
        return torch.einsum("jv,bvc->bjc", self.joint_regressor, shaped)

    def _keep(self, name: str, tensor: Tensor) -> None:
        self.register_buffer(name, tensor, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SkinnedMesh:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = getattr(self, name)
            if new.dtype != old.dtype:
                setattr(self, name, old.to(new.device))
        return self


class Body(SkinnedMesh):
    """SMPL's interface over an SMPL, SMPL-H or SMPL-X file or the free body: 24 joints, 10 shape numbers.

    faces (F, 3) long; parents: 24 integers; vertex_part (V,) long in 1..14, see `joints.PART_NAMES`;
    vertex_uv (V, 2) and corner_uv (F, 3, 2) surface coordinates in 0..1. Corners differ from vertices at seams, where one
    vertex has several coordinates: interpolate over a face with `corner_uv`.
    """

    vertex_part: Tensor
    vertex_uv: Tensor
    corner_uv: Tensor

    def __init__(self, arrays: Arrays) -> None:
        super().__init__(arrays)
        self.parents = joints.PARENTS
        self.places, self.turned_by = _joint_maps(len(self.file_parents))
        if "vertex_part" in arrays:
            part = np.array(arrays["vertex_part"], dtype=np.int64)
        else:
            part = joints.parts_from_weights(np.asarray(arrays["weights"]), self._nearest_joint())
        self._keep("vertex_part", torch.from_numpy(part))
        uv = np.array(arrays["vertex_uv"]) if "vertex_uv" in arrays else _planar_uv(np.asarray(arrays["v_template"]))
        corner_uv = np.array(arrays["corner_uv"]) if "corner_uv" in arrays else uv[np.asarray(arrays["f"], dtype=np.int64)]
        self._keep("vertex_uv", torch.from_numpy(uv.astype(np.float32)))
        self._keep("corner_uv", torch.from_numpy(corner_uv.astype(np.float32)))

    def forward(self, global_orient: Tensor, body_pose: Tensor, betas: Tensor, transl: Tensor) -> BodyOutput:
        """global_orient (B, 3), body_pose (B, 69) axis-angle; betas (B, 10); transl (B, 3) metres."""
        pose = torch.cat([global_orient, body_pose], dim=1).unflatten(1, (24, 3)).float()
        return self.forward_matrices(axis_angle_to_matrix(pose), betas, transl)

    def forward_matrices(self, rotations: Tensor, betas: Tensor, transl: Tensor) -> BodyOutput:
        """The same from rotations (B, 24, 3, 3) relative to each joint's parent; the first is the global one."""
        if self.turned_by is not None:
            identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
            with_identity = torch.cat([rotations, identity.expand(len(rotations), 1, 3, 3)], dim=1)
            rotations = with_identity[:, self.turned_by]
        vertices, places = self.skin(rotations, betas, transl)
        return BodyOutput(vertices, places if self.places is None else places[:, self.places])

    def rest_joints(self, betas: Tensor) -> Tensor:
        """betas (B, 10) -> (B, 24, 3) joints in the zero pose, before `transl`, metres."""
        places = super().rest_joints(betas)
        return places if self.places is None else places[:, self.places]

    def _nearest_joint(self) -> list[int]:
        """For each joint of the file the joint of SMPL24 that carries it: its own, or its nearest ancestor's."""
        found: list[int] = []
        for index, parent in enumerate(self.file_parents.tolist()):
            own = index if self.turned_by is None else self.turned_by[index]
            found.append(own if own < 24 else found[parent])
        return found


class Hand(SkinnedMesh):
    """MANO: 16 joints and five finger tips (`joints.MANO21`), 10 shape numbers."""

    hands_mean: Tensor

    def __init__(self, arrays: Arrays, flat_mean: bool = False) -> None:
        super().__init__(arrays)
        if len(self.file_parents) != 16 or self.num_vertices != _MANO_VERTICES:
            raise ValueError(
                f"a MANO file has 16 joints and {_MANO_VERTICES} vertices, this one has {len(self.file_parents)} and "
                f"{self.num_vertices}; give a MANO file."
            )
        mean = np.zeros(45) if flat_mean else np.asarray(arrays["hands_mean"])
        self._keep("hands_mean", torch.from_numpy(mean.reshape(45).astype(np.float32)))

    def forward(self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor, transl: Tensor) -> BodyOutput:
        """global_orient (B, 3), hand_pose (B, 45) axis-angle added to the file's mean pose; 21 joints come out."""
        pose = torch.cat([global_orient, hand_pose + self.hands_mean], dim=1).unflatten(1, (16, 3)).float()
        vertices, places = self.skin(axis_angle_to_matrix(pose), betas, transl)
        return BodyOutput(vertices, torch.cat([places, vertices[:, list(_MANO_TIPS)]], dim=1))


def load_body(path: str | Path = "free", gender: Literal["neutral", "female", "male"] = "neutral") -> Body:
    """A body: "free", an SMPL, SMPL-H or SMPL-X file (.pkl, .npz), or a folder with SMPL_NEUTRAL.pkl and the like."""
    if gender not in GENDERS:
        raise ValueError(f"gender must be one of {', '.join(GENDERS)}, found {gender!r}.")
    if str(path) == "free":
        if gender != "neutral":
            raise ValueError(f"the free body comes in one gender, neutral; found {gender!r}.")
        return Body(read_body_file(free_body_path()))
    return Body(read_body_file(_model_file(Path(path), ("SMPL", "SMPLX", "SMPLH"), gender.upper())))


def load_hand(path: str | Path, side: Literal["left", "right"], flat_mean: bool = False) -> Hand:
    """A hand from a folder with MANO_RIGHT and MANO_LEFT (.pkl, .npz). flat_mean: rest is the flat hand.

    The published left model is faulty: the x components of its shape displacements have the right hand's sign. Whether
    a file is can only be seen beside the right one, so loading a left hand needs both.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', found {side!r}.")
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"{folder}: give the folder that holds MANO_LEFT and MANO_RIGHT.")
    right = read_body_file(_model_file(folder, ("MANO",), "RIGHT"))
    if side == "right":
        return Hand(right, flat_mean)
    left = read_body_file(_model_file(folder, ("MANO",), "LEFT"))
    return Hand(left | {"shapedirs": _mended_left(left["shapedirs"], right["shapedirs"])}, flat_mean)


def _mended_left(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """Left shape displacements (V, 3, K), with x turned round if it still has the right hand's sign."""
    left = np.array(left)
    if np.abs(left[:, 0] - right[:, 0]).mean() < 0.1 * np.abs(right[:, 0]).mean():
        left[:, 0] *= -1
    return left


def _model_file(path: Path, families: tuple[str, ...], variant: str) -> Path:
    if not path.is_dir():
        return path
    names = [f"{family}_{variant}.{ending}" for family in families for ending in ("pkl", "npz")]
    for name in names:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} holds none of {', '.join(names)}; put the model file there or give the file itself.")


def _parents(kintree_table: NDArray[Any]) -> NDArray[np.int64]:
    parents = np.array(kintree_table[0]).astype(np.int64)
    parents[0] = -1  # 2^32 - 1 in the files
    return parents


def _joint_maps(num_joints: int) -> tuple[list[int] | None, list[int] | None]:
    """(places, turned_by): which joint of the file is each of SMPL24, and which of SMPL24 turns each of the file's (24: none).

    None and None where they are the same.
    """
    if num_joints == 24:
        return None, None
    if num_joints not in _FIRST_FINGER:
        raise ValueError(
            f"a body file has 24 (SMPL), 52 (SMPL-H) or 55 (SMPL-X) joints, this one has {num_joints}; "
            "a hand is loaded with load_hand."
        )
    places = list(range(22))
    turned_by = list(range(22)) + [24] * (num_joints - 22)
    for hand, first in zip((22, 23), _FIRST_FINGER[num_joints], strict=True):
        places.append(first + _MIDDLE_FINGER)
        for base in _FINGER_BASES:
            turned_by[first + base] = hand
    return places, turned_by


def _planar_uv(template: NDArray[Any]) -> NDArray[np.float64]:
    """(V, 2) surface coordinates for files without any: the rest pose seen from the front, and from behind beside it."""
    low, high = template.min(axis=0), template.max(axis=0)
    seen = (template - low) / (high - low)
    behind = template[:, 2] < np.median(template[:, 2])
    return np.stack([np.where(behind, 1 - seen[:, 0] / 2, seen[:, 0] / 2), seen[:, 1]], axis=1)
