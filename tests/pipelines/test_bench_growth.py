"""`bench growth`: the collections it makes are real ones, and its table says what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpse_dist.data.collection import Collection
from pipelines import bench, run_command
from pipelines.bench_growth import Point, growth_table, power, sizes
from pipelines.bench_ranks import rank_costs
from pipelines.growing import CROP_PX, Size, make_collection


def test_a_made_collection_is_one(tmp_path: Path) -> None:
    make_collection(tmp_path / "made", Size(frames=60, pairs=500, shards=5))
    made = Collection.open(tmp_path / "made")
    assert made.num_frames == 60 and len(made.shards) == 5
    assert made.verify() == [], "decoded, and its sample ids are those of frames.parquet"
    a, b = (np.asarray(made.pairs[name]) for name in ("a", "b"))
    assert len(a) == 500 and not np.any(a == b)
    assert np.array_equal(a // 12, b // 12), "both in one shard"
    assert {*np.unique(a // 12)} == set(range(5))
    assert made.read([0, 59], ["image"])["image"].shape == (2, CROP_PX, CROP_PX, 3)
    with pytest.raises(ValueError, match="7 frames cannot be 2 equal shards"):
        Size(7, 0, 2)


def test_sizes_grow_tenfold() -> None:
    found = sizes(frames=10_000, pairs=0, shards=1000)
    assert [work for work, _ in found["frames"]] == [1000, 10_000]
    assert found["pairs"] == []
    assert [size.shards for _, size in found["shards"]] == [10, 100, 1000]
    assert {(size.frames, size.pairs) for _, size in found["shards"]} == {(100_000, 1_000_000)}


def test_powers_are_of_the_last_two_sizes() -> None:
    points = [
        Point(
            "pairs",
            10**k,
            start_s=0.1 * 10**k,
            start_cpu_s=1,
            step_ms=7,
            worst_step_ms=m,
            memory_mib=8,
        )
        for k, m in ((4, 1.0), (5, 1.0), (6, 10**0.5))
    ]
    assert power(points, "start_s") == pytest.approx(1)
    assert power(points, "step_ms") == pytest.approx(0)
    assert power(points, "worst_step_ms") == pytest.approx(0.5)
    text = growth_table(points)
    assert "1,000,000 pairs" in text
    assert text.splitlines()[-1].split() == [
        *["grows", "as", "work", "to", "the", "1.00", "0.00", "0.00", "0.50", "0.00"]
    ]
    assert len({len(line) for line in text.splitlines()}) == 1


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, drawn = tmp_path / "growth.json", tmp_path / "growth.png"
    command = ["growth", "--frames", "1000", "--pairs", "0", "--shards", "0", "--ranks", "2"]
    command += ["--steps", "8", "--rounds", "1"]
    outputs = ["--json", str(out), "--figure", str(drawn)]
    assert run_command(bench.main, bench.parser(), [*command, *outputs]) == 0
    assert "1,000 frames" in capfd.readouterr().out
    points = json.loads(out.read_text())["points"]
    found = [(point["axis"], point["work"]) for point in points]
    assert found == [("frames", 1000), ("ranks", 1), ("ranks", 2)]
    assert all(0 < point["step_ms"] <= point["worst_step_ms"] for point in points)
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_rank_that_fails_ends_all(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"a rank that was measured failed: .*manifest\.json"):
        rank_costs(tmp_path, ranks=2, steps=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--frames", "10", "--pairs", "10", "--shards", "1", "--ranks", "0"],
            "nothing to measure",
        ),
        (["--steps", "4"], "--steps must be at least 8"),
    ],
)
def test_bad_input(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(bench.main, bench.parser(), ["growth", *options]) == 1
    assert message in capsys.readouterr().err
