"""What `pretrain --plan` refuses before it measures."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from hpse_dist.config import load
from hpse_dist.recipe import PretrainRecipe
from pipelines.planning import check

DEMO = Path(__file__).parents[2] / "configs" / "pretrain" / "demo.yaml"


def test_a_plan_of_offloaded_training_is_refused() -> None:
    options = Namespace(nodes=1, gpus=None, network=None, link=None, price=None)
    check(load(PretrainRecipe, DEMO, []), options)
    with pytest.raises(ValueError, match=r"plan with machine\.offload=nothing"):
        check(load(PretrainRecipe, DEMO, ["machine.offload=optimizer"]), options)
