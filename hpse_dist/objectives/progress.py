"""How much of a run is done, for objectives whose schedules decide by it what to compute."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake


class Progress:
    """The number in a buffer that is in the module's state: to read it from a GPU in every step
    would be to wait for all that the GPU was given before."""

    def __init__(self) -> None:
        self._known: tuple[Tensor, int, float] | None = None  # buffer, its version, its number

    def of(self, buffer: Tensor) -> float:
        """Its number; read where something else has changed it, as a checkpoint does. Of a fake
        tensor (`planning.memory`) 1, as late in a run, when most is computed."""
        if is_fake(buffer):
            return 1.0
        known = self._known
        if known is None or known[0] is not buffer or known[1] != buffer._version:
            known = self._known = buffer, buffer._version, float(buffer)
        return known[2]

    def move(self, buffer: Tensor, share: float) -> None:
        """The share 0..1 from now on."""
        buffer.fill_(share)
        # as the buffer rounds it: a resumed run computes the same
        self._known = buffer, buffer._version, torch.tensor(share, dtype=buffer.dtype).item()
