"""The query head reads what is there and where."""

from __future__ import annotations

import pytest
import torch

from hpse_dist.models.heads import JointHead, QueryHead


def test_the_query_knows_where_a_token_is() -> None:
    torch.manual_seed(0)
    head = QueryHead(16, 16, 1, 1, 16, 16)
    tokens = torch.randn(2, 12, 16)
    read = head(tokens, (3, 4))
    assert read.shape == (2, 16)
    assert not torch.allclose(head(tokens.flip(1), (3, 4)), read, atol=1e-4)
    assert not torch.allclose(head(tokens, (4, 3)), read, atol=1e-4)


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (6, 8)])
def test_a_joint_head_reads_any_grid_and_knows_places(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head = JointHead(16, 24, 5)
    tokens = torch.randn(2, grid[0] * grid[1], 16)
    read, places = head(tokens, grid)
    assert read.shape == (2, 24) and places.shape == (2, 5, 2)
    assert places.min() > 0 and places.max() < 1
    other, turned = head(tokens.flip(1), grid)
    torch.testing.assert_close(turned, 1 - places)  # the picture turned by half a turn
    assert not torch.allclose(other, read, atol=1e-4)


def test_a_joint_is_where_the_token_that_looks_like_it_is() -> None:
    head = JointHead(4, 8, 2)
    head.look.weight.data.copy_(100 * torch.eye(4)[:2])
    tokens = torch.zeros(1, 12, 4)  # 3 rows, 4 columns
    tokens[0, 1, 0] = tokens[0, 11, 1] = 1.0
    places = head(tokens, (3, 4))[1]
    torch.testing.assert_close(places, torch.tensor([[[0.375, 1 / 6], [0.875, 5 / 6]]]))


def test_places_are_no_coarser_in_half_precision() -> None:
    """A look at one cell is at its middle, of which bf16 keeps eight bits."""
    head = JointHead(4, 8, 2)
    head.look.weight.data.copy_(100 * torch.eye(4)[:2])
    tokens = torch.zeros(1, 36, 4)
    tokens[0, 5, 0] = tokens[0, 31, 1] = 1.0
    with torch.autocast("cpu", torch.bfloat16):
        places = head(tokens, (6, 6))[1]
    torch.testing.assert_close(places, torch.tensor([[[11 / 12, 1 / 12], [3 / 12, 11 / 12]]]))
