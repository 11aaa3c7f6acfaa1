"""`python -m pipelines.bench chaos`: a run killed again and again, beside one that nobody disturbs.

Workers, data workers, the driver and Ray's head get SIGKILL at random moments, or a worker SIGSTOP
(`hung`: found within machine.hang_limit_s); after each kill the same command is given again where
it ended. The two runs must be equal to the bit: losses of all steps, weights, optimizer state,
place in the data; and each sample must have come exactly once.

    kills.jsonl   per kill: who, when, seconds until the workers started again and until a new step
    soak.jsonl    what the processes held on to, see `pipelines.soak`
    chaos.txt     the table; of a broken-off one, `--show` makes it from the files
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpse_dist.accounting import STARTS_FILE, read_starts
from hpse_dist.checkpoint import published
from hpse_dist.checkpoint_files import MANIFEST
from hpse_dist.config import load
from hpse_dist.disk import write_text
from hpse_dist.log import METRICS_FILE
from hpse_dist.recipe import PretrainRecipe, located
from hpse_dist.run_folder import is_done
from pipelines import progress_bar
from pipelines.same_runs import compare, repeated_and_lost
from pipelines.soak import MARK, Soak, end, left_behind, marked, role_of, soak_table, title_of

VICTIMS = {
    "worker": ("worker",),
    "data": ("data",),
    "driver": (),
    "head": ("gcs", "raylet"),
    "hung": ("worker",),
}
"""Who is killed, or stopped, and as which of the processes that `pipelines.soak` knows."""
SHARES = {"worker": 3, "data": 3, "driver": 1, "head": 1, "hung": 1}
"""Lost workers are the most frequent."""
PATIENCE_S = 600.0  # without a new step the run is not coming back
_POLL_S = 0.1
_AHEAD = 4  # batches that a lost data worker may have made already
_END = 8192  # bytes of the log that hold its last steps
_FOLDER_MARK = ".chaos"  # what is emptied was made here
KILLS_FILE, FACTS_FILE, TABLE_FILE = "kills.jsonl", "facts.json", "chaos.txt"


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    victim: str
    time: float
    """Seconds since 1970."""
    restart_s: float
    """Until the workers, or another data worker, ran: noticing, starting processes, importing."""
    recover_s: float
    """Until the next new step."""
    left: int
    """Processes that outlived their driver by more than ten seconds."""


@dataclass
class Chaos:
    """What the kills did."""

    kills: list[Kill] = field(default_factory=list)
    commands: int = 0
    """How often the command was given."""
    seconds: float = 0.0
    """Of the whole run, from the first command to its end."""
    useful: float = 0.0
    """Of steps that count."""

    @property
    def leaked(self) -> int:
        return sum(kill.left for kill in self.kills)

    def table(self) -> str:
        """Kills and recoveries by victim, and what they cost."""
        head = f"{'killed':10}{'times':>6}{'median':>10}{'worst':>10}{'to restart':>13}"
        lines = [f"{head}   until the next new step, and until the workers ran"]
        for victim in VICTIMS:
            times = [kill.recover_s for kill in self.kills if kill.victim == victim]
            if times:
                restart = statistics.median(k.restart_s for k in self.kills if k.victim == victim)
                middle, worst = statistics.median(times), max(times)
                row = f"{victim:10}{len(times):6}{middle:8.1f} s{worst:8.1f} s{restart:11.1f} s"
                lines.append(row)
        share = self.useful / self.seconds if self.seconds else 0.0
        lines.append(
            f"{self.seconds:.0f} s, {self.useful:.0f} s of them steps that count ({share:.1%}); "
            f"the command was given {self.commands} times; {self.leaked} processes were left behind"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Plan:
    """How much is killed, and how quickly."""

    kills: int
    gap_s: float
    """Mean time from a new step to the next kill."""
    seed: int
    victims: tuple[str, ...] = ("worker", "driver", "head")
    minutes: float = float("inf")
    """After so many nobody is killed any more."""
    go_on: bool = False
    """Whether what was broken off goes on; else what there is is removed."""

    def order(self, draw: random.Random) -> list[str]:
        """Who is killed, in turn: each kind its share, shuffled.

        Half of those whose driver survives come first: a driver that lives long shows whether its
        memory grows.
        """
        shares = [SHARES[victim] for victim in self.victims]
        numbers = [self.kills * share // sum(shares) for share in shares]
        numbers[0] += self.kills - sum(numbers)
        counts = dict(zip(self.victims, numbers, strict=True))
        first = [v for v in self.victims if v in ("worker", "data") for _ in range(counts[v] // 2)]
        rest = [v for v in self.victims for _ in range(counts[v] - first.count(v))]
        draw.shuffle(first)
        draw.shuffle(rest)
        return first + rest


def chaos(recipe: Path, overrides: Sequence[str], folder: Path, plan: Plan) -> Chaos:
    """Run a pre-training recipe undisturbed and killed, both under `folder`, and compare them.

    ValueError where the two differ, or a sample of the killed one came twice or not at all. However
    this ends, nothing of theirs goes on.
    """
    folder = located(folder)
    if folder.exists() and not (folder / _FOLDER_MARK).is_file():
        raise ValueError(f"{folder}: exists and is not of an earlier chaos; give another --out")
    if not plan.go_on:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FOLDER_MARK).touch()
    word = secrets.token_hex(8)
    runs = [_Run(recipe, overrides, folder, name, word) for name in ("undisturbed", "killed")]
    try:
        _quiet(runs[0])
        soak = Soak(folder, word)
        soak.start()
        try:
            _disturbed(runs[1], plan)
        finally:
            soak.stop()
    finally:
        end(word)
    differences = compare(runs[0].folder, runs[1].folder)
    if differences:
        raise ValueError(f"the killed run differs from the undisturbed: {'; '.join(differences)}")
    samples, repeated, lost = repeated_and_lost(runs[1].folder)
    if repeated or lost:
        raise ValueError(f"of {samples} samples {repeated} came twice and {lost} were left out")
    return read_chaos(folder)


class _Run:
    """One recipe's command, and what its folder says."""

    def __init__(
        self, recipe: Path, overrides: Sequence[str], out: Path, name: str, word: str
    ) -> None:
        settings = [f"name={name}", f"machine.out={out}", "machine.log_every=1"]
        settings += [f"machine.max_failures={1000 if name == 'killed' else 0}"]
        self.command = [sys.executable, "-m", "pipelines.pretrain", str(recipe)]
        self.command += [*overrides, *settings]
        self.recipe = load(PretrainRecipe, recipe, [*overrides, *settings])
        self.folder = self.recipe.folder()
        self.log = out / f"{name}.log"
        # its own Ray, whose token the soak's questions know
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self.environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
        self.environment[MARK] = word
        self._replaced = -math.inf  # when another data worker was there for the last one killed

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log, env=self.environment)

    def step(self) -> int:
        """The last step in its log."""
        steps = self._newest_steps()
        return steps[-1][0] if steps else 0

    def _newest_steps(self) -> list[tuple[int, float]]:
        """Step and time of the last lines of its log."""
        path = self.folder / METRICS_FILE
        if not path.is_file():
            return []
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _END))
            lines = [json.loads(x) for x in file.read().splitlines()[1:] if x.endswith(b"}")]
        return [(int(line["step"]), float(line["time"])) for line in lines]

    def recovered(self, since: float, known: Set[int]) -> tuple[float, float] | None:
        """Seconds from `since` to its workers' next start and to that one's first step.

        The run goes on without a lost data worker, one of `known`: there it is another's start, and
        the step after which no batch of the lost one's can be left.
        """
        for start in read_starts(self.folder / STARTS_FILE):
            if start.began > since and start.first is not None:
                return start.began - since, start.first - since
        if not known:
            return None
        if self._replaced < since:
            self._replaced = time.time() if self.data_workers() - known else -math.inf
        stepped = [time for _, time in self._newest_steps() if time > self._replaced > since]
        return (self._replaced - since, stepped[_AHEAD] - since) if stepped[_AHEAD:] else None

    def data_workers(self) -> Set[int]:
        """Its living data workers. Their ages tell nothing: Ray keeps idle processes at hand."""
        found = marked(self.environment[MARK])
        return {one.pid for one in found if role_of(title_of(one)) == "data"}


