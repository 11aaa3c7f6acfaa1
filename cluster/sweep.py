"""Fan out independent one-process runs with Ray Tune: as many at a time as the cluster holds.

Training happens in the trial's own process, so a run pays for one process start and no more. The
run folder is the truth: Tune's own records are kept under a fresh name for the time of the sweep.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import queue
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from cluster.connection import connected
from cluster.halving import Halving, Job, has_ended, is_done, reported
from cluster.launch import POLL_S, recipe_root
from cluster.notice import STOPPED, heard, passed_on, told_by_driver
from cluster.progress import ProgressBar, RunWatch
from cluster.pulse import Ends, Patience, beating, pulse_file
from cluster.resources import Need, even_share, gpus_for, places, shortage
from cluster.story import MemoryKills, write_loss
from cluster.worker import Final, forget_final, read_final, run_target, sentence, write_final
from hpse_dist.accounting import LAUNCH
from hpse_dist.log import METRICS_FILE
from hpse_dist.stopping import told, told_to_stop
from hpse_dist.world import World

SWITCHES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON, TensorBoard files beside our own
    "TUNE_DISABLE_AUTO_CALLBACK_SYNCER": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial's end brings no figure of its own
}

_LEAVE_S = 10.0  # Tune looks up every tenth of a second, unless its machine is very busy


@dataclass(frozen=True)
class Outcome:
    """How a run of a sweep ended; `error` is one sentence, None when the run is complete."""

    name: str
    folder: Path
    error: str | None = None
    seconds: float = 0.0
    skipped: bool = False


def sweep(
    jobs: Sequence[Job],
    storage: Path,
    *,
    device: str = "cpu",
    at_once: int | None = None,
    max_failures: int = 3,
    halving: Halving | None = None,
    progress: bool = True,
    debug: bool = False,
) -> list[Outcome]:
    """Run every job that is not done yet and say how each ended, in the order given.

    storage: folder for Tune's passing records; at_once: None takes as many as the cluster holds.
    A run that fails is reported and the others go on; a run whose process dies is started again up
    to `max_failures` times and goes on from its folder. With `halving` losers are stopped early,
    and what ended before is told to the scheduler, so that an interrupted sweep goes on. After
    SIGTERM nothing more is started, and what runs ends with a checkpoint. Raises ValueError when
    not even one run fits the cluster.
    """
    jobs = [replace(job, folder=job.folder.absolute()) for job in jobs]
    waiting = [job for job in jobs if not has_ended(job.folder)]
    ended = [job for job in jobs if has_ended(job.folder)]
    waiting.sort(key=lambda job: not (job.folder / METRICS_FILE).is_file())  # the begun go on first
    todo = {job.name for job in waiting}
    error: BaseException | None = None
    with told_to_stop() as told:
        if waiting and not told():
            with connected(debug=debug) as cluster, passed_on(told):
                gpus = gpus_for(device, cluster.nodes)
                most = min(at_once or len(waiting), len(waiting))
                need = Need(1, even_share(most, gpus, cluster.nodes), gpus)
                lacking = shortage(need, cluster.nodes)
                if lacking and cluster.own:
                    raise ValueError(lacking)
                at_once = max(1, min(most, places(need, cluster.nodes)))
                for job in waiting:
                    forget_final(job.folder)
                scheduler = halving.scheduler(waiting, ended) if halving else None
                thread = _Trials(
                    *(waiting, storage.absolute(), need, at_once, max_failures, debug),
                    halving,
                    scheduler,
                )
                _watch(thread, waiting, progress)
            error = thread.error
        broken = STOPPED if told() else f"Ray Tune stopped: {sentence(error)}" if error else None
    if (
        error is not None
        and broken != STOPPED
        and not any(has_ended(one.folder) for one in waiting)
    ):
        raise ChildProcessError(broken)
    return [_outcome(job, job.name not in todo, broken) for job in jobs]


def _outcome(job: Job, skipped: bool, broken: str | None = None) -> Outcome:
    if has_ended(job.folder):
        return Outcome(job.name, job.folder, None, _seconds(job.folder), skipped)
    final = read_final(job.folder)
    refused = job.refusal() if job.refusal and not final else None
    dead = broken or f"its process kept dying; see {job.folder / 'logs'}"
    error = final.sentence if final else refused or dead
    return Outcome(job.name, job.folder, error, _seconds(job.folder))


def _seconds(folder: Path) -> float:
    path = folder / "logs" / "seconds"
    return float(path.read_text()) if path.exists() else 0.0


def _trial(
    config: dict[str, Any], jobs: Sequence[Job], root: str, launch: str, halving: Halving | None
) -> dict[str, Any]:
    """A trial: the whole run in this process. An error is the run's result, not Tune's affair."""
    import ray

    job = jobs[config["index"]]
    os.environ["HPSE_ROOT"], os.environ[LAUNCH] = root, launch
    if told_by_driver() or (job.refusal is not None and job.refusal()):
        return {"done": False}
    with beating(job.folder, ray.get_runtime_context().get_node_id()), heard():
        _carry_out(job, halving)
    return {"done": is_done(job.folder)}


def _carry_out(job: Job, halving: Halving | None) -> None:
    started = time.monotonic()
    try:
        if halving is None:
            run_target(job.target, job.recipe, World(), job.folder)
        else:
            reported(job.target, job.recipe, job.folder, halving)
    except Exception as error:
        # One process has no peer to lose: the same error would come again, so it is final.
        if read_final(job.folder) is None:
            write_final(job.folder, 0, Final(type(error).__name__, sentence(error)))
    (job.folder / "logs" / "seconds").write_text(f"{time.monotonic() - started:.3f}")


def forget_killed(storage: Path) -> None:
    """Remove Tune's records of sweeps of this machine whose process is gone, as after a kill; the
    run folders are the truth, so nobody reads them."""
    mine = f"sweep-{socket.gethostname()}-"
    for folder in storage.glob(f"{glob.escape(mine)}*"):
        pid = folder.name.removeprefix(mine).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


class _Trials(threading.Thread):
    """`Tuner.fit()` in a thread: the main thread stays free for the bar and for Ctrl-C.

    It is to end before the connection to Ray does: the next call that Tune then makes would start
    another Ray, which nobody ends.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        storage: Path,
        need: Need,
        at_once: int,
        max_failures: int,
        debug: bool,
        halving: Halving | None = None,
        scheduler: Any = None,
    ) -> None:
        super().__init__(name="ray-tune", daemon=True)
        self.jobs, self.storage, self.need = jobs, storage, need
        self.at_once, self.max_failures, self.debug = at_once, max_failures, debug
        self.halving, self.scheduler = halving, scheduler
        self.launch = uuid.uuid4().hex[:8]
        self.error: BaseException | None = None
        self.left, self.ended = threading.Event(), threading.Event()
        self.hung: set[str] = set()
        """Runs whose process is being ended, since it gave no sign of life."""
        self.said: queue.SimpleQueue[str] = queue.SimpleQueue()
        """What is to be told of processes that were lost."""
        self._kills = MemoryKills()

    def leave(self) -> None:
        """End without waiting for the trials: whoever shares the connection to Ray, as a notebook's
        next sweep does, finds nothing of them running and nothing held."""
        self.left.set()
        self.join(_LEAVE_S)

    def lost(self, trial: Any) -> None:
        """Write down how a trial's process was lost, where the run's account counts it."""
        from ray.exceptions import ActorDiedError, OutOfMemoryError

        job = self.jobs[trial.config["index"]]
        if job.name in self.hung:
            self.hung.discard(job.name)  # told where it was decided
            return
        text = ""
        with contextlib.suppress(OSError, TypeError):  # a full disk; no file at all
            text = Path(trial.error_file).read_text(encoding="utf-8").rpartition("Failure #")[2]
            text = text.partition("\n")[2]
        # a run's own errors are its result: what Tune hears of is a process that is gone
        starving = "low on memory" in text
        how, said = self._kills.story(OutOfMemoryError(text) if starving else ActorDiedError())
        write_loss(job.folder, self.launch, 0, how, said)
        again = f"start {trial.num_failures + 1} of at most {self.max_failures + 1}"
        ends = "given up" if trial.num_failures > self.max_failures else again
        self.said.put(f"{job.name}: its process {said}; {ends}")

    def run(self) -> None:
        name = f"sweep-{socket.gethostname()}-{os.getpid()}-{self.launch}"
        # Tune prints boxes whatever its verbosity; meanwhile the main thread draws on stderr only.
        quiet = (
            contextlib.nullcontext() if self.debug else contextlib.redirect_stdout(io.StringIO())
        )
        try:
            forget_killed(self.storage)
            with quiet:
                self._tuner(name).fit()
        except BaseException as error:  # carried over to the main thread
            self.error = error
        finally:
            shutil.rmtree(self.storage / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # another sweep's records may still be there
                self.storage.rmdir()
            self.ended.set()

    def _tuner(self, name: str) -> Any:
        for switch, value in SWITCHES.items():
            os.environ.setdefault(switch, value)
        import ray
        from ray import tune

        class Stopper(tune.Stopper):
            """Ends what is left of the sweep once the runs that were told to stop have saved."""

            def __init__(self, folders: Sequence[Path]) -> None:
                self._folders = folders

            def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
                return False

            def stop_all(self) -> bool:
                return told() and not any(pulse_file(one).exists() for one in self._folders)

        class Leaving(tune.Callback):  # which Tune copies, so it holds nothing
            def on_trial_recover(
                self, iteration: int, trials: list[Any], trial: Any, **_: Any
            ) -> None:
                thread = threading.current_thread()
                if isinstance(thread, _Trials):
                    thread.lost(trial)

            on_trial_error = on_trial_recover

            def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
                thread = threading.current_thread()
                if isinstance(thread, _Trials) and thread.left.is_set():
                    for actor in [trial.temporary_state.ray_actor for trial in trials]:
                        if actor is not None:
                            ray.kill(actor)
                    # on which Tune gives back what the trials held, at once since they are dead
                    raise InterruptedError

        resources = {"CPU": self.need.cpus}
        if self.need.gpus:
            resources["GPU"] = self.need.gpus
        trainable = tune.with_parameters(
            _trial,
            jobs=self.jobs,
            root=recipe_root(),
            launch=self.launch,
            halving=self.halving,
        )
        return tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"index": tune.grid_search(list(range(len(self.jobs))))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=self.at_once,
                scheduler=self.scheduler,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=str(self.storage),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=self.max_failures),
                callbacks=[Leaving()],
                stop=Stopper([job.folder for job in self.jobs]),
            ),
        )


