"""Start weights of a head: by seed and shape, whatever stands below it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hpse_dist.models.start import start_weights


def head(width: int) -> nn.Module:
    made = nn.Sequential(nn.Linear(width, 8), nn.Conv2d(8, 4, 3), nn.Linear(8, 8), nn.LayerNorm(8))
    nn.init.trunc_normal_(made[2].weight)  # type: ignore[arg-type]
    nn.init.xavier_uniform_(made[0].weight, gain=0.01)  # type: ignore[arg-type]
    made.register_parameter("query", nn.Parameter(torch.randn(2, 8)))
    return made


@pytest.mark.parametrize("drawn_before", [0, 7])
def test_a_wider_first_layer_shifts_no_other(drawn_before: int) -> None:
    with start_weights(3, "task"):
        narrow = head(5)
    after = torch.rand(2)
    torch.manual_seed(99)
    torch.rand(drawn_before)
    with start_weights(3, "task"):
        wide = head(11)
    assert torch.equal(torch.rand(2), after)
    state = wide.state_dict()
    for name, value in narrow.state_dict().items():
        if name != "0.weight":
            same = name == "0.bias" or torch.equal(state[name], value)
            assert same, name
    with start_weights(4, "task"):
        other = head(5)
    assert not torch.equal(other.state_dict()["query"], narrow.state_dict()["query"])


def test_no_two_tensors_are_alike() -> None:
    with start_weights(0, "task"):
        layers = [nn.Linear(6, 6) for _ in range(3)]
    flat = torch.cat([layer.weight.flatten() for layer in layers])
    assert len(flat.unique()) == len(flat)
