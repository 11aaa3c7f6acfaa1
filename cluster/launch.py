"""Start the workers of one run with Ray Train V2, watch them, start them again when they crash.

The run folder is the truth. Ray's own snapshots are written under a fresh name for every start
and thrown away, so a torn one cannot stand in the way of the next start.

Ray is imported inside functions, see `cluster.connection`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pickle
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.connection import Cluster, connected
from cluster.notice import heard, passed_on
from cluster.progress import ProgressBar, RunWatch, Tail
from cluster.resources import (
    Need,
    Node,
    crowding,
    describe,
    even_share,
    fitting,
    gpus_for,
    nodes_of,
    shortage,
)
from cluster.story import ERROR, story, to_blame
from cluster.worker import FinalError, all_final, forget_final, read_final, run_target
from hpse_dist.accounting import LAUNCH, LOSSES_FILE
from hpse_dist.stopping import told_to_stop
from hpse_dist.world import World

if TYPE_CHECKING:
    from cluster.data_workers import DataWorkers

logger = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 300.0  # how long workers of an existing cluster may take to find room
_LEAVE_S = 10.0  # Ray's threads look up far oftener
LOST_TIMEOUT_S = 60.0  # how long a lost machine may take to come back before fewer go on
POLL_S = 0.5


def launch(
    target: str,
    recipe: Any,
    folder: Path,
    *,
    workers: int = 1,
    fewer: Sequence[int] = (),
    device: str = "cpu",
    cpus_per_worker: float | None = None,
    loader_threads: int = 1,
    data_workers: int = 0,
    steps: int | None = None,
    max_failures: int = 3,
    hang_limit_s: float = 90.0,
    saves: bool = True,
    progress: bool = True,
    debug: bool = False,
) -> None:
    """Run `target(recipe, world, folder)` in every worker of a group, until all have returned.

    target: `module:function`, in which `hpse_dist.engine.join` finds the other workers; recipe:
    anything that pickles; steps: the bar's length; device: auto and cuda give each worker a GPU;
    cpus_per_worker: None shares the machines evenly; fewer: numbers of workers that will do when
    machines are lost, most first; data_workers: each worker's, which the target gets as `hire`.
    Crashed workers, and those that do not answer for `hang_limit_s`, are named and started again,
    all of them, up to `max_failures` times, and go on from what the run folder holds. SIGTERM here
    tells a target that `saves` to stop, and this returns once it has, as it does at its end; any
    other is ended as by Ctrl-C. Raises ValueError (ConfigError) for what trying again cannot heal,
    in a worker's own words; ChildProcessError when workers kept crashing; TimeoutError when an
    existing cluster found no room in time.
    """
    from cluster.data_workers import hiring  # late: Ray's controller imports this module

    folder = Path(folder).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):  # Ray would tell of an actor that died
        pass
    forget_final(folder)
    name = f"launch-{uuid.uuid4().hex[:12]}"  # of this command, whatever number of workers
    with (
        told_to_stop() if saves else contextlib.nullcontext(bool) as told,
        connected(debug=debug, batches=data_workers > 0) as cluster,
        passed_on(told),
    ):
        gpus = gpus_for(device, cluster.nodes)
        for need, patience_s in _needs(cluster, (workers, *fewer), gpus, cpus_per_worker):
            hire = hiring(need, data_workers, cluster.nodes)
            crowded = crowding(need, loader_threads) if hire is None else None
            if crowded:
                logger.warning(crowded)
            limits = _Limits(patience_s, max_failures, hang_limit_s)
            job = _Job(target, recipe, folder, name, need, limits, cluster.own, debug, hire)
            _watch(job, RunWatch(folder), steps, progress, told)
            if told() or not job.found_no_room():
                break
    error = _explain(job, describe(cluster.nodes))
    if error is not None:
        raise error


def _needs(
    cluster: Cluster, counts: Sequence[int], gpus: float, cpus: float | None
) -> Iterator[tuple[Need, float]]:
    """What to ask for and for how many seconds to wait for it; less of it each time."""
    nodes = cluster.nodes
    need = Need(counts[0], cpus or even_share(counts[0], gpus, nodes), gpus)
    lacking = shortage(need, nodes)
    if lacking and cluster.own and fitting(counts, gpus, nodes, cpus) is None:
        raise ValueError(lacking)
    if lacking and not cluster.own:
        logger.warning("waiting up to %g s for machines: %s", JOIN_TIMEOUT_S, lacking)
    if not (lacking and cluster.own):
        yield need, JOIN_TIMEOUT_S if lacking or len(counts) == 1 else LOST_TIMEOUT_S
    while fewer := [count for count in counts if count < need.workers]:
        nodes = nodes if cluster.own else _living()
        found = fitting(fewer, gpus, nodes, cpus)
        if found is None:
            return
        logger.warning("no room for %s in %s; going on with %s", need, describe(nodes), found)
        need = found
        yield need, LOST_TIMEOUT_S


def _living() -> tuple[Node, ...]:
    """The nodes that the cluster has now."""
    import ray

    return nodes_of(ray.nodes())


def recipe_root() -> str:
    """Where a recipe's relative paths start; workers need to be told, Ray changes their cwd."""
    return str(Path(os.environ.get("HPSE_ROOT", ".")).resolve())


