"""Who decays, who learns slower, and the learning rate of every step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from hpse_dist.config import ConfigError, build
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.optim import (
    OptimConfig,
    build_optimizer,
    encoder_depth,
    layer_of,
    parameter_groups,
    schedule,
)


class Model(nn.Module):
    """Names as timm gives them, around an encoder of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.pos_embed = nn.Parameter(torch.zeros(1, 4, 8))
        self.encoder.patch_embed = nn.Linear(8, 8)
        self.encoder.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.encoder.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 2)


def by_name(model: nn.Module, config: OptimConfig) -> dict[str, tuple[float, float]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["weight_decay"], group["lr_scale"])
        for group in parameter_groups(model, config)
        for parameter in group["params"]
    }


def test_vectors_do_not_decay_and_matrices_do() -> None:
    found = by_name(Model(), OptimConfig(weight_decay=0.1))
    assert set(found) == {name for name, _ in Model().named_parameters()}
    for name, (decay, scale) in found.items():
        vector = name.endswith((".bias", ".pos_embed")) or name == "encoder.norm.weight"
        assert decay == (0.0 if vector else 0.1), name
        assert scale == 1.0


def test_frozen_parameters_are_left_out() -> None:
    model = Model()
    model.encoder.requires_grad_(False)
    assert set(by_name(model, OptimConfig())) == {"head.weight", "head.bias"}
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        build_optimizer(model, OptimConfig())


def test_layer_decay_counts_down_from_the_top() -> None:
    found = by_name(Model(), OptimConfig(layer_decay=0.5))
    assert found["head.weight"][1] == 1.0
    assert found["encoder.norm.weight"][1] == 1.0
    assert found["encoder.blocks.1.weight"][1] == 0.5
    assert found["encoder.blocks.0.bias"][1] == 0.25
    assert found["encoder.patch_embed.weight"][1] == found["encoder.pos_embed"][1] == 0.125
    with pytest.raises(ValueError, match="timm's names"):
        parameter_groups(nn.Linear(2, 2), OptimConfig(layer_decay=0.5))


def test_layers_are_read_from_names() -> None:
    assert encoder_depth(Model()) == 2
    assert layer_of("encoder.vit.blocks.10.attn.qkv.weight", 12) == 11
    assert layer_of("decoder.blocks.0.attn.qkv.weight", 12) == 13
    assert layer_of("encoder.cls_token", 12) == 0


def encoders() -> dict[str, EncoderConfig]:
    sizes = {"image_px": 32, "patch_px": 8, "dim": 16, "depth": 3, "heads": 2}
    return {
        "own": EncoderConfig("custom", **sizes),
        "vit": EncoderConfig("timm", timm="vit", class_token=True, registers=2, **sizes),
        "resnet18": EncoderConfig("timm", 64, timm="resnet18"),
        "convnext": EncoderConfig("timm", 64, timm="convnext_atto"),
        "mobilenet": EncoderConfig("timm", 64, timm="mobilenetv3_small_050"),
        "distilled": EncoderConfig("timm", 32, timm="deit_tiny_distilled_patch16_224"),
    }


