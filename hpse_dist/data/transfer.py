"""Filled buffers on their way to the device: on a GPU's second stream, so that one batch crosses
while another is computed with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hpse_dist.data.prefetch import Buffer
from hpse_dist.fields import Batch


@dataclass(frozen=True)
class Moving:
    """A buffer's contents that have been sent."""

    buffer: Buffer
    batch: Batch

    def arrived(self) -> Batch:
        """The batch, for what is computed from now on; on the CPU the buffer's own memory.

        The GPU waits for the copy, the process does not. Memory that the second stream was given
        must not be used again by it before the first has read it.
        """
        if self.buffer.copied is not None:
            here = torch.cuda.current_stream(self.batch["sample_id"].device)
            here.wait_event(self.buffer.copied)
            for tensor in self.batch.values():
                tensor.record_stream(here)
        return self.batch


class Transfer:
    """Sends buffers to a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def overlaps(self) -> bool:
        """Whether sending the next batch early saves anything."""
        return self._stream is not None

    def send(self, buffer: Buffer) -> Moving:
        """Begin to copy a buffer's contents; it must not be filled again before `buffer.copied`."""
        if self._stream is None:
            return Moving(buffer, dict(buffer.tensors))
        with torch.cuda.stream(self._stream):
            batch = {
                name: tensor.to(self.device, non_blocking=True)
                for name, tensor in buffer.tensors.items()
            }
            buffer.copied = torch.cuda.Event()
            buffer.copied.record(self._stream)
        return Moving(buffer, batch)
