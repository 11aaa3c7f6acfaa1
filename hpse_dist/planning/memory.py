"""How many bytes one trainer's process holds on its device, from the recipe and the world's size.

Weights, gradients and optimizer state follow from the parameters' number and from how an engine
shares them. What a micro-step needs beside them is seen by making that step without numbers:
torch's fake tensors have shapes and sizes but no memory, and every storage that an operation makes
is counted until it is let go. So the figures follow the code, whatever the objective.
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpse_dist.engine import Offload, bucket_elements
from hpse_dist.fields import Batch
from hpse_dist.geometry.procrustes import similarity
from hpse_dist.recipe import TrainingRecipe
from hpse_dist.starting import module_of

FP32 = 4  # bytes of a weight, a gradient and each of AdamW's two moments, in bf16 runs too


@dataclass(frozen=True)
class Need:
    """Bytes of one process, on its device but for what is away."""

    weights: int
    """Parameters, fixed ones and buffers too; with ZeRO stage 3 this rank's share and those that
    are whole at a time."""
    gradients: int
    """When a backward pass has ended."""
    optimizer: int
    """AdamW's moments, and ZeRO's masters."""
    away: int
    """Bytes in the machine's memory in place of the device's, where the recipe offloads."""
    exchange: int
    """Buffers in which gradients travel."""
    batch: int
    """One micro-batch."""
    activations: int
    """What the forward pass keeps for the backward pass."""
    peak: int
    """The most at one moment, all together."""


@dataclass(frozen=True)
class Step:
    """Bytes of one micro-step beside weights, optimizer and batch."""

    kept: int
    """After the forward pass."""
    peak: int
    """The most at one moment, gradients that came up meanwhile included."""


def need(
    recipe: TrainingRecipe, world_size: int, example: Batch, device: torch.device | str = "cpu"
) -> Need:
    """Bytes of each of `world_size` trainers of the recipe as its section `machine` says, blocks as
    written: what compiled ones (machine.compile) keep is up to the compiler.

    `example`: a batch of any size, of which shapes alone count. `device`: whose kernels and
    autocast rules are followed; cuda needs a machine that has it. ValueError where the objective
    decides by the values of its data what to compute, so that nobody can know before.
    """
    machine, kind = recipe.machine, torch.device(device).type
    # roma keeps a table of each device for good, and a fake one would spoil real steps
    similarity(*torch.eye(3, device=device).expand(2, 1, 3, 3))
    accumulation = recipe.accumulation(world_size)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with warnings.catch_warnings():
        # of copy.deepcopy, which asks whether there is any memory behind a tensor
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        module = _module(recipe, fake)
    with fake, torch.device(kind):
        without_numbers(module, kind)
        batch = {
            name: torch.empty((machine.micro_batch, *value.shape[1:]), dtype=value.dtype)
            for name, value in example.items()
        }
        kind_of = (machine.engine, machine.zero_stage)
        share = shares(module, *kind_of, world_size, accumulation, machine.offload)
        fate = gradients_fate(*kind_of, accumulation)
        bucket = _bucket(module) if fate == "leave" and machine.zero_stage < 3 else 0
        step = step_bytes(module, batch, recipe.precision == "bf16", fate, bucket)
    taken = sum(value[:1].nbytes for value in example.values()) * machine.micro_batch
    held = share["weights"] + share["optimizer"] + taken
    if fate == "there" or machine.zero_stage == 3 or (bucket and accumulation > 1):
        held += share["gradients"]  # else they come up as activations go: part of the step's peak
    return Need(
        **share,
        batch=taken,
        activations=step.kept,
        peak=held + share["exchange"] - bucket + step.peak,
    )


def _module(recipe: TrainingRecipe, fake: FakeTensorMode) -> nn.Module:
    """The recipe's module, with numbers only where they are needed to build it; its source decides
    shapes only where that is timm's."""
    started: Any = recipe
    if not recipe_source(recipe).startswith("timm:"):
        started = replace(started, source="random", source_decoder=False)
    try:
        with fake:
            return module_of(started)[0]
    except RuntimeError:  # as in `step_bytes`: sizes that are read off a body
        return module_of(started)[0]


def without_numbers(module: nn.Module, device: str) -> None:
    """Among fake tensors: such ones on a device for a module's own; tied ones stay tied."""
    known: dict[Tensor, Tensor] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None and value not in known:
                    known[value] = torch.empty_like(value, device=device)
                    if isinstance(value, nn.Parameter):
                        known[value] = nn.Parameter(known[value], value.requires_grad)
                if value is not None:
                    held[name] = known[value]  # type: ignore[assignment]


def recipe_source(recipe: TrainingRecipe) -> str:
    """What a recipe's encoder starts from."""
    return str(getattr(recipe, "source", "random"))


def _unknown(name: str) -> str:
    return (
        f"the memory of {name} cannot be told beforehand: it decides by the values of its data "
        "what to compute; measure it in a short run (report.json, cost)"
    )


