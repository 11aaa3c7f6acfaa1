"""`python -m pipelines.bench chaos`: a run killed again and again, beside one that nobody disturbs.

Workers, the driver and Ray's head get SIGKILL at random moments; after each kill the same command
is given again where it ended. The two runs must be equal to the bit: losses of all steps, weights,
optimizer state, place in the data.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from hpse_dist.checkpoint import MANIFEST, Checkpoints
from hpse_dist.config import load
from hpse_dist.log import METRICS_FILE, read_metrics
from hpse_dist.recipe import PretrainRecipe, located
from hpse_dist.run_folder import is_done
from pipelines import progress_bar

VICTIMS = ("worker", "driver", "head")
PATIENCE_S = 180.0  # without a new step the run is not coming back
_POLL_S = 0.1
_MARK = ".chaos"  # what is emptied was made here


@dataclass
class Chaos:
    """What the kills did."""

    kills: list[tuple[str, float]] = field(default_factory=list)
    """Victim and seconds until the next new step."""
    commands: int = 0
    """How often the command was given."""
    leaked: int = 0
    """Processes that outlived their driver by more than ten seconds."""
    seconds: float = 0.0
    """Of the whole run, from the first command to its end."""
    useful: float = 0.0
    """Of steps that count."""

    def table(self) -> str:
        """Kills and recoveries by victim, and what they cost."""
        lines = [f"{'killed':10}{'times':>6}{'median':>10}{'worst':>10}   until the next new step"]
        for victim in VICTIMS:
            times = [seconds for name, seconds in self.kills if name == victim]
            if times:
                middle, worst = statistics.median(times), max(times)
                lines.append(f"{victim:10}{len(times):6}{middle:8.1f} s{worst:8.1f} s")
        share = self.useful / self.seconds
        lines.append(
            f"{self.seconds:.0f} s, {self.useful:.0f} s of them steps that count ({share:.1%}); "
            f"the command was given {self.commands} times; {self.leaked} processes were left behind"
        )
        return "\n".join(lines)


def chaos(
    recipe: Path, overrides: Sequence[str], folder: Path, *, kills: int, gap_s: float, seed: int
) -> Chaos:
    """Run a pre-training recipe undisturbed and killed, both under `folder`, and compare them.

    gap_s: mean time from a new step to the next kill. ValueError where the two differ.
    """
    folder = located(folder)
    if folder.exists() and not (folder / _MARK).is_file():
        raise ValueError(f"{folder}: exists and is not of an earlier chaos; give another --out")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
    runs = [_Run(recipe, overrides, folder, name) for name in ("undisturbed", "killed")]
    _quiet(runs[0])
    found = _disturbed(runs[1], kills, gap_s, random.Random(seed))
    differences = compare(runs[0].folder, runs[1].folder)
    if differences:
        raise ValueError(f"the killed run differs from the undisturbed: {'; '.join(differences)}")
    return found


class _Run:
    """One recipe's command, and what its folder says."""

    def __init__(self, recipe: Path, overrides: Sequence[str], out: Path, name: str) -> None:
        settings = [f"name={name}", f"machine.out={out}", "machine.log_every=1"]
        settings += ["machine.max_failures=1000"]
        self.command = [sys.executable, "-m", "pipelines.pretrain", str(recipe)]
        self.command += [*overrides, *settings]
        self.recipe = load(PretrainRecipe, recipe, [*overrides, *settings])
        self.folder = self.recipe.folder()
        self.log = out / f"{name}.log"

    def start(self) -> subprocess.Popen[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, stdout=log, stderr=log)

    def last_step(self) -> float:
        """When the newest line of its metrics was written, in seconds since 1970; 0 for none."""
        path = self.folder / METRICS_FILE
        rows = read_metrics(path) if path.is_file() else []
        return float(rows[-1]["time"]) if rows else 0.0

    def useful(self) -> float:
        report = json.loads((self.folder / "report.json").read_text(encoding="utf-8"))
        return float(report["account"]["useful_s"])


def add_arguments(parts: Any) -> None:
    """The part `chaos` of `pipelines.bench`."""
    made = parts.add_parser("chaos", help="a run killed again and again is the undisturbed run")
    made.add_argument("recipe", type=Path, nargs="?", default=Path("configs/pretrain/demo.yaml"))
    made.add_argument("overrides", nargs="*", metavar="key=value")
    made.add_argument("--kills", type=int, default=20)
    made.add_argument("--gap", type=float, default=20.0, help="mean seconds of peace between two")
    made.add_argument("--seed", type=int, default=0, help="of who is killed when")
    made.add_argument("--out", type=Path, default=Path("runs/chaos"), help="emptied first")


