"""Real Ray workers: they agree, come back after a kill, and end at once for a user's error."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cluster.connection import Cluster
from cluster.launch import launch
from cluster.sweep import Job, sweep
from tests.waiting import until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
COUNT = "tests.cluster.targets:count"


def test_a_killed_worker_comes_back_and_nothing_is_lost(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    launch(COUNT, {"steps": 20, "kill_at": 8}, folder, workers=2, cpus_per_worker=1, steps=20)
    assert (folder / "DONE").is_file()
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["total"] == 2 * 20  # every step counted once by both workers
    assert facts["root"] == os.getcwd() != facts["cwd"]  # relative paths still start here
    assert facts["threads"] == "1"
    assert len((folder / "logs" / "starts").read_text().split()) == 2
    log = (folder / "logs" / "worker_0.log").read_text()
    assert "going on from step 0" in log and "going on from step 7" in log
    said = capsys.readouterr().err
    assert "run: worker 1 died without a word" in said and "; start 2 of at most 4" in said
    assert len(said.splitlines()) == 1  # none of Ray's paragraphs
    assert not (folder / "ray").exists()


@pytest.mark.parametrize(
    ("fate", "how", "words"),
    [
        ("starve_at", "out of memory", "ran out of memory (MemoryError)"),
        pytest.param(
            *("stop_at", "hung", "did not answer any more, for 10 s: it hung"),
            marks=pytest.mark.skipif(
                "HPSE_HANG" not in os.environ,
                reason="HPSE_HANG=1 runs it: on a busy machine healthy workers seem to hang too",
            ),
        ),
    ],
)
def test_a_worker_that_starves_or_hangs_is_named_and_all_go_on(
    cluster: Cluster, tmp_path: Path, fate: str, how: str, words: str
) -> None:
    folder, options = tmp_path / "run", {"steps": 12, fate: 5}
    limit_s = 10.0 if how == "hung" else 600.0
    launch(COUNT, options, folder, workers=2, cpus_per_worker=1, hang_limit_s=limit_s)
    assert json.loads((folder / "facts.json").read_text())["total"] == 2 * 12
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert any(row["rank"] == 1 and row["how"] == how and words in row["said"] for row in rows)
    assert len({row["launch"] for row in rows}) == 1, "one command's, as its starts are"


def test_a_users_error_in_one_worker_ends_the_run_in_its_own_words(
    cluster: Cluster, tmp_path: Path
) -> None:
    recipe = {"steps": 20, "error": {"1": "loss is not finite at step 3"}}
    with pytest.raises(ValueError, match=r"^loss is not finite at step 3$"):
        launch(COUNT, recipe, tmp_path / "run", workers=2, cpus_per_worker=1)
    starts = tmp_path / "run" / "logs" / "starts"
    # not tried again; not even once when worker 1 failed before the main worker was there
    assert not starts.exists() or len(starts.read_text().split()) == 1


def test_workers_that_keep_crashing_are_given_up(cluster: Cluster, tmp_path: Path) -> None:
    recipe = {"steps": 20, "crash": True}
    with pytest.raises(ChildProcessError, match="worker 0 stopped with RuntimeError: the engine"):
        launch(COUNT, recipe, tmp_path / "run", max_failures=0)


def test_a_sweep_goes_on_past_a_failed_run_and_a_killed_one(
    cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = {
        "good": {"steps": 20},
        "killed": {"steps": 20, "kill_at": 8},
        "bad": {
            **{"steps": 20, "warning": "it is an old one"},
            "error": {"all": "source old: 3 tensors do not fit"},
        },
        "done": {"steps": 20, "error": {"all": "must not be started"}},
    }
    jobs = [Job(name, COUNT, recipe, tmp_path / name, 20) for name, recipe in recipes.items()]
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "DONE").touch()
    outcomes = {outcome.name: outcome for outcome in sweep(jobs, tmp_path / "ray")}
    assert list(outcomes) == list(recipes)
    assert outcomes["good"].error is None and not outcomes["good"].skipped
    assert outcomes["killed"].error is None
    assert json.loads((tmp_path / "killed" / "facts.json").read_text())["total"] == 20
    assert outcomes["bad"].error == "source old: 3 tensors do not fit"
    assert outcomes["done"].skipped
    captured = capsys.readouterr()
    bad = ["bad: it is an old one", "bad failed: source old: 3 tensors do not fit"]
    lost = "died without a word: killed, out of memory, or its machine lost"
    said = captured.err.splitlines()
    assert [line for line in said if line.startswith("bad")] == bad
    assert [*{*said} - {*bad}] == [f"killed: its process {lost}; start 2 of at most 4"]
    (loss,) = map(json.loads, (tmp_path / "killed" / "losses.jsonl").read_text().splitlines())
    assert (loss["how"], loss["said"]) == ("killed", lost)
    assert captured.out == ""
    assert not (tmp_path / "ray").exists()


def test_an_interrupted_sweep_has_left_tune_before_ray_ends(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Tune's next call without a connection would start another Ray, and a trial left over would
    keep its CPUs from the next sweep."""
    import ray

    folder = tmp_path / "long"
    job = Job("long", COUNT, {"steps": 200, "pause_s": 0.1}, folder, 200)

    def press_ctrl_c() -> None:
        until((folder / "metrics.jsonl").is_file, "the trial's first step")
        os.kill(os.getpid(), signal.SIGINT)

    # a shell's background job, as of CI, has it ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=press_ctrl_c, daemon=True).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sweep([job], tmp_path / "ray", progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "ray-tune" not in {thread.name for thread in threading.enumerate()}
    assert not (tmp_path / "ray").exists()
    whole = ray.cluster_resources()["CPU"]
    until(lambda: ray.available_resources().get("CPU") == whole, "the trial's CPUs")


