"""Something that is done again and again beside a block of code."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def again_and_again(work: Callable[[], None], every_s: float) -> Iterator[None]:
    """Do something at once and then every so often, in a thread, for the time of the block."""
    over = threading.Event()

    def repeat() -> None:
        work()
        while not over.wait(every_s):
            work()

    thread = threading.Thread(target=repeat, name=work.__qualname__, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
