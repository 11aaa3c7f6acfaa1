"""Body mesh from one picture: pose, shape and camera of a parametric body.

After HMR 2.0 (Goel et al., ICCV 2023): one query reads the encoder's tokens, three linear layers
give differences to a start pose, shape and camera. Two things differ. The camera is full
perspective: the weak-perspective numbers place the pelvis along the ray through the crop's centre,
by the crop's own intrinsics, and rotations are predicted relative to that ray, so that equal
pictures have equal answers wherever in the full image they were cut out. And every loss is a mean
over elements, summed over the rows that have the label and divided by the batch, so it does not
depend on how a batch was split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hpse_dist.body.kinematics import place_joints
from hpse_dist.body.model import BodyOutput, load_body
from hpse_dist.fields import Batch
from hpse_dist.geometry.camera import (
    known_intrinsics,
    place_on_ray,
    project,
    rotation_to_ray,
)
from hpse_dist.geometry.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_six_d,
    six_d_to_matrix,
)
from hpse_dist.metrics.pose3d import mpjpe, pa_mpjpe, pve
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.heads import QueryHead
from hpse_dist.objectives.base import PANEL_ROWS
from hpse_dist.precision import in_full_precision
from hpse_dist.tasks.base import Prediction, Task
from hpse_dist.tasks.labels import (
    from_root,
    labelled_joints,
    placing_errors,
    weighted,
    with_root,
)
from hpse_dist.tasks.mesh_panels import mesh_rows

NUM_JOINTS = 24
NUM_BETAS = 10
NEAREST = 0.2  # metres: points nearer than this are projected as if they were here


@dataclass(frozen=True)
class BodyMeshConfig:
    """Pose, shape and camera of a parametric body by one query over the encoder's tokens."""

    body: str = "free"
    """"free", an SMPL, SMPL-H or SMPL-X file, or a folder of such files."""
    head_dim: int = 1024
    """Channels of the query."""
    head_depth: int = 6
    """Blocks of the head."""
    heads: int = 8
    """Attention heads of 64 channels in each block."""
    head_hidden: int = 1024
    """Channels inside the head's MLPs."""
    start_pose: tuple[float, ...] = ()
    """Body pose (69 axis-angle numbers) from which the head predicts differences; none: zero."""
    start_betas: tuple[float, ...] = ()
    """Shape (10 numbers) from which the head predicts differences; none: zero."""
    start_scale: float = 0.9
    """Weak-perspective scale at the start: half crop sides per metre, 0.9 shows 2.2 m."""
    focal: float = 5.0
    """Focal length in crop sides for rows without intrinsics."""
    joints3d_weight: float = 5.0
    """L1 of joints relative to the pelvis, in the camera frame, metres."""
    joints_body_weight: float = 5.0
    """L1 of joints in the pelvis's own frame, metres: the pose, whatever the global rotation."""
    joints2d_weight: float = 5.0
    """L1 of projected joints, shares of the crop."""
    camera_weight: float = 0.0
    """L1 of the root's place, as a picture shows it: logarithm of the depth, and shares of the crop
    across; where 3D joints and intrinsics are known. 0: 2D joints alone teach the camera, as in HMR
    2.0. Small data whose rotations are hard to find wants it."""
    orient_weight: float = 1.0
    """Squared error of the global rotation."""
    pose_weight: float = 1.0
    """Squared error of the other joints' rotations."""
    rotation_error: Literal["matrix", "six_d"] = "matrix"
    """What those compare: the rotations' matrices, as HMR 2.0, or the six numbers they are made of,
    before they are made orthonormal: the mean of several rotations is a point that six numbers can
    go to while a picture is still ambiguous, and no rotation can. Short trainings want it."""
    betas_weight: float = 0.01
    """Squared error of the shape."""
    vertices_weight: float = 0.0
    """L1 of vertices relative to the pelvis, metres; 0 skips the skinning in training."""

    def __post_init__(self) -> None:
        for name in ("head_dim", "head_depth", "heads", "head_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if min(self.start_scale, self.focal) <= 0.0:
            raise ValueError("start_scale and focal must be above 0")
        for name, count in (("start_pose", 3 * (NUM_JOINTS - 1)), ("start_betas", NUM_BETAS)):
            if len(getattr(self, name)) not in (0, count):
                raise ValueError(f"{name} must have {count} numbers, or none for zeros")
        weights = [v for k, v in vars(self).items() if k.endswith("_weight")]
        if min(weights) < 0.0 or not any(weights):
            raise ValueError("the weights must be 0 or more and not all 0")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        labels = ("global_orient", "body_pose", "betas", "transl", "has_body")
        return ("image", "sample_id", "joints2d", "joints3d", *labels, "intrinsics")


class BodyMesh(Task):
    """Encoder, query head, and a parametric body."""

    Config = BodyMeshConfig
    protocols = ("synthetic-24",)
    config: BodyMeshConfig
    name = "body_mesh"
    labels = ("global_orient", "body_pose", "betas", "transl")
    has = "has_body"
    num_rotations = NUM_JOINTS
    num_joints = NUM_JOINTS
    reach = 1.1  # metres shown about the root in panels
    start_rotations: Tensor
    start_betas: Tensor

    def __init__(self, config: BodyMeshConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.body = self._load()
        self.head = QueryHead(
            encoder.dim, config.head_dim, config.head_depth, config.heads, 64, config.head_hidden
        )
        self.to_pose = nn.Linear(config.head_dim, self.num_rotations * 6)
        self.to_betas = nn.Linear(config.head_dim, NUM_BETAS)
        self.to_camera = nn.Linear(config.head_dim, 3)
        for layer in (self.to_pose, self.to_betas, self.to_camera):
            nn.init.xavier_uniform_(layer.weight, gain=0.01)  # starts at the start pose
            nn.init.zeros_(layer.bias)
        rotations, betas = self._start()
        self.register_buffer("start_rotations", matrix_to_six_d(rotations), persistent=False)
        self.register_buffer("start_betas", betas, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` and its parts before weighting: L1 of 3D joints (in the camera's and in the
        pelvis's frame), of 2D joints, of the pelvis's place and of vertices, squared errors of
        global rotation, pose and shape.

        Joints are compared in the pelvis's frame too because, while the global rotation is still
        unknown, errors in the camera frame alone are least for limbs drawn in towards the body.

        Each part is a mean over a row's elements, summed over the rows that have the label and
        divided by B.
        """
        return self.losses(self._regress(batch), batch)

    def losses(self, guess: Prediction, batch: Batch) -> dict[str, Tensor]:
        """What `forward` returns, of a guess made by `_regress`."""
        has_body, rotations = batch[self.has].float(), self._true_rotations(batch)
        apart = self._rotation_errors(guess, rotations)
        joints3d, weight3d = self._labelled_joints(batch, "joints3d")
        joints2d, weight2d = self._labelled_joints(batch, "joints2d")
        mine, true = from_root(guess["joints3d"]), from_root(joints3d)
        in_camera = (mine - true).abs().mean(-1)
        in_body = _turned_back(mine, guess["rotations"]) - _turned_back(true, rotations)
        in_body = in_body.abs().mean(-1)
        # a joint's place relative to the pelvis is known only where the pelvis is
        weight3d = with_root(weight3d)
        parts = {
            "joints3d": weighted(in_camera, weight3d),
            "joints_body": weighted(in_body, weight3d * has_body[:, None]),
            "joints2d": weighted((guess["joints2d"] - joints2d).abs().mean(-1), weight2d),
            "orient": (apart[:, 0] * has_body).mean(),
            "pose": (apart[:, 1:].mean(1) * has_body).mean(),
            "betas": ((guess["betas"] - batch[self.labels[2]]).square().mean(1) * has_body).mean(),
        }
        if self.config.camera_weight:
            off = placing_errors(guess["joints3d"][:, 0], joints3d[:, 0], batch["intrinsics"])
            parts["camera"] = weighted(off[:, None], weight3d[:, :1])
        if self.config.vertices_weight:
            parts["vertices"] = (self._mesh_error(guess, batch) * has_body).mean()
        terms = [getattr(self.config, f"{name}_weight") * part for name, part in parts.items()]
        logged = {f"loss_{name}": part.detach() for name, part in parts.items()}
        return {"loss": torch.stack(terms).sum()} | logged

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """The body in each picture, from `image` and, where known, `intrinsics`.

        rotations (B, 24, 3, 3), global_orient (B, 3), body_pose (B, 69), betas (B, 10), transl
        (B, 3), joints3d (B, 24, 3) and vertices (B, V, 3) in metres in the camera frame, joints2d
        (B, 24, 2) in 0..1 of the crop, intrinsics (B, 3, 3) as used.
        """
        return self._finished(self._regress(batch))

    def _finished(self, guess: Prediction) -> Prediction:
        """What `predict` returns, of a guess made by `_regress`."""
        del guess["six_d"]
        pelvis = guess["joints3d"][:, 0]
        transl = pelvis - self.body.rest_joints(guess["betas"])[:, 0]
        output = self.body.forward_matrices(guess["rotations"], guess["betas"], transl)
        pose = matrix_to_axis_angle(guess["rotations"])
        values = (pose[:, 0], self._of_labels(pose[:, 1:].flatten(1)), guess.pop("betas"), transl)
        named = dict(zip(self.labels, values, strict=True))
        return guess | named | {"vertices": output.vertices}

    @torch.no_grad()
    def truth(self, batch: Batch) -> Prediction:
        """The labelled body under the names of `predict`; its joints are the labels' own."""
        return {name: batch[name] for name in self.labels} | {
            "rotations": self._true_rotations(batch),
            "joints3d": self._labelled_joints(batch, "joints3d")[0],
            "joints2d": self._labelled_joints(batch, "joints2d")[0],
            "vertices": self._true_body(batch).vertices,
            "intrinsics": self._intrinsics(batch),
        }

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """mpjpe, pa_mpjpe (over labelled joints) and pve, mm per example.

        Joints are the body's own 24, the pelvis is the root; NaN for a row without the label.
        """
        true, confidence = self._labelled_joints(batch, "joints3d")
        known = confidence > 0
        body = self._true_body(batch)
        mine = prediction["joints3d"]
        mesh = pve(prediction["vertices"], body.vertices, mine[:, 0], body.joints[:, 0])
        return {
            "mpjpe": mpjpe(mine, true, known),
            "pa_mpjpe": pa_mpjpe(mine, true, known),
            "pve": mesh.where(batch[self.has], math.nan),
        }

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """The predicted mesh over the picture, and from the side beside the labelled one."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        guess, error = self.predict(batch), self.metrics(batch)["mpjpe"]
        true, faces = self._true_body(batch), self.body.faces.cpu().numpy()
        known = batch[self.has]
        picture = mesh_rows(batch, guess, true, known, faces, error, reach=self.reach)
        return {self.name: picture}

    def _regress(self, batch: Batch) -> Prediction:
        """Rotations, shape and joints from the picture, with gradients and without skinning."""
        image = batch["image"]
        return self._of_token(self.head(self.encoder(image), self.encoder.grid(image)), batch)

    def _of_token(self, token: Tensor, batch: Batch) -> Prediction:
        """The same from what the query has read (B, C)."""
        intrinsics = self._intrinsics(batch)
        with torch.autocast(token.device.type, enabled=False):
            token = token.float()
            six_d = self.to_pose(token).unflatten(1, (self.num_rotations, 6))
            six_d = self.start_rotations.float() + six_d
            betas = self.start_betas.float() + self.to_betas(token)
            camera = self.to_camera(token)
            rotations = six_d_to_matrix(six_d, "contiguous")
            ray = rotation_to_ray(intrinsics)
            pelvis = place_on_ray(camera, self.config.start_scale, intrinsics, ray)
            rotations = torch.cat((ray[:, None] @ rotations[:, :1], rotations[:, 1:]), dim=1)
            joints = self._joints(rotations, betas)
            joints = joints + pelvis[:, None]
            seen = torch.cat((joints[..., :2], joints[..., 2:].clamp(min=NEAREST)), dim=-1)
        return {
            "six_d": six_d,
            "rotations": rotations,
            "betas": betas,
            "joints3d": joints,
            "joints2d": project(seen, intrinsics),
            "intrinsics": intrinsics,
        }

    def _intrinsics(self, batch: Batch) -> Tensor:
        """The batch's camera matrices; the config's focal length where a row has none (zeros)."""
        return known_intrinsics(batch.get("intrinsics"), self.config.focal, batch["image"])

    def _labelled_joints(self, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        """Places (B, J, 2 or 3) and confidence (B, J) of the joints in a field."""
        return labelled_joints(batch, name, self.num_joints, self.name)

    def _true_body(self, batch: Batch) -> BodyOutput:
        return self.body(*(batch[name] for name in self.labels))

    def _load(self) -> Any:
        """The parametric mesh."""
        return load_body(self.config.body)

    def _start(self) -> tuple[Tensor, Tensor]:
        """Rotations (K, 3, 3) and shape (10,) from which differences are predicted."""
        return start_of(self.config)

    def _true_rotations(self, batch: Batch) -> Tensor:
        """(B, K, 3, 3) of the labelled pose."""
        pose = torch.cat((batch[self.labels[0]], batch[self.labels[1]]), dim=1)
        return axis_angle_to_matrix(pose.unflatten(1, (-1, 3)))

    def _of_labels(self, pose: Tensor) -> Tensor:
        """Turns of the joints (B, 3(K-1)) as the labels count them."""
        return pose

    def _joints(self, rotations: Tensor, betas: Tensor) -> Tensor:
        """(B, J, 3) relative to the root."""
        return place_joints(rotations, self.body.rest_joints(betas), self.body.parents)

    @in_full_precision
    def _rotation_errors(self, guess: Prediction, rotations: Tensor) -> Tensor:
        """Mean squared error of each joint's rotation: true (B, 24, 3, 3) -> (B, 24)."""
        if self.config.rotation_error == "matrix":
            return (guess["rotations"] - rotations).square().mean((2, 3))
        ray = rotation_to_ray(guess["intrinsics"])
        from_ray = ray.mT[:, None] @ rotations[:, :1]  # as the global rotation is predicted
        wanted = matrix_to_six_d(torch.cat((from_ray, rotations[:, 1:]), dim=1))
        return (guess["six_d"] - wanted).square().mean(2)

    def _mesh_error(self, guess: Prediction, batch: Batch) -> Tensor:
        """Mean L1 distance of vertices relative to each mesh's own pelvis, (B,) metres."""
        nowhere = torch.zeros_like(batch[self.labels[3]])
        mine = self.body.forward_matrices(guess["rotations"], guess["betas"], nowhere)
        true = self._true_body(batch)
        apart = (mine.vertices - mine.joints[:, :1]) - (true.vertices - true.joints[:, :1])
        return apart.abs().mean((1, 2))


@in_full_precision
def _turned_back(points: Tensor, rotations: Tensor) -> Tensor:
    """Points (B, J, 3) of the camera frame in the pelvis's, rotations (B, K, 3, 3)."""
    return points @ rotations[:, 0]  # row vectors: x R is R^T x


def start_of(config: BodyMeshConfig) -> tuple[Tensor, Tensor]:
    """Start rotations (24, 3, 3) and shape (10,): the person upright and facing the camera.

    The camera frame has y down and z forward, a body's own frame y up and its face along z: so the
    start of the global rotation is half a turn about x, diag(1, -1, -1).
    """
    pose = torch.zeros(NUM_JOINTS, 3)
    if config.start_pose:
        pose[1:] = torch.tensor(config.start_pose).view(-1, 3)
    rotations = axis_angle_to_matrix(pose)
    rotations[0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    return rotations, torch.tensor(config.start_betas or (0.0,) * NUM_BETAS)
