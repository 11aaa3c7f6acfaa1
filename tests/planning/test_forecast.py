"""From what was measured to other numbers of machines, by arithmetic that can be followed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hpse_dist.planning.forecast import Prices, exchange_s, forecast, readable, scaled
from hpse_dist.planning.plan import Link, Setting, Together, Trial, best
from hpse_dist.recipe import PretrainRecipe
from tests.data.made_collection import made_collection
from tests.planning.made_plan import DDP, made_plan
from tests.test_run import pretraining


@pytest.fixture
def recipe(tmp_path: Path) -> PretrainRecipe:
    changes = {"global_batch": 64, "steps": 800, "evaluate_every": 200, "evaluation_batch": 64}
    return pretraining(tmp_path, made_collection(), **changes)


def test_what_was_measured_is_what_is_said(recipe: PretrainRecipe) -> None:
    """800 steps of 4.5 s, and four evaluations of two batches at 2 s; two trainers at 3 an hour."""
    said = forecast(made_plan(), recipe, 1, 2, Prices(gpu_hour=3.0))
    assert said.measured and said.samples_per_s == pytest.approx(64 / 4.5)
    assert said.hours == pytest.approx((800 * 4.5 + 4 * 2 * 2.0) / 3600)
    assert said.cost == pytest.approx(said.hours * 2 * 3.0)
    tested = forecast(made_plan(test_rows=130), recipe, 1, 2)  # two batches more, once
    assert 3600 * (tested.hours - said.hours) == pytest.approx(2 * 2.0)


def test_more_trainers_share_the_micro_steps(recipe: PretrainRecipe) -> None:
    """Four trainers make two micro-steps each; a ring of four has 1.5 times the bytes of one of
    two to pass, of which the part that was hidden behind the backward pass stays hidden."""
    plan = made_plan(trials=(Trial(DDP, 1.0, 0.05),))  # of 0.1 s of exchange half was seen
    plan = replace(plan, together=replace(plan.together, compute_s=4.05 / 32))
    said = forecast(plan, recipe, 1, 4)
    assert said.step_s == pytest.approx(2 * 1.0 + 0.05 + 0.5 * 0.15 - 0.5 * 0.1)
    assert not said.measured and said.setting == DDP


def test_a_slow_network_is_what_all_wait_for(recipe: PretrainRecipe) -> None:
    quick, slow = (
        forecast(made_plan(), recipe, 2, 2, Prices(network_gb_s=speed)) for speed in (10.0, 0.1)
    )
    assert quick.exchange_share < 0.2 < 0.8 < slow.exchange_share
    assert slow.step_s > 15.0  # 1 GB, 1.5 times, over 0.1 GB/s


def test_zero_exchanges_what_its_stage_does() -> None:
    """In all-reduces of the gradient: stage 1 one; 2 half a one per micro-step and half a one at
    the end; 3 one and a half per micro-step."""
    plan, link = made_plan(), Link(1e9, 0.0)
    whole = link.all_reduce_s(plan.parameter_bytes, 4)
    assert whole == pytest.approx(1.5)

    def of(stage: int) -> float:
        return exchange_s(plan, Trial(Setting("zero", stage, 8), 1.0, 1.0), 4, 4, link) / whole

    assert [of(stage) for stage in (1, 2, 3)] == pytest.approx([1.0, 2.5, 6.0])


def test_the_loader_can_be_what_holds_all_up(recipe: PretrainRecipe) -> None:
    """Eight trainers on one machine, whose decoding gives 80 samples/s to each."""
    plan = made_plan(trials=(Trial(DDP, 1e-3, 0.0),), link=Link(1e15, 0.0))
    plan = replace(plan, together=Together(800.0, 0.0, 1e-3 / 8, 0.01, 0.0))
    said = forecast(plan, recipe, 1, 8)
    assert said.samples_per_s == pytest.approx(8 * 80) and said.wait_share > 0.9


def test_what_lies_in_memory_is_not_waited_for(recipe: PretrainRecipe) -> None:
    plan = made_plan(trials=(Trial(DDP, 1e-3, 0.0),), link=Link(1e15, 0.0))
    plan = replace(plan, together=Together(800.0, 0.0, 1e-3 / 8, 0.01, 0.0, "resident"))
    assert forecast(plan, recipe, 1, 8).wait_share == 0.0


def test_the_cores_that_decoding_takes_are_named(recipe: PretrainRecipe) -> None:
    """1,000 samples/s at 40 a core; eight cores for each of two trainers."""
    slow = Together(160.0, 0.8, 1e-3, 0.01, 0.0)
    text = readable(made_plan(together=slow), recipe, [], [])
    assert "a trainer computes 1000 samples/s, whose decoding takes 25 of the 8 cores" in text
    assert "machine.data_workers=38" in text
    held = replace(slow, wait_share=0.0, loader="resident")
    text = readable(made_plan(together=held, other_loaders=(slow,)), recipe, [], [])
    assert "data_workers" not in text
    assert "loader resident: 160.0" in text and "loader inline: 160.0" in text


def test_cores_are_all_that_cpus_have(recipe: PretrainRecipe) -> None:
    """Four trainers on the two cores that two kept busy are no quicker."""
    two = made_plan(device="cpu", cores=2, link=Link(1e15, 0.0))
    two = replace(two, together=replace(two.together, core_s=2 * 4.5 / 64))
    said = forecast(two, recipe, 1, 4)
    assert said.samples_per_s == pytest.approx(64 / 4.5)


def test_what_cannot_be_known_is_asked_for(recipe: PretrainRecipe) -> None:
    alone = made_plan(world_size=1, local_size=1, link=None)
    with pytest.raises(ValueError, match=r"machine\.workers=2 or more, or give --link"):
        forecast(alone, recipe, 1, 4)
    with pytest.raises(ValueError, match="--network"):
        forecast(made_plan(), recipe, 4, 2)
    with pytest.raises(ValueError, match="64 cannot be shared by 3 trainers"):
        forecast(made_plan(), recipe, 1, 3)
    assert forecast(alone, recipe, 1, 4, Prices(link_gb_s=100.0)).setting.engine == "ddp"


def test_more_trainers_than_micro_batches_take_smaller_ones(recipe: PretrainRecipe) -> None:
    said = forecast(made_plan(), recipe, 1, 16)
    assert said.setting.micro_batch == 4
    assert 0.5 < said.step_s < 1.5  # half a micro-step, and what ends it


def test_what_is_compiled_or_recomputed_stays_so(recipe: PretrainRecipe) -> None:
    """And half a micro-batch takes half of what a compiled one took, not of a plain one."""
    compiled = replace(DDP, compile=True, recompute=True)
    trials = (Trial(DDP, 1.0, 0.5), Trial(compiled, 0.4, 0.5, compile_s=31.0))
    plan = made_plan(trials=trials, chosen=compiled)
    said = forecast(plan, recipe, 1, 16)
    assert said.setting == replace(compiled, micro_batch=4)
    assert scaled(plan, said.setting).micro_s == pytest.approx(0.2)
    text = readable(plan, recipe, [said], [""])
    assert "* ddp, micro-batch 8, recompute, compiled " in text and "(compiling: 31 s)" in text


def test_the_quickest_is_chosen() -> None:
    plan = made_plan()
    assert best(plan.trials, 64, 2) == DDP
    lost = (replace(plan.trials[0], failed="out of memory"), plan.trials[1])
    assert best(lost, 64, 2).engine == "zero"
    with pytest.raises(ValueError, match="out of memory"):
        best(lost[:1], 64, 2)


def test_the_table_has_all_of_it(recipe: PretrainRecipe) -> None:
    plan = made_plan(trials=(Trial(DDP, 1.0, 0.5), Trial(Setting("zero", 3, 8), failed="no room")))
    ahead = [forecast(plan, recipe, 1, 2), forecast(plan, recipe, 4, 2, Prices(None, 5.0, 2.0))]
    text = readable(plan, recipe, ahead, ["100 MiB", "unknown"])
    for part in (
        "* ddp, micro-batch 8",
        "zero 3, micro-batch 8",
        "no room",
        "(measured)",
        "100 MiB",
    ):
        assert part in text
