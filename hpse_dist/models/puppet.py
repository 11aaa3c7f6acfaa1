"""A puppet: a person as flat parts in a picture, differentiable in where the joints are.

After Kundu et al., "Self-Supervised 3D Human Pose Estimation via Part Guided Novel Image Synthesis"
(CVPR 2020): one part-based 2D puppet stands between a 3D pose and spatial maps of parts. Each limb
is a soft capsule between its two joints; parts are unions of limbs; nearer parts hide farther ones;
all parts and the background sum to one in every cell.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hpse_dist.constants import numbers


class Puppet(nn.Module):
    """Limbs with fixed thickness, drawn between projected joints."""

    starts: Tensor
    ends: Tensor
    radius: Tensor
    beyond: Tensor

    def __init__(
        self,
        starts: Tensor,
        ends: Tensor,
        radius: Tensor,
        beyond: Tensor,
        part: Tensor,
        softness: float = 0.5,
    ) -> None:
        """starts, ends (K,): joints of each limb; radius (K,) in the unit of the joints' 3D places;
        beyond (K,): how far a limb reaches past its end, over its length; part (K,): its part,
        1..L; softness: width of a limb's edge, cells."""
        super().__init__()
        for name, value in (("starts", starts), ("ends", ends), ("part", part)):
            self.register_buffer(name, value.long(), persistent=False)
        self.register_buffer("radius", radius.float(), persistent=False)
        self.register_buffer("beyond", beyond.float(), persistent=False)
        self.softness = softness
        self.num_parts = int(part.max())
        self.limbs_of_part = [
            tuple(torch.nonzero(part == number)[:, 0].tolist())
            for number in range(1, self.num_parts + 1)
        ]
        if not all(self.limbs_of_part):
            raise ValueError("every part from 1 on must have a limb")

    def forward(
        self,
        joints2d: Tensor,
        depth: Tensor,
        scale: Tensor,
        px: int,
        thickness: Tensor | None = None,
    ) -> Tensor:
        """joints2d (B, J, 2) in 0..1 of the crop, depth (B, J) growing away from the camera, scale
        (B,) crop sides to a unit of 3D, thickness (B, K) factors of the radii -> (B, 1 + L, px,
        px): the background, then the parts."""
        start, end = joints2d[:, self.starts], joints2d[:, self.ends]
        end = end + self.beyond[:, None] * (end - start)
        steps = (torch.arange(px, device=start.device) + 0.5) / px
        away = self._distance(start, end, steps)
        inside = self.radius * scale[:, None]
        if thickness is not None:
            inside = inside * thickness
        width = self.softness / px
        limbs = torch.sigmoid((inside[..., None, None] - away) / width)  # (B, K, n, n)
        limbs_of_part = [numbers(own, start.device) for own in self.limbs_of_part]
        parts = torch.stack([limbs[:, own].amax(1) for own in limbs_of_part], dim=1)
        middle = (depth[:, self.starts] + depth[:, self.ends]) / 2
        depths = torch.stack([middle[:, own].mean(1) for own in limbs_of_part], dim=1)
        return layered(parts, depths)

    @staticmethod
    def _distance(start: Tensor, end: Tensor, steps: Tensor) -> Tensor:
        """From every cell to every segment: (B, K, 2) twice -> (B, K, n, n)."""
        along = end - start
        length = along.square().sum(-1).clamp(min=1e-8)[..., None, None]
        x = steps - start[..., :1]  # (B, K, n)
        y = steps - start[..., 1:]
        dot = (y * along[..., 1:])[..., :, None] + (x * along[..., :1])[..., None, :]
        share = (dot / length).clamp(0.0, 1.0)
        # |r - s a|^2 written out, which saves passes over the largest tensors of an update
        square = share * (share * length - 2 * dot)
        square = square + (y.square()[..., :, None] + x.square()[..., None, :])
        return square.clamp(min=1e-8).sqrt()


def layered(parts: Tensor, depth: Tensor) -> Tensor:
    """Coverage of each part alone (B, L, h, w) and its depth (B, L) -> what is seen of the
    background and of each part, (B, 1 + L, h, w), summing to one.

    phi_l = m_l times the product over nearer k of (1 - m_k); the background is what all leave.
    """
    order = depth.argsort(dim=1)  # nearest first
    index = order[..., None, None].expand_as(parts)
    near = parts.gather(1, index)
    free = torch.cumprod(1.0 - near, dim=1)
    before = torch.cat((torch.ones_like(free[:, :1]), free[:, :-1]), dim=1)
    seen = torch.zeros_like(parts).scatter(1, index, near * before)
    return torch.cat((free[:, -1:], seen), dim=1)
