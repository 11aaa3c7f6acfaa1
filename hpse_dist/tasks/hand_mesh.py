"""Hand mesh from one picture: pose, shape and camera of MANO or the free hand, as of a body.

Right hands: pictures of left ones are mirrored when a collection is made, as FreiHAND's are. The
place of a finger tip is that of its vertex at rest, carried by the finger's last joint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hpse_dist.body.model import NUM_BETAS, BodyOutput, Hand, load_hand
from hpse_dist.fields import Batch
from hpse_dist.metrics.hand import f_score, freihand_align
from hpse_dist.metrics.pose3d import pa_pve
from hpse_dist.tasks.base import Prediction
from hpse_dist.tasks.body_mesh import BodyMesh, BodyMeshConfig, place_joints
from hpse_dist.tasks.mesh_free import MeshFree, MeshFreeConfig

NUM_ROTATIONS = 16
NUM_JOINTS = 21
LABELS = ("hand_orient", "hand_pose", "hand_betas", "hand_transl")
NEEDS = ("image", "sample_id", "joints2d", "joints3d", *LABELS, "has_hand", "intrinsics")
SCALE = 9.0  # half crop sides per metre: a crop shows 22 cm
REACH = 0.14  # metres


@dataclass(frozen=True)
class HandMeshConfig(BodyMeshConfig):
    """Pose, shape and camera of a hand by one query over the encoder's tokens."""

    body: str = "free"
    """"free" for the free hand, or a folder with MANO_RIGHT."""
    start_scale: float = SCALE
    """Weak-perspective scale at the start: half crop sides per metre, 9 shows 22 cm."""
    joints3d_weight: float = 50.0
    """As in body_mesh; a hand is a tenth of a body."""
    joints_body_weight: float = 50.0
    """As in body_mesh, in the wrist's own frame."""
    camera_weight: float = 10.0
    """L1 of the wrist's place, as a picture shows it. A hand is seen from all sides, so rotations
    are found late, and until then 2D joints alone draw it small and far away."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_pose or self.start_betas:
            raise ValueError("start_pose and start_betas are a body's; a hand starts at its mean")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return NEEDS


class HandMesh(BodyMesh):
    """Encoder, query head, and a parametric hand."""

    Config = HandMeshConfig
    protocols = ("synthetic-hand",)
    config: HandMeshConfig
    body: Hand
    name = "hand_mesh"
    labels = LABELS
    has = "has_hand"
    num_rotations = NUM_ROTATIONS
    num_joints = NUM_JOINTS
    reach = REACH

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """mpjpe, pa_mpjpe, pve and pa_pve, mm per example, of 21 joints; the wrist is the root.
        f_5 and f_15, percent of the mesh within 5 and 15 mm after FreiHAND's alignment."""
        return super().errors(prediction, batch) | _aligned(
            prediction, self._true_body(batch), batch
        )

    def _load(self) -> Hand:
        return load_hand(self.config.body, "right")

    def _start(self) -> tuple[Tensor, Tensor]:
        zero = torch.zeros(1, 3), torch.zeros(1, 3 * (NUM_ROTATIONS - 1))
        return self.body.rotations(*zero)[0], torch.zeros(NUM_BETAS)

    def _true_rotations(self, batch: Batch) -> Tensor:
        return self.body.rotations(batch["hand_orient"], batch["hand_pose"])

    def _of_labels(self, pose: Tensor) -> Tensor:
        return pose - self.body.hands_mean

    def _joints(self, rotations: Tensor, betas: Tensor) -> Tensor:
        tips = torch.eye(3, device=rotations.device).expand(len(rotations), 5, 3, 3)
        rotations = torch.cat((rotations, tips), dim=1)
        return place_joints(rotations, self.body.rest_joints(betas), self.body.parents)


@dataclass(frozen=True)
class HandMeshFreeConfig(MeshFreeConfig):
    """Joints and vertices of a hand by a token each."""

    hand: str = "free"
    """"free" for the free hand, or a folder with MANO_RIGHT: the mesh."""
    num_mid: int = 389
    """Vertices of the middle mesh; FastMETRO has none for hands, 195 go up to 778 at once."""
    num_coarse: int = 195
    """Vertices of the coarse mesh, a token each."""
    start_scale: float = SCALE
    """Weak-perspective scale at the start: half crop sides per metre, 9 shows 22 cm."""
    joints3d_weight: float = 100.0
    """L1 of joints relative to the wrist, metres; a hand is a tenth of a body."""
    vertices_weight: float = 10.0
    """L1 of vertices relative to the wrist, metres."""
    edges_weight: float = 10.0
    """L1 of the lengths of the middle mesh's edges, metres."""
    camera_weight: float = 10.0
    """L1 of the wrist's place, as a picture shows it. A hand is seen from all sides, so rotations
    are found late, and until then 2D joints alone draw it small and far away."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return tuple(name for name in NEEDS if name != "sample_id")


class HandMeshFree(MeshFree):
    """A hand whose vertices are predicted one by one."""

    Config = HandMeshFreeConfig
    protocols = ("synthetic-hand",)
    config: HandMeshFreeConfig
    mesh: Hand
    name = "hand_mesh_free"
    has = "has_hand"
    reach = REACH

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """mpjpe, pa_mpjpe, pve and pa_pve, mm per example, of 21 joints; the wrist is the root.
        f_5 and f_15, percent of the mesh within 5 and 15 mm after FreiHAND's alignment."""
        return super().errors(prediction, batch) | _aligned(
            prediction, self.true_mesh(batch), batch
        )

    def true_mesh(self, batch: Batch) -> BodyOutput:
        output: BodyOutput = self.mesh(*(batch[name] for name in LABELS))
        return output

    def _load(self) -> Hand:
        return load_hand(self.config.hand, "right")


def _aligned(prediction: Prediction, true: BodyOutput, batch: Batch) -> dict[str, Tensor]:
    mine = prediction["vertices"]
    fitted = freihand_align(mine, true.vertices)
    figures = {
        "pa_pve": pa_pve(mine, true.vertices),
        "f_5": f_score(fitted, true.vertices, 5.0),
        "f_15": f_score(fitted, true.vertices, 15.0),
    }
    return {k: value.where(batch["has_hand"], math.nan) for k, value in figures.items()}
