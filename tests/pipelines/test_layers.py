"""`pipelines.layers`: a table, a figure, and sentences for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.source import write_source
from pipelines import layers, run_command
from tests.data.made_collection import made_collection


def run(*arguments: str) -> int:
    return run_command(layers.main, layers.parser(), arguments)


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Two encoders of different depths."""
    paths = []
    for depth in (2, 4):
        torch.manual_seed(depth)
        config = EncoderConfig("custom", image_px=32, patch_px=8, dim=24, depth=depth, heads=2)
        path = tmp_path / f"deep{depth}.safetensors"
        write_source(path, config, build_encoder(config).state_dict(), {"name": path.stem})
        paths.append(str(path))
    return paths


def test_a_table_a_figure_and_numbers(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure, numbers = tmp_path / "a.png", tmp_path / "a.json"
    data = ["--on", str(made_collection().folder), "--frames", "12", "--batch", "8"]
    written = ["--figure", str(figure), "--json", str(numbers)]
    assert run(*sources, "random", *data, *written) == 0
    printed = capsys.readouterr().out.splitlines()
    assert "joints explained, %" in printed[0] and "CKA with deep2.safetensors" in printed[0]
    names = ["deep2.safetensors", "deep4.safetensors", "random"]
    assert printed[1].split() == [*names, *names[1:]]
    assert [line.split()[1] for line in printed[2:6]] == ["1", "2", "3", "4"]
    assert len(printed[2].split()) == 2 + 3 + 2 and len(printed[5].split()) == 2 + 1 + 1
    found = json.loads(numbers.read_text())
    assert found["first"] == names[0] and list(found["encoders"]) == names
    own = found["encoders"][names[0]]["cka"]
    assert own[0][0] == pytest.approx(1) and own[1][0] == pytest.approx(own[0][1])
    deep = found["encoders"][names[1]]
    assert len(deep["explained"]) == 4 and [len(row) for row in deep["cka"]] == [2] * 4
    # beside each block the first encoder's that is as far up
    assert printed[3].split()[5] == f"{deep['cka'][1][0]:.2f}"
    assert printed[5].split()[3] == f"{deep['cka'][3][1]:.2f}"
    assert figure.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (["--split", "test"], 1, "no frames of split test"),
        (["--frames", "0"], 2, "--frames and --batch must be at least 1"),
        (["--figure", "a.jpeg"], 2, "--figure ends in .png, .svg or .pdf"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    sources: list[str],
    change: list[str],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*sources, "--on", str(made_collection().folder), *change) == code
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_sources_that_cannot_be(
    sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--on", str(made_collection().folder)]
    for named, said in (
        (["random", sources[0]], "random has the first source's shape: name it after one"),
        ([sources[0], sources[0]], "sources must differ"),
        ([str(tmp_path / "none")], "none"),
    ):
        assert run(*named, *data) != 0
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
