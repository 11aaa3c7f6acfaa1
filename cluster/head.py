"""The end of a command whose own Ray cluster has lost its head.

The head does not come back. A driver without its GCS ends after five seconds, in Ray's words; one
without its raylet only when all that it waits for has failed, which was seen to take two minutes.
So the driver itself looks after both, and its guardian ends what is left of Ray.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import psutil
from tqdm import tqdm

from cluster.repeating import again_and_again

_HEAD = ("gcs_server", "raylet")
_LOOK_S = 0.5
_FAILED = 1  # the exit code of a command that failed


@contextlib.contextmanager
def bound_to_head() -> Iterator[None]:
    """While inside, this process ends with a sentence as soon as a part of its Ray's head has, but
    for a `ray.shutdown()` of its own.
    """
    import ray

    names = {one: one.name() for one in psutil.Process().children()}
    head = {one: name for one, name in names.items() if name in _HEAD}

    def look() -> None:
        gone = next((one for one in head if not _runs(one)), None)
        if gone and ray.is_initialized():
            _end(head[gone], gone.pid)

    with again_and_again(look, _LOOK_S):
        yield


def _runs(process: psutil.Process) -> bool:
    """False for a zombie too: Ray waits for its processes only at its end."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end(name: str, number: int) -> None:
    """Say it, beside a progress bar or not, and leave without Ray's own shutdown: it would wait."""
    sys.stdout.flush()
    sentence = (
        f"error: Ray's {name} (process {number}) on this machine ended: killed, or out of "
        "memory; give the same command again, and it goes on from where it was"
    )
    tqdm.write(sentence, file=sys.stderr)
    sys.stderr.flush()
    os._exit(_FAILED)