EMBEDDINGS = {
    "own": {"patch_embed.proj.weight"},
    "vit": {"model.patch_embed.proj.weight", "model.cls_token", "model.reg_token"},
    "resnet18": {"model.conv1.weight", "model.bn1.bias"},
    "convnext": {"model.stem.0.weight", "model.stem.1.bias"},
    "mobilenet": {"model.conv_stem.weight", "model.bn1.bias"},
    "distilled": {"model.cls_token", "model.dist_token", "model.pos_embed"},
}
LAYERS = {
    "own": {"blocks.0.norm1.weight": 1, "blocks.2.mlp.fc2.bias": 3, "norm.weight": 4},
    "vit": {"model.blocks.1.attn.qkv.weight": 2, "model.norm.bias": 4},
    "resnet18": {"model.layer1.0.conv1.weight": 1, "model.layer4.1.bn2.weight": 4},
    "convnext": {"model.stages.0.blocks.1.norm.weight": 1, "model.stages.3.blocks.0.gamma": 4},
    "mobilenet": {"model.blocks.0.0.conv_dw.weight": 1, "model.conv_head.weight": 7},
    "distilled": {"model.blocks.11.norm1.weight": 12, "model.norm.weight": 13},
}
DEPTHS = {"own": 3, "vit": 3, "resnet18": 4, "convnext": 4, "mobilenet": 6, "distilled": 12}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_of_every_kind_of_encoder(kind: str) -> None:
    """One step of AdamW from nothing moves each weight by its rate: the scales are those."""
    model = nn.Module()
    model.encoder = build_encoder(encoders()[kind])
    model.head = nn.Linear(4, 2)
    depth = encoder_depth(model)
    assert depth == DEPTHS[kind]
    layers = LAYERS[kind] | dict.fromkeys(EMBEDDINGS[kind], 0)
    optimizer = build_optimizer(model, OptimConfig(lr=1e-2, layer_decay=0.5, weight_decay=0.0))
    for group in optimizer.param_groups:
        group["lr"] = 1e-2 * group["lr_scale"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        layer = layer_of(name, depth)
        moved = (before[name] - parameter.detach()).double()
        expected = torch.full_like(moved, 1e-2 * 0.5 ** (depth + 1 - layer))
        torch.testing.assert_close(moved, expected, rtol=2e-2, atol=3e-7)
        if name in {f"encoder.{key}" for key in layers}:
            assert layer == layers[name.removeprefix("encoder.")], name
    assert layer_of("head.weight", depth) == depth + 1
    named = dict(model.named_parameters())
    assert {f"encoder.{key}" for key in layers} <= named.keys()
    assert {n for n in named if layer_of(n, depth) == 0} >= {
        f"encoder.{key}" for key in EMBEDDINGS[kind]
    }


def test_one_is_off_and_tokens_do_not_decay() -> None:
    plain = nn.Linear(2, 2)
    assert {s for _, s in by_name(plain, OptimConfig(layer_decay=1.0)).values()} == {1.0}
    for kind, token in (("vit", "reg_token"), ("distilled", "dist_token")):
        model = nn.Module()
        model.encoder = build_encoder(encoders()[kind])
        found = by_name(model, OptimConfig(weight_decay=0.1))
        for name in ("cls_token", token, "pos_embed"):
            assert found[f"encoder.model.{name}"][0] == 0.0
        assert found["encoder.model.patch_embed.proj.weight"][0] == 0.1


def test_a_module_may_scale_its_own_parameters() -> None:
    model = Model()
    model.lr_scale = lambda name: 0.1 if name.startswith("encoder.") else 1.0  # type: ignore
    found = by_name(model, OptimConfig())
    assert found["encoder.norm.bias"][1] == 0.1
    assert found["head.bias"][1] == 1.0


def test_schedule_rises_then_falls_along_half_a_cosine() -> None:
    config = OptimConfig(lr=1.0, min_lr=0.1, warmup_steps=10)
    rates = [schedule(step, 110, config) for step in range(111)]
    assert rates[0] == 0.0
    assert rates[5] == pytest.approx(0.5)
    assert rates[10] == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[35] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert rates[110] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert schedule(1, 10, OptimConfig(lr=1.0)) < 1.0


def test_impossible_values_are_refused_in_one_sentence() -> None:
    for wrong, match in (
        ({"lr": 0}, "lr must"),
        ({"lr": "nan"}, "lr must"),
        ({"min_lr": 1.0}, "min_lr must"),
        ({"betas": [0.9, 1.0]}, "betas must"),
        ({"weight_decay": -1}, "weight_decay must"),
        ({"warmup_steps": -1}, "warmup_steps must"),
        ({"clip": -1}, "clip must"),
        ({"layer_decay": 0}, "layer_decay must"),
    ):
        with pytest.raises(ConfigError, match=match):
            build(OptimConfig, wrong)
