"""Looks at blocks: likeness by its definition, and what joints can be told from them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from hpse_dist.data.collection import Collection
from hpse_dist.layers import Look, alike, blocks_of, look
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from tests.data.made_collection import made_collection

TINY = EncoderConfig("custom", image_px=32, patch_px=8, dim=24, depth=3, heads=2)
KINDS = {
    "vit": TINY,
    "conv": EncoderConfig("conv", image_px=32, patch_px=8, dim=16, depth=1),
    "resnet": EncoderConfig("timm", image_px=64, timm="resnet18"),
    "timm vit": EncoderConfig(
        "timm", image_px=32, patch_px=8, dim=24, depth=2, heads=2, timm="vit", class_token=True
    ),
}


@pytest.fixture(scope="module")
def collection() -> Collection:
    return made_collection()


def kernel(features: np.ndarray) -> np.ndarray:
    centred: np.ndarray = features - features.mean(0)
    return centred @ centred.T


def test_hsic_is_the_mean_over_four_different_frames() -> None:
    """Song et al.: the mean of k_ij (m_ij + m_qr - 2 m_iq) over distinct i, j, q, r."""
    rng = np.random.default_rng(0)
    k, m = (kernel(rng.normal(size=(7, 3))) for _ in range(2))

    def hsic(one: np.ndarray, other: np.ndarray) -> float:
        quadruples = itertools.permutations(range(len(one)), 4)
        found = [
            one[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q]) for i, j, q, r in quadruples
        ]
        return float(np.mean(found))

    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert alike(k, m) == pytest.approx(expected, rel=1e-9)


def test_blocks_are_alike_whatever_turns_and_scales_them_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 40, 2000))
    turn = np.linalg.qr(rng.normal(size=(2000, 2000)))[0]
    assert alike(kernel(one), kernel(3 * one @ turn)) == pytest.approx(1)
    assert abs(alike(kernel(one), kernel(other))) < 0.1  # the plain CKA of these is 0.98
    assert np.isnan(alike(kernel(one), np.zeros((40, 40))))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_encoder_has_blocks(kind: str, collection: Collection) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(KINDS[kind]).eval()
    depth = {"vit": 3, "conv": 3, "resnet": 4, "timm vit": 2}[kind]
    assert len(blocks_of(encoder)) == depth
    found = look(encoder, collection, "val", frames=10, micro_batch=4)
    assert len(found.explained) == len(found.kernels) == depth
    assert np.isfinite(found.explained).all()
    assert [one.shape for one in found.kernels] == [(10, 10)] * depth
    assert not any(block._forward_hooks for block in blocks_of(encoder))


def test_what_is_seen_does_not_depend_on_the_batch(collection: Collection) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(TINY).eval()
    one, other = (look(encoder, collection, "val", 10, size) for size in (3, 8))
    np.testing.assert_allclose(one.explained, other.explained, atol=1e-3)
    for mine, its in zip(one.kernels, other.kernels, strict=True):
        np.testing.assert_allclose(mine, its, atol=1e-5)
        assert np.trace(mine) == pytest.approx(len(mine))


def test_what_cannot_be_looked_at_is_said(collection: Collection, tmp_path: Path) -> None:
    encoder = build_encoder(TINY).eval()
    with pytest.raises(ValueError, match="no frames of split test; name another by --split"):
        look(encoder, collection, "test", 10, 4)
    with pytest.raises(ValueError, match="4 frames of split val, fewer than the 8"):
        look(encoder, collection, "val", 4, 4)
    with pytest.raises(ValueError, match="no blocks or stages"):
        blocks_of(torch.nn.Linear(2, 2))


def test_training_people_alone_are_compared_and_not_probed(collection: Collection) -> None:
    found: Look = look(build_encoder(TINY).eval(), collection, "train", 10, 4)
    assert found.explained == () and len(found.kernels) == 3
