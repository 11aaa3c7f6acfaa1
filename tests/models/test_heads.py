"""The query head reads what is there and where."""

from __future__ import annotations

import torch

from hpse_dist.models.heads import QueryHead


def test_the_query_knows_where_a_token_is() -> None:
    torch.manual_seed(0)
    head = QueryHead(16, 16, 1, 1, 16, 16)
    tokens = torch.randn(2, 12, 16)
    read = head(tokens, (3, 4))
    assert read.shape == (2, 16)
    assert not torch.allclose(head(tokens.flip(1), (3, 4)), read, atol=1e-4)
    assert not torch.allclose(head(tokens, (4, 3)), read, atol=1e-4)
