"""What happens inside one worker process of a run: find the function, run it, keep its story.

No Ray here: a Train worker, a Tune trial and a plain process all call `run_target`. What a worker
has to say goes into files of the run folder, because a worker may sit on another machine and die
without a word:

    logs/worker_<rank>.log    what the library logged, and the traceback of an error
    logs/final_<rank>.json    an error that trying again cannot heal, as one sentence
"""

from __future__ import annotations

import errno
import importlib
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpse_dist.config import ConfigError
from hpse_dist.disk import write_text
from hpse_dist.safety import one_line
from hpse_dist.world import World

LIBRARY = "hpse_dist"  # the logger whose lines are kept
LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
FATAL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG}
FATAL_OSERRORS = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)


class FinalError(RuntimeError):
    """Raised in a worker after it has written down an error that no restart can heal."""


@dataclass(frozen=True)
class Final:
    """An error that trying again cannot heal."""

    kind: str
    sentence: str

    def to_error(self) -> ValueError:
        """The error for the driver to raise: ConfigError stays itself, the rest is ValueError."""
        return (ConfigError if self.kind == "ConfigError" else ValueError)(self.sentence)


def resolve(target: str) -> Callable[..., Any]:
    """The function that a `module:function` names; it is called as f(recipe, world, folder)."""
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"target {target!r}: write it as module:function")
    function = getattr(importlib.import_module(module), name, None)
    if not callable(function):
        raise ValueError(f"target {target!r}: module {module} has no function {name}")
    return function


def is_final(error: BaseException) -> bool:
    """Whether the same thing would happen again: the user's doing, a full disk, a missing package.

    A lost peer, a timeout and whatever else may be the machine's fault are worth another try.
    """
    if isinstance(error, OSError):
        return isinstance(error, FATAL_OSERRORS) or error.errno in FATAL_ERRNO
    return (
        isinstance(error, (ValueError, ImportError)) or type(error).__name__ == "OutOfMemoryError"
    )


def sentence(error: BaseException) -> str:
    """The error as one line."""
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return one_line(f"{place}{error.strerror}")
    text = one_line(str(error))
    if isinstance(error, (ValueError, FinalError)) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def plain_error(error: Exception) -> RuntimeError:
    """An error that any process can read, and where it came from."""
    trace, where = error.__traceback__, ""
    while trace is not None:
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return RuntimeError(f"{type(error).__name__} at {where}: {error}")


def run_target(target: str, recipe: Any, world: World, folder: Path, **also: Any) -> Any:
    """Call the target; whatever it raises is written into the run folder and raised again."""
    folder = Path(folder)
    with worker_log(folder, world.rank):
        try:
            return resolve(target)(recipe, world, folder, **also)
        except Exception as error:
            logging.getLogger(f"{LIBRARY}.worker").info("stopped\n%s", traceback.format_exc())
            if is_final(error):
                write_final(folder, world.rank, Final(type(error).__name__, sentence(error)))
                raise FinalError(sentence(error)) from error
            raise


def write_final(folder: Path, rank: int, final: Final) -> None:
    """Write down a final error so that a reader never sees half of it. On a disk without a byte
    left it stays unwritten: whoever raised it carries the sentence too."""
    path = _final_path(folder, rank)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"kind": final.kind, "sentence": final.sentence}))


def read_final(folder: Path) -> Final | None:
    """The final error of the lowest rank that wrote one, or None."""
    paths = sorted(folder.glob("logs/final_*.json"), key=lambda path: (len(path.name), path.name))
    return Final(**json.loads(paths[0].read_text())) if paths else None


def forget_final(folder: Path) -> None:
    """Remove the final errors of an earlier start."""
    for path in folder.glob("logs/final_*.json"):
        path.unlink()


def all_final(folder: Path, size: int, patience_s: float = 5.0) -> bool:
    """Whether every worker of the run soon writes a final error, so that none is left waiting."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if all(_final_path(folder, rank).exists() for rank in range(size)):
            return True
        time.sleep(0.1)
    return False


@contextmanager
def worker_log(folder: Path, rank: int) -> Iterator[None]:
    """Keep what the library logs, from INFO on, in the run folder for the time of the block."""
    path = folder / "logs" / f"worker_{rank}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter(LINE))
    logger = logging.getLogger(LIBRARY)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(logging.INFO, before or logging.INFO))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


def _final_path(folder: Path, rank: int) -> Path:
    return folder / "logs" / f"final_{rank}.json"
