"""Buckets of the ddp engine and DeepSpeed's settings: pure functions."""

from __future__ import annotations

import torch
from torch import nn

from hpse_dist.engine.ddp import Bucket, in_buckets
from hpse_dist.engine.zero import deepspeed_config


def test_buckets_hold_every_parameter_once_from_the_last_to_the_first() -> None:
    parameters = [nn.Parameter(torch.zeros(n)) for n in (10, 100, 30, 0, 5)]
    parts = in_buckets(parameters, limit=4 * 40)
    assert [[p.numel() for p in part] for part in parts] == [[5, 0, 30], [100], [10]]
    assert in_buckets([], 100) == []


def test_a_bucket_holds_one_type() -> None:
    parameters = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4, dtype=torch.float64))]
    assert len(in_buckets(parameters, limit=1000)) == 2


def test_gradients_are_slices_of_their_bucket() -> None:
    layer = nn.Linear(3, 2)
    bucket = Bucket(list(layer.parameters()))
    for _ in range(2):
        layer(torch.ones(1, 3)).sum().backward()
    assert bucket.flat.tolist() == [2.0] * 8
    assert layer.weight.grad is not None
    assert layer.weight.grad.data_ptr() == bucket.flat.data_ptr()


def test_deepspeed_is_told_what_it_would_decide_itself() -> None:
    config = deepspeed_config(
        micro_batch=4, accumulation=3, world_size=2, stage=2, clip=0.0, precision="fp32"
    )
    assert config["train_batch_size"] == 24
    assert config["gradient_clipping"] == 0.0  # left out, it would be 1.0
    assert config["zero_optimization"]["stage"] == 2
    assert "bf16" not in config and "torch_autocast" not in config
    config = deepspeed_config(
        micro_batch=4, accumulation=3, world_size=2, stage=3, clip=0.5, precision="bf16"
    )
    assert config["gradient_clipping"] == 0.5
    assert config["torch_autocast"]["lower_precision_safe_modules"] == []
    assert "bf16" not in config
