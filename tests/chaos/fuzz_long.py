"""Ten thousand spoilt files of each kind, with bounds of memory and time for each.

    python -m tests.chaos.fuzz_long [target ...] --inputs 10000 --out /tmp/fuzz

A log for each target says what should not have happened; it also says how far it has come, so that
the same command goes on after it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import tempfile
import time
from pathlib import Path

from tests.chaos.fuzzing import TARGETS
from tests.chaos.trial import Trials
from tests.data.made_collection import made_collection

MOST_SECONDS = 20.0  # of processor time, for one file
MOST_BYTES = 6 << 30  # beyond what imports have taken
_EVERY = 200


class Slow(Exception):
    """A file took too long."""


def _too_slow(*_: object) -> None:
    raise Slow(f"over {MOST_SECONDS:g} s of processor time")


def fuzz(name: str, inputs: int, out: Path) -> int:
    """Read `inputs` spoilt files of a kind, and return how many were not as they should."""
    log, mark = out / f"{name}.log", out / f"{name}.json"
    state = (
        json.loads(mark.read_text()) if mark.is_file() else {"done": 0, "found": 0, "refused": 0}
    )
    if state["done"] >= inputs:
        return int(state["found"])
    began, scratch = time.process_time(), Path(tempfile.mkdtemp(prefix=f"fuzz_{name}_"))
    os.chdir(scratch)
    try:
        trials = Trials(name, scratch / "files", scratch / "ran")
        before = {*scratch.rglob("*")}
        for number in range(state["done"], inputs):
            signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
            problem = trials.run(number)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            if problem:
                state["found"] += 1
                with log.open("a") as file:
                    file.write(f"{problem}\n")
            state["done"], state["refused"] = number + 1, state["refused"] + trials.refused
            trials.refused = 0
            if state["done"] % _EVERY == 0 or state["done"] == inputs:
                new = {*scratch.rglob("*")} - before - trials.own()
                assert not new, f"{name} {number}: written elsewhere: {new}"
                state["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
                mark.write_text(json.dumps(state))
    finally:
        os.chdir(out)
        shutil.rmtree(scratch, ignore_errors=True)
    line = f"{name}: {state} in {time.process_time() - began:.0f} s of processor time"
    print(line, flush=True)
    return int(state["found"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="default: all")
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGVTALRM, _too_slow)
    made_collection()  # loads FFCV and its compiler
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MOST_BYTES,) * 2)
    for name in options.targets or TARGETS:
        try:
            fuzz(name, options.inputs, out)
        except Exception as error:
            print(f"{name}: cannot be tried: {error!r}", flush=True)


if __name__ == "__main__":
    main()
