"""Attention against a written-out softmax, dense and packed, and the choice of kernel."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hpse_dist.models import attention
from hpse_dist.models.attention import attend


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention with nothing fused: (B, N, H, D) x (B, M, H, D)."""
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, requires_grad=True)


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 11), (1, 4)])
def test_dense_attention_is_softmax_attention(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    q, k, v = draw(2, queries, 3, 8), draw(2, keys, 3, 8), draw(2, keys, 3, 8)
    out, expected = attend(q, k, v), reference(q, k, v)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn_like(out)
    for mine, true in zip(
        torch.autograd.grad((out * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)


LENGTHS = [
    ([3, 3, 3], [3, 3, 3]),  # one dense batch
    ([2, 2, 5, 5], [2, 2, 5, 5]),  # visible patches, then whole references
    ([4, 1, 4], [2, 7, 2]),  # equal ones apart, and cross-attention
]


@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS)
def test_packed_sequences_see_only_themselves(q_lengths: list[int], k_lengths: list[int]) -> None:
    torch.manual_seed(0)
    q = draw(1, sum(q_lengths), 2, 8)
    k, v = draw(1, sum(k_lengths), 2, 8), draw(1, sum(k_lengths), 2, 8)
    out = attend(q, k, v, (q_lengths, k_lengths))
    parts = zip(q.split(q_lengths, 1), k.split(k_lengths, 1), v.split(k_lengths, 1), strict=True)
    expected = torch.cat([reference(*part) for part in parts], dim=1)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    grads = torch.autograd.grad(out.square().sum(), (q, k, v))
    true = torch.autograd.grad(expected.square().sum(), (q, k, v))
    for mine, by_hand in zip(grads, true, strict=True):
        torch.testing.assert_close(mine, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS)
def test_the_cuda_mask_says_the_same(q_lengths: list[int], k_lengths: list[int]) -> None:
    """The mask handed to xformers on CUDA, written out, against the packed path of the CPU."""
    torch.manual_seed(0)
    q = draw(1, sum(q_lengths), 2, 8)
    k, v = draw(1, sum(k_lengths), 2, 8), draw(1, sum(k_lengths), 2, 8)
    mask = attention._block_diagonal(tuple(q_lengths), tuple(k_lengths), "cpu")
    bias = mask.materialize((sum(q_lengths), sum(k_lengths)))
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / 8**0.5 + bias
    expected = torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v)
    packed = attend(q, k, v, (q_lengths, k_lengths))
    torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_agrees_with_cpu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lengths = ([16, 64], [16, 64])
    q, k, v = (torch.randn(1, 80, 3, 64) for _ in range(3))
    for sizes in (None, lengths):
        expected = attend(q, k, v, sizes)
        out = attend(*(x.to("cuda", dtype) for x in (q, k, v)), sizes)
        tolerance = 1e-4 if dtype == torch.float32 else 3e-2
        torch.testing.assert_close(out.float().cpu(), expected, rtol=tolerance, atol=tolerance)


def test_the_kernel_follows_the_tensors_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attention.kernel_for.cache_clear()
    monkeypatch.setattr(attention, "xformers_usable", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (10, 0))
    with caplog.at_level(logging.INFO, logger=attention.__name__):
        x = torch.randn(1, 4, 1, 8)
        attend(x, x, x)  # xformers is importable here, and CPU tensors still go to SDPA
        attend(x, x, x)
        assert attention.kernel_for(torch.device("cuda"), torch.bfloat16, 64) == "xformers"
        assert attention.kernel_for(torch.device("cuda"), torch.float32, 64) == "sdpa"
    assert [record.getMessage() for record in caplog.records] == [
        "attention on cpu in float32, heads of 8: sdpa",
        "attention on cuda in bfloat16, heads of 64: xformers",
        "attention on cuda in float32, heads of 64: sdpa",
    ]
    attention.kernel_for.cache_clear()
    monkeypatch.setattr(attention, "xformers_usable", lambda: False)
    assert attention.kernel_for(torch.device("cuda"), torch.bfloat16, 64) == "sdpa"
    attention.kernel_for.cache_clear()


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 6), (9, 0), (10, 0), (12, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_xformers_gets_only_what_it_takes(
    dtype: torch.dtype, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own operators' conditions, forward and backward, packed and not."""
    from xformers.ops import fmha

    if not attention.xformers_usable():
        pytest.skip("xformers' kernels do not load here")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    masks = (None, fmha.BlockDiagonalMask.from_seqlens([4, 12], device=torch.device("cpu")))
    taken = []
    with FakeTensorMode():
        for head_dim in (4, 6, 8, 20, 24, 32, 64, 80, 128, 256, 288):
            if not attention.xformers_takes(dtype, head_dim, capability):
                continue
            taken.append(head_dim)
            x = torch.empty(1, 16, 3, head_dim, dtype=dtype, device="cuda")
            for bias in masks:
                inputs = fmha.Inputs(x, x, x, attn_bias=bias)
                forward = (fmha.flash.FwOp, fmha.cutlass.FwOp)
                backward = (fmha.flash.BwOp, fmha.cutlass.BwOp)
                for kernels in (forward, backward):
                    reasons = [kernel.not_supported_reasons(inputs) for kernel in kernels]
                    assert [] in reasons, (head_dim, reasons)
    meant = {torch.float32: capability <= (9, 0), torch.bfloat16: capability >= (8, 0)}
    assert ({32, 64, 80} <= set(taken)) == meant.get(dtype, False)


def test_a_mask_hides_keys() -> None:
    """As if the keys that a query does not see were not there."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 5, 3, 8, generator=rng) for _ in range(3))
    mask = torch.eye(5, dtype=torch.bool)
    mask[0] = mask[3, :2] = True
    out = attend(q, k, v, mask=mask)
    for query in range(5):
        seen = mask[query]
        alone = attend(q[:, query : query + 1], k[:, seen], v[:, seen])
        torch.testing.assert_close(out[:, query : query + 1], alone, rtol=1e-5, atol=1e-6)