def main(options: argparse.Namespace) -> None:
    """Kill, compare, and print what it cost."""
    found = chaos(
        options.recipe,
        options.overrides,
        options.out,
        kills=options.kills,
        gap_s=options.gap,
        seed=options.seed,
    )
    print(found.table())
    print(f"done: {len(found.kills)} kills, equal to the undisturbed run to the bit: {options.out}")


def _quiet(run: _Run) -> None:
    if run.start().wait() or not is_done(run.folder):
        raise RuntimeError(f"the undisturbed run failed, see {run.log}")


def _disturbed(run: _Run, kills: int, gap_s: float, draw: random.Random) -> Chaos:
    """Kill until there were enough kills, then let it end."""
    found = Chaos()
    begun = time.monotonic()
    process: subprocess.Popen[bytes] | None = None
    with progress_bar(kills, "kills") as bar:
        while not is_done(run.folder):
            if process is None or process.poll() is not None:
                process, found.commands = run.start(), found.commands + 1
            since = time.time()
            if len(found.kills) < kills:
                time.sleep(draw.uniform(0, 2 * gap_s))
                victim = _kill(process, draw, found)
                if victim is None:
                    continue
                since, died = time.time(), victim
                process = _recovered(run, process, since, found)
                found.kills.append((died, time.time() - since))
                bar.update()
            else:
                process = _recovered(run, process, since, found)
    if process is not None:
        process.wait()  # done is written before the command has ended
    found.seconds, found.useful = time.monotonic() - begun, run.useful()
    return found


def _recovered(
    run: _Run, process: subprocess.Popen[bytes], since: float, found: Chaos
) -> subprocess.Popen[bytes]:
    """Wait for a new step, or the run's end; where the command has ended it is given again."""
    deadline = time.monotonic() + PATIENCE_S
    while run.last_step() <= since and not is_done(run.folder):
        if process.poll() is not None:
            process, found.commands = run.start(), found.commands + 1
        if time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"no new step for {PATIENCE_S:g} s, see {run.log}")
        time.sleep(_POLL_S)
    return process


def _kill(process: subprocess.Popen[bytes], draw: random.Random, found: Chaos) -> str | None:
    """Kill someone; who it was, None where nobody of that kind is there yet."""
    victim = draw.choice(VICTIMS)
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return None
    if victim == "driver":
        process.send_signal(signal.SIGKILL)
        process.wait()
        found.leaked += _left_behind(family)
        return victim
    wanted: Callable[[str], bool] = _is_worker if victim == "worker" else _is_head
    candidates = [one for one in family if wanted(_title(one))]
    if not candidates:
        return None
    draw.choice(candidates).kill()
    if victim == "head":  # without its head the driver has nothing to hold on to
        process.wait(timeout=PATIENCE_S)
        found.leaked += _left_behind(family)
    return victim


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just gone
        return ""


def _is_worker(title: str) -> bool:
    return title.startswith("ray::") and "TrainWorker" in title


def _is_head(title: str) -> bool:
    program = title.split(" ", 1)[0]
    return program.endswith(("gcs_server", "raylet/raylet"))


def _left_behind(family: list[psutil.Process]) -> int:
    """How many of a dead driver's processes are still there after ten seconds; they are killed."""
    _, alive = psutil.wait_procs(family, timeout=10.0)
    for process in alive:
        process.kill()
    return len(alive)


def compare(one: Path, other: Path) -> list[str]:
    """In what two finished runs of one recipe differ; nothing: an empty list."""
    losses = [_losses(folder) for folder in (one, other)]
    states = [_state(folder) for folder in (one, other)]
    found = []
    if losses[0] != losses[1]:
        steps = [s for s in losses[0] if losses[0][s] != losses[1].get(s)]
        found.append(f"losses of steps {steps[:5]}")
    if states[0]["place"] != states[1]["place"]:
        found.append(f"places in the data {states[0]['place']} and {states[1]['place']}")
    tensors = [state["tensors"] for state in states]
    if tensors[0].keys() != tensors[1].keys():
        return [*found, "names of the tensors"]
    different = [n for n in tensors[0] if not torch.equal(tensors[0][n], tensors[1][n])]
    return [*found, f"tensors {different[:5]}"] if different else found


def _losses(folder: Path) -> dict[int, float]:
    return {
        row["step"]: row["loss"] for row in read_metrics(folder / METRICS_FILE) if "loss" in row
    }


def _state(folder: Path) -> dict[str, Any]:
    """The last checkpoint's tensors and place."""
    newest = Checkpoints(folder / "checkpoints", 1, 1, "").found()[0]
    manifest = json.loads((newest / MANIFEST).read_text(encoding="utf-8"))
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(newest.glob("state-*.safetensors")):
        tensors |= {f"{path.name}/{name}": value for name, value in load_file(path).items()}
    return {"place": (manifest["step"], manifest["loader"]), "tensors": tensors}