def read_chaos(folder: Path) -> Chaos:
    """What an earlier chaos has written down, to its end or not."""
    path = folder / KILLS_FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found = Chaos([Kill(**json.loads(line)) for line in lines])
    facts = folder / FACTS_FILE
    if facts.is_file():
        for name, value in json.loads(facts.read_text(encoding="utf-8")).items():
            setattr(found, name, value)
    return found


def add_arguments(parts: Any) -> None:
    """The part `chaos` of `pipelines.bench`."""
    made = parts.add_parser("chaos", help="a run killed again and again is the undisturbed run")
    made.add_argument("recipe", type=Path, nargs="?", default=Path("configs/pretrain/demo.yaml"))
    made.add_argument("overrides", nargs="*", metavar="key=value")
    made.add_argument("--kills", type=int, default=20)
    made.add_argument("--gap", type=float, default=20.0, help="mean seconds of peace between two")
    made.add_argument("--seed", type=int, default=0, help="of who is killed when")
    made.add_argument("--victims", nargs="+", choices=VICTIMS, default=["worker", "driver", "head"])
    made.add_argument("--minutes", type=float, default=float("inf"), help="then nobody is killed")
    made.add_argument("--go-on", action="store_true", help="with what was broken off in --out")
    made.add_argument("--out", type=Path, default=Path("runs/chaos"), help="emptied, as a rule")
    made.add_argument("--show", action="store_true", help="only what an earlier one wrote to --out")


