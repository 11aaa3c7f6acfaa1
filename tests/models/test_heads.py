"""The query head reads what is there and where."""

from __future__ import annotations

import pytest
import torch

from hpse_dist.models.heads import GridHead, QueryHead


def test_the_query_knows_where_a_token_is() -> None:
    torch.manual_seed(0)
    head = QueryHead(16, 16, 1, 1, 16, 16)
    tokens = torch.randn(2, 12, 16)
    read = head(tokens, (3, 4))
    assert read.shape == (2, 16)
    assert not torch.allclose(head(tokens.flip(1), (3, 4)), read, atol=1e-4)
    assert not torch.allclose(head(tokens, (4, 3)), read, atol=1e-4)


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (6, 8)])
def test_a_grid_head_reads_any_grid_and_knows_places(grid: tuple[int, int]) -> None:
    torch.manual_seed(0)
    head = GridHead(16, 24)
    tokens = torch.randn(2, grid[0] * grid[1], 16)
    read = head(tokens, grid)
    assert read.shape == (2, 24)
    assert not torch.allclose(head(tokens.flip(1), grid), read, atol=1e-4)
