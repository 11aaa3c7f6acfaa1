"""What became of workers, told without Ray's wrapping, and written into the run's folder:

losses.jsonl   one line for each loss: when, which start of the command, which worker, how
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

from hpse_dist.accounting import LOSSES_FILE
from hpse_dist.safety import one_line

HUNG, MEMORY, KILLED, ERROR = "hung", "out of memory", "killed", "error"
"""How a worker is lost."""
_GONE = ("ActorDiedError", "ActorUnavailableError", "RayActorError", "WorkerCrashedError")
_MEMORY_NAMES = ("MemoryError", "OutOfMemoryError")
_MEMORY_WORDS = ("allocate memory", "out of memory", "bad_alloc", "low on memory")
_EVENTS = Path("/sys/fs/cgroup/memory.events")  # of this container
_ADVICE = "take a smaller machine.micro_batch, or fewer workers on a machine"


def to_blame(failures: dict[int, Exception]) -> tuple[int, Exception]:
    """The worker to blame: one that died, hung or wanted memory, rather than one that lost its
    peer.
    """
    ranked = sorted(failures.items())
    dead = [(rank, error) for rank, error in ranked if how_lost(error) != ERROR]
    return (dead or ranked)[0]


def how_lost(error: BaseException) -> str:
    """HUNG, MEMORY, KILLED, or ERROR where the worker itself had a word to say."""
    if any(_wanted_memory(one) for one in _chain(error)):
        return MEMORY
    if "HealthCheckTimeout" in type(error).__name__:
        return HUNG
    name = type(error).__name__
    return KILLED if "HealthCheckFailed" in name or name in _GONE else ERROR


def story(error: BaseException, hang_s: float | None = None) -> str:
    """What a worker did, in a few words. hang_s: how long one that hung was waited for."""
    how = how_lost(error)
    if how == HUNG:
        return f"did not answer any more{f', for {hang_s:g} s' if hang_s else ''}: it hung"
    if how == MEMORY:
        words = next(_words(one) for one in _chain(error) if _wanted_memory(one))
        return f"ran out of memory ({words}); {_ADVICE}"
    if how == KILLED:
        return "died without a word: killed, out of memory, or its machine lost"
    return f"stopped with {_words(error)}"


def starved(count: int) -> str:
    """What a worker did that the system killed, as its count of such kills says."""
    return f"was killed by the system for want of memory (kill {count} of that kind); {_ADVICE}"


class MemoryKills:
    """Tells those whom the system kills for want of memory from others that die without a word."""

    def __init__(self) -> None:
        self._killed = self._count()

    def story(self, error: BaseException, hang_s: float | None = None) -> tuple[str, str]:
        """How a worker was lost, and what it did."""
        if how_lost(error) == KILLED and (count := self._count()) > self._killed:
            self._killed = count
            return MEMORY, starved(count)
        return how_lost(error), story(error, hang_s)

    def _count(self) -> int:
        """How many processes here were killed so; 0 where the system does not say."""
        with contextlib.suppress(OSError):
            text = _EVENTS.read_text(encoding="utf-8")
            found = re.search(r"^oom_kill (\d+)", text, re.MULTILINE)
            return int(found[1]) if found else 0
        return 0


def write_loss(folder: Path, launch: str, rank: int, how: str, said: str) -> None:
    """Add a loss to a run's folder. On a full disk it stays unnamed: the run goes on."""
    row = {"time": time.time(), "launch": launch, "rank": rank, "how": how, "said": said}
    with contextlib.suppress(OSError), (folder / LOSSES_FILE).open("a", encoding="utf-8") as file:
        file.write(f"{json.dumps(row)}\n")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, and what Ray's wrapping has in it."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = getattr(one, "health_check_failure", None) or one.__cause__


def _wanted_memory(error: BaseException) -> bool:
    text = str(error).lower()
    by_name = type(error).__name__ in _MEMORY_NAMES
    # Ray's words for an actor that died, whatever of, name memory among the possible reasons
    told = "RayError" not in {kind.__name__ for kind in type(error).__mro__}
    told = told and "HealthCheck" not in type(error).__name__
    return by_name or (told and any(words in text for words in _MEMORY_WORDS))


def _words(error: BaseException) -> str:
    """Its kind and its first 300 letters, in one line."""
    text = one_line(str(error))
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
