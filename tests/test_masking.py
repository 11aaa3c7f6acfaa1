"""Masks: exact counts, focus on the person, reproducible draws; patches and targets."""

from __future__ import annotations

import pytest
import torch

from hpse_dist import masking

GRID = (14, 14)
N = 196


def mask(person: torch.Tensor | None, ratio: float = 0.75, epoch: int = 0, rule: str = "round"):
    ids = torch.arange(len(person) if person is not None else 6)
    return masking.hidden_patches(person, ratio, 0.85, 7, epoch, ids, grid=GRID, rule=rule)


def foregrounds() -> torch.Tensor:
    """Empty, one patch, a column of patches, most, all, and a faint full one, below the limit."""
    person = torch.zeros(6, *GRID)
    person[1, 7, 7] = 1.0
    person[2, 1:13, 5:9] = 0.6
    person[3, :, 1:] = 1.0
    person[4] = 1.0
    person[5] = 0.09
    return person


@pytest.mark.parametrize(
    ("ratio", "rounded", "floored"),
    [(0.6, 118, 117), (0.75, 147, 147), (0.85, 167, 166), (0.9, 176, 176)],
)
def test_the_count_is_exact_for_every_foreground(ratio: float, rounded: int, floored: int) -> None:
    for rule, count in (("round", rounded), ("floor", floored)):
        assert masking.num_hidden(N, ratio, rule) == count
        for person in (foregrounds(), None):
            assert mask(person, ratio, rule=rule).sum(1).tolist() == [count] * 6


def test_the_person_is_hidden_first_and_never_wholly() -> None:
    person = foregrounds()
    hidden = mask(person)
    front = person.flatten(1) >= 0.1
    in_front = (hidden & front).sum(1).tolist()
    assert in_front[1] == 1  # 0.85 of one patch
    assert in_front[2] == round(0.85 * 48)
    assert in_front[3] == 147  # more than fits the budget: the background keeps all
    assert in_front[4] == 147


def test_a_row_without_person_is_masked_uniformly() -> None:
    ids = torch.arange(2000)
    for person in (None, torch.zeros(2000, 4, 4), torch.ones(2000, 4, 4)):
        hidden = masking.hidden_patches(person, 0.75, 0.85, 0, 0, ids, grid=(4, 4))
        share = hidden.float().mean(0)
        assert (share - 0.75).abs().max() < 0.05


def test_masks_depend_on_seed_epoch_and_sample_only() -> None:
    person = foregrounds()
    whole = mask(person)
    halves = [
        masking.hidden_patches(person[i : i + 1], 0.75, 0.85, 7, 0, torch.tensor([i]), grid=GRID)
        for i in range(6)
    ]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, mask(person, epoch=1))
    epochs = torch.tensor([0, 1, 0, 1, 0, 1])
    mixed = masking.hidden_patches(person, 0.75, 0.85, 7, epochs, torch.arange(6), grid=GRID)
    assert torch.equal(mixed[::2], whole[::2])
    assert torch.equal(mixed[1::2], mask(person, epoch=1)[1::2])


def test_a_person_map_on_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="person: its grid"):
        masking.hidden_patches(torch.zeros(1, 7, 7), 0.5, 0.5, 0, 0, torch.zeros(1), grid=GRID)


def test_split_gives_all_patches_once_in_order() -> None:
    hidden = mask(foregrounds())
    visible, covered = masking.split(hidden, 147)
    assert visible.shape == (6, 49) and covered.shape == (6, 147)
    assert hidden.gather(1, covered).all() and not hidden.gather(1, visible).any()
    assert (visible.diff() > 0).all() and (covered.diff() > 0).all()


def test_patches_go_back_to_the_picture() -> None:
    image = torch.randn(2, 3, 24, 16)
    patches = masking.patchify(image, 8)
    assert patches.shape == (2, 6, 192)
    assert torch.equal(patches[1, 3], image[1, :, 8:16, 8:16].flatten())  # second row, second
    assert torch.equal(masking.unpatchify(patches, (3, 2), 8), image)


def test_targets_are_standardised_by_the_unbiased_variance() -> None:
    patches = torch.randn(2, 3, 192) * 5 + 2
    targets, mean, std = masking.pixel_targets(patches)
    by_hand = (patches - patches.mean(-1, keepdim=True)) / (
        patches.var(-1, keepdim=True, correction=1) + 1e-6
    ).sqrt()
    assert torch.allclose(targets, by_hand, atol=1e-6)
    assert torch.allclose(targets * std + mean, patches, atol=1e-5)
    plain, zero, one = masking.pixel_targets(patches, normalise=False)
    assert torch.equal(plain, patches)
    assert torch.equal(zero, torch.zeros(2, 3, 1)) and torch.equal(one, torch.ones(2, 3, 1))
    coarse = patches.bfloat16()  # the variance of 192 numbers needs more than 8 bits
    assert torch.equal(masking.pixel_targets(coarse)[0], masking.pixel_targets(coarse.float())[0])
    flat = masking.pixel_targets(torch.ones(1, 1, 192))[0]
    assert torch.equal(flat, torch.zeros_like(flat))  # no 0/0 in a patch of one colour
