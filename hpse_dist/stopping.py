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


_listening: set[_Told] = set()


@contextlib.contextmanager
def told_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come since the block began, or the one that it stands in, such as a
    study's around its runs; after the outermost a signal does what it did before.

    Signals reach the main thread of a process only; elsewhere, as in Ray's workers, somebody has
    to `tell`.
    """
    if threading.current_thread() is not threading.main_thread():
        with _listener() as told:
            yield told.is_set
        return
    before = signal.getsignal(signal.SIGTERM)
    if isinstance(before, _Told):
        yield before.is_set
        return
    with _listener() as told:
        signal.signal(signal.SIGTERM, told)
        try:
            yield told.is_set
        finally:
            signal.signal(signal.SIGTERM, before)


def tell() -> None:
    """What SIGTERM does, for every block of this process that listens now."""
    for told in tuple(_listening):
        told.set()


def told() -> bool:
    """Whether SIGTERM has come within the main thread's block; asked from any thread."""
    handler = signal.getsignal(signal.SIGTERM)
    return isinstance(handler, _Told) and handler.is_set()


@contextlib.contextmanager
def _listener() -> Iterator[_Told]:
    made = _Told()
    _listening.add(made)
    try:
        yield made
    finally:
        _listening.discard(made)
