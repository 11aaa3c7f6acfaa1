"""What drop path leaves out depends on seed, epoch and sample alone."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from hpse_dist.models.blocks import recompute_blocks
from hpse_dist.models.drop_path import DropKeys, DropPath, dropped, keep_factors
from hpse_dist.models.encoder import Encoder, EncoderConfig, build_encoder
from hpse_dist.models.projection import frozen_copy

OWN = EncoderConfig("custom", 16, 4, dim=16, depth=4, heads=2, drop_path=0.5)
VIT = dataclasses.replace(OWN, name="timm", timm="vit")
RESNET = EncoderConfig("timm", 64, timm="resnet18", drop_path=0.5)
every_kind = pytest.mark.parametrize("config", [OWN, VIT, RESNET], ids=["own", "vit", "resnet"])
IDS = torch.tensor([3, 8, 21, 34])


def model(config: EncoderConfig) -> tuple[Encoder, Tensor]:
    torch.manual_seed(0)
    encoder = build_encoder(config)
    for part in encoder.modules():  # batches of other sizes must not differ by their statistics
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
            torch.nn.init.ones_(part.weight)  # residual branches begin with 0 otherwise
    return encoder, torch.randn(4, 3, config.image_px, config.image_px)


def tokens(encoder: Encoder, image: Tensor, ids: Tensor, epoch: int = 0, seed: int = 1) -> Tensor:
    encoder.drop_keys.set(seed, torch.full_like(ids, epoch), ids)
    return encoder(image)


@every_kind
def test_a_sample_is_dropped_alike_in_every_batch(config: EncoderConfig) -> None:
    encoder, image = model(config)
    whole = tokens(encoder, image, IDS)
    torch.rand(5)  # whatever else is drawn
    torch.testing.assert_close(tokens(encoder, image, IDS), whole)
    for rows in (slice(0, 1), slice(1, 4)):
        part = tokens(encoder, image[rows], IDS[rows])
        torch.testing.assert_close(part, whole[rows], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(tokens(encoder, image, IDS, epoch=1), whole, atol=1e-3)
    assert not torch.allclose(tokens(encoder, image, IDS, seed=2), whole, atol=1e-3)


@every_kind
def test_a_second_call_in_a_step_draws_anew_and_evaluation_not_at_all(
    config: EncoderConfig,
) -> None:
    encoder, image = model(config)
    first, second = tokens(encoder, image, IDS), encoder(image)
    assert not torch.allclose(first, second, atol=1e-3)
    encoder.eval()
    plain = build_encoder(dataclasses.replace(config, drop_path=0.0)).eval()
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(tokens(encoder, image, IDS), plain(image))
    twin = frozen_copy(encoder).train()
    for part in twin.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
    torch.testing.assert_close(twin(image), plain(image))


def test_recomputing_drops_the_same() -> None:
    encoder, image = model(OWN)
    again = build_encoder(OWN)
    recompute_blocks(again, True)
    again.load_state_dict(encoder.state_dict())
    found = []
    for each in (encoder, again):
        loss = tokens(each, image, IDS).square().mean() + each(image).mean()
        loss.backward()
        found.append([parameter.grad for parameter in each.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_views_of_one_sample_draw_apart() -> None:
    keys = DropKeys()
    keys.set(0, torch.zeros_like(IDS), IDS)
    twice = keys.draw(8, 3, IDS.device)
    assert twice.shape == (8, 3) and len(twice.unique()) == 24
    keys.set(0, torch.zeros_like(IDS[1:]), IDS[1:])
    assert torch.equal(keys.draw(6, 3, IDS.device)[3:], twice[5:])


def test_the_expectation_stays_and_the_rate_is_kept() -> None:
    keys, ids = DropKeys(), torch.arange(20000)
    keys.set(0, torch.zeros_like(ids), ids)
    kept = keep_factors(keys.draw(20000, 1, ids.device)[:, 0], 0.3)
    assert kept.mean().item() == pytest.approx(1.0, abs=0.02)
    assert (kept == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    branch = torch.randn(20000, 2, 2)
    assert torch.equal(dropped(branch, kept)[kept == 0], torch.zeros(int((kept == 0).sum()), 2, 2))
    layer = DropPath(0.3, copy.deepcopy(keys)).eval()
    assert layer(branch) is branch