def shares(
    module: nn.Module,
    engine: str,
    stage: int,
    world_size: int,
    accumulation: int = 1,
    offload: Offload = "nothing",
) -> dict[str, int]:
    """Bytes of weights, gradients, optimizer, what is away, and exchange of one rank at rest in a
    backward pass.

    ZeRO shares the optimizer's state from stage 1 on, gradients from 2 on, weights from 3 on.
    DeepSpeed at stage 1 shares gradients too, unless they are summed over several micro-steps.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    elements = sum(p.numel() for p in trainable)
    fixed = _bytes(module.buffers()) + _bytes(p for p in module.parameters() if not p.requires_grad)
    whole = FP32 * elements
    if engine != "zero" or stage == 0:
        return {
            "weights": whole + fixed,
            "gradients": whole,
            "optimizer": 2 * whole,
            "away": 0,
            "exchange": 0,  # ddp's buckets are the gradients themselves
        }
    part, bucket = whole // world_size, _bucket(module)
    live = min(whole, bucket)  # whole for a layer's sake, and its neighbours'
    found = {
        "weights": fixed + (part + live if stage == 3 else whole),
        "gradients": whole if stage == 1 and accumulation > 1 else part,
        "optimizer": 3 * part,
        "away": 0,
        "exchange": bucket,
    }
    if offload == "nothing":
        return found
    largest = FP32 * max(p.numel() for p in trainable)
    if stage > 1 or accumulation == 1:
        found["gradients"] = 0
    found |= {"optimizer": 0, "away": 4 * part}  # with the gradient that the optimizer is given
    if stage == 3 or (stage == 2 and accumulation > 1):
        found["away"] += part  # gradients are summed there
    if stage < 3:  # one parameter at a time passes through, the new weights at once
        found["exchange"] += largest
        found["away"] += largest + part
    if offload == "parameters":
        found["weights"] -= part
        found["away"] += part
    return found


def _bucket(module: nn.Module) -> int:
    """Bytes in which gradients of DeepSpeed travel."""
    return FP32 * bucket_elements(sum(p.numel() for p in module.parameters() if p.requires_grad))


Fate = Literal["there", "come", "leave"]


def gradients_fate(engine: str, stage: int, accumulation: int) -> Fate:
    """What becomes of a parameter's gradient in the backward pass: it was `there` before and is
    added to, it will `come` and stay, or `leave` as soon as it has been put where it travels."""
    if engine == "zero" and stage > 0:
        return "there" if stage == 1 and accumulation > 1 else "leave"
    return "there" if engine == "ddp" or accumulation > 1 else "come"


def step_bytes(
    module: nn.Module, batch: Batch, bf16: bool, fate: Fate = "come", bucket: int = 0
) -> Step:
    """Count what one micro-step makes; with real tensors it counts as well.

    `bucket`: bytes of the buffer that the first gradient to leave has made for all of them.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if fate == "there":
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
    known = [*module.parameters(), *module.buffers(), *batch.values()]
    known += [p.grad for p in parameters if p.grad is not None]
    device = batch[next(iter(batch))].device.type
    module.train()
    leaving = _leaving(parameters, bucket) if fate == "leave" else contextlib.nullcontext()
    with leaving, Counted(known) as made:
        try:
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = module(batch)["loss"]
            kept = made.now
            loss.backward()
        except RuntimeError:  # torch's for whatever wants numbers, in several classes
            raise ValueError(_unknown(type(module).__name__)) from None
    return Step(kept, made.peak)


@contextlib.contextmanager
def _leaving(parameters: Iterable[nn.Parameter], bucket: int) -> Iterator[None]:
    """Every gradient is let go as soon as it is whole; the first makes the bucket."""
    made: list[Tensor] = []

    def forget(parameter: Tensor) -> None:
        if not made:
            made.append(parameter.new_empty(bucket, dtype=torch.uint8))
        parameter.grad = None

    hooks = [p.register_post_accumulate_grad_hook(forget) for p in parameters]
    yield
    for hook in hooks:
        hook.remove()


class Counted(TorchDispatchMode):
    """Bytes of the storages that operations make inside it, as long as each lives."""

    def __init__(self, known: Iterable[Tensor]) -> None:
        """`known`: tensors that are there already and do not count."""
        super().__init__()
        self.now = self.peak = 0
        self._known = [tensor.untyped_storage() for tensor in known]
        self._seen = {id(storage) for storage in self._known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            weakref.finalize(storage, self._gone, key, size)
            self.now += size
            self.peak = max(self.peak, self.now)

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def readable(needs: Mapping[str, Need]) -> str:
    """A table in MiB, one line per name."""
    columns = ["weights", "gradients", "optimizer", "exchange", "batch", "activations", "peak"]
    columns += ["away"] * any(one.away for one in needs.values())
    width = max(len(name) for name in needs)
    lines = [" " * width + "".join(f"  {column:>11s}" for column in columns)]
    for name, one in needs.items():
        cells = (f"{getattr(one, column) / 2**20:11,.1f}" for column in columns)
        lines.append(name.ljust(width) + "".join(f"  {cell}" for cell in cells))
    return "\n".join(lines)
