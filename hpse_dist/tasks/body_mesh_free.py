"""Body mesh from one picture, model-free: vertices one by one, on the free body or SMPL."""

from __future__ import annotations

from dataclasses import dataclass

from hpse_dist.body.model import Body, BodyOutput, load_body
from hpse_dist.fields import Batch
from hpse_dist.tasks.mesh_free import MeshFree, MeshFreeConfig


@dataclass(frozen=True)
class BodyMeshFreeConfig(MeshFreeConfig):
    """Joints and vertices of a body by a token each."""

    body: str = "free"
    """"free", an SMPL, SMPL-H or SMPL-X file, or a folder of such files: the mesh."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        labels = ("global_orient", "body_pose", "betas", "transl", "has_body")
        return ("image", "joints2d", "joints3d", *labels, "intrinsics")


class BodyMeshFree(MeshFree):
    """A body whose vertices are predicted one by one.

    At the start it stands upright and faces the camera: the camera frame has y down and z forward,
    the body's own y up and its face along z.
    """

    Config = BodyMeshFreeConfig
    protocols = ("synthetic-24",)
    config: BodyMeshFreeConfig
    mesh: Body
    name = "body_mesh_free"
    upright = (1.0, -1.0, -1.0)

    def _load(self) -> Body:
        return load_body(self.config.body)

    def true_mesh(self, batch: Batch) -> BodyOutput:
        names = ("global_orient", "body_pose", "betas", "transl")
        output: BodyOutput = self.mesh(*(batch[name] for name in names))
        return output
