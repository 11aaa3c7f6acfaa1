"""Parametric body (SMPL) and hand (MANO): pose and shape to mesh and joints. The door of smplx.

smplx does the skinning. Files are read by `smpl_files`, never by smplx's own unpickling loader, and
only the file's own joints are given out: smplx would append vertices picked at SMPL's numbers,
which on another mesh are other places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from smplx.lbs import lbs
from torch import Tensor, nn

from hpse_dist.body import joints
from hpse_dist.body.free_body import free_body_path
from hpse_dist.body.free_hand import FILE_NAME as FREE_HAND_FILE
from hpse_dist.body.free_hand import free_hand_folder
from hpse_dist.body.smpl_files import read_body_file
from hpse_dist.constants import numbers
from hpse_dist.geometry.rotations import axis_angle_to_matrix
from hpse_dist.precision import in_full_precision

Arrays = Mapping[str, np.ndarray]
Gender = Literal["neutral", "female", "male"]

NUM_BETAS = 10
NUM_JOINTS = len(joints.SMPL24)
GENDERS = ("neutral", "female", "male")

# SMPL-H and SMPL-X files have fingers where SMPL has left_hand and right_hand. Number of joints of
# the file -> first joint of the left and of the right hand; five fingers of three joints each, the
# second finger being the middle one, whose base is the place of SMPL's hand joint.
_FIRST_FINGER = {52: (22, 37), 55: (25, 40)}
_FINGER_BASES = (0, 3, 6, 9, 12)
_MIDDLE_FINGER = 3

_MANO_VERTICES = 778
_MANO_TIPS = (745, 317, 445, 556, 673)  # thumb, index, middle, ring, little finger


class BodyOutput(NamedTuple):
    """What a body or hand gives: vertices (B, V, 3) and joints (B, J, 3), metres."""

    vertices: Tensor
    joints: Tensor


class _Parents:
    """The parents of joints as smplx uses them: single ones as positions in a list, for which a
    tensor on a GPU would be waited for once per joint, and a slice to index a tensor with."""

    def __init__(self, parents: tuple[int, ...], device: torch.device) -> None:
        self._parents, self._device = parents, device
        self.shape = (len(parents),)

    def __getitem__(self, place: int | slice) -> int | Tensor:
        found = self._parents[place]
        return numbers(found, self._device) if isinstance(found, tuple) else found


class SkinnedMesh(nn.Module):
    """Shape components, pose correctives and linear blend skinning over the arrays of one file.

    Its buffers stay float32 whatever the module around it is cast to (in bfloat16 a vertex two
    metres away would be off by millimetres), and they are in no state dict, so that licensed
    arrays never end up in a checkpoint.
    """

    faces: Tensor
    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    joint_regressor: Tensor
    skinning_weights: Tensor

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        self.num_vertices = len(arrays["v_template"])
        posedirs = np.asarray(arrays["posedirs"]).reshape(3 * self.num_vertices, -1).T
        self._keep("v_template", arrays["v_template"])
        self._keep("shapedirs", arrays["shapedirs"][..., :NUM_BETAS])
        self._keep("posedirs", posedirs)
        self._keep("joint_regressor", arrays["J_regressor"])
        self._keep("skinning_weights", arrays["weights"])
        self._keep("faces", arrays["f"], np.int64)
        parents = np.array(arrays["kintree_table"][0]).astype(np.int64)
        parents[0] = -1  # 2^32 - 1 in the files
        self.file_parents = tuple(parents.tolist())

    @in_full_precision
    def skin(self, rotations: Tensor, betas: Tensor, transl: Tensor) -> BodyOutput:
        """rotations (B, K, 3, 3) of the file's K joints, betas (B, 10), transl (B, 3) -> mesh."""
        vertices, places = lbs(
            betas.float(),
            rotations.float(),
            self.v_template,
            self.shapedirs,
            self.posedirs,
            self.joint_regressor,
            _Parents(self.file_parents, rotations.device),
            self.skinning_weights,
            pose2rot=False,
        )
        shift = transl.float()[:, None]
        return BodyOutput(vertices + shift, places + shift)

    @in_full_precision
    def rest_joints(self, betas: Tensor) -> Tensor:
        """betas (B, 10) -> (B, K, 3) the file's joints in the zero pose before `transl`, metres."""
        shaped = self.v_template + torch.einsum("bk,vck->bvc", betas.float(), self.shapedirs)
        return torch.einsum("jv,bvc->bjc", self.joint_regressor, shaped)

    def _keep(self, name: str, array: np.ndarray, dtype: type = np.float32) -> None:
        # A contiguous copy of our own: torch warns about arrays it may not write to.
        copy = torch.from_numpy(np.array(array, dtype=dtype, order="C"))
        self.register_buffer(name, copy, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SkinnedMesh:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = getattr(self, name)
            if new.dtype != old.dtype:
                setattr(self, name, old.to(new.device))
        return self


class Body(SkinnedMesh):
    """SMPL's interface over an SMPL, SMPL-H or SMPL-X file or the free body: 24 joints, 10 betas.

    faces (F, 3) int64; parents: 24 integers; vertex_part (V,) int64 in 1..14 (`joints.PART_NAMES`);
    vertex_uv (V, 2) and corner_uv (F, 3, 2) surface coordinates in 0..1. At a texture seam one
    vertex has several coordinates: interpolate over a face with its `corner_uv`.
    """

    vertex_part: Tensor
    vertex_uv: Tensor
    corner_uv: Tensor

    def __init__(self, arrays: Arrays) -> None:
        super().__init__(arrays)
        if self.shapedirs.shape[-1] < NUM_BETAS:
            raise ValueError(
                f"a body file needs {NUM_BETAS} shape components, this one has "
                f"{self.shapedirs.shape[-1]}."
            )
        self.parents = joints.PARENTS
        self.places, self.turned_by = _joint_maps(len(self.file_parents))
        part = arrays.get("vertex_part")
        if part is None:
            part = joints.parts_from_weights(arrays["weights"], self._nearest_joint())
        uv = arrays.get("vertex_uv")
        if uv is None:
            uv = _planar_uv(arrays["v_template"])
        corner_uv = arrays.get("corner_uv")
        if corner_uv is None:
            corner_uv = uv[self.faces.numpy()]
        self._keep("vertex_part", part, np.int64)
        self._keep("vertex_uv", uv)
        self._keep("corner_uv", corner_uv)

    def forward(
        self, global_orient: Tensor, body_pose: Tensor, betas: Tensor, transl: Tensor
    ) -> BodyOutput:
        """global_orient (B, 3), body_pose (B, 69) axis-angle; betas (B, 10); transl (B, 3) m."""
        pose = torch.cat([global_orient, body_pose], dim=1).unflatten(1, (NUM_JOINTS, 3))
        return self.forward_matrices(axis_angle_to_matrix(pose.float()), betas, transl)

    def forward_matrices(self, rotations: Tensor, betas: Tensor, transl: Tensor) -> BodyOutput:
        """The same from rotations (B, 24, 3, 3), each relative to its parent, the global first."""
        if self.turned_by is not None:
            identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
            identity = identity.expand(len(rotations), 1, 3, 3)
            rotations = torch.cat([rotations, identity], dim=1)
            rotations = rotations[:, numbers(self.turned_by, rotations.device)]
        vertices, places = self.skin(rotations, betas, transl)
        return BodyOutput(vertices, self._placed(places))

    def rest_joints(self, betas: Tensor) -> Tensor:
        """betas (B, 10) -> (B, 24, 3) joints in the zero pose before `transl`, metres."""
        return self._placed(super().rest_joints(betas))

    def _placed(self, places: Tensor) -> Tensor:
        """SMPL24 of the file's joints."""
        return places if self.places is None else places[:, numbers(self.places, places.device)]

    def _nearest_joint(self) -> list[int]:
        """For each joint of the file the one of SMPL24 it moves with: its own or an ancestor's."""
        found: list[int] = []
        for index, parent in enumerate(self.file_parents):
            own = index if self.turned_by is None else self.turned_by[index]
            found.append(own if own < NUM_JOINTS else found[parent])
        return found


class Hand(SkinnedMesh):
    """MANO: 16 joints and five finger tips (`joints.MANO21`), 10 betas.

    Of files on another mesh than MANO's, as the free hand's, `tips` says which vertices those are.
    parents: 21 integers, of the joints and the tips.
    """

    hands_mean: Tensor

    def __init__(self, arrays: Arrays, flat_mean: bool = False) -> None:
        super().__init__(arrays)
        known = "tips" in arrays or self.num_vertices == _MANO_VERTICES
        if len(self.file_parents) != 16 or not known:
            raise ValueError(
                f"a MANO file has 16 joints and {_MANO_VERTICES} vertices, this one has "
                f"{len(self.file_parents)} and {self.num_vertices}."
            )
        mean = np.zeros(45) if flat_mean else np.asarray(arrays["hands_mean"]).reshape(45)
        self._keep("hands_mean", mean)
        self.tips = tuple(int(vertex) for vertex in arrays.get("tips", _MANO_TIPS))
        self.parents = joints.MANO_PARENTS

    def forward(
        self, global_orient: Tensor, hand_pose: Tensor, betas: Tensor, transl: Tensor
    ) -> BodyOutput:
        """global_orient (B, 3), hand_pose (B, 45) axis-angle, added to the mean pose; 21 joints."""
        return self.forward_matrices(self.rotations(global_orient, hand_pose), betas, transl)

    def rotations(self, global_orient: Tensor, hand_pose: Tensor) -> Tensor:
        """Axis-angle as for `forward` -> (B, 16, 3, 3), the mean pose included."""
        pose = torch.cat([global_orient.float(), hand_pose + self.hands_mean], dim=1)
        return axis_angle_to_matrix(pose.unflatten(1, (16, 3)))

    def forward_matrices(self, rotations: Tensor, betas: Tensor, transl: Tensor) -> BodyOutput:
        """The same from rotations (B, 16, 3, 3), each relative to its parent, the global first."""
        vertices, places = self.skin(rotations, betas, transl)
        return BodyOutput(vertices, torch.cat([places, self._tips(vertices)], dim=1))

    @in_full_precision
    def rest_joints(self, betas: Tensor) -> Tensor:
        """betas (B, 10) -> (B, 21, 3) joints and tips in the flat pose before `transl`, metres."""
        shaped = self.v_template + torch.einsum("bk,vck->bvc", betas.float(), self.shapedirs)
        return torch.cat([super().rest_joints(betas), self._tips(shaped)], dim=1)

    def _tips(self, vertices: Tensor) -> Tensor:
        return vertices[:, numbers(self.tips, vertices.device)]


def load_body(path: str | Path = "free", gender: Gender = "neutral") -> Body:
    """A body: "free", a file (SMPL, SMPL-H, SMPL-X; .pkl, .npz), or a folder of SMPL_NEUTRAL.*."""
    if gender not in GENDERS:
        raise ValueError(f"gender must be one of {', '.join(GENDERS)}, found {gender!r}.")
    if str(path) == "free":
        if gender != "neutral":
            raise ValueError(f"the free body comes in one gender, neutral, found {gender!r}.")
        return Body(read_body_file(free_body_path()))
    file = _model_file(Path(path), ("SMPL", "SMPLX", "SMPLH"), gender.upper())
    arrays = read_body_file(file)
    try:
        return Body(arrays)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def load_hand(folder: str | Path, side: Literal["left", "right"], flat_mean: bool = False) -> Hand:
    """A hand from a folder with MANO_RIGHT and MANO_LEFT, or "free", which is a right one;
    flat_mean: the zero pose is flat.

    The published left model is faulty: in its shape displacements x has the right hand's sign.
    Whether a file is can be seen only beside the right one, so a left hand needs both.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side must be 'left' or 'right', found {side!r}.")
    if str(folder) == "free":
        if side != "right":
            raise ValueError("the free hand is a right hand; found side 'left'.")
        return Hand(read_body_file(free_hand_folder() / FREE_HAND_FILE), flat_mean)
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} must be the folder that holds MANO_LEFT and MANO_RIGHT.")
    right = read_body_file(_model_file(folder, ("MANO",), "RIGHT"))
    if side == "right":
        return Hand(right, flat_mean)
    left = read_body_file(_model_file(folder, ("MANO",), "LEFT"))
    left["shapedirs"] = mended_left(left["shapedirs"], right["shapedirs"])
    return Hand(left, flat_mean)


def mended_left(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Left hand's shape displacements (V, 3, K), x reversed if it has the right hand's sign."""
    left = np.array(left)
    if np.abs(left[:, 0] - right[:, 0]).mean() < 0.1 * np.abs(right[:, 0]).mean():
        left[:, 0] *= -1
    return left


def _model_file(path: Path, families: tuple[str, ...], variant: str) -> Path:
    if not path.is_dir():
        return path
    names = [f"{family}_{variant}.{end}" for family in families for end in ("pkl", "npz")]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        raise ValueError(f"{path} holds none of {', '.join(names)}: put one there or name a file.")
    return found[0]


def _joint_maps(num_joints: int) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """(places, turned_by): the file's joint for each of SMPL24, and the reverse.

    turned_by gives for each of the file's joints the one of SMPL24 that turns it, 24 for none;
    both None where the file's joints are SMPL24. Both hands' turns go to all five fingers' bases.
    """
    if num_joints == NUM_JOINTS:
        return None, None
    if num_joints not in _FIRST_FINGER:
        raise ValueError(
            f"a body file has 24 (SMPL), 52 (SMPL-H) or 55 (SMPL-X) joints, this one has "
            f"{num_joints}; MANO is loaded with load_hand."
        )
    places = list(range(22))
    turned_by = list(range(22)) + [NUM_JOINTS] * (num_joints - 22)
    for hand, first in zip((22, 23), _FIRST_FINGER[num_joints], strict=True):
        places.append(first + _MIDDLE_FINGER)
        for base in _FINGER_BASES:
            turned_by[first + base] = hand
    return tuple(places), tuple(turned_by)


def _planar_uv(template: np.ndarray) -> np.ndarray:
    """(V, 2) for files without coordinates: the zero pose seen from before and, beside, behind."""
    low, high = template.min(axis=0), template.max(axis=0)
    seen = (template - low) / (high - low)
    behind = template[:, 2] < np.median(template[:, 2])
    u = np.where(behind, 1 - seen[:, 0] / 2, seen[:, 0] / 2)
    return np.stack([u, seen[:, 1]], axis=1)