def _watch(thread: _Trials, jobs: Sequence[Job], progress: bool) -> None:
    """Draw one bar over the steps of all runs, with the count of finished runs beside it."""
    watches = [RunWatch(job.folder) for job in jobs]
    bar = ProgressBar("runs", watches, [job.steps for job in jobs]) if progress else None
    finished: set[str] = set()
    patience = {job.name: Patience(job.folder, job.hang_limit_s) for job in jobs}
    ends = Ends()
    over = False
    thread.start()
    try:
        while not over:
            # not join(): a Ctrl-C within Python 3.11's makes a thread that runs look ended
            over = thread.ended.wait(POLL_S)
            failed = []
            for job, watch in zip(jobs, watches, strict=True):
                ended = has_ended(job.folder) or read_final(job.folder) is not None
                if ended and job.name not in finished:
                    finished.add(job.name)
                    if not has_ended(job.folder):
                        failed.append(f"{job.name} failed: {_outcome(job, skipped=False).error}")
                    elif bar:
                        bar.complete(watch, job.steps)
                if pulse := patience[job.name].out():
                    thread.hung.add(job.name)
                    ends.end(pulse, patience[job.name])
            for one in ends.found():
                said = one.note(thread.launch)
                if bar:
                    bar.say(f"{one.folder.name} {said}")
            while bar and not thread.said.empty():
                bar.say(thread.said.get())
            if bar:
                bar.update(f"{len(finished)}/{len(jobs)} runs, {thread.at_once} at a time")
                for said in failed:  # after what led to it, which the bar has just said
                    bar.say(said)
    except BaseException:
        thread.leave()
        raise
    finally:
        if bar:
            bar.close()
