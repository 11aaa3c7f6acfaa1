"""Progress of runs, read from their folders: no message from a worker is needed, only files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

SHOWN = ("loss", "samples_per_s")  # the scalars beside the bar, where a run logs them
SAID = ("WARNING", "ERROR", "CRITICAL")  # levels of a worker's log that reach the terminal


class Tail:
    """New whole lines of a file that another process appends to, cuts back or has yet to make."""

    def __init__(self, path: Path, from_end: bool = False) -> None:
        self.path = path
        self._offset = self._size() if from_end else 0

    def _size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def lines(self) -> list[str]:
        """The whole lines since the last call; a file cut back is read from its start again."""
        size = self._size()
        if size < self._offset:
            self._offset = 0
        if size == self._offset:
            return []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read(size - self._offset)
        end = data.rfind(b"\n") + 1
        self._offset += end
        return data[:end].decode("utf-8", errors="replace").splitlines()


class RunWatch:
    """Where one run stands: its last logged step and scalars, and what its workers warn of."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.step = 0
        self.scalars: dict[str, float] = {}
        self._metrics = Tail(folder / "metrics.jsonl")
        self._logs = {path: Tail(path, from_end=True) for path in self._log_paths()}

    def _log_paths(self) -> list[Path]:
        return sorted(self.folder.glob("logs/worker_*.log"))

    def poll(self) -> None:
        """Read what is new in metrics.jsonl."""
        for line in self._metrics.lines():
            try:
                row = json.loads(line)
            except ValueError:
                continue  # a line torn by a kill; the run drops it when it goes on
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                self.step = row["step"]
                self.scalars |= {name: row[name] for name in SHOWN if _is_number(row.get(name))}

    def warnings(self) -> Iterator[str]:
        """New warnings of the workers, once each though every worker may have written it."""
        said = set()
        for path in self._log_paths():
            for line in self._logs.setdefault(path, Tail(path)).lines():
                level, _, rest = line.partition(" ")[2].partition(" ")[2].partition(" ")
                message = rest.partition(": ")[2]
                if level in SAID and message and message not in said:
                    said.add(message)
                    yield message


class ProgressBar:
    """One bar for one run or many: steps done of all steps, and beside it how the runs stand."""

    def __init__(self, what: str, watches: Sequence[RunWatch], steps: Sequence[int | None]) -> None:
        self._watches = list(watches)
        self._steps = list(steps)
        known = [count for count in steps if count is not None]
        self._bar: tqdm[Any] = tqdm(
            total=sum(known) if len(known) == len(self._steps) else None,
            desc=what,
            unit="step",
            disable=None,
            dynamic_ncols=True,
        )

    def update(self, note: str = "") -> None:
        """Read the run folders and redraw."""
        for watch in self._watches:
            watch.poll()
            for message in watch.warnings():
                self.say(f"{watch.folder.name}: {message}")
        pairs = zip(self._watches, self._steps, strict=True)
        self._bar.n = sum(min(watch.step, most or watch.step) for watch, most in pairs)
        self._bar.set_postfix_str(note or self._scalars(), refresh=False)
        self._bar.refresh()

    def complete(self, watch: RunWatch, steps: int | None) -> None:
        """Count a finished run in full, whatever it logged last."""
        watch.step = max(watch.step, steps or 0)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()

    def _scalars(self) -> str:
        if len(self._watches) != 1:
            return ""
        return ", ".join(f"{name} {value:.4g}" for name, value in self._watches[0].scalars.items())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
