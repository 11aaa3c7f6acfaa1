"""Python imports this at its start where its folder is on PYTHONPATH: a test's gate in any process.

A checkpoint that has just got its name under the folder that HPSE_HOLD names, but for runs whose
name HPSE_PASSES is, keeps the process that named it as long as a file `gate` is in that folder. So
a test finds a run in the middle, however fast the machine is.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

_rename = os.rename


def _rename_and_wait(source: Any, target: Any, **where: Any) -> None:
    _rename(source, target, **where)
    path, folder = Path(os.fspath(target)), Path(os.environ["HPSE_HOLD"])
    held = path.name.startswith("step_") and folder in path.parents
    while held and os.environ["HPSE_PASSES"] not in path.parts and (folder / "gate").exists():
        time.sleep(0.05)


if "HPSE_HOLD" in os.environ:
    os.rename = _rename_and_wait
