"""3D pose from one picture: joints relative to their root, without a body.

A token for each joint reads the encoder's tokens and the other joints. As in body_mesh, places are
predicted relative to the ray through the crop's centre, so that equal pictures have equal answers
wherever in the full image they were cut out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hpse_dist.fields import Batch
from hpse_dist.geometry.camera import known_intrinsics, rotation_to_ray
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.tokens import JointTokens
from hpse_dist.objectives.base import PANEL_ROWS, sheet, to_rgb
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.protocols.joints import joint_figures
from hpse_dist.tasks.base import Prediction, Task
from hpse_dist.tasks.labels import (
    from_root,
    labelled_joints,
    turned_errors,
    weighted,
    with_root,
)
from hpse_dist.tasks.mesh_panels import skeleton


@dataclass(frozen=True)
class Pose3dConfig:
    """Joints relative to their root by a token each."""

    num_joints: int = 24
    """Joints of the collection's joint set."""
    root: int = 0
    """Number of the joint that the others are relative to."""
    head_dim: int = 512
    """Channels of the joints' tokens."""
    head_depth: int = 3
    """Blocks of the head."""
    heads: int = 8
    """Attention heads in each block."""
    turned_weight: float = 0.0
    """L1 after the best rotation, beside the L1 in the camera frame: short trainings want it, in
    which a person's rotation is not found before its pose."""
    focal: float = 5.0
    """Focal length in crop sides for rows without intrinsics."""
    protocol: str = "synthetic-24"
    """By which the joints are judged: synthetic-24, synthetic-hand, h36m-p1, h36m-p2 or 3dhp."""

    def __post_init__(self) -> None:
        for name in ("num_joints", "head_dim", "head_depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 0 <= self.root < self.num_joints:
            raise ValueError(f"root must be 0..{self.num_joints - 1}, found {self.root}")
        protocol = PROTOCOLS.get(self.protocol)  # an unknown one is the recipe's to refuse
        if protocol and self.num_joints != len(protocol.names()):
            raise ValueError(
                f"num_joints must be the {len(protocol.names())} of {protocol.joint_set} for "
                f"protocol {self.protocol}, found {self.num_joints}"
            )
        if self.head_dim % (4 * self.heads):
            raise ValueError(
                f"head_dim must be a multiple of 4 * heads, found {self.head_dim} and {self.heads}"
            )
        if self.turned_weight < 0.0:
            raise ValueError(f"turned_weight must be 0 or more, found {self.turned_weight}")
        if self.focal <= 0.0:
            raise ValueError(f"focal must be above 0, found {self.focal}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return ("image", "joints3d", "intrinsics")


class Pose3d(Task):
    """Encoder and joint tokens."""

    Config = Pose3dConfig
    protocols = ("synthetic-24", "synthetic-hand", "h36m-p1", "h36m-p2", "3dhp")
    config: Pose3dConfig

    def __init__(self, config: Pose3dConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.head = JointTokens(
            encoder.dim, config.num_joints, config.head_dim, config.head_depth, config.heads
        )
        self.to_place = nn.Linear(config.head_dim, 3)
        nn.init.xavier_uniform_(self.to_place.weight, gain=0.1)
        nn.init.zeros_(self.to_place.bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` and its parts: L1 of joints relative to the root, and after the best rotation,
        metres; means over a picture's known joints, summed over the pictures whose root is known
        and divided by B."""
        true, confidence = self._labelled(batch)
        known, mine = with_root(confidence, self.config.root), self._joints(batch)
        placed = weighted((mine - true).abs().mean(-1), known)
        if self.config.turned_weight == 0.0:
            return {"loss": placed}
        turned = weighted(turned_errors(mine, true, known), known)
        loss = placed + self.config.turned_weight * turned
        return {"loss": loss, "loss_placed": placed.detach(), "loss_turned": turned.detach()}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """joints3d (B, J, 3) relative to the root, metres, camera frame; from `image` and, where
        known, `intrinsics`."""
        return {"joints3d": self._joints(batch)}

    def truth(self, batch: Batch) -> Prediction:
        """The labelled joints, relative to their root."""
        return {"joints3d": self._labelled(batch)[0]}

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """The protocol's figures over the labelled joints, per example; NaN without labels."""
        true, confidence = self._labelled(batch)
        protocol = PROTOCOLS[self.protocol_of(self.config)]
        return joint_figures(protocol, prediction["joints3d"], true, confidence)

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted and labelled joints from the camera and from the side."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        mine = self._joints(batch).float().cpu()
        true, confidence = (value.float().cpu() for value in self._labelled(batch))
        known = with_root(confidence, self.config.root)
        rows = []
        for i, picture in enumerate(to_rgb(batch["image"]).cpu()):
            reach = 1.1 * max(float((true[i].abs().amax(1) * (known[i] > 0)).max()), 0.05)
            tiles = [
                skeleton(joints[i], shown[i], reach, side)
                for joints, shown in ((mine, torch.ones_like(known)), (true, known))
                for side in (False, True)
            ]
            rows.append([picture, *tiles])
        errors = self.errors({"joints3d": self._joints(batch)}, batch)["mpjpe"].tolist()
        captions = [f"{value:.0f} mm" if math.isfinite(value) else "" for value in errors]
        titles = ("picture", "predicted", "from the side", "truth", "from the side")
        return {"pose3d": sheet(rows, titles, captions)}

    def _joints(self, batch: Batch) -> Tensor:
        """(B, J, 3) relative to the root, metres, camera frame."""
        image = batch["image"]
        tokens = self.head(self.encoder(image), self.encoder.grid(image))
        with torch.autocast(image.device.type, enabled=False):
            places = self.to_place(tokens.float())
            camera = known_intrinsics(batch.get("intrinsics"), self.config.focal, image)
            places = places @ rotation_to_ray(camera).mT  # rows: the ray's frame to the camera's
            return from_root(places, self.config.root)

    def _labelled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Places (B, J, 3) relative to the root and confidence (B, J)."""
        joints, known = labelled_joints(batch, "joints3d", self.config.num_joints, "pose3d")
        return from_root(joints, self.config.root), known