def main(options: argparse.Namespace) -> None:
    """Kill, compare, and print what it cost."""
    folder = located(options.out)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # its runs end with it
    if not options.show:
        victims = tuple(options.victims)
        plan = Plan(
            options.kills, options.gap, options.seed, victims, options.minutes, options.go_on
        )
        chaos(options.recipe, options.overrides, folder, plan)
        samples, *_ = repeated_and_lost(folder / "killed")
    text = "\n".join([read_chaos(folder).table(), *soak_table(folder)])
    print(text)
    if not options.show:
        last = (
            f"done: {len(read_chaos(folder).kills)} kills, equal to the undisturbed run to the "
            f"bit, {samples} samples exactly once: {folder}"
        )
        print(last)
        (folder / TABLE_FILE).write_text(f"{text}\n{last}\n", encoding="utf-8")


def _quiet(run: _Run) -> None:
    if run.start().wait() or not is_done(run.folder):
        raise RuntimeError(f"the undisturbed run failed, see {run.log}")


def _disturbed(run: _Run, plan: Plan) -> None:
    """Kill until there were enough kills, then let it end."""
    draw, began = random.Random(plan.seed), time.monotonic()
    out, order = run.folder.parent, plan.order(draw)
    found, process = read_chaos(out), run.start()
    before, done = found.seconds, len(found.kills)
    found.commands += 1
    process = _recovered(run, process, time.time(), found)
    with progress_bar(len(order), "kills") as bar:
        for number, victim in enumerate(order[done:], start=done + 1):
            _peace(
                run, draw.uniform(0, 2 * plan.gap_s), run.recipe.steps * number // (len(order) + 1)
            )
            if is_done(run.folder) or time.monotonic() - began > 60 * plan.minutes:
                break
            known = run.data_workers() if victim == "data" else set()
            since = time.time()
            left = _kill(process, victim, draw, run.environment[MARK])
            if left is None:  # it has just gone of itself
                continue
            process = _recovered(run, process, since, found, known)
            times = run.recovered(since, known) or (float("nan"), time.time() - since)
            found.kills.append(Kill(victim, since, *times, left))
            found.seconds, found.useful = before + time.monotonic() - began, _useful(run)
            _write(out, found)
            bar.update()
    while not is_done(run.folder):
        if process.wait() and not is_done(run.folder):
            process, found.commands = run.start(), found.commands + 1
    process.wait()  # done is written before the command has ended
    found.seconds, found.useful = before + time.monotonic() - began, _useful(run)
    _write(out, found)


def _peace(run: _Run, seconds: float, most: int) -> None:
    """Wait so long, or until the run is at step `most`: it must not end before all are killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and run.step() < most and not is_done(run.folder):
        time.sleep(_POLL_S)


def _write(folder: Path, found: Chaos) -> None:
    """Keep the newest kill, and the facts so far."""
    lines = [json.dumps(asdict(kill)) + "\n" for kill in found.kills]
    write_text(folder / KILLS_FILE, "".join(lines))
    facts = {"commands": found.commands, "seconds": found.seconds, "useful": found.useful}
    write_text(folder / FACTS_FILE, json.dumps(facts))


def _useful(run: _Run) -> float:
    """Seconds of steps that count, as its newest checkpoint or its report says."""
    report = run.folder / "report.json"
    if report.is_file():
        return float(json.loads(report.read_text(encoding="utf-8"))["account"]["useful_s"])
    for folder in published(run.folder / "checkpoints"):
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except OSError:  # older than those that are kept, just now
            continue
        return float(manifest["also"]["clock"]["useful"])
    return 0.0


def _recovered(
    run: _Run,
    process: subprocess.Popen[bytes],
    since: float,
    found: Chaos,
    known: Set[int] = frozenset(),
) -> subprocess.Popen[bytes]:
    """Wait for a new step, or the run's end; where the command has ended it is given again."""
    deadline = time.monotonic() + PATIENCE_S
    while run.recovered(since, known) is None and not is_done(run.folder):
        if process.poll() is not None:
            process, found.commands = run.start(), found.commands + 1
        if time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"no new step for {PATIENCE_S:g} s, see {run.log}")
        time.sleep(_POLL_S)
    return process


def _kill(
    process: subprocess.Popen[bytes], victim: str, draw: random.Random, word: str
) -> int | None:
    """Kill someone; how many of a dead driver's processes stayed, None where nobody was killed."""
    if process.poll() is not None:
        return None
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
    else:
        roles = VICTIMS[victim]
        candidates = [one for one in marked(word) if role_of(title_of(one)) in roles]
        if not candidates:
            return None
        number = signal.SIGSTOP if victim == "hung" else signal.SIGKILL
        draw.choice(candidates).send_signal(number)
        if victim != "head":
            return 0
    process.wait(timeout=PATIENCE_S)  # without its head the driver has nothing to hold on to
    return left_behind(word)
