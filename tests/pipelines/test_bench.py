"""`pipelines.bench`: what it measures is what it says; the figures themselves are no test."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from pipelines import bench, bench_loader, bench_loader_kinds, bench_runs, figures, run_command
from tests.data.made_collection import frame, made_collection


def test_ratios_are_of_one_round() -> None:
    rounds = {"base": [10.0, 20.0, 40.0], "other": [9.0, 10.0, 36.0]}
    base, other = figures.figures(rounds, "x/s", "base", {"other": "at least 0.85"})
    assert base.median == 20
    assert base.ratio is None
    assert other.median == 10
    assert other.ratio == pytest.approx(0.9), "not the ratio of medians, which is 0.5"
    assert base.spread == pytest.approx(0.75)
    text = figures.table([base, other])
    assert "0.900  at least 0.85" in text
    assert len({len(line) for line in text.splitlines()}) == 1


def test_candidates_take_turns() -> None:
    seen: list[str] = []

    def measure(name: str) -> float:
        seen.append(name)
        return float(len(seen))

    measured = figures.in_turn({n: lambda n=n: measure(n) for n in "abc"}, rounds=3)
    assert seen == list("abcbcacab")
    assert measured["a"] == [1, 6, 8]


def test_a_rate_leaves_out_what_was_ready() -> None:
    def counts() -> Iterator[int]:
        for _ in range(10):
            yield 1000  # at once
        while True:
            time.sleep(0.01)
            yield 2

    assert 0 < bench_loader.rate(counts(), 0.2).clock <= 220


def test_a_rate_per_core_is_over_the_time_that_processors_worked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([7.0, 7.25])
    monkeypatch.setattr(bench_loader, "processor_seconds", lambda: next(seconds))
    handed = iter(range(1_000_000))
    measured = bench_loader.rate((next(handed) * 0 + 3 for _ in iter(int, 1)), 0.05)
    frames = 3 * (next(handed) - bench_loader._PREFETCHED)
    assert measured.core == pytest.approx(frames / 0.25)


def test_children_count_as_the_processor_time_they_use(monkeypatch: pytest.MonkeyPatch) -> None:
    work = "import time\nwhile time.process_time() < 0.4: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        started = psutil.Process(child.pid)
        assert started in psutil.Process().children()
        monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: [started])  # no others
        assert child.stdout is not None
        child.stdout.readline()
        before = time.process_time()
        assert bench_loader.processor_seconds() - before >= 0.37
        child.kill()


def test_the_loader_beside_others(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder, out = made_collection().folder, tmp_path / "figures.json"
    command = ["loader", str(folder), "--rounds", "1", "--seconds", "0.05", "--batch", "4"]
    command.append("--without-ray")
    assert run_command(bench.main, bench.parser(), [*command, "--json", str(out)]) == 0
    text = capfd.readouterr().out
    assert "FFCV's own loop" in text
    assert "1 rounds on" in text
    lines = {line["name"]: line for line in json.loads(out.read_text())["figures"]}
    names = [*bench_loader.CANDIDATES]
    measured = [*names, *(f"{name}, by the clock" for name in names)]
    assert {*measured} < {*lines}
    assert all(line["median"] > 0 for line in lines.values())
    assert [lines[name]["ratio"] is None for name in names] == [True] + [False] * 5
    rivals = [f"{ours} / {other}" for ours, other in bench_loader.RIVALS.items()]
    assert {*lines} - {*measured} == {*rivals}
    ours, other = (lines[name] for name in next(iter(bench_loader.RIVALS.items())))
    assert lines[rivals[0]]["median"] == pytest.approx(ours["median"] / other["median"])


def test_the_kinds_of_a_loader_and_how_long_they_are_waited_for() -> None:
    with ExitStack() as stack:
        made = bench_loader_kinds._loader(made_collection(), "resident", 4, 1, stack)
        batches = made.decoded()
        fast, slow = (bench_loader_kinds.take(made, batches, 0.1, step) for step in (0.0, 0.02))
        batches.close()
    assert fast.rate > 0 and fast.core > 0
    assert 0 < slow.rate <= 4 / 0.02
    assert 0 < slow.waiting < 1 and 0 < fast.waiting <= 1
    found = {kind: [fast] for kind in bench_loader_kinds.KINDS}
    lines = bench_loader_kinds._lines(found, found, threads=1)
    assert [line.ratio for line in lines[:3]] == [None, 1.0, 1.0]
    assert len(lines) == 9 and lines[-1].median == 100 * fast.waiting


def test_one_shard_stands_for_a_collection() -> None:
    whole = made_collection()
    one = bench_loader.largest_shard(whole)
    assert len(one.shards) == 1
    assert set(one.frames["shard"].to_pylist()) == {0}
    sizes = np.bincount(np.asarray(whole.frames["shard"]))
    assert one.frames.num_rows == max(sizes)
    assert one.shards[0] == whole.shards[int(sizes.argmax())]
    assert len(whole.shards) > 1, "the collection itself is as it was"


def test_crops_are_those_of_all_sequences_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def frames(config: Any, processes: int) -> Iterator[Any]:
        assert processes == 1
        for subject in range(config.num_subjects):
            end = time.perf_counter() + 0.05  # rendering, which is busy
            while time.perf_counter() < end:
                pass
            for moment in range(10):
                yield frame(np.random.default_rng(0), subject, moment, 0)

    monkeypatch.setattr(bench.synth, "frames", frames)
    _, by_the_clock = bench._synthesis(128, 3, 0)
    assert 0 < by_the_clock <= 30 / 0.15


def test_steps_are_read_from_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": s, "time": 100 + (5.0 * s if s < 4 else 15 + 0.25 * s)} for s in range(1, 9)]
    lines = [json.dumps({**row, "loss": 1.0}) for row in rows]
    lines.append(json.dumps({"step": 8, "time": 400.0, "val/hidden_loss": 1.0}))
    path.write_text("\n".join(lines) + "\n")
    spent = bench_runs.Spent()
    monkeypatch.setattr(spent, "until", lambda moment: 3 * moment)  # three cores at work
    found = bench_runs.speed(path, 3, spent)
    assert found.clock == pytest.approx(4.0)
    assert found.core == pytest.approx(4 / 3)
    with pytest.raises(ValueError, match="too few"):
        bench_runs.speed(path, 6, spent)


def test_processes_are_counted_that_have_come_from_this_one() -> None:
    program = "import sys, time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    began, spent = time.time(), bench_runs.Spent()
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        spent.look()
        child.communicate(b"\n")
    after = time.time()
    spent.look()  # it has ended
    assert spent.until(began) <= spent.until(after) - 0.4
    assert spent.until(after + 10) == spent.until(after + 20)


def made_runs(
    monkeypatch: pytest.MonkeyPatch, folder: Path, gap: Callable[[list[str], dict[str, str]], float]
) -> tuple[bench_runs.Runs, list[list[str]]]:
    """Runs that only write the log of steps `gap` seconds apart, and their commands."""
    commands = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        commands.append(command)
        values = dict(part.split("=", 1) for part in command if "=" in part)
        place = Path(values["machine.out"]) / values["name"]
        place.mkdir()
        apart, steps = gap(command, values), range(1, int(values["steps"]) + 1)
        rows = [{"step": s, "time": s * apart, "loss": 1} for s in steps]
        (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    return bench_runs.Runs(Path("x.yaml"), ["optim.lr=1"], 5, 2, folder), commands


def test_steps_of_plain_torch_and_what_is_added(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def gap(command: list[str], values: dict[str, str]) -> float:
        added = 0.01 * (values["machine.engine"] == "zero") + 0.015 * (
            "--without-ray" not in command
        )
        return 0.1 + added

    runs, commands = made_runs(monkeypatch, tmp_path, gap)
    base, zero, ray, *cores = bench_runs.bench_step(runs, rounds=2)
    assert [line.name for line in cores] == [f"{x.name}, per core" for x in (base, zero, ray)]
    assert cores[2].target == ray.target
    assert base.median == pytest.approx(10)
    assert zero.ratio == pytest.approx(1 / 1.1)
    assert ray.ratio == pytest.approx(0.8) and ray.target == "at least 0.97"
    bare = ["--without-ray" in command for command in commands]
    assert bare == [True, True, False, True, False, True]
    assert all("machine.workers=1" in c and "optim.lr=1" in c for c in commands)
    assert sum("machine.zero_stage=1" in command for command in commands) == 4
    assert not any("machine.compile=True" in command for command in commands)
    found = bench_runs.bench_step(runs, rounds=1, compiled=True)
    assert found[3].name == bench_runs.COMPILED and found[3].ratio == pytest.approx(1.0)
    assert "machine.compile=True" in commands[-1] and "machine.engine=plain" in commands[-1]


def test_more_workers_beside_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def gap(_: list[str], values: dict[str, str]) -> float:
        assert int(values["global_batch"]) == 16 * int(values["machine.workers"])
        return {"1": 0.1, "2": 0.125, "4": 0.2}[values["machine.workers"]]

    runs, _ = made_runs(monkeypatch, tmp_path, gap)
    found = bench_runs.bench_scaling(runs, [1, 2, 4], per_worker=16, rounds=1)
    one, two, four, *shares = (line for line in found if "per core" not in line.name)
    assert [line.median for line in (one, two, four)] == pytest.approx([160, 256, 320])
    assert two.ratio == pytest.approx(1.6)
    assert [line.median for line in shares] == pytest.approx([0.8, 0.5])


def test_a_run_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = SimpleNamespace(returncode=1, stderr="warning\nerror: no room\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    runs = bench_runs.Runs(Path("x.yaml"), [], 5, 2, tmp_path)
    with pytest.raises(RuntimeError, match=r"run0 of x\.yaml failed: error: no room"):
        bench_runs.bench_step(runs, rounds=1)


def test_mining_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    command = ["pairs", "--frames", "400", "--people", "4", "--rounds", "1", "--per-subject", "50"]
    assert run_command(bench.main, bench.parser(), [*command, "--json", str(out)]) == 0
    text = capsys.readouterr().out
    assert "peak memory" in text and "under 2,048" in text
    seconds, busy, memory, speed = json.loads(out.read_text())["figures"]
    pairs = int(seconds["name"].partition(" ")[0])
    assert 200 <= pairs <= 2 * 4 * 50
    assert speed["median"] == pytest.approx(pairs / seconds["median"])
    assert memory["median"] > 50 and busy["median"] > 0


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (["pairs", "--frames", "3", "--people", "4"], 1, "at least 2 for each"),
        (["pairs", "--per-subject", "0"], 1, "max_per_subject must be at least 1"),
        (["loader", "/nowhere"], 1, "no collection here"),
        (["loader", "/nowhere", "--rounds", "0"], 1, "--rounds must be at least 1"),
        (["step", "/nowhere.yaml"], 2, "no such recipe"),
        (["step", "--steps", "3"], 1, "--steps must be at least 4"),
        (["scaling", "--workers", "2", "2"], 1, "--workers must be different numbers"),
        (["dance"], 2, "invalid choice"),
    ],
)
def test_bad_input(
    command: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(bench.main, bench.parser(), command) == code
    assert message in capsys.readouterr().err
