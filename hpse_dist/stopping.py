"""Being told to stop: SIGTERM is remembered, and asked for where stopping loses nothing."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


class _Told(threading.Event):
    """A signal handler that takes note."""

    def __call__(self, *_: object) -> None:
        self.set()


@contextlib.contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come since the block began, or the one that it stands in, such as a
    study's around its runs; after the outermost a signal does what it did before.

    Only the main thread of a process can listen.
    """
    before = signal.getsignal(signal.SIGTERM)
    if isinstance(before, _Told):
        yield before.is_set
        return
    told = _Told()
    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return
    signal.signal(signal.SIGTERM, told)
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
