"""Annotation in Matlab files: read through scipy, which runs nothing that a file brings.

scipy's reader dies of some damaged files (a segmentation fault), so it works in a child process.

Matlab counts pixels from 1, so that the middle of the first lies at 1 there and at 0.5 here.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import scipy

from hpse_dist.data.importers.official import Bad
from hpse_dist.safety import one_line

PIXEL = -0.5  # from Matlab's pixels to ours
_CHILD = """
import pickle, sys
from scipy.io import loadmat
while True:
    try:
        path, names, objects = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    try:
        found = loadmat(path, struct_as_record=not objects, variable_names=names)
        answer = {name: found[name] for name in names if name in found}
    # scipy raises what it likes for a broken file; nothing is hidden, the message says it
    except BaseException as error:
        answer = f"{type(error).__name__}: {error}"
    pickle.dump(answer, sys.stdout.buffer, protocol=5)
    sys.stdout.buffer.flush()
"""


class _Reader:
    """A process that reads Matlab files for this one, one after the other."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None

    def is_mine(self) -> bool:
        """False in a fork of the process that made it: pipes are not shared."""
        return self._owner == os.getpid()

    def read(self, path: Path, names: tuple[str, ...], objects: bool) -> dict[str, Any] | str:
        """The variables that are there, or what is wrong with the file."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CHILD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            weakref.finalize(self, _end, self._process)
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            pickle.dump((str(path), names, objects), self._process.stdin, protocol=5)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            _end(self._process)
            self._process = None
            return "its reader died of it; it is damaged"


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


_reader: _Reader | None = None


def read_mat(path: Path, names: tuple[str, ...], objects: bool = False) -> dict[str, Any]:
    """Variables of a Matlab file (v4 to v7.2); Bad where it has them not.

    objects: structs as `mat_struct`, else as arrays with named fields.
    """
    global _reader
    if _reader is None or not _reader.is_mine():
        _reader = _Reader()
    found = _reader.read(path, names, objects)
    if isinstance(found, str):
        raise Bad(f"{path.name} cannot be read as a MATLAB file: {one_line(found)[:200]}")
    lacking = [name for name in names if name not in found]
    if lacking:
        raise Bad(f"{path.name} lacks {', '.join(lacking)}")
    return found


def array(value: Any, shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """A variable as float64 of that shape, None for any length; Bad for anything else."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        raise Bad(f"{what} is no array of numbers")
    if value.ndim != len(shape) or any(
        n not in (None, m) for n, m in zip(shape, value.shape, strict=True)
    ):
        raise Bad(f"{what} has shape {value.shape}, not {shape}")
    return value.astype(np.float64)


def structs(value: Any) -> list[scipy.io.matlab.mat_struct]:
    """The structs of a struct array; none where there is something else."""
    if not isinstance(value, np.ndarray):
        return []
    return [one for one in value.ravel() if isinstance(one, scipy.io.matlab.mat_struct)]


def number(value: Any) -> float | None:
    """The one number that a variable holds, or None."""
    if not isinstance(value, np.ndarray) or value.size != 1 or value.dtype.kind not in "fiubU":
        return None
    try:
        found = float(value.ravel()[0])
    except ValueError:
        return None
    return found if np.isfinite(found) else None


def joints(x: np.ndarray, y: np.ndarray, sure: np.ndarray) -> np.ndarray:
    """(J, 3) joints from Matlab's pixels; 0 where not sure or not a number."""
    found = np.stack([x + PIXEL, y + PIXEL, sure], axis=-1)
    found[~np.isfinite(found).all(axis=-1) | (found[..., 2] <= 0)] = 0
    return found
