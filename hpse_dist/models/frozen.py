"""An encoder that no step moves: its tokens are looked up, not computed.

A known picture is stood in for by a tensor of its shape whose every pixel is the picture's row in
the table of tokens (int64, expanded: it takes no memory). So a task that reads pictures through its
encoder alone is probed without knowing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from hpse_dist.models.encoder import Encoder
from hpse_dist.models.positions import Grid


class FrozenEncoder(nn.Module):
    """Read like an `Encoder`; no parameters, so optimizers and checkpoints see the head alone."""

    over_patches = False  # no patches can be left out of what was computed before

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._inner = (encoder.eval().requires_grad_(False),)  # in a tuple: no part of this module
        self.config = replace(encoder.config, drop_path=0.0, recompute=False)
        self.dim, self.patch_px = encoder.dim, encoder.patch_px
        self._tables: list[np.ndarray] = []
        self._starts: list[int] = [0]

    @property
    def inner(self) -> Encoder:
        """The encoder itself."""
        return self._inner[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenEncoder:
        self.inner._apply(fn, recurse)  # it moves to a device with the head
        super()._apply(fn, recurse)
        return self

    def add_table(self, tokens: np.ndarray) -> int:
        """Take in tokens (N, K, C) of N pictures; returns the row of the first."""
        self._tables.append(tokens)
        self._starts.append(self._starts[-1] + len(tokens))
        return self._starts[-2]

    def grid(self, image: Tensor) -> Grid:
        """Rows and columns of tokens of a picture (B, 3, H, W)."""
        return self.inner.grid(image)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """image (B, 3, H, W), a stand-in or real -> (B, N, C), without gradients."""
        if visible is not None:
            raise ValueError("a frozen encoder has tokens of whole pictures, not of some patches")
        if image.dtype == torch.int64:
            return self._looked_up(image[:, 0, 0, 0].cpu().numpy()).to(image.device)
        with torch.no_grad():
            return self.inner(image)

    def _looked_up(self, rows: np.ndarray) -> Tensor:
        """rows (B,) -> (B, N, C) float32."""
        table = np.searchsorted(self._starts, rows, side="right") - 1
        found = np.empty((len(rows), *self._tables[0].shape[1:]), np.float32)
        for number in np.unique(table):
            here = table == number
            found[here] = self._tables[number][rows[here] - self._starts[number]]
        return torch.from_numpy(found)


def stand_in(rows: np.ndarray, image_px: int) -> Tensor:
    """Rows (B,) of the tables as pictures (B, 3, image_px, image_px) int64."""
    picture = torch.from_numpy(rows.astype(np.int64))[:, None, None, None]
    return picture.expand(-1, 3, image_px, image_px)


def thawed(encoder: Encoder | FrozenEncoder) -> Encoder:
    """The encoder itself, frozen or not."""
    return encoder.inner if isinstance(encoder, FrozenEncoder) else encoder
