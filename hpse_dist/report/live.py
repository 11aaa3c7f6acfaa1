"""A page that follows its study while it runs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from hpse_dist.report import write_report
from hpse_dist.report.runs import PLAN_FILE, planned_states

SHARE = 20  # of the time, at most one part is spent on writing pages
log = logging.getLogger(__name__)


class LivePage:
    """Rewrites a study's page whenever a run of it has begun, ended or failed.

    It looks at the run folders alone, so it is the same whoever carries the runs out. `on_change`
    comes first each time. Where an error or Ctrl-C ends the block, the page is written once more,
    so that it says what was stopped.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_s: float = 10.0,
        on_change: Callable[[], object] = lambda: None,
    ) -> None:
        self.folder, self.every_s, self.on_change = folder, every_s, on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live page", daemon=True)

    def __enter__(self) -> LivePage:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is not None:
            with contextlib.suppress(ValueError, OSError):  # what ended the block is to be heard
                write_report(self.folder)

    def _follow(self) -> None:
        before: dict[str, str] | None = None
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                now = planned_states(self.folder / PLAN_FILE)
                if now != before:
                    self.on_change()
                    write_report(self.folder)
                before = now
            except (ValueError, OSError) as error:  # a run folder caught in the act; the next look
                log.warning("%s: the page was not rewritten (%s)", self.folder, error)
            took = time.monotonic() - began
            self._stop.wait(max(self.every_s, SHARE * took))  # a large study's page takes a while