def test_a_trial_that_hangs_is_ended_and_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "stopped"
    job = Job("stopped", COUNT, {"steps": 20, "stop_at": 8}, folder, 20, hang_limit_s=10.0)
    # on a busy machine a healthy one may seem to hang too: it only starts again
    (outcome,) = sweep([job], tmp_path / "ray", max_failures=20, progress=False)
    assert outcome.error is None
    assert json.loads((folder / "facts.json").read_text())["total"] == 20
    rows = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert {row["how"] for row in rows} == {"hung"} and len({row["launch"] for row in rows}) == 1
    assert not (folder / "logs" / "pulse.json").exists()


@contextlib.contextmanager
def sigterm(when: Callable[[], bool]) -> Iterator[None]:
    """The signal to this process, the driver, as soon as something is so."""

    over = threading.Event()

    def send() -> None:
        until(lambda: over.is_set() or when(), "the moment for a signal")
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:  # another test is not to be told
        over.set()
        thread.join()


def steps_of(folder: Path) -> int:
    """Where a run stands."""
    state = folder / "state.json"
    return int(json.loads(state.read_text())[0]) if state.exists() else 0


def test_workers_end_with_a_checkpoint_when_the_driver_is_told_to_stop(
    cluster: Cluster, tmp_path: Path
) -> None:
    folder, long = tmp_path / "run", {"steps": 2000, "pause_s": 0.02}
    with sigterm(lambda: steps_of(folder) > 3):
        launch(COUNT, long, folder, workers=2, cpus_per_worker=1)
    reached = steps_of(folder)
    assert 3 < reached < 2000 and not (folder / "DONE").exists()
    assert not (folder / "losses.jsonl").exists(), "nobody was killed"
    launch(COUNT, {"steps": reached + 5}, folder, workers=2, cpus_per_worker=1)
    assert json.loads((folder / "facts.json").read_text())["total"] == 2 * (reached + 5)


def test_a_sweep_that_is_told_to_stop_saves_what_runs_and_starts_no_more(
    cluster: Cluster, tmp_path: Path
) -> None:
    long = {"steps": 2000, "pause_s": 0.02}
    folders = {name: tmp_path / name for name in ("first", "second", "waits")}
    jobs = [Job(name, COUNT, long, folder) for name, folder in folders.items()]
    with sigterm(lambda: min(steps_of(folders["first"]), steps_of(folders["second"])) > 3):
        outcomes = sweep(jobs, tmp_path / "ray", at_once=2, progress=False)
    assert {outcome.error for outcome in outcomes} == {"stopped by a signal"}
    reached = {name: steps_of(folder) for name, folder in folders.items()}
    assert reached["waits"] == 0 and reached["first"] > 3 and reached["second"] > 3
    assert not any((folder / "logs" / "pulse.json").exists() for folder in folders.values())
    jobs = [Job(n, COUNT, {"steps": reached[n] + 5}, folder) for n, folder in folders.items()]
    assert not any(one.error for one in sweep(jobs, tmp_path / "ray", progress=False))
    for name, folder in folders.items():
        facts = json.loads((folder / "facts.json").read_text())
        assert facts["total"] == reached[name] + 5, name


def test_where_nobody_listens_sigterm_ends_a_command_as_ctrl_c_does(cluster: Cluster) -> None:
    """Ray's own answer would be to print where its C++ stands and to abort."""
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60.0)


def test_what_saves_nothing_is_ended_by_sigterm_as_by_ctrl_c(
    cluster: Cluster, tmp_path: Path
) -> None:
    """And nobody is left waiting for Ray, which crashes the process when it is gone."""
    import ray

    folder, long = tmp_path / "run", {"steps": 2000, "pause_s": 0.02}
    with sigterm(lambda: steps_of(folder) > 3), pytest.raises(KeyboardInterrupt):
        launch(COUNT, long, folder, saves=False)
    assert "ray-train" not in {thread.name for thread in threading.enumerate()}
    whole = ray.cluster_resources()["CPU"]
    until(lambda: ray.available_resources().get("CPU") == whole, "the workers' CPUs")
