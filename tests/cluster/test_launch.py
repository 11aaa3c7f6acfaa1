"""The launcher's decisions, without starting Ray: tests/integration starts it."""

from __future__ import annotations

import gc
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cluster import launch as launching
from cluster.connection import SWITCHES, Cluster, connected, prepare_environment
from cluster.launch import launch
from cluster.network import interface_of
from cluster.resources import Node
from cluster.sweep import Job, sweep
from cluster.worker import Final, write_final
from hpse_dist.accounting import LAUNCH


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "x")  # so that monkeypatch puts back what a test sets
        monkeypatch.delenv(name)
    for name in SWITCHES:
        monkeypatch.setenv(name, os.environ.get(name, SWITCHES[name]))
    monkeypatch.setenv("HOME", str(tmp_path))


def test_an_own_cluster_asks_for_a_token_that_no_file_holds(tmp_path: Path) -> None:
    prepare_environment()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert not (tmp_path / ".ray").exists()


def test_the_users_choice_of_authentication_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    prepare_environment()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_users_token_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("t")
    prepare_environment()
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.parametrize(("token", "mode"), [("t", "token"), ("", "disabled")])
def test_an_existing_cluster_is_met_with_the_token_at_hand(
    monkeypatch: pytest.MonkeyPatch, token: str, mode: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    if token:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    prepare_environment()
    assert os.environ["RAY_AUTH_MODE"] == mode
    assert os.environ.get("RAY_AUTH_TOKEN", "") == token


@pytest.mark.parametrize(("token", "warned"), [("t", False), ("", True)])
def test_a_cluster_that_asks_nobody_is_said_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, token: str, warned: bool
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where no cluster is
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    ray = pytest.importorskip("ray")

    def refuse(**_: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ConnectionError, match="nobody there"), connected():
        pass
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == warned
    assert not warned or "whoever reaches its ports can run any code" in said[0]


def test_the_users_switches_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "7")
    prepare_environment()
    assert os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "7"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_node_that_comes_too_late_is_started_again_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ray = pytest.importorskip("ray")
    left: list[subprocess.Popen[bytes]] = []

    def init(**_: object) -> None:
        left.append(subprocess.Popen(["sleep", "1000"]))
        if len(left) < 3:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "nodes", list)
    try:
        with connected() as cluster:
            assert cluster.own
            assert [one.wait() for one in left[:2]] == [-9, -9]
            assert left[2].poll() is None
        assert [record.message.rpartition(": ")[2] for record in caplog.records] == [
            "trying again",
            "trying again",
        ]
    finally:
        for one in left:
            one.kill()
            one.wait()


def test_nobody_is_warned_of_what_a_late_node_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    tries = []

    def init(**_: object) -> None:
        tries.append(1)
        if len(tries) < 2:
            held: list[Any] = [subprocess.Popen(["sleep", "1000"])]  # by the error alone
            held.append(held)
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "nodes", list)
    with connected():
        gc.collect()  # a warning that nobody catches fails the test
    assert len(tries) == 2


def test_a_node_that_never_comes_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    tries = []

    def init(**_: object) -> None:
        tries.append(1)
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(ConnectionError, match=r"^Ray could not start on this machine: "),
        connected(),
    ):
        pass
    assert len(tries) == 3


def _on(monkeypatch: pytest.MonkeyPatch, *nodes: Node, own: bool = True) -> None:
    """Pretend to be connected to a cluster of these nodes."""
    from contextlib import contextmanager

    @contextmanager
    def connected(**_: object):
        yield Cluster(nodes, own)

    monkeypatch.setattr(launching, "connected", connected)


def test_a_run_that_can_never_fit_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _on(monkeypatch, Node(2))
    with pytest.raises(ValueError, match=r"needs 5 workers .* room for 2 of them"):
        launch("hpse_dist.run:pretrain", {}, tmp_path / "run", workers=5)
    with pytest.raises(ValueError, match="ask for no GPU"):
        launch("hpse_dist.run:pretrain", {}, tmp_path / "run", device="cuda")


