"""What a command's processes hold on to, looked at every few seconds from outside.

    soak.jsonl   per look and process: what it is, resident memory, threads, descriptors

Processes are known by a word in their environment, which all that come from the command inherit:
so one whose parents are long dead is found too.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

MARK = "HPSE_CHAOS"
SOAK_FILE = "soak.jsonl"
WARM_UP = 0.2  # of a process's life, before its memory is expected to stay
_LOOK_S, _POLL_S = 5.0, 0.1
_CENSUS_LOOKS = 60  # between two questions to Ray
_SHARED = Path("/dev/shm")

ROLES = {
    "driver": lambda title: "pipelines." in title and "ray::" not in title,
    "worker": lambda title: title.startswith("ray::") and "TrainWorker" in title,
    "data": lambda title: title.startswith("ray::") and "DataWorker" in title,
    "controller": lambda title: title.startswith("ray::") and "TrainController" in title,
    "gcs": lambda title: title.split(" ", 1)[0].endswith("gcs_server"),
    "raylet": lambda title: title.split(" ", 1)[0].endswith("raylet/raylet"),
}


def title_of(process: psutil.Process) -> str:
    """Its command line; empty where it has just gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def role_of(title: str) -> str | None:
    """Which part of a run a process is, if one that is looked at."""
    return next((role for role, fits in ROLES.items() if fits(title)), None)


def marked(word: str) -> Iterator[psutil.Process]:
    """Living processes with this word in their environment."""
    for process in psutil.process_iter():
        try:
            living = process.status() != psutil.STATUS_ZOMBIE
            if living and process.pid != os.getpid() and process.environ().get(MARK) == word:
                yield process
        except psutil.Error:
            continue


def end(word: str) -> None:
    """Kill all of them, and what they still start."""
    while left := [*marked(word)]:
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(_POLL_S)


def left_behind(word: str) -> int:
    """How many of a dead driver's are still there after ten seconds; they are killed."""
    deadline = time.monotonic() + 10.0
    while left := [*marked(word)]:
        if time.monotonic() > deadline:
            end(word)
            return len(left)
        time.sleep(_POLL_S)
    return 0


def shared_segments() -> set[str]:
    """Names in /dev/shm that no process has open or mapped."""
    names = {path.name for path in _SHARED.iterdir()} if _SHARED.is_dir() else set()
    for process in psutil.process_iter():
        try:
            text = Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
            opened = " ".join(file.path for file in process.open_files())
        except (OSError, psutil.Error):
            continue
        names = {name for name in names if name not in text and name not in opened}
    return names


class Soak(threading.Thread):
    """Looks until it is told to stop; what it saw is in soak.jsonl, also of a broken-off run."""

    def __init__(self, folder: Path, word: str) -> None:
        super().__init__(name="soak", daemon=True)
        self.path, self.word = folder / SOAK_FILE, word
        self.before = {"segments": shared_segments(), "sessions": _sessions()}
        self._stop_now = threading.Event()

    def run(self) -> None:
        looks = 0
        while not self._stop_now.wait(_LOOK_S):
            looks += 1
            rows = self._look()
            if looks % _CENSUS_LOOKS == 0:
                rows += self._ask_ray(rows)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    def stop(self) -> dict[str, Any]:
        """Look no more; what the command, which has ended, left behind."""
        self._stop_now.set()
        self.join()
        left = {
            "processes": sorted(title_of(process)[:60] for process in marked(self.word)),
            "segments": sorted(shared_segments() - self.before["segments"]),
            "session_folders": len(_sessions() - self.before["sessions"]),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"left": left}) + "\n")
        return left

    def _look(self) -> list[dict[str, Any]]:
        rows = []
        for process in marked(self.word):
            role = role_of(title_of(process))
            if role is None:
                continue
            try:
                rows.append(
                    {
                        "time": round(time.time(), 1),
                        "role": role,
                        "pid": process.pid,
                        "resident_mb": round(process.memory_info().rss / 2**20, 2),
                        "threads": process.num_threads(),
                        "descriptors": process.num_fds(),
                    }
                )
            except psutil.Error:
                continue
        return rows

    def _ask_ray(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Actors and placement groups; nothing where Ray is just being killed."""
        for row in rows:
            if row["role"] == "raylet":
                words = title_of(psutil.Process(row["pid"])).split()
                given = [w.partition("=")[2] for w in words if w.startswith("--gcs-address=")]
                command = [sys.executable, "-m", "cluster.census", *given[:1]]
                asked = subprocess.run(command, capture_output=True, text=True)
                if asked.returncode == 0:
                    return [{"time": round(time.time(), 1), **json.loads(asked.stdout)}]
        return []


def _sessions() -> set[str]:
    """Folders of Ray's sessions on this machine."""
    return {path.name for path in Path("/tmp/ray").glob("session_2*")}


@dataclass(frozen=True)
class Life:
    """A process's looks, first to last."""

    role: str
    rows: Sequence[dict[str, Any]]

    @property
    def seconds(self) -> float:
        return float(self.rows[-1]["time"] - self.rows[0]["time"])

    def slope(self) -> float:
        """Growth of resident memory after its start, MB per hour (Theil-Sen: the median slope)."""
        since = self.rows[0]["time"] + WARM_UP * self.seconds
        rows = [row for row in self.rows if row["time"] >= since]
        times = np.array([row["time"] for row in rows])
        sizes = np.array([row["resident_mb"] for row in rows])
        first, second = np.triu_indices(len(rows), 1)
        return float(
            np.median((sizes[second] - sizes[first]) / (times[second] - times[first])) * 3600
        )


def read_soak(folder: Path) -> list[dict[str, Any]]:
    """All that was seen; nothing where nobody looked."""
    path = folder / SOAK_FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def soak_table(folder: Path) -> list[str]:
    """Each role's longest life: growth, threads and descriptors at its start and end; what was
    left."""
    rows = read_soak(folder)
    lives: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if "role" in row:
            lives[row["role"], row["pid"]].append(row)
    lines = [f"{'longest life of':16}{'minutes':>8}{'MB':>8}{'MB/hour':>9}   threads  descriptors"]
    for role in ROLES:
        longest = max(
            (Life(role, found) for (name, _), found in lives.items() if name == role),
            key=lambda life: life.seconds,
            default=None,
        )
        if longest is not None and len(longest.rows) > 9:
            early = longest.rows[len(longest.rows) // 5]
            late = longest.rows[-1]
            counts = [f"{early[key]} -> {late[key]}" for key in ("threads", "descriptors")]
            lines.append(
                f"{role:16}{longest.seconds / 60:8.1f}{late['resident_mb']:8.0f}"
                f"{longest.slope():9.1f}   {counts[0]}  {counts[1]}"
            )
    asked = [row for row in rows if "actors" in row]
    if asked:
        most = max(sum(row["actors"].values()) for row in asked)
        groups = statistics.median(row["placement_groups"].get("CREATED", 0) for row in asked)
        lines.append(
            f"Ray was asked {len(asked)} times: at most {most} living actors, "
            f"{groups:g} placement group(s); the last time {asked[-1]}"
        )
    lines += [f"left behind: {row['left']}" for row in rows if "left" in row]
    return lines
