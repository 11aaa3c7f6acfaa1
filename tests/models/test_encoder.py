"""The encoder: timm's names and numbers, visible patches, pairs, positions, any size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from hpse_dist import config
from hpse_dist.models.blocks import recompute_blocks, rotate, rotation_table, take
from hpse_dist.models.encoder import Encoder, EncoderConfig, build_encoder

SMALL = EncoderConfig(name="custom", image_px=32, patch_px=8, dim=32, depth=3, heads=2)


def encoder(**changes: object) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(replace(SMALL, **changes))  # type: ignore[arg-type]


def test_a_state_dict_goes_to_timm_and_back_by_copying() -> None:
    """Random weights, LayerNorms and biases too, so that each name carries its own tensor."""
    torch.manual_seed(0)
    options = {"class_token": False, "global_pool": "avg", "fc_norm": False, "num_classes": 0}
    theirs = timm.create_model("vit_tiny_patch16_224", **options).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    mine = build_encoder(EncoderConfig("vit_t", positions="sincos")).eval()
    mine.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(
            mine(image), theirs.forward_features(image), rtol=1e-4, atol=1e-4
        )
    theirs.load_state_dict(mine.state_dict())


@pytest.mark.parametrize(
    ("name", "millions"), [("vit_t", 5.5), ("vit_s", 21.59), ("vit_b", 85.65), ("vit_l", 303.1)]
)
def test_preset_sizes(name: str, millions: float) -> None:
    with torch.device("meta"):
        model = Encoder(EncoderConfig(name))  # type: ignore[arg-type]
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.005 if name in ("vit_t", "vit_l") else 6e-5)


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_only_visible_patches_reach_the_encoder(positions: str) -> None:
    model = encoder(positions=positions).eval()
    image = torch.randn(2, 3, 32, 32)
    visible = torch.tensor([[0, 3, 9, 15], [1, 2, 4, 8]])
    tokens = model(image, visible)
    assert tokens.shape == (2, 4, 32)
    image[0, :, 8:16, 16:24] = 100.0  # patch 6, hidden in both rows
    assert torch.equal(tokens, model(image, visible))
    image[0, :, 0:8, 24:32] = 100.0  # patch 3, visible in row 0
    changed = model(image, visible)
    assert not torch.equal(tokens[0], changed[0]) and torch.equal(tokens[1], changed[1])


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_all_patches_visible_is_the_whole_picture(positions: str) -> None:
    model = encoder(positions=positions).eval()
    image = torch.randn(2, 3, 32, 32)
    order = torch.stack([torch.randperm(16), torch.randperm(16)])
    torch.testing.assert_close(model(image, order), take(model(image), order), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
@pytest.mark.parametrize("reference_px", [32, 48])
def test_a_pair_in_one_pass_equals_two_calls(positions: str, reference_px: int) -> None:
    model = encoder(positions=positions)
    image, reference = torch.randn(3, 3, 32, 32), torch.randn(3, 3, reference_px, reference_px)
    visible = torch.stack([torch.randperm(16)[:5] for _ in range(3)])

    def gradients(tokens: torch.Tensor, memory: torch.Tensor) -> list[torch.Tensor]:
        loss = tokens.square().sum() + memory[..., ::2].sum()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    together = model.forward_pair(image, visible, reference)
    apart = model(image, visible), model(reference)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for one, other in zip(gradients(*together), gradients(*apart), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_any_size_that_is_a_multiple_of_the_patch(positions: str) -> None:
    model = encoder(positions=positions)
    assert model(torch.randn(1, 3, 64, 24)).shape == (1, 24, 32)
    with pytest.raises(ValueError, match="multiples of the patch, 8 px; found 32 x 30"):
        model(torch.randn(1, 3, 32, 30))


def test_rotary_scores_do_not_change_when_everything_moves() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 10, 2, 16), torch.randn(1, 10, 2, 16)
    positions = torch.randint(0, 14, (1, 10, 2))

    def scores(shift: list[int]) -> torch.Tensor:
        table = rotation_table(positions + torch.tensor(shift), 16)
        return torch.einsum("bnhd,bmhd->bhnm", rotate(q, table), rotate(k, table))

    torch.testing.assert_close(scores([0, 0]), scores([5, -3]), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(scores([0, 0]), torch.einsum("bnhd,bmhd->bhnm", q, k), atol=0.1)


def test_rotary_follows_its_formula() -> None:
    """One head of 8 channels: rows turn the first four by base^(-2i/4), columns the last four."""
    x = torch.arange(1.0, 9.0).view(1, 1, 1, 8)
    out = rotate(x, rotation_table(torch.tensor([[[2, 3]]]), 8))[0, 0, 0]
    for first, position, frequency in ((0, 2, 1.0), (1, 2, 0.1), (4, 3, 1.0), (5, 3, 0.1)):
        turn = torch.polar(torch.tensor(1.0), torch.tensor(position * frequency))
        pair = torch.complex(x[..., first], x[..., first + 2]).flatten()[0] * turn
        assert out[first].item() == pytest.approx(pair.real.item(), abs=1e-5)
        assert out[first + 2].item() == pytest.approx(pair.imag.item(), abs=1e-5)


def test_rotary_in_bf16_stays_near_float32() -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 196, 2, 64)
    table = rotation_table(torch.randint(0, 14, (1, 196, 2)), 64)
    low = rotate(q.bfloat16(), table)
    assert low.dtype == torch.bfloat16
    assert (low.float() - rotate(q, table)).abs().max() < 0.05


def test_recomputing_gives_the_same_gradients() -> None:
    image = torch.randn(2, 3, 32, 32)
    grads = []
    for recompute in (False, True):
        model = encoder()
        recompute_blocks(model, recompute)
        model(image).square().sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_drop_path_acts_in_training_only() -> None:
    model = encoder(drop_path=0.9)
    image, visible = torch.randn(2, 3, 32, 32), torch.zeros(2, 1, dtype=torch.int64)
    assert not torch.equal(model(image), model(image))
    assert model.forward_pair(image, visible, image)[1].shape == (2, 16, 32)
    model.eval()
    assert torch.equal(model(image), model(image))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_px": 100}, "image_px must be a multiple of patch_px"),
        ({"name": "custom"}, "'custom' needs dim, depth and heads"),
        ({"dim": 100}, "dim must be a multiple of 4"),
        ({"drop_path": 1.0}, "drop_path must be in"),
        ({"name": "conv", "image_px": 48, "patch_px": 12}, "power of two"),
        ({"name": "vit_x"}, "allowed is one of"),
    ],
)
def test_impossible_configs_are_refused(values: dict, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        config.build(EncoderConfig, values)


def test_a_convolutional_encoder_is_read_like_the_others() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("conv", 64, 8))
    assert [stage[0].weight.shape[0] for stage in encoder.stages] == [32, 64, 128]
    for size, grid in ((64, (8, 8)), (32, (4, 4))):
        image = torch.randn(2, 3, size, size)
        tokens = encoder(image)
        assert encoder.grid(image) == grid and tokens.shape == (2, grid[0] * grid[1], encoder.dim)
    encoder.eval()
    image = torch.randn(1, 3, 64, 64)
    marked = image.clone()
    marked[:, :, :8, -8:] = 9.0  # the upper right corner: what the first row's last token sees
    changed = (encoder(marked) - encoder(image)).abs().sum(2)[0] > 0
    assert changed[7] and not changed[[0, 56, 63]].any()
    assert not encoder.over_patches
    with pytest.raises(ValueError, match="whole pictures"):
        encoder(image, torch.zeros(2, 1).long())
    with pytest.raises(ValueError, match="multiples of 8 px"):
        encoder(torch.randn(1, 3, 36, 32))
