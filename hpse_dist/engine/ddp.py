"""Data parallel over several processes: the plain engine plus an all-reduce of gradients.

torch's DistributedDataParallel is not used: it rebuilds its buckets after the first backward, so
with three ranks or more the first step after a resume adds in another order than the undisturbed
run, and a resume is no longer exact. Here the buckets are laid out once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hpse_dist.engine.base import Precision, join
from hpse_dist.engine.plain import PlainEngine
from hpse_dist.world import World

BUCKET_BYTES = 25 << 20


class Bucket:
    """One flat buffer whose slices are the gradients of some parameters."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        first = parameters[0]
        size = sum(p.numel() for p in parameters)
        self.flat = torch.zeros(size, dtype=first.dtype, device=first.device)
        self.waiting = {id(p) for p in parameters}
        start = 0
        for parameter in parameters:
            end = start + parameter.numel()
            # autograd adds into a gradient that is there already, so it stays a slice of `flat`
            parameter.grad = self.flat[start:end].view_as(parameter)
            start = end


class DdpEngine(PlainEngine):
    """Each bucket is reduced as soon as the last micro-step's backward has filled it."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        device: torch.device,
        accumulation: int,
        clip: float,
        precision: Precision,
    ) -> None:
        super().__init__(
            module,
            optimizer,
            world=world,
            device=device,
            accumulation=accumulation,
            clip=clip,
            precision=precision,
        )
        self._works: list[dist.Work] = []
        self._buckets = [Bucket(part) for part in in_buckets(self.trainable, BUCKET_BYTES)]
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        if world.size == 1:
            return
        join(world, device)
        for value in module.state_dict().values():
            dist.broadcast(value, src=0)
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                hook = self._ready(bucket)
                self._hooks.append(parameter.register_post_accumulate_grad_hook(hook))

    def _ready(self, bucket: Bucket) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            if self._micro_step == self.accumulation - 1:
                bucket.waiting.discard(id(parameter))
                self._reduce(only_full=True)

        return hook

    def _reduce(self, *, only_full: bool) -> None:
        """Start the next buckets' sums, in the one order that all ranks share."""
        for bucket in self._buckets[len(self._works) :]:
            if only_full and bucket.waiting:
                return
            work = dist.all_reduce(bucket.flat, async_op=True)
            assert work is not None
            self._works.append(work)

    def _finish_gradients(self) -> None:
        if self.world.size == 1:
            return
        self._reduce(only_full=False)  # what is left holds parameters that no loss touched
        for bucket, work in zip(self._buckets, self._works, strict=True):
            work.wait()
            bucket.flat /= self.world.size
            bucket.waiting = {id(p) for p in bucket.parameters}
        self._works.clear()

    def _clear_gradients(self) -> None:
        for bucket in self._buckets:
            bucket.flat.zero_()

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for parameter in self.trainable:
            parameter.grad = None
        self._buckets.clear()


def in_buckets(parameters: list[nn.Parameter], limit: int) -> list[list[nn.Parameter]]:
    """Parameters in reverse order, about that of their gradients, cut at `limit` bytes."""
    parts: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed(parameters):
        bytes_here = parameter.numel() * parameter.element_size()
        if not parts or size + bytes_here > limit or parameter.dtype != parts[-1][0].dtype:
            parts.append([])
            size = 0
        parts[-1].append(parameter)
        size += bytes_here
    return parts
