"""`bench attention`: every kernel gives the same numbers, and only what is needed is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipelines import bench, run_command
from pipelines.bench_attention import PACKED, TOKENS, Shape, kernels

CPU = torch.device("cpu")


def test_all_kernels_give_the_same_numbers() -> None:
    shape = Shape("vit_t", 0.9, pairs=2)
    assert shape.lengths == [20, 20, TOKENS, TOKENS]
    found = kernels(shape, CPU)
    whole = torch.randn(3, 4, TOKENS, 3, 64)
    real = [whole[:, i, :n] for i, n in enumerate(shape.lengths)]
    together = torch.cat(real, 1)[:, None]
    mine = found[PACKED][0](*together)[0].split(shape.lengths)
    assert found[PACKED][1] == tuple(together.shape[1:3])
    for name in ("SDPA math, padded", "SDPA, padded"):
        kernel, size = found[name]
        assert size == tuple(whole.shape[1:3])
        out = kernel(*whole).transpose(1, 2)
        for i, (n, part) in enumerate(zip(shape.lengths, mine, strict=True)):
            torch.testing.assert_close(out[i, :n], part, atol=1e-5, rtol=1e-5)


def test_flops_are_of_what_is_needed() -> None:
    one = Shape("vit_t", 0.75, pairs=1)
    assert one.visible == 49
    assert one.flops() == 3 * 4 * 192 * (49**2 + 196**2)
    assert Shape("vit_t", 0.75, pairs=5).flops() == 5 * one.flops()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "attention.json"
    sizes = ["--models", "vit_t", "--masks", "0.9", "--pairs", "1", "--times", "1"]
    command = ["attention", *sizes, "--rounds", "1", "--json", str(out)]
    assert run_command(bench.main, bench.parser(), command) == 0
    said = capsys.readouterr().out
    assert "vit_t, mask 0.9: SDPA, packed" in said
    lines = json.loads(out.read_text())["figures"]
    assert ("xformers" in said) or torch.cuda.is_available()
    rates = {line["name"]: line for line in lines if line["unit"] == "GFLOP/s"}
    times = {line["name"]: line for line in lines if line["unit"] == "ms"}
    assert {*rates} - {*times} == {name for name in rates if name.startswith("matrix product")}
    flops = Shape("vit_t", 0.9, pairs=1).flops()
    for name, line in times.items():
        assert line["median"] * rates[name]["median"] == pytest.approx(1e-6 * flops)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--masks", "1.0"], "leave some of 196 patches visible"),
        (["--pairs", "0"], "--pairs and --times must be at least 1"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_bad_input(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(bench.main, bench.parser(), ["attention", *options]) == 1
    assert message in capsys.readouterr().err
