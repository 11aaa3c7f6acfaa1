"""What `pretrain --plan` refuses before it measures."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from hpse_dist.config import ConfigError, load
from hpse_dist.recipe import PretrainRecipe
from pipelines.planning import check

DEMO = Path(__file__).parents[2] / "configs" / "pretrain" / "demo.yaml"


def test_a_plan_of_offloaded_training_is_refused() -> None:
    options = Namespace(nodes=1, gpus=None, network=None, link=None, price=None)
    check(load(PretrainRecipe, DEMO, []), options)
    with pytest.raises(ConfigError, match=r"plan with machine\.offload=nothing"):
        check(load(PretrainRecipe, DEMO, ["machine.offload=optimizer"]), options)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"nodes": 0}, "--nodes must be above 0, found 0"), ({"nodes": 2}, "with --network GB/s")],
)
def test_options_that_cannot_be_are_bad_arguments(change: dict[str, int], says: str) -> None:
    """`ConfigError`: exit code 2."""
    given = {"nodes": 1, "gpus": None, "network": None, "link": None, "price": None}
    with pytest.raises(ConfigError, match=says):
        check(load(PretrainRecipe, DEMO, []), Namespace(**given | change))
