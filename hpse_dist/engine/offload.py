"""Offload: what ZeRO holds in the machine's memory in place of the device's.

The optimizer is torch's own fused AdamW there too: DeepSpeed's would be compiled at its first use.
The functions know the names inside DeepSpeed's two ZeRO optimizers (stages 1 and 2, and 3).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

Offload = Literal["nothing", "optimizer", "parameters"]


def offload_settings(offload: Offload, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's settings of its section `zero_optimization`."""
    # only page-locked memory is copied beside the computing; there is none without a GPU
    place = {"device": "cpu", "pin_memory": device.type == "cuda"}
    wanted = {
        "nothing": (),
        "optimizer": ("offload_optimizer",),
        "parameters": ("offload_optimizer", "offload_param"),
    }
    return {name: place for name in wanted[offload]}


def take_early_gradients(zero: Any, stage: int) -> None:
    """Give the optimizer the sums of parameters that an earlier micro-step has touched and the last
    one has not; by itself DeepSpeed copies only what the last one touches."""
    taken = zero.norm_for_param_grads
    if stage < 3:
        zero._offload_accumulated_param_ids -= taken.keys()
        zero._finalize_cpu_offload_gradient_accumulation()
        return
    parameters = (p for group in zero.fp16_groups for p in group)
    zero._offload_boundary_param_ids &= {
        p.ds_id for p in parameters if zero.get_param_id(p) not in taken
    }
    zero._finalize_offload_gradient_accumulation()


def gradient_buffers(zero: Any, stage: int, offload: Offload) -> list[Tensor]:
    """Where DeepSpeed's ZeRO optimizer, of stage 1 or more, sums gradients over micro-steps and
    leaves them; with offload all of it in the machine's memory."""
    kept = [zero.grad_partitions_flat_buffer] if stage == 3 else []
    if offload == "nothing":
        return kept
    if stage < 3:
        kept += zero.accumulated_grads_in_cpu.values()
    return kept + [flat.grad for flat in masters(zero, stage)]


def copy_buffers(zero: Any, stage: int) -> list[Tensor]:
    """What offloading takes in the machine's memory beside state and gradients."""
    if stage == 3:
        return []
    return [
        *zero.param_buffer_of_bit16_for_cpu_offload_groups,
        zero.temp_grad_buffer_for_cpu_offload,
    ]


def masters(zero: Any, stage: int) -> list[Tensor]:
    """The flat weights that this rank's optimizer moves."""
    return zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
