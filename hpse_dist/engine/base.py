"""The engine protocol: DeepSpeed's own semantics, whoever does the work.

Call, `backward` and `step` at every micro-step; weights move at the last micro-step of an update
only. Gradients are the mean over all micro-batches and ranks. A non-finite loss or gradient never
reaches the weights: `step` refuses the update on every rank, naming step and samples.

This package is the only one that talks to other processes during training: what the loop, the
checkpoints and the evaluation need of them are the methods `gather`, `from_main`, `any_rank` and
`ask_ranks`.
"""

from __future__ import annotations

import contextlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hpse_dist.engine.state import Snapshot
from hpse_dist.fields import Batch
from hpse_dist.world import World

_PATIENCE = timedelta(minutes=30)  # gloo's own; NCCL's ten are short where one rank works alone

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Refusal:
    """An update that was not made, for a loss or a gradient was NaN or infinite."""

    step: int
    what: str
    """The loss, or the gradient."""
    samples: tuple[int, ...]
    """Ids of the micro-batches at fault, of all ranks; all of the update's for a gradient."""

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.samples[:16])) or "unknown"
        more = f" and {len(self.samples) - 16} more" if len(self.samples) > 16 else ""
        return (
            f"step {self.step}: {self.what} is NaN or infinite in micro-batches with sample_id "
            f"{shown}{more}; no weight was changed by it"
        )