def _ended(monkeypatch: pytest.MonkeyPatch, folder: Path, error: BaseException | None) -> None:
    """Pretend that the workers' job ended with this error, or without one."""

    def watch(job: launching._Job, *_: object) -> None:
        if isinstance(error, ValueError):
            write_final(folder, 1, Final("ValueError", str(error)))
        else:
            job.error = error

    monkeypatch.setattr(launching, "_watch", watch)
    _on(monkeypatch, Node(2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of its own settings
@pytest.mark.parametrize("own", [True, False])
def test_ray_starts_no_process_that_no_run_needs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: bool
) -> None:
    from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

    jobs: list[launching._Job] = []
    monkeypatch.setattr(launching, "_watch", lambda job, *_: jobs.append(job))
    _on(monkeypatch, Node(2), own=own)
    launch("m:f", {"steps": 3}, tmp_path, workers=2)
    lean = jobs[0]._trainer()
    made = {type(one).__name__ for one in lean._create_default_callbacks()}
    rays = {type(one).__name__ for one in super(type(lean), lean)._create_default_callbacks()}
    needless = {"DatasetsCallback", *(["PlacementGroupCleanerCallback"] if own else [])}
    assert needless < rays and made == rays - needless
    rays_policy = FixedScalingPolicy(lean.scaling_config)
    policy = lean._settled({"scaling_policy": rays_policy})["scaling_policy"]
    assert (policy is rays_policy) != own
    if own:  # it asks no autoscaler, and decides as Ray's
        policy.after_controller_start(lean.train_run_context)
        decided = policy.make_decision_for_non_running_worker_group()
        assert policy._coordinator_client is None and decided.num_workers == 2


def test_a_workers_error_comes_out_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _ended(monkeypatch, tmp_path, ValueError("loss is not finite at step 7"))
    with pytest.raises(ValueError, match=r"^loss is not finite at step 7$"):
        launch("m:f", {}, tmp_path, workers=2)


def test_a_crash_names_the_worker_that_died_and_the_way_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray.train import WorkerGroupError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    lost_peer = RuntimeError("Connection closed\nby peer")
    dead = WorkerHealthCheckFailedError("x", RuntimeError("died"))
    _ended(monkeypatch, tmp_path, WorkerGroupError("x", {0: lost_peer, 1: dead}))
    with pytest.raises(ChildProcessError, match=r"4 times, .* worker 1 died .* goes on"):
        launch("m:f", {}, tmp_path, workers=2)
    _ended(monkeypatch, tmp_path, WorkerGroupError("x", {0: lost_peer}))
    with pytest.raises(ChildProcessError, match="worker 0 stopped with RuntimeError: Connection"):
        launch("m:f", {}, tmp_path, workers=2, max_failures=0)


def test_workers_that_find_no_room_are_a_timeout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    _ended(monkeypatch, tmp_path, ControllerError(WorkerGroupStartupTimeoutError(2)))
    with pytest.raises(TimeoutError, match=r"no room for 2 workers .* in the cluster \(1 node"):
        launch("m:f", {}, tmp_path, workers=2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's, of its own settings
def test_the_wait_for_a_lost_machine_is_part_of_the_commands_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from ray.train import ControllerError
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    jobs: list[launching._Job] = []
    write_final(tmp_path, 0, Final("ValueError", "so that nobody sets to work"))
    monkeypatch.setattr(launching, "forget_final", lambda _: None)
    monkeypatch.setenv(LAUNCH, "")

    def watch(job: launching._Job, *_: object) -> None:
        jobs.append(job)
        job.error = ControllerError(WorkerGroupStartupTimeoutError(2)) if len(jobs) == 1 else None

    monkeypatch.setattr(launching, "_watch", watch)
    monkeypatch.setattr(launching, "_living", lambda: (Node(1),))
    _on(monkeypatch, Node(1), Node(1), own=False)
    with pytest.raises(ValueError, match="nobody sets to work"):
        launch("m:f", {}, tmp_path, workers=2, fewer=(1,))
    assert [job.need.workers for job in jobs] == [2, 1]
    names = []
    for trainer in [job._trainer() for job in jobs]:
        launching._work(trainer.train_loop_config)
        names += [os.environ[LAUNCH], trainer.run_config.callbacks[0].launch]
    assert len(set(names)) == 1 and names[0]
    assert jobs[0].name_in_ray != jobs[1].name_in_ray  # Ray would take it for the same run


def test_an_old_error_does_not_end_a_new_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_final(tmp_path, 0, Final("ValueError", "of yesterday"))
    _ended(monkeypatch, tmp_path, None)
    launch("m:f", {}, tmp_path)


def test_a_sweep_of_finished_runs_starts_nothing(tmp_path: Path) -> None:
    jobs = [Job(name, "m:f", {}, tmp_path / name) for name in "ab"]
    for job in jobs:
        job.folder.mkdir()
        (job.folder / "DONE").touch()
    outcomes = sweep(jobs, tmp_path / "ray")
    assert [(o.name, o.error, o.skipped) for o in outcomes] == [
        ("a", None, True),
        ("b", None, True),
    ]


@pytest.mark.parametrize(
    ("own", "nodes", "later", "asked"),
    [
        (True, (Node(4),), [], [4]),
        (True, (Node(2),), [], [2]),  # nobody will join: fewer at once
        (False, (Node(2), Node(2)), [(Node(2),), (Node(1),)], [4, 2, 1]),  # lost, one by one
        (False, (Node(2),), [(Node(2),)], [4, 2]),  # all are waited for first
        (False, (Node(4),), [()], [4]),  # nothing is left
    ],
)
def test_fewer_workers_are_asked_for_as_machines_are_lost(
    monkeypatch: pytest.MonkeyPatch,
    own: bool,
    nodes: tuple[Node, ...],
    later: list[tuple[Node, ...]],
    asked: list[int],
) -> None:
    left = iter([*later, ()])
    monkeypatch.setattr(launching, "_living", lambda: next(left, ()))
    needs = launching._needs(Cluster(nodes, own), (4, 2, 1), 0.0, 1.0)
    found = [next(needs)] if own else list(needs)
    assert [need.workers for need, _ in found] == asked


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None  # of nobody, by RFC 5737


def test_a_place_that_cannot_be_written_is_told_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's own words for it are of an actor that died."""
    monkeypatch.setattr(launching, "connected", lambda **_: pytest.fail("Ray was started"))
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"Not a directory: .*file"):
        launch("os:getcwd", {}, tmp_path / "file" / "run")
