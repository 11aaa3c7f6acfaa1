"""Pictures made of parts: appearance pooled under one puppet and painted under another.

After Kundu et al., "Self-Supervised 3D Human Pose Estimation via Part Guided Novel Image Synthesis"
(CVPR 2020). A person's look is one code per body part; codes pooled under the puppet of one frame
are laid out by the puppet of another, and decoded to a picture and to maps of parts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_GROUPS = 8
_PLACES = 4  # cells along a side of the background's layout


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Convolution, group norm (a batch's other pictures change nothing), GELU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(_GROUPS, outputs), nn.GELU()
    )


class Appearance(nn.Module):
    """A picture's features, and its parts' codes."""

    def __init__(self, dim: int, steps: int) -> None:
        """dim: channels of a code; steps: halvings from the picture to the maps."""
        super().__init__()
        layers = [_conv(3, dim)] + [_conv(dim, dim, 2) for _ in range(steps)]
        self.features = nn.Sequential(*layers, nn.Conv2d(dim, dim, 3, 1, 1))

    def forward(self, image: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, 3, H, W), parts (B, 1 + L, n, n) -> codes (B, L, C) of the parts, each a mean
        of features over where it is seen, and background (B, C, n, n): means over coarse cells of
        what is not the person, which keeps its layout and nobody's outline."""
        features = self.features(image)
        size = features.shape[-2:]
        body = parts[:, 1:].flatten(2)
        codes = body @ features.flatten(2).mT / (body.sum(2, keepdim=True) + 1.0)
        behind = parts[:, :1]
        total = F.adaptive_avg_pool2d(features * behind, _PLACES)
        seen = F.adaptive_avg_pool2d(behind, _PLACES)
        cells = total / (seen + 0.02)
        return codes, F.interpolate(cells, size=size, mode="bilinear", align_corners=False)


class Painter(nn.Module):
    """Codes laid out by part maps to a picture and to a person's own part maps."""

    def __init__(self, dim: int, num_parts: int, steps: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(_conv(dim + num_parts + 1, dim), _conv(dim, dim))
        self.to_parts = nn.Conv2d(dim, num_parts + 1, 1)
        self.grow = nn.ModuleList(_conv(dim, dim) for _ in range(steps))
        self.to_picture = nn.Conv2d(dim, 3, 3, 1, 1)

    def forward(self, codes: Tensor, background: Tensor, parts: Tensor) -> tuple[Tensor, Tensor]:
        """codes (B, L, C), background (B, C, n, n), parts (B, 1 + L, n, n) -> picture (B, 3, H, W)
        in the loader's normalisation, logits of parts (B, 1 + L, n, n)."""
        laid = torch.einsum("blhw,blc->bchw", parts[:, 1:], codes) + background * parts[:, :1]
        x = self.mix(torch.cat((laid, parts), dim=1))
        logits = self.to_parts(x)
        for layer in self.grow:
            x = layer(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
        return self.to_picture(x), logits