class Engine(ABC):
    """Turns losses into weight updates; all ranks make the same calls in the same order."""

    module: Any
    """The objective or task, a torch module with methods of its own."""
    updates: int
    """Steps done since the start of the run, those before a resume and refused ones included."""

    def __init__(
        self, *, world: World, device: torch.device, accumulation: int, precision: Precision
    ) -> None:
        if accumulation < 1:
            raise ValueError(f"accumulation must be 1 or more micro-steps, found {accumulation}")
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, found {precision!r}")
        self.world = world
        self.device = device
        self.accumulation = accumulation
        self.precision = precision
        self.updates = 0
        self.grad_norm = 0.0
        self._micro_step = 0
        self._seen: list[tuple[Tensor, Tensor]] = []  # (loss is finite, sample ids)
        self._statistics: dict[Tensor, Tensor] = {}

    # -- one micro-step

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The module's scalars for one micro-batch, "loss" among them."""
        if self._micro_step == 0:
            self._statistics = {buffer: buffer.clone() for buffer in running(self.module)}
        scalars = self._forward(batch)
        ids = batch.get("sample_id", torch.empty(0, dtype=torch.int64))
        # Only a flag is made here: reading it waits for the device, once per update, in step().
        self._seen.append((torch.isfinite(scalars["loss"].detach()).all(), ids))
        return scalars

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's share of the update's gradient."""
        # An infinite loss may have a finite gradient; this one has not, and nobody waits to see.
        sure = torch.where(loss.detach().isfinite(), 1.0, math.nan)
        self._backward(loss * sure)

    def step(self) -> Refusal | None:
        """End a micro-step; the last one of an update moves the weights, or is refused."""
        self._micro_step += 1
        boundary = self._micro_step == self.accumulation
        norm = self._step(boundary)
        if not boundary:
            return None
        refusal = None if math.isfinite(norm) else self._refused()
        if refusal is None:
            self.grad_norm = norm
        self._micro_step = 0
        self._seen.clear()
        self.updates += 1
        return refusal

    @abstractmethod
    def _forward(self, batch: Batch) -> dict[str, Tensor]: ...

    @abstractmethod
    def _backward(self, loss: Tensor) -> None: ...

    @abstractmethod
    def _step(self, boundary: bool) -> float:
        """If `boundary`: the gradient's norm, equal on all ranks, and where that is finite an
        update of the weights; else the gradient is forgotten."""

    @property
    @abstractmethod
    def _groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""

    def set_lr(self, lr: float) -> None:
        """The learning rate of the next update, times each group's own lr_scale."""
        for group in self._groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

    def stats(self) -> dict[str, float]:
        """Figures of the last update: the gradient's norm before clipping."""
        return {"grad_norm": self.grad_norm}

    # -- the guard

    def _refused(self) -> Refusal:
        """Who is to blame; what the forward passes have changed is put back."""
        for buffer, before in self._statistics.items():
            buffer.copy_(before)
        by_loss = self.any_rank(not all(finite for finite, _ in self._seen))
        mine = [ids for finite, ids in self._seen if not (by_loss and finite)]
        ids = [i for part in mine for i in part.tolist()]
        found = sorted(i for of_rank in self.gather(ids) for i in of_rank)
        what = "the loss" if by_loss else "the gradient"
        return Refusal(self.updates + 1, what, tuple(found))

    # -- evaluation

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[Any]:
        """The module in evaluation mode, without gradients and in the engine's precision.

        Collective; inside it every rank makes the same calls of the module's methods.
        """
        modes = [(module, module.training) for module in self.module.modules()]
        self.module.eval()
        try:
            with torch.no_grad(), self._whole_weights(), self.autocast():
                yield self.module
        finally:
            for module, training in modes:
                module.training = training

    def autocast(self) -> torch.autocast:
        """bf16 for what bf16 is safe for, fp32 parameters; or nothing at all."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextlib.contextmanager
    def _whole_weights(self) -> Iterator[None]:
        """Every parameter whole on every rank; engines that cut parameters override this."""
        yield

    # -- state

    @abstractmethod
    def held(self) -> dict[str, list[Tensor]]:
        """What this rank holds at this moment of weights, gradients and the optimizer's state; and
        what of these is away, in the machine's memory in place of the device's."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """A copy of this rank's share of the whole training state; collective."""

    @abstractmethod
    def load(self, folder: Path) -> None:
        """Read what any engine on any number of ranks has saved; collective.

        The caller has checked the files' hashes. ValueError where it is of another model.
        """

    def _new_snapshot(self, moved: int) -> Snapshot:
        """One without tensors; `moved`: how often AdamW has moved the weights."""
        return Snapshot(self.world.rank, {"updates": self.updates, "moved": moved})

    @abstractmethod
    def full_state_dict(self) -> dict[str, Tensor]:
        """All weights and buffers on the CPU of the main process, {} elsewhere; collective."""

    @abstractmethod
    def close(self) -> None:
        """Let go of hooks and buffers; the process group stays, it is the process's own."""

    # -- other ranks

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in rank order, on every rank; values are small."""
        if self.world.size == 1:
            return [value]
        values: list[Any] = [None] * self.world.size
        dist.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """The main process's value, on every rank."""
        if self.world.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any_rank(self, flag: bool) -> bool:
        """True on every rank if `flag` is on any."""
        return self.ask_ranks(lambda: flag)()

    def ask_ranks(self, question: Callable[[], bool]) -> Callable[[], bool]:
        """As `any_rank`, but the answer is had from what is returned, later: after a `step`, which
        waits for the device anyway, it costs no second wait. A rank on its own answers only then;
        several are asked at once. Collective."""
        if self.world.size == 1:
            return question
        # int32: NCCL and gloo both reduce it; filled by the device, for a copy to it would wait
        found = torch.full((), int(question()), dtype=torch.int32, device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
        if self.device.type != "cuda":
            return lambda: bool(found.item())
        here = torch.empty((), dtype=torch.int32, pin_memory=True).copy_(found, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def answer() -> bool:
            copied.synchronize()
            return bool(here.item())

        return answer

    def mean_over_ranks(self, scalars: Mapping[str, Tensor]) -> dict[str, float]:
        """Mean of each tensor's elements over all ranks; NaN elements (not applicable) left out."""
        if not scalars:
            return {}
        flat = [value.detach().float().flatten() for value in scalars.values()]
        # one transfer from the device for all of them
        values = [part.tolist() for part in torch.cat(flat).cpu().split([len(x) for x in flat])]
        mine = dict(zip(scalars, values, strict=True))
        found: dict[str, list[float]] = {}
        for rank in self.gather(mine):
            for name, each in rank.items():
                found.setdefault(name, []).extend(x for x in each if not math.isnan(x))
        return {name: sum(x) / len(x) if x else math.nan for name, x in found.items()}


def running(module: nn.Module) -> list[Tensor]:
    """Batch norm's running statistics: a forward pass moves them before any step is made."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    return [buffer for norm in norms for buffer in norm.buffers()]


def join(world: World, device: torch.device) -> None:
    """Make sure of the process group; one that there is already is used as it is.

    A group made here needs MASTER_ADDR and MASTER_PORT in the environment, unless the world is one
    process, and lives as long as the process.
    """
    if dist.is_initialized():
        if (dist.get_rank(), dist.get_world_size()) != (world.rank, world.size):
            raise ValueError(
                f"the process group has rank {dist.get_rank()} of {dist.get_world_size()}, the "
                f"run wants {world.rank} of {world.size}: start the run in processes of its own"
            )
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if world.size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        return
    absent = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if absent:
        raise ValueError(
            f"{world.size} processes cannot find one another: {' and '.join(absent)} not set; "
            "start the run through Ray or torchrun"
        )
    place: dict[str, Any] = {"rank": world.rank, "world_size": world.size}
    dist.init_process_group(backend, init_method="env://", timeout=_PATIENCE, **place)
