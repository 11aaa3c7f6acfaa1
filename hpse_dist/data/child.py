"""A child process that calls one function as often as asked, under a watchdog.

For libraries that fork workers of their own and wait for ever when one dies. The child ends itself
when a worker fails or the parent is gone; the parent ends a child that takes too long. Errors come
back as OSError.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing import resource_tracker
from typing import Any

_CHILD = "from hpse_dist.data.child import _serve; _serve()"
_WORKER_DIED = 17  # exit code of a child that lost a worker process
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Child:
    """Runs `module:function` in another process, one call at a time; `close` it at the end.

    A process of its own rather than `multiprocessing`: forking a process with threads is not
    safe, and spawning would import the caller's main module again.
    """

    def __init__(self, target: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._late = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed by close()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )

    def call(self, *arguments: Any) -> None:
        """Call the function with (pickled) arguments, wait for its end; its result is dropped.

        Raises TimeoutError after `timeout_s`, OSError for anything that went wrong in there.
        """
        timer = threading.Timer(self._timeout_s, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            answer = self._ask(arguments)
        finally:
            timer.cancel()
        if answer is None:
            raise self._reason()
        if "message" in answer:
            raise OSError(answer["errno"] or errno.EIO, answer["message"])

    def _ask(self, arguments: tuple[Any, ...]) -> dict[str, Any] | None:
        """Send a call, wait for its answer; None when the child is gone."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump(arguments, self._process.stdin, protocol=5)
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def _reason(self) -> OSError:
        """Why the child is gone, from the clock and the end of what it printed."""
        self._end()
        if self._late:
            return TimeoutError(errno.ETIMEDOUT, f"not done after {self._timeout_s:g} s")
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace")
        for code in _DISK_ERRORS:
            if f"[Errno {code}]" in printed:
                return OSError(code, os.strerror(code))
        errors = [line.strip() for line in printed.splitlines() if "Error" in line]
        return OSError(errno.EIO, f"the process died ({errors[-1] if errors else 'it was killed'})")

    def _give_up(self) -> None:
        self._late = True
        self._end()

    def _end(self) -> None:
        """End the child and its workers: first asking, so that it frees its shared memory."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # where it has no group of its own yet
        self._process.wait()

    def close(self) -> None:
        """End the process; calling this twice is fine."""
        self._end()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):  # what the dead child never read
                file.close()  # type: ignore[union-attr]


def _serve() -> None:
    """The child: make calls as they come in on standard input, answer each with a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to the errors
    # Who frees shared memory is to outlive the group that ends with this process's workers.
    resource_tracker.ensure_running()
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: _stop(0))
    signal.signal(signal.SIGCHLD, _worker_ended)
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    module, _, name = sys.argv[1].partition(":")
    function = getattr(importlib.import_module(module), name)
    while True:
        try:
            arguments = pickle.load(sys.stdin.buffer)
        except EOFError:  # the parent has closed its end, or is gone
            _stop(0)  # a library that has forked may never come back from Python's own end
        answer: dict[str, Any] = {}
        try:
            function(*arguments)
        except Exception as error:
            text = getattr(error, "strerror", None) or str(error) or type(error).__name__
            answer = {"errno": getattr(error, "errno", None), "message": " ".join(text.split())}
        print(json.dumps(answer), file=answers, flush=True)


def _watch_parent(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a call that never ends."""
    while os.getppid() == parent:
        time.sleep(1)
    _stop(0)


def _worker_ended(*_: object) -> None:
    """On SIGCHLD: end this process if a worker has failed, for the library would wait for ever.

    Looks without reaping: that is left to multiprocessing.
    """
    ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is not None and ended.si_status != 0:
        _stop(_WORKER_DIED)


def _stop(code: int) -> None:
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(code)  # multiprocessing's resource tracker then frees shared memory