@dataclass(frozen=True)
class _Limits:
    """How long and how often."""

    patience_s: float
    """To find room in the cluster."""
    max_failures: int
    hang_s: float
    """Without an answer of a worker."""


class _Job(threading.Thread):
    """`Trainer.fit()` in a thread: the main thread stays free for the bar and for Ctrl-C."""

    def __init__(
        self,
        target: str,
        recipe: Any,
        folder: Path,
        launch: str,
        need: Need,
        limits: _Limits,
        own: bool,
        debug: bool,
        hire: DataWorkers | None,
    ) -> None:
        super().__init__(name="ray-train", daemon=True)
        self.target, self.recipe, self.folder = target, recipe, folder
        self.launch, self.need, self.limits, self.own = launch, need, limits, own
        self.debug, self.hire = debug, hire
        self.name_in_ray = f"start-{uuid.uuid4().hex[:12]}"
        self.error: BaseException | None = None
        self.ended, self._left = threading.Event(), threading.Event()

    def leave(self) -> None:
        """End without waiting for the workers, before the connection to Ray does: a thread that
        waited there would be left with what is no more, or start another Ray."""
        self._left.set()
        self.ended.wait(_LEAVE_S)

    def starts(self) -> int:
        """How often the workers have been started so far."""
        path = _starts_path(self.folder)
        return path.read_text().split().count(self.name_in_ray) if path.exists() else 0

    def found_no_room(self) -> bool:
        """Whether it ended because its workers found no place in the cluster in time."""
        from ray.train import ControllerError

        cause = getattr(self.error, "controller_failure", None)
        return isinstance(self.error, ControllerError) and "Timeout" in type(cause).__name__

    def run(self) -> None:
        try:
            self._trainer().fit()
        except BaseException as error:  # carried over to the main thread, which raises it
            self.error = None if self._left.is_set() else error
        finally:
            shutil.rmtree(self.folder / "ray", ignore_errors=True)
            self.ended.set()

    def _trainer(self) -> Any:
        from ray import train

        from cluster.losses import Losses
        from cluster.trainer import Trainer

        patience_s = math.ceil(self.limits.patience_s / 3)
        # The three tries to find room share the deadline; Ray itself would try for ever.
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(patience_s)
        os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(self.limits.hang_s)
        also = {} if self.hire is None else {"hire": self.hire}
        resources = {"CPU": self.need.cpus}
        if self.need.gpus:
            resources["GPU"] = self.need.gpus
        return Trainer(
            self.own,
            self._left,
            _work,
            train_loop_config={
                "target": self.target,
                # its controller only hands it on: packed, it need not import what is in it
                "packed": pickle.dumps((self.recipe, also)),
                "folder": str(self.folder),
                "root": recipe_root(),
                "launch": self.launch,
                "start": self.name_in_ray,
            },
            scaling_config=train.ScalingConfig(
                num_workers=self.need.workers,
                use_gpu=self.need.gpus > 0,
                resources_per_worker=resources,
                placement_strategy="PACK",  # as few machines as will do
            ),
            run_config=train.RunConfig(  # type: ignore[call-arg]  # typed as V1's, which is V2's
                name=self.name_in_ray,
                storage_path=str(self.folder / "ray"),
                failure_config=train.FailureConfig(  # type: ignore[call-arg]
                    max_failures=self.limits.max_failures, controller_failure_limit=2
                ),
                callbacks=[  # typed as V1's
                    Losses(self.folder, self.launch, self.limits.hang_s)  # type: ignore[list-item]
                ],
                logging_config=train.LoggingConfig("INFO" if self.debug else "CRITICAL"),
            ),
        )


