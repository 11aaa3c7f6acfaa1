"""DeepSpeed ZeRO, stages 0 to 3: the only file that imports deepspeed.

What DeepSpeed decides by default and we do not want is written out in `deepspeed_config` and
`_import`. At stage 0 in fp32 it would let a NaN gradient reach the weights: closed here. Its own
checkpoints fit one number of ranks and one stage, and are pickles: ours (state.py) are neither.

bf16 is DeepSpeed's `torch_autocast`, with parameters, gradients and their exchange in fp32: the
same arithmetic as the plain and ddp engines. Its `bf16` section would cast parameters, and with
them every label that meets them, to 8 bits of precision.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hpse_dist.engine.base import Engine, Precision, join
from hpse_dist.engine.held import held_whole, moments_of
from hpse_dist.engine.offload import (
    Offload,
    copy_buffers,
    gradient_buffers,
    masters,
    offload_settings,
    take_early_gradients,
)
from hpse_dist.engine.state import (
    MOMENTS,
    SavedState,
    Snapshot,
    fill_stretch,
    kept_aside,
    snapshot_of_whole,
    take_kept,
    take_whole,
    trained,
)
from hpse_dist.fields import Batch
from hpse_dist.world import World

# DeepSpeed's own 5e8 elements reserve 2 GB before the first step, and its 1e9 of stage 3 keep every
# model of ours whole on every rank
BUCKET_ELEMENTS = 50_000_000
_NO_COMPILER = "TORCHDYNAMO_DISABLE"


def bucket_elements(elements: int) -> int:
    """How many elements travel together where so many learn: a round number, as DeepSpeed asks."""
    return min(BUCKET_ELEMENTS, 1000 * math.ceil(elements / 1000))


def deepspeed_config(
    *,
    micro_batch: int,
    accumulation: int,
    world_size: int,
    stage: int,
    clip: float,
    precision: Precision,
    elements: int = BUCKET_ELEMENTS,
    offload: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """DeepSpeed's settings as plain values; nothing that matters is left to its defaults.

    `elements`: of all that learns; buckets are not made larger than that. `offload`: what
    `offload_settings` says; None for none.
    """
    bucket = bucket_elements(elements)
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * world_size,
        "gradient_clipping": clip,  # the default is 1.0 since 0.19.3
        "steps_per_print": None,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_max_live_parameters": bucket,
            "stage3_max_reuse_distance": bucket,
            **(offload or {}),
        },
        "zero_force_ds_cpu_optimizer": False,  # with offload it would refuse torch's AdamW
    }
    if precision == "bf16":
        config["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # none: gradients are exchanged in fp32
        }
    return config


def _import(device: torch.device, world: World) -> ModuleType:
    """deepspeed, on the right device type and without a compiler.

    Importing takes seconds and reads the environment, so it happens when an engine is made.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    import deepspeed
    import deepspeed.ops

    _import_muon()
    chosen = deepspeed.accelerator.get_accelerator().device_name()
    if chosen != device.type:
        raise ValueError(
            f"DeepSpeed runs on {chosen} in this process, the run wants {device.type}: unset "
            "DS_ACCELERATOR, and do not mix devices in one process"
        )
    if device.type == "cpu":
        # its shared-memory op would be compiled at the first use; gloo does the same work
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


def _import_muon() -> None:
    """DeepSpeed imports Muon to see whether an optimizer is it, and that has torch compile a
    function: torch's compiler alone takes a second to import. Here it stays as it is written."""
    before = os.environ.get(_NO_COMPILER)
    os.environ[_NO_COMPILER] = "1"
    with contextlib.suppress(ImportError):  # a version that has it elsewhere
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    if before is None:
        del os.environ[_NO_COMPILER]
    else:
        os.environ[_NO_COMPILER] = before


