"""Completion: what its loss counts, its diagnostics, and its pictures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hpse_dist import config, masking
from hpse_dist.fields import Batch
from hpse_dist.models.blocks import recompute_blocks, take
from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives.completion import Completion, CompletionConfig, other_subject
from tests.fabricate import fabricate, rows

SMALL = CompletionConfig(decoder=DecoderConfig("custom", dim=32, depth=1, heads=2))


def completion(**changes: object) -> Completion:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    return Completion(replace(SMALL, **changes), encoder, seed=3)  # type: ignore[arg-type]


def perfect(model: Completion, batch: Batch, epoch: int | Tensor) -> Tensor:
    """The normalised hidden patches, by hand."""
    _, hidden = model._hide(batch, epoch)
    patches = take(masking.patchify(batch["image"], 8), hidden)
    centred = patches - patches.mean(-1, keepdim=True)
    return centred / (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def test_a_perfect_prediction_has_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = completion()
    batch = fabricate(model.needs)
    _, hidden = model._hide(batch, batch["epoch"])
    target = perfect(model, batch, batch["epoch"])
    assert model.errors(target, batch["image"], hidden).abs().max() < 1e-10
    monkeypatch.setattr(model, "_decode", lambda *_: target)
    assert model(batch)["loss"] < 1e-10


def test_visible_patches_are_no_targets() -> None:
    model = completion()
    batch = fabricate(model.needs)
    visible, hidden = model._hide(batch, 0)
    assert visible.shape == (8, 4) and hidden.shape == (8, 12)
    prediction = torch.randn(8, 12, 192)
    patches = masking.patchify(batch["image"], 8)
    shown = patches.scatter(1, visible[..., None].expand(-1, -1, 192), 9.0)
    changed = masking.unpatchify(shown, (4, 4), 8)
    assert torch.equal(
        model.errors(prediction, batch["image"], hidden), model.errors(prediction, changed, hidden)
    )


def test_the_loss_is_the_sum_of_the_kinds_means() -> None:
    model = completion(view_weight=2.0, pose_weight=0.5)
    batch = fabricate(model.needs)
    scalars = model(batch)
    each = _errors(model, batch)
    kinds = batch["pair_kind"]
    view, pose = each[kinds == 0].mean(), each[kinds == 1].mean()
    torch.testing.assert_close(scalars["loss_view"], view)
    torch.testing.assert_close(scalars["loss_pose"], pose)
    torch.testing.assert_close(scalars["loss"], 2.0 * view + 0.5 * pose)
    assert view != pose


def _errors(model: Completion, batch: Batch) -> Tensor:
    """Error of each sample, one at a time."""
    errors = []
    for i in range(len(batch["image"])):
        one = rows(batch, i, i + 1)
        visible, hidden = model._hide(one, one["epoch"])
        tokens, memory = model.encoder(one["image"], visible), model.encoder(one["image_ref"])
        prediction = model.decoder(tokens, visible, hidden, memory, (4, 4), (4, 4))
        errors.append((prediction - perfect(model, one, one["epoch"])).square().mean())
    return torch.stack(errors).detach()


def test_uneven_splits_over_ranks_change_nothing() -> None:
    """Eight rows as 1, 2 and 4 ranks' shares: one half may even lack a kind."""
    model = completion()
    batch = fabricate(model.needs)
    order = batch["pair_kind"].argsort()
    batch = {name: value[order] for name, value in batch.items()}
    losses = []
    for share in (8, 4, 2):
        parts = [model(rows(batch, i, i + share))["loss"] for i in range(0, 8, share)]
        losses.append(torch.stack(parts).mean())
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-5, atol=1e-6)


def test_without_person_ratio_the_person_is_not_asked_for() -> None:
    model = completion(person_ratio=None)
    assert "person" not in model.needs
    assert model(fabricate(model.needs))["loss"].isfinite()


def test_the_partner_is_the_next_row_of_another_subject() -> None:
    subject = torch.tensor([5, 5, 7, 5, 9])
    partner, found = other_subject(subject)
    assert partner.tolist() == [2, 2, 3, 4, 0] and found.all()
    valid = torch.tensor([True, True, False, True, True])
    partner, found = other_subject(subject, valid)
    assert partner[:2].tolist() == [4, 4] and found.all()
    assert not other_subject(torch.zeros(4, dtype=torch.int64))[1].any()


def test_the_swapped_error_uses_the_partners_reference() -> None:
    model = completion().eval()
    batch = fabricate(model.needs)
    figures = model.metrics(batch)
    partner, _ = other_subject(batch["subject"])
    other = {**batch, "image_ref": batch["image_ref"][partner]}
    swapped = model.metrics(other)["hidden_loss"]
    torch.testing.assert_close(figures["hidden_loss_swapped"], swapped)
    torch.testing.assert_close(figures["hidden_loss_true"], figures["hidden_loss"])
    assert not torch.allclose(figures["hidden_loss_swapped"], figures["hidden_loss"])
    kinds = batch["pair_kind"]
    assert torch.equal(figures["hidden_loss_pose"].isnan(), kinds == 0)
    assert torch.equal(figures["hidden_loss_swapped_view"].isnan(), kinds == 1)


