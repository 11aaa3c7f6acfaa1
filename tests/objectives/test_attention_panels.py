"""Where a hidden patch looks: the weights are the attention's own, and the picture shows them."""

from __future__ import annotations

import torch

from hpse_dist.models.blocks import CrossAttention, rotation_table
from hpse_dist.models.decoder import Decoder, DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.models.positions import grid_positions
from hpse_dist.objectives.attention_panels import asked_patches, attention_rows

GRID = (4, 4)


def test_weights_are_those_of_the_forward_pass() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(16, 1)
    rotation = rotation_table(grid_positions(GRID, torch.device("cpu")), 16)
    x, memory = torch.randn(2, 16, 16), torch.randn(2, 16, 16)
    weights = attention.weights(x, memory, rotation, rotation)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 16))
    value = attention.kv(memory)[..., 16:]
    torch.testing.assert_close(
        attention.proj(weights @ value), attention(x, memory, rotation, rotation)
    )


def test_a_decoder_tells_where_its_last_block_looks() -> None:
    torch.manual_seed(0)
    config = EncoderConfig(name="custom", image_px=32, patch_px=8, dim=32, depth=1, heads=2)
    decoder = Decoder(DecoderConfig(name="custom", dim=32, depth=2, heads=2), build_encoder(config))
    visible = torch.tensor([[0, 5, 9, 15]])
    weights = decoder.looks_at(torch.randn(1, 4, 32), visible, torch.randn(1, 16, 32), GRID, GRID)
    assert weights.shape == (1, 16, 16)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 16))


def test_the_brightest_place_is_where_the_patch_looks() -> None:
    hidden = torch.tensor([[1, 2, 6, 9, 13, 14]])
    asked = asked_patches(hidden, GRID)
    assert set(asked[0].tolist()) <= set(hidden[0].tolist()) and len(set(asked[0].tolist())) == 3
    weights = torch.zeros(1, 16, 16)
    weights[0, asked[0, 0], 12] = 1.0  # the lower left corner
    picture = torch.zeros(1, 3, 32, 32)
    marked, red, green, _ = attention_rows(picture, picture, hidden, weights, GRID)[0]
    assert (marked == torch.tensor([1.0, 0.25, 0.2])[:, None, None]).all(0).any()
    size = red.shape[-1]
    lower_left = red[0, 3 * size // 4 :, : size // 4].mean()
    assert lower_left > red[0, : size // 2].mean() + 0.2
    assert green.std() < 0.2
