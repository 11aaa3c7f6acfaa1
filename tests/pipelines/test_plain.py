"""The plain eager completion and this project's: the same numbers by two ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives.completion import Completion, CompletionConfig
from pipelines import bench, run_command, step_bench
from pipelines.plain import PlainCompletion

SIZES = ["encoder={name: custom, image_px: 32, patch_px: 8, dim: 32, depth: 2, heads: 2}"]


def model(positions: str, normalise: bool = True) -> Completion:
    torch.manual_seed(0)
    encoder = EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2, positions=positions)  # type: ignore[arg-type]
    decoder = DecoderConfig("custom", dim=16, depth=2, heads=2)
    config = CompletionConfig(decoder=decoder, normalise_targets=normalise, view_weight=2.0)
    return Completion(config, build_encoder(encoder), seed=3)


@pytest.mark.parametrize(("positions", "normalise"), [("rotary", True), ("sincos", False)])
def test_loss_and_gradients_are_the_plain_ones(positions: str, normalise: bool) -> None:
    ours = model(positions, normalise)
    plain = PlainCompletion(ours)
    batch = step_bench.made_batch(ours, 6, torch.device("cpu"))
    loss, expected = ours(batch)["loss"], plain(batch)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    loss.backward()
    expected.backward()
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None and gradients[name] is not None
        apart = (parameter.grad - gradients[name]).norm() / gradients[name].norm()
        # a key's bias adds the same to all scores of a query: its gradient is rounding alone
        assert apart < 1e-5 or parameter.grad.abs().max() < 1e-6, name


def test_the_loss_is_the_plain_one_in_halves_too() -> None:
    ours = model("rotary")
    plain = PlainCompletion(ours)
    batch = step_bench.made_batch(ours, 6, torch.device("cpu"))
    with torch.autocast("cpu", torch.bfloat16):
        loss, expected = ours(batch)["loss"], plain(batch)
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    expected.backward()


def test_flops_are_those_that_torch_counts() -> None:
    ours = model("rotary")
    batch = step_bench.made_batch(ours, 1, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        PlainCompletion(ours)(batch)
    # the plain one embeds 12 hidden patches too, and its head is run over the 4 visible ones
    more = 2 * 12 * 192 * 32 + 2 * 4 * 16 * 192
    flops = step_bench.model_flops(ours) / 3
    assert flops == pytest.approx(counter.get_total_flops() - more)


def test_both_steps_make_the_same_weights() -> None:
    recipe = step_bench.load(
        step_bench.PretrainRecipe, Path("configs/pretrain/demo.yaml"), ["optim.clip=0", *SIZES]
    )
    both = step_bench.steppers(recipe, 4, torch.device("cpu"))
    before = both[step_bench.OURS].model.state_dict()["encoder.blocks.0.mlp.fc1.weight"].clone()
    for one in both.values():
        for _ in range(2):
            one.step()
    ours, plain = (one.model.state_dict() for one in both.values())
    name = "encoder.blocks.0.mlp.fc1.weight"
    assert (ours[name] - before).abs().max() > 1e-4
    torch.testing.assert_close(ours[name], plain[name], rtol=0, atol=5e-5)


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "step.json"
    command = ["completion", "configs/pretrain/demo.yaml", *SIZES, "machine.micro_batch=2"]
    command += ["--rounds", "1", "--steps", "1", "--json", str(out)]
    assert run_command(bench.main, bench.parser(), command) == 0, capsys.readouterr().err
    lines = json.loads(out.read_text())["figures"]
    assert [line["unit"] for line in lines] == 2 * ["pairs/s"] + 3 * ["GFLOP/s"]
    assert 0 < lines[3]["ratio"] < 1
    command = ["completion", "configs/pretrain/mae.yaml", "--rounds", "1"]
    assert run_command(bench.main, bench.parser(), command) == 1
    assert "measures the objective completion" in capsys.readouterr().err
