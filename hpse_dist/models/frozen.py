"""An encoder that no step moves: its tokens are looked up, not computed.

A known picture is stood in for by a tensor of its shape whose every pixel is the picture's row in
the table of tokens (int64, expanded: it takes no memory). So a task that reads pictures through its
encoder alone is probed without knowing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from hpse_dist.models.encoder import Encoder
from hpse_dist.models.positions import Grid


class Stacked:
    """Arrays (n, ...) of equal rows, one under the other, read by row number without a copy of
    them all: they may be maps of files larger than memory."""

    def __init__(self, parts: Sequence[np.ndarray] = ()) -> None:
        self._parts: list[np.ndarray] = []
        self._starts = [0]
        self.add(parts)

    def add(self, parts: Sequence[np.ndarray]) -> int:
        """Put more arrays under these; returns the row of the first."""
        first = len(self)
        for part in parts:
            self._parts.append(part)
            self._starts.append(self._starts[-1] + len(part))
        return first

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        return tuple(self._parts)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """rows (B,) -> (B, ...), a copy."""
        like = self._parts[0]
        found: np.ndarray = np.empty((len(rows), *like.shape[1:]), like.dtype)
        number = np.searchsorted(self._starts, rows, side="right") - 1
        for part in np.unique(number):
            here = number == part
            found[here] = self._parts[part][rows[here] - self._starts[part]]
        return found


class FrozenEncoder(nn.Module):
    """Read like an `Encoder`; no parameters, so optimizers and checkpoints see the head alone."""

    over_patches = False  # no patches can be left out of what was computed before

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._inner = (encoder.eval().requires_grad_(False),)  # in a tuple: no part of this module
        self.config = replace(encoder.config, drop_path=0.0)
        self.dim, self.image_px, self.patch_px = encoder.dim, encoder.image_px, encoder.patch_px
        self._tokens = Stacked()

    @property
    def inner(self) -> Encoder:
        """The encoder itself."""
        return self._inner[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenEncoder:
        self.inner._apply(fn, recurse)  # it moves to a device with the head
        super()._apply(fn, recurse)
        return self

    def add_tokens(self, tokens: Stacked) -> int:
        """Take in tokens (N, K, C) of N pictures; returns the row of the first."""
        return self._tokens.add(tokens.parts)

    def grid(self, image: Tensor) -> Grid:
        """Rows and columns of tokens of a picture (B, 3, H, W)."""
        return self.inner.grid(image)

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """image (B, 3, H, W), a stand-in or real -> (B, N, C), without gradients."""
        if visible is not None:
            raise ValueError("a frozen encoder has tokens of whole pictures, not of some patches")
        if image.dtype == torch.int64:
            tokens = self._tokens[image[:, 0, 0, 0].cpu().numpy()]
            return torch.from_numpy(tokens).to(image.device).float()  # half crosses to a GPU faster
        with torch.no_grad():
            return self.inner(image)


def stand_in(rows: np.ndarray, image_px: int) -> Tensor:
    """Rows (B,) of the tables as pictures (B, 3, image_px, image_px) int64."""
    picture = torch.from_numpy(rows.astype(np.int64))[:, None, None, None]
    return picture.expand(-1, 3, image_px, image_px)


def thawed(encoder: Encoder | FrozenEncoder) -> Encoder:
    """The encoder itself, frozen or not."""
    return encoder.inner if isinstance(encoder, FrozenEncoder) else encoder
