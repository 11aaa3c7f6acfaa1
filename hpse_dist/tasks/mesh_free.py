"""What model-free meshes share: a token for each joint and coarse vertex, and the way up from them.

After FastMETRO (Cho et al., ECCV 2022): camera, joints and coarse vertices from tokens, a learned
matrix up to a middle mesh, a fixed one up to the full mesh. The camera and the losses' means are
those of body_mesh: full perspective, places relative to the ray through the crop's centre, every
loss a mean over a row's elements, summed over the rows that have the label and divided by the
batch. Vertices are relative to the root joint's own token. Joints are not regressed from the mesh
besides: a regressor made at rest, as the free body's, does not hold in other poses. Edges are not
held together on their own either (1e-4 in the paper): labels hold them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpse_dist.body.coarse import Coarse, coarsened, edges_of
from hpse_dist.body.free_body import cache_folder
from hpse_dist.body.model import BodyOutput, SkinnedMesh
from hpse_dist.fields import Batch
from hpse_dist.geometry.camera import known_intrinsics, place_on_ray, project, rotation_to_ray
from hpse_dist.metrics.pose3d import mpjpe, pa_mpjpe, pve
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.tokens import MeshTokens
from hpse_dist.tasks.base import Prediction, Task
from hpse_dist.tasks.labels import (
    from_root,
    labelled_joints,
    placing_errors,
    turned_errors,
    weighted,
    with_root,
)
from hpse_dist.tasks.mesh_panels import mesh_rows

NEAREST = 0.05  # metres: points nearer than this are projected as if they were here
WORTH_KEEPING = 2000  # vertices: coarser meshes of larger ones are kept on disk


@dataclass(frozen=True)
class MeshFreeConfig:
    """A mesh whose vertices are predicted one by one."""

    num_mid: int = 1723
    """Vertices of the middle mesh, interpolated to the full one by a fixed matrix."""
    num_coarse: int = 431
    """Vertices of the coarse mesh, a token each, brought to the middle one by a learned matrix."""
    dims: tuple[int, ...] = (512, 128)
    """Channels of the tokens in each stage of the network."""
    depth: int = 3
    """Blocks over the picture, and as many over the tokens, in each stage."""
    heads: int = 8
    """Attention heads in each block."""
    start_scale: float = 0.9
    """Weak-perspective scale at the start: half crop sides per metre, 0.9 shows 2.2 m."""
    focal: float = 5.0
    """Focal length in crop sides for rows without intrinsics."""
    joints3d_weight: float = 10.0
    """L1 of joints relative to the root, metres."""
    turned_weight: float = 0.0
    """L1 of joints and of coarse vertices after the best rotation, besides: short trainings want
    it, in which a person's rotation is not found before its pose."""
    vertices_weight: float = 1.0
    """L1 of vertices relative to the root, metres: a quarter each for the coarse and the full mesh,
    half for the middle one."""
    edges_weight: float = 5.0
    """L1 of the lengths of the middle mesh's edges, metres."""
    normals_weight: float = 0.1
    """How far edges of the middle mesh stand out of the true surface: cosine with its normals."""
    joints2d_weight: float = 2.0
    """L1 of projected joints, shares of the crop."""
    camera_weight: float = 0.0
    """L1 of the root's place, as a picture shows it: logarithm of the depth, and shares of the crop
    across; where 3D joints and intrinsics are known. 0: 2D joints alone teach the camera, as in
    FastMETRO."""

    def __post_init__(self) -> None:
        for name in ("num_coarse", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.num_mid < self.num_coarse:
            raise ValueError(
                f"num_mid must be at least num_coarse, {self.num_coarse}, found {self.num_mid}"
            )
        if not self.dims or any(dim < 1 or dim % (4 * self.heads) for dim in self.dims):
            raise ValueError(
                f"dims must be multiples of 4 * heads, {4 * self.heads}, found {list(self.dims)}"
            )
        if min(self.start_scale, self.focal) <= 0.0:
            raise ValueError("start_scale and focal must be above 0")
        weights = [v for k, v in vars(self).items() if k.endswith("_weight")]
        if min(weights) < 0.0 or not any(weights):
            raise ValueError("the weights must be 0 or more and not all 0")


class MeshFree(Task):
    """Encoder, tokens and matrices; a subclass says of which mesh.

    `upright` is its start: the mesh at rest stands so in the camera frame.
    """

    config: MeshFreeConfig
    name = "a mesh"
    has = "has_body"
    reach = 1.1  # metres shown about the root in panels
    upright: tuple[float, float, float] = (1.0, 1.0, 1.0)
    mid: Tensor
    coarse: Tensor
    edges: Tensor
    faces_mid: Tensor
    fine: Tensor
    rest: Tensor

    def __init__(self, config: MeshFreeConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.mesh = self._load()
        template, faces = self.mesh.v_template.numpy(), self.mesh.faces.numpy()
        cache = cache_folder() if len(template) >= WORTH_KEEPING else None
        mid, coarse = coarsened(template, faces, (config.num_mid, config.num_coarse), cache)
        joints = self.mesh.rest_joints(torch.zeros(1, self.mesh.shapedirs.shape[-1]))[0]
        self.num_joints = len(joints)
        self._keep_mesh(mid, coarse, joints)
        adjacency = torch.from_numpy(coarse.adjacency())
        self.head = MeshTokens(
            encoder.dim, self.num_joints, adjacency, config.dims, config.depth, config.heads
        )
        self.up = nn.Parameter(matrix_of(coarse))
        self.to_place = nn.Linear(config.dims[-1], 3)
        self.to_camera = nn.Linear(config.dims[-1], 3)
        for layer in (self.to_place, self.to_camera):
            nn.init.xavier_uniform_(layer.weight, gain=0.1)  # starts near the mesh at rest
            nn.init.zeros_(layer.bias)

    def _keep_mesh(self, mid: Coarse, coarse: Coarse, joints: Tensor) -> None:
        """The meshes as buffers, and where joints and coarse vertices are at rest."""
        chosen = mid.chosen[coarse.chosen]
        places = torch.cat((joints, self.mesh.v_template[chosen])) - joints[0]
        numbers = {
            "mid": mid.chosen,
            "coarse": coarse.chosen,  # numbers in the middle mesh
            "edges": edges_of(mid.faces).T.copy(),
            "faces_mid": mid.faces.T.copy(),
        }
        for name, array in numbers.items():
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        # whole and not sparse: 47 MB for SMPL, and its product is a small part of a step
        self.register_buffer("fine", matrix_of(mid), persistent=False)
        self.register_buffer("rest", places * torch.tensor(self.upright), persistent=False)

    def _load(self) -> SkinnedMesh:
        """The parametric mesh whose topology is used and whose labels are learnt from."""
        raise NotImplementedError

    def true_mesh(self, batch: Batch) -> BodyOutput:
        """The labelled mesh and its joints, the root first, in the camera frame."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` and its parts before weighting: L1 of joints in 3D and 2D and of vertices; edges'
        lengths, and edges against the true surface's normals, on the middle mesh; where weighted,
        the camera's placing."""
        guess = self._regress(batch)
        known = batch[self.has].float()
        joints3d, weight3d = self._labelled(batch, "joints3d")
        joints2d, weight2d = self._labelled(batch, "joints2d")
        with torch.no_grad():
            true = self.true_mesh(batch)
            full = true.vertices - true.joints[:, :1]
        mid, surface = full[:, self.mid], self._surface(guess["mid"], full[:, self.mid])
        apart = 0.25 * _l1(guess["coarse"], mid[:, self.coarse]) + 0.5 * _l1(guess["mid"], mid)
        apart = apart + 0.25 * _l1(guess["full"], full)
        in3d = (guess["joints"] - from_root(joints3d)).abs().mean(-1)
        placed = with_root(weight3d)
        in2d = (guess["joints2d"] - joints2d).abs().mean(-1)
        parts = {
            "joints3d": weighted(in3d, placed),
            "vertices": (apart * known).mean(),
            "edges": (surface[0] * known).mean(),
            "normals": (surface[1] * known).mean(),
            "joints2d": weighted(in2d, weight2d),
        }
        if self.config.camera_weight:
            off = placing_errors(guess["root"][:, 0], joints3d[:, 0], batch["intrinsics"])
            parts["camera"] = weighted(off[:, None], weight3d[:, :1])
        if self.config.turned_weight:
            turned = turned_errors(guess["joints"], from_root(joints3d), placed)
            low = mid[:, self.coarse]
            mesh = turned_errors(guess["coarse"], low, torch.ones_like(low[..., 0])).mean(1)
            parts["turned"] = weighted(turned, placed) + (mesh * known).mean()
        terms = [getattr(self.config, f"{name}_weight") * part for name, part in parts.items()]
        logged = {f"loss_{name}": part.detach() for name, part in parts.items()}
        return {"loss": torch.stack(terms).sum()} | logged

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """The mesh in each picture, from `image` and, where known, `intrinsics`: joints3d (B, J, 3)
        and vertices (B, V, 3) in metres in the camera frame, joints2d (B, J, 2) in 0..1 of the
        crop, intrinsics (B, 3, 3) as used."""
        guess = self._regress(batch)
        return {
            "joints3d": guess["joints"] + guess["root"],
            "vertices": guess["full"] + guess["root"],
            "joints2d": guess["joints2d"],
            "intrinsics": guess["intrinsics"],
        }

    @torch.no_grad()
    def truth(self, batch: Batch) -> Prediction:
        """The labelled mesh under the names of `predict`; its joints are the labels' own."""
        return {
            "joints3d": self._labelled(batch, "joints3d")[0],
            "vertices": self.true_mesh(batch).vertices,
            "joints2d": self._labelled(batch, "joints2d")[0],
            "intrinsics": self._intrinsics(batch),
        }

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """mpjpe, pa_mpjpe (over labelled joints) and pve, mm per example; the first joint is the
        root. NaN for a row without the label."""
        true, confidence = self._labelled(batch, "joints3d")
        known, mine, mesh = confidence > 0, prediction["joints3d"], self.true_mesh(batch)
        apart = pve(prediction["vertices"], mesh.vertices, mine[:, 0], mesh.joints[:, 0])
        return {
            "mpjpe": mpjpe(mine, true, known),
            "pa_mpjpe": pa_mpjpe(mine, true, known),
            "pve": apart.where(batch[self.has], math.nan),
        }

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """The predicted mesh over the picture, and from the side beside the labelled one."""
        guess, true = self.predict(batch), self.true_mesh(batch)
        faces, error = self.mesh.faces.cpu().numpy(), self.errors(guess, batch)["mpjpe"]
        known = batch[self.has]
        return {self.name: mesh_rows(batch, guess, true, known, faces, error, reach=self.reach)}

    def _regress(self, batch: Batch) -> Prediction:
        """Joints and vertices relative to the root, and where it is, from the picture."""
        image = batch["image"]
        camera, joints, vertices = self.head(self.encoder(image), self.encoder.grid(image))
        intrinsics = self._intrinsics(batch)
        with torch.autocast(image.device.type, enabled=False):
            places = self.to_place(torch.cat((joints, vertices), dim=1).float())
            camera = self.to_camera(camera.float())
            ray = rotation_to_ray(intrinsics)
            places = from_root(self.rest.float() + places) @ ray.mT
            joints, coarse = places[:, : self.num_joints], places[:, self.num_joints :]
            mid = torch.einsum("mc,bcx->bmx", self.up.float(), coarse)
            full = torch.einsum("vm,bmx->bvx", self.fine.float(), mid)
            root = place_on_ray(camera, self.config.start_scale, intrinsics, ray)[:, None]
            seen = joints + root
            seen = torch.cat((seen[..., :2], seen[..., 2:].clamp(min=NEAREST)), dim=-1)
        return {
            "joints": joints,
            "coarse": coarse,
            "mid": mid,
            "full": full,
            "root": root,
            "joints2d": project(seen, intrinsics),
            "intrinsics": intrinsics,
        }

    def _surface(self, mine: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Mean errors (B,) of the lengths of edges, and cosines of edges with the true normals."""
        a, b = self.edges
        lengths = _between(mine, a, b).norm(dim=-1) - _between(true, a, b).norm(dim=-1)
        first, second, third = self.faces_mid
        normal = torch.cross(_between(true, first, second), _between(true, first, third), dim=-1)
        normal = F.normalize(normal, dim=-1)
        edges = ((first, second), (second, third), (third, first))
        directions = [F.normalize(_between(mine, *edge), dim=-1) for edge in edges]
        tilt = torch.stack([(edge * normal).sum(-1).abs().mean(1) for edge in directions]).mean(0)
        return lengths.abs().mean(1), tilt

    def _intrinsics(self, batch: Batch) -> Tensor:
        return known_intrinsics(batch.get("intrinsics"), self.config.focal, batch["image"])

    def _labelled(self, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
        """Places and confidence of the joints in a field."""
        return labelled_joints(batch, name, self.num_joints, self.name)


def matrix_of(level: Coarse) -> Tensor:
    """(V, n) float32: the interpolation of a coarser mesh as one matrix."""
    matrix = torch.zeros(len(level.near), len(level.chosen))
    return matrix.scatter(1, torch.from_numpy(level.near), torch.from_numpy(level.weights))


def _between(points: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """(B, V, 3), (E,) twice -> (B, E, 3); index_select, whose backward pass is fast on CPUs."""
    return points.index_select(1, end) - points.index_select(1, start)


def _l1(mine: Tensor, true: Tensor) -> Tensor:
    return (mine - true).abs().mean((1, 2))