def test_rows_without_partner_count_in_neither_side_of_the_gain() -> None:
    model = completion().eval()
    batch = fabricate(model.needs)
    batch["subject"] = torch.zeros(8, dtype=torch.int64)
    figures = model.metrics(batch)
    assert figures["hidden_loss"].isfinite().all()
    assert (
        figures["hidden_loss_swapped"].isnan().all() and figures["hidden_loss_true"].isnan().all()
    )
    means = {name: float(values.nanmean()) for name, values in figures.items()}
    assert model.summary(means) == {}


def test_padding_is_nobodys_wrong_picture() -> None:
    """The last batch of an evaluation: figures of its rows are those without the padding."""
    model = completion().eval()
    batch = fabricate(model.needs)
    batch["valid"] = torch.arange(8) < 4  # of two subjects; the next row of another is padding
    figures, alone = model.metrics(batch), model.metrics(rows(batch, 0, 4))
    for name in ("hidden_loss_true", "hidden_loss_swapped"):
        assert alone[name].isfinite().all()
        torch.testing.assert_close(figures[name][:4], alone[name])


def test_reference_gain_is_in_percent() -> None:
    means = {
        "hidden_loss_true": 0.5,
        "hidden_loss_swapped": 0.6,
        "hidden_loss_true_view": 0.4,
        "hidden_loss_swapped_view": 0.5,
        "hidden_loss_true_pose": math.nan,
        "hidden_loss_swapped_pose": math.nan,
    }
    gains = completion().summary(means)
    assert gains == pytest.approx({"reference_gain": 20.0, "reference_gain_view": 25.0})


@pytest.mark.parametrize("normalise", [True, False])
def test_the_mean_colour_is_the_baseline(normalise: bool) -> None:
    model = completion(normalise_targets=normalise).eval()
    batch = fabricate(model.needs)
    _, hidden = model._hide(batch, 0)
    patches = take(masking.patchify(batch["image"], 8), hidden)
    expected = patches.var(-1, correction=0)
    if normalise:
        expected = expected / (patches.var(-1) + 1e-6)
    torch.testing.assert_close(model.metrics(batch)["hidden_loss_mean"], expected.mean(1))


def test_the_panel_shows_the_target_in_its_place() -> None:
    model = completion().eval()
    batch = fabricate(model.needs, batch=3)
    panel = model.panels(batch)["completion"]
    assert panel.shape == (3, 22 + 3 * 164, 4 * 164 + 4)


@pytest.mark.parametrize("normalise", [True, False])
def test_a_panel_of_a_perfect_prediction_shows_the_picture_twice(
    monkeypatch: pytest.MonkeyPatch, normalise: bool
) -> None:
    """Hidden patches are the mean colour; the last column is the second picture."""
    model = completion(normalise_targets=normalise).eval()
    batch = fabricate(model.needs, batch=2)
    _, hidden = model._hide(batch, 0)
    target = take(masking.patchify(batch["image"], 8), hidden)
    if normalise:
        target = perfect(model, batch, 0)
    monkeypatch.setattr(model, "_decode", lambda *_: target)
    panel = model.panels(batch)["completion"]
    bare, completed, whole, other = (
        panel[:, 22:182, 4 + i * 164 : i * 164 + 164] for i in range(4)
    )
    assert (completed - whole).abs().max() < 1.5 / 255
    assert (whole - other).abs().mean() > 0.02
    moved = {**batch, "image_ref": batch["image"]}
    assert torch.equal(model.panels(moved)["completion"][:, :, -164:-4][:, 22:182], whole)
    grey = torch.tensor([0.485, 0.456, 0.406])
    for patch in set(hidden[0].tolist()) - {0, 1}:  # the caption is there
        y, x = 40 * (patch // 4) + 20, 40 * (patch % 4) + 20
        assert (bare[:, y, x] - grey).abs().max() < 1.5 / 255


def test_the_panels_do_without_the_mask_token_once_the_decoder_has_run() -> None:
    model = completion().eval()

    def taken(decoder: nn.Module, *_: object) -> None:  # as ZeRO-3 does
        decoder.mask_token.data = torch.empty(0)

    model.decoder.register_forward_hook(taken)
    assert set(model.panels(fabricate(model.needs, batch=2))) == {"completion", "attention"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio must be between 0 and 1"),
        ({"person_ratio": 1.5}, "person_ratio must be in"),
        ({"view_weight": 0, "pose_weight": 0}, "not both 0"),
        ({"pose_weight": -1}, "must be 0 or more"),
        ({"count_rule": "ceil"}, "allowed is one of: round, floor"),
    ],
)
def test_impossible_configs_are_refused(values: dict, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        config.build(CompletionConfig, values)


def test_a_ratio_that_hides_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="hides 16"):
        completion(mask_ratio=0.99)


def test_recomputing_keeps_less_of_the_decoder_too() -> None:
    """The same gradients, of which every block makes its activations anew."""
    model, grads = completion(), []
    batch, passes = fabricate(model.needs), 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    for block in (*model.encoder.blocks, *model.decoder.blocks):
        block.register_forward_pre_hook(count)
    for wanted in (False, True):
        recompute_blocks(model, wanted)
        model.zero_grad()
        model(batch)["loss"].backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert passes == 2 + 4
    assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))
