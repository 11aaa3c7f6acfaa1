"""Masked autoencoding: what it sees, and the guesses that it is measured beside."""

from __future__ import annotations

import pytest
import torch

from hpse_dist import masking
from hpse_dist.fields import Batch
from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives.mae import Mae, MaeConfig
from hpse_dist.source import Source, encoder_of
from tests.fabricate import fabricate

SMALL = MaeConfig(decoder=DecoderConfig("custom", dim=32, depth=1, heads=2))


def small(config: MaeConfig = SMALL) -> Mae:
    torch.manual_seed(0)
    return Mae(config, build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2)), 0)


@pytest.fixture
def batch() -> Batch:
    return fabricate(MaeConfig().needs)


def test_hidden_pixels_never_reach_the_prediction(batch: Batch) -> None:
    mae = small()
    prediction, _, hidden = mae._complete(batch, 0)
    patches = masking.patchify(batch["image"], 8)
    patches.scatter_(1, hidden[..., None].expand(-1, -1, patches.shape[-1]), 7.0)
    again, _, _ = mae._complete({**batch, "image": masking.unpatchify(patches, (4, 4), 8)}, 0)
    torch.testing.assert_close(again, prediction)


def test_patches_are_counted_in_the_recipes_pictures_not_the_sources() -> None:
    config = EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2)
    source = Source("larger", config, build_encoder(config).state_dict(), {})
    with pytest.raises(ValueError, match=r"mask_ratio: 0\.75 of 1 patches hides"):
        Mae(SMALL, encoder_of(source, 8), 0)


@pytest.mark.parametrize("normalise", [True, False])
def test_the_nearest_patch_and_the_mean_are_what_they_say(batch: Batch, normalise: bool) -> None:
    mae = small(MaeConfig(normalise_targets=normalise, decoder=SMALL.decoder))
    visible, hidden = mae._hide(batch, 0)
    found = mae.baselines(batch["image"], visible, hidden)
    for row in range(len(hidden)):
        patches = masking.patchify(batch["image"], 8)[row]
        near, mean = [], []
        for h in hidden[row].tolist():
            distance = [
                ((h // 4 - v // 4) ** 2 + (h % 4 - v % 4) ** 2, v) for v in visible[row].tolist()
            ]
            guess, true = patches[min(distance)[1]], patches[h]
            flat = true.mean() * torch.ones_like(true)
            if normalise:
                scale = true.std() + 1e-6
                flat, true = (flat - true.mean()) / scale, (true - true.mean()) / scale
                guess = (guess - guess.mean()) / (guess.std() + 1e-6)
            near.append((guess - true).square().mean())
            mean.append((flat - true).square().mean())
        for name, errors in (("nearest", near), ("mean", mean)):
            wanted = torch.stack(errors).mean()
            value = found[f"hidden_loss_{name}"][row]
            torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)
