"""A source of frames whose readers kill themselves, fail, or wait, at given frames."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpse_dist.records import FrameRecord, Provenance
from tests.data import made_rig

SUBJECTS, MOMENTS, CAMERAS = 8, 5, 3


@dataclass(frozen=True)
class Config:
    """Where which harm is done."""

    marks: Path
    """Folder of the deaths that have been."""
    deaths: tuple[int, ...] = ()
    """Records at which the process gets SIGKILL, once each."""
    always: int = -1
    """The record that no process survives."""
    fails: int = -1
    """The record that is a user's error."""
    waits: int = -1
    """The record that is not read for ten minutes, once."""


def frames(config: Config) -> Iterator[FrameRecord]:
    for number, record in enumerate(made_rig.frames(SUBJECTS, MOMENTS, CAMERAS)):
        mark = config.marks / f"died-{number}"
        if number == config.always or (number in config.deaths and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        waited = config.marks / f"waited-{number}"
        if number == config.waits and not waited.exists():
            waited.touch()
            time.sleep(600)
        if number == config.fails:
            raise ValueError("clip7.mp4: cut short")
        yield record


def provenance(config: Config) -> Provenance:
    return made_rig.PROVENANCE
