"""Small vocabularies: a place in a world, the names in a batch."""

from __future__ import annotations

import pytest

from hpse_dist.fields import FIELDS, missing
from hpse_dist.world import World


@pytest.mark.parametrize("wrong", [(1, 1, 0, 1), (0, 2, 2, 2), (0, 1, 0, 2), (-1, 1, 0, 1)])
def test_impossible_worlds(wrong: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="not a place"):
        World(*wrong)


def test_main_is_rank_zero() -> None:
    assert World().is_main and not World(1, 2, 1, 2).is_main


def test_missing_fields_and_unknown_names() -> None:
    assert missing(("image", "betas"), ("image", "sample_id")) == ["betas"]
    with pytest.raises(ValueError, match="not a field: imgae"):
        missing(("imgae",), tuple(FIELDS))
