"""The completion decoder: sizes, and what it may and may not depend on."""

from __future__ import annotations

import pytest
import torch

from hpse_dist.models.blocks import take
from hpse_dist.models.decoder import Decoder, DecoderConfig
from hpse_dist.models.encoder import Encoder, EncoderConfig


def models(positions: str) -> tuple[Encoder, Decoder]:
    torch.manual_seed(0)
    size = EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2, positions=positions)  # type: ignore[arg-type]
    encoder = Encoder(size).eval()
    return encoder, Decoder(DecoderConfig("custom", dim=16, depth=2, heads=2), encoder).eval()


@pytest.mark.parametrize(
    ("encoder_name", "name", "millions", "total"),
    [
        ("vit_b", "small", 34.43, 120.1),
        ("vit_b", "base", 114.6, 200.3),
        ("vit_l", "base", None, 417.9),
    ],
)
def test_parameter_counts_of_croco(
    encoder_name: str, name: str, millions: float | None, total: float
) -> None:
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(encoder_name))  # type: ignore[arg-type]
        decoder = Decoder(DecoderConfig(name), encoder)  # type: ignore[arg-type]
    count, rest = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (decoder, encoder))
    assert round(count + rest, 1) == total
    if millions is not None:
        assert count == pytest.approx(millions, abs=0.05 if millions > 100 else 0.005)


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_the_order_of_visible_patches_does_not_matter(positions: str) -> None:
    encoder, decoder = models(positions)
    image, memory = torch.randn(2, 3, 32, 32), torch.randn(2, 16, 32)
    visible, hidden = torch.arange(5).expand(2, -1), torch.arange(5, 16).expand(2, -1)
    shuffled = visible[:, [3, 1, 4, 0, 2]]
    outs = [
        decoder(encoder(image, index), index, hidden, memory, (4, 4), (4, 4))
        for index in (visible, shuffled)
    ]
    assert outs[0].shape == (2, 11, 192)
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-5)


def test_reference_tokens_may_be_permuted_with_their_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, decoder = models("rotary")
    tokens, memory = torch.randn(1, 4, 32), torch.randn(1, 16, 32)
    visible, hidden = torch.arange(4)[None], torch.arange(4, 16)[None]
    out = decoder(tokens, visible, hidden, memory, (4, 4), (4, 4))
    order = torch.randperm(16)
    assert not torch.allclose(
        out, decoder(tokens, visible, hidden, memory[:, order], (4, 4), (4, 4)), atol=1e-4
    )  # tokens alone: the reference's layout counts
    from hpse_dist.models import decoder as module

    true_positions = module.grid_positions

    def permuted(grid: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
        positions = true_positions((4, 4), device)
        return positions[:, order] if grid == (2, 8) else positions  # (2, 8) marks the reference

    monkeypatch.setattr(module, "grid_positions", permuted)
    moved = decoder(tokens, visible, hidden, memory[:, order], (4, 4), (2, 8))
    torch.testing.assert_close(out, moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
@pytest.mark.parametrize("crosses", [True, False])
def test_the_wanted_patches_alone_are_as_among_all(positions: str, crosses: bool) -> None:
    encoder, _ = models(positions)
    decoder = Decoder(DecoderConfig("custom", dim=16, depth=2, heads=2), encoder, crosses)
    tokens, memory = torch.randn(2, 4, 32), torch.randn(2, 16, 32) if crosses else None
    order = torch.stack([torch.randperm(16) for _ in range(2)])
    visible, hidden = order[:, :4], order[:, 4:]
    found = []
    for wanted in (hidden, torch.arange(16).expand(2, -1)):
        out = decoder(tokens, visible, wanted, memory, (4, 4), (4, 4))
        out = out if wanted is hidden else take(out, hidden)
        loss = out.square().mean()
        unused = {"allow_unused": True, "materialize_grads": True}
        found.append((out, *torch.autograd.grad(loss, list(decoder.parameters()), **unused)))
    for alone, among in zip(*found, strict=True):
        torch.testing.assert_close(alone, among, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("positions", ["rotary", "sincos"])
def test_the_reference_counts_and_so_does_each_visible_patch(positions: str) -> None:
    _, decoder = models(positions)
    tokens = torch.randn(2, 4, 32, requires_grad=True)
    memory = torch.randn(2, 24, 32, requires_grad=True)
    visible, hidden = torch.arange(4).expand(2, -1), torch.arange(4, 16).expand(2, -1)
    out = decoder(tokens, visible, hidden, memory, (4, 4), (4, 6))  # a wider reference
    grads = torch.autograd.grad(out[0].square().sum(), (tokens, memory))
    for grad in grads:
        assert (grad[0].abs().sum(-1) > 0).all() and (grad[1] == 0).all()  # rows stay apart


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="needs dim, depth and heads"):
        DecoderConfig("custom")
    with pytest.raises(ValueError, match="multiple of 4"):
        DecoderConfig(dim=30)