def _work(config: dict[str, Any]) -> None:
    """A worker: who am I, then the target. Runs in a thread that Ray made."""
    from ray import train

    folder = Path(config["folder"])
    os.environ["HPSE_ROOT"], os.environ[LAUNCH] = config["root"], config["launch"]
    if read_final(folder) is not None:
        return  # a worker of this run has met an error that another start cannot heal
    context = train.get_context()
    world = World(
        rank=context.get_world_rank(),
        size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        local_size=context.get_local_world_size(),
    )
    if world.is_main:
        _starts_path(folder).parent.mkdir(parents=True, exist_ok=True)
        with _starts_path(folder).open("a") as file:
            file.write(f"{config['start']}\n")
    os.environ |= {  # as torchrun names them, for the libraries that read them
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_RANK": str(world.local_rank),
        "LOCAL_WORLD_SIZE": str(world.local_size),
    }
    try:
        recipe, also = pickle.loads(config["packed"])
        with heard():
            run_target(config["target"], recipe, world, folder, **also)
    except FinalError:
        # When all workers stop for it, returning ends the run at once. Otherwise the others may
        # be waiting for this one: raising makes Ray end them, and the next start returns above.
        if not all_final(folder, world.size):
            raise


def _starts_path(folder: Path) -> Path:
    return folder / "logs" / "starts"


def _watch(
    job: _Job, watch: RunWatch, steps: int | None, progress: bool, told: Callable[[], bool]
) -> None:
    """Draw the bar until the job ends, and say when the workers had to be started again."""
    bar = ProgressBar(watch.folder.name, [watch], [steps]) if progress else None
    starts, losses = 1, Tail(job.folder / LOSSES_FILE, from_end=True)
    job.start()
    try:
        over = False
        while not over and not (told() and not job.starts()):  # else nobody has anything to save
            # not join(): a Ctrl-C within Python 3.11's makes a thread that runs look ended
            over = job.ended.wait(POLL_S)
            if bar and job.starts() > starts and read_final(job.folder) is None:
                starts = job.starts()
                bar.say(
                    f"{watch.folder.name}: {_last(losses)}; start {starts} of at most "
                    f"{job.limits.max_failures + 1} goes on from the last checkpoint"
                )
            if bar:
                doing = "" if watch.step or job.starts() else "starting workers"
                bar.update("told to stop: the workers save first" if told() else doing)
    finally:
        job.leave()  # of one that has ended there is nothing to leave
        if bar:
            bar.close()


def _last(losses: Tail) -> str:
    """What a run has lost since it was asked; a worker's own end rather than its peer's error."""
    rows = [json.loads(line) for line in losses.lines()]
    row = next((row for row in rows if row["how"] != ERROR), rows[0] if rows else None)
    return f"worker {row['rank']} {row['said']}" if row else "workers were lost"


def _explain(job: _Job, cluster: str) -> Exception | None:
    """What the user is told about a run that did not end well; None when it did."""
    from ray.train import WorkerGroupError

    final = read_final(job.folder)
    if final is not None:
        return final.to_error()
    error, log = job.error, job.folder / "logs"
    if error is None:
        return None
    if isinstance(error, WorkerGroupError):
        rank, cause = to_blame(error.worker_failures)
        most = job.limits.max_failures
        tries = f"{most + 1} times, the last time" if most else "once:"
        return ChildProcessError(
            f"the workers failed {tries} worker {rank} {story(cause, job.limits.hang_s)}; the "
            "whole story is in "
            f"{log}, and the same command goes on from the last checkpoint"
        )
    if job.found_no_room():
        return TimeoutError(
            f"no room for {job.need} within {job.limits.patience_s:g} s in {cluster}: wait for "
            "other runs to end, ask for less, or add machines"
        )
    return ChildProcessError(f"Ray could not run the workers: it {story(error)}; see {log}")