class ZeroEngine(Engine):
    """A DeepSpeed engine behind the protocol; parameters stay fp32, cut up from stage 3 on."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        device: torch.device,
        accumulation: int,
        micro_batch: int,
        clip: float,
        precision: Precision,
        stage: int,
        offload: Offload = "nothing",
    ) -> None:
        super().__init__(world=world, device=device, accumulation=accumulation, precision=precision)
        if stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage must be 0, 1, 2 or 3, found {stage}")
        assert offload == "nothing" or stage >= (3 if offload == "parameters" else 1)
        join(world, device)
        self._deepspeed = _import(device, world)
        self.stage, self.offload = stage, offload
        self.module = module
        self._engine, *_ = self._deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=deepspeed_config(
                micro_batch=micro_batch,
                accumulation=accumulation,
                world_size=world.size,
                stage=stage,
                clip=clip,
                precision=precision,
                elements=sum(p.numel() for p in module.parameters() if p.requires_grad),
                offload=offload_settings(offload, device),
            ),
        )

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._engine.optimizer.param_groups

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        return self._engine(batch)

    def _backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def _step(self, boundary: bool) -> float:
        if boundary and self.stage == 0:
            return self._step_whole()
        zero = self._engine.optimizer
        if boundary and self.offload != "nothing":
            take_early_gradients(zero, self.stage)
        self._engine.step()
        if not boundary:
            return 0.0
        for buffer in gradient_buffers(zero, self.stage, self.offload) if self.stage > 0 else ():
            # DeepSpeed never clears these sums: a parameter that the next update does not touch
            # would learn once more from this one
            buffer.zero_()
        norm = float(self._engine.get_global_grad_norm())
        # it has left the weights alone if it found the norm wanting
        return norm if self._engine.was_step_applied() else math.inf

    def _step_whole(self) -> float:
        """Stage 0: gradients are averaged already, and nothing in DeepSpeed looks at them."""
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients).item()
        moving = self._adam.step
        if not math.isfinite(norm):
            self._adam.step = lambda *_, **__: None  # it counts the step and clears the gradients
        try:
            self._engine.step()
        finally:
            self._adam.step = moving
        return norm

    @contextlib.contextmanager
    def _whole_weights(self) -> Iterator[None]:
        with self._gathered():
            yield

    def _gathered(self) -> contextlib.AbstractContextManager[None]:
        """From stage 3 on, every parameter whole on every rank while inside; collective."""
        parameters = list(self.module.parameters())
        return self._deepspeed.zero.GatheredParameters(parameters, enabled=self.stage == 3)

    # -- state: every rank the stretches that it alone keeps up to date

    def snapshot(self) -> Snapshot:
        parameters, state = trained(self.module), self._adam.state
        steps = [int(values["step"]) for values in state.values() if "step" in values]
        snapshot = self._new_snapshot(max(steps, default=0))
        if self.stage == 0:
            share = itertools.islice(parameters.items(), self.world.rank, None, self.world.size)
            snapshot_of_whole(snapshot, dict(share), state)
        for name, parameter in parameters.items() if self.stage > 0 else ():
            for part in self._parts(parameter):
                shape = _shape(parameter)
                snapshot.add(f"weight:{name}", shape, part.start, part.of(part.flat))
                for moment in MOMENTS:
                    if moment in state.get(part.flat, {}):
                        values = part.of(state[part.flat][moment])
                        snapshot.add(f"{moment}:{name}", shape, part.start, values)
        with self._fixed_parameters_whole():
            for name, value in kept_aside(self.module).items() if self.world.is_main else ():
                snapshot.add(f"kept:{name}", value.shape, 0, value)
        return snapshot

    def load(self, folder: Path) -> None:
        saved = SavedState(folder)
        parameters: dict[str, Any] = trained(self.module)
        if self.stage == 0:
            take_whole(saved, parameters, self._adam.state)
        else:
            self._take_parts(saved, parameters)
        with self._fixed_parameters_whole(changing=True):
            take_kept(saved, self.module)
        self.updates = saved.facts["updates"]

    @torch.no_grad()
    def _take_parts(self, saved: SavedState, parameters: dict[str, Any]) -> None:
        """Masters and moments of this rank's stretches, then the weights that compute."""
        for name, parameter in parameters.items():
            for part in self._parts(parameter):
                where = _shape(parameter), part.start
                fill_stretch(saved, f"weight:{name}", *where, part.of(part.flat, padded=True))
                moments = self._moments(part.flat, saved.facts["moved"])
                for moment, values in moments.items():
                    fill_stretch(saved, f"{moment}:{name}", *where, part.of(values, padded=True))
            if self.stage < 3:
                parameter.copy_(saved.whole(f"weight:{name}", parameter))
            else:
                (part,) = self._parts(parameter)
                parameter.ds_tensor.copy_(part.of(part.flat, padded=True))
        if self.stage < 3:
            self._engine.optimizer._hp_optimizer_states_linked = False  # to the new moments
            return
        whole = self._engine.optimizer.persistent_parameters  # too small to be cut up for long
        if whole:
            whole[0].partition(whole)  # forgets the old values
            whole[0].all_gather(whole)

    def _moments(self, flat: Tensor, steps: int) -> dict[str, Tensor]:
        """AdamW's running means of a flat stretch of masters; none before the first step."""
        state = self._adam.state
        if not steps:
            return {}
        if MOMENTS[0] not in state[flat]:
            state[flat].update({moment: torch.zeros_like(flat) for moment in MOMENTS})
        state[flat]["step"] = torch.tensor(float(steps), device=flat.device)
        return {moment: state[flat][moment] for moment in MOMENTS}

    def held(self) -> dict[str, list[Tensor]]:
        if self.stage == 0:
            return held_whole(self.module, self._adam)
        zero, parameters = self._engine.optimizer, list(self.module.parameters())
        shares = [parameter.ds_tensor for parameter in parameters] if self.stage == 3 else []
        gradients = gradient_buffers(zero, self.stage, self.offload)
        state = [*masters(zero, self.stage), *moments_of(self._adam)]
        away: list[Tensor] = []  # in the machine's memory
        if self.offload != "nothing":
            away = [*state, *gradients, *copy_buffers(zero, self.stage)]
            state, gradients = [], []
        if self.offload == "parameters":
            shares, away = [], away + shares
        if self.stage < 3:
            parts = [part for part in zero.averaged_gradients.values() if part is not None]
            gradients += [gradient for part in parts for gradient in part]
        gradients += [p.grad for p in parameters if p.grad is not None]
        weights = [*parameters, *self.module.buffers(), *shares]
        return {"weights": weights, "gradients": gradients, "optimizer": state, "away": away}

    @property
    def _adam(self) -> Any:
        """The AdamW that DeepSpeed steps."""
        return self._engine.optimizer if self.stage == 0 else self._engine.optimizer.optimizer

    def _parts(self, parameter: Any) -> list[_Part]:
        """Where DeepSpeed keeps this rank's share of a parameter's masters; none, or one."""
        if self.stage == 3:
            zero = self._engine.optimizer
            group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
            start = length * self.world.rank
            real = min(length, max(0, parameter.ds_numel - start))  # the last share is filled up
            return [_Part(start, zero.fp32_partitioned_groups_flat[group], offset, real, length)]
        mapping = parameter._hp_mapping
        if mapping is None:
            return []
        flat = self._engine.optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        return [_Part(there.start, flat, here.start, here.numel, here.numel)]

    @contextlib.contextmanager
    def _fixed_parameters_whole(self, changing: bool = False) -> Iterator[None]:
        """Parameters that do not learn, whole on every rank while inside; collective."""
        fixed = [p for p in self.module.parameters() if not p.requires_grad]
        cut = self.stage == 3 and bool(fixed)
        writer = 0 if changing else None
        with self._deepspeed.zero.GatheredParameters(fixed, modifier_rank=writer, enabled=cut):
            yield

    def full_state_dict(self) -> dict[str, Tensor]:
        with self._gathered():
            if not self.world.is_main:
                return {}
            state = self.module.state_dict()
            return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def close(self) -> None:
        self._engine.destroy()


class _Part(NamedTuple):
    """A stretch of one parameter inside a flat tensor of masters."""

    start: int
    """First element of the flattened parameter."""
    flat: Tensor
    offset: int
    """Its place in `flat`."""
    real: int
    """Elements of the parameter; the rest, up to `length`, is padding."""
    length: int

    def of(self, flat: Tensor, *, padded: bool = False) -> Tensor:
        """The stretch of `flat` or of a tensor laid out like it."""
        return flat.narrow(0, self.offset, self.length if padded else self.real)


def _shape(parameter: Any) -> tuple[int, ...]:
    """The shape of a whole parameter, which stage 3 keeps aside."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
