"""A blindfolded encoder gives every picture the same tokens, and goes on doing so as it learns."""

from __future__ import annotations

import pytest
import torch

from hpse_dist.models.blind import blindfold, is_blind, places
from hpse_dist.models.encoder import EncoderConfig, build_encoder

KINDS = {
    "vit": EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2),
    "conv": EncoderConfig("conv", 32, 8, dim=32, depth=1, heads=1),
    "resnet": EncoderConfig("timm", 64, 1, timm="resnet10t"),
    "timm_vit": EncoderConfig("timm", 32, 8, timm="vit", dim=32, depth=2, heads=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_comes_through_and_the_rest_learns(kind: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(KINDS[kind])
    side = KINDS[kind].image_px
    pictures = torch.randn(4, 3, side, side)
    seen = encoder.eval()(pictures)
    assert not torch.equal(seen[0], seen[1]) and not is_blind(encoder)
    blindfold(encoder)
    assert is_blind(encoder)
    before = encoder(pictures)
    assert all(torch.equal(before[0], tokens) for tokens in before[1:])
    assert before[0].unique(dim=0).shape == before[0].shape, "one place from another"

    encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.1)
    (encoder(pictures) - 1).square().mean().backward()
    optimizer.step()
    after = encoder.eval()(pictures)
    assert all(torch.equal(after[0], tokens) for tokens in after[1:])
    assert not torch.equal(before, after)


def test_places_are_of_the_pictures_size() -> None:
    found = places(torch.randn(2, 3, 3, 5))
    assert found.shape == (2, 3, 3, 5) and torch.equal(found[0], found[1])
    assert found[0, 0, 1].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert found[0, 1, :, 2].tolist() == [-1.0, 0.0, 1.0]
    assert not found[0, 2].any()
