"""Annotation in Matlab files: read through scipy, which runs nothing that a file brings.

Matlab counts pixels from 1, so that the middle of the first lies at 1 there and at 0.5 here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import mat_struct

from hpse_dist.data.importers.official import Bad

PIXEL = -0.5  # from Matlab's pixels to ours


def read_mat(path: Path, names: tuple[str, ...], objects: bool = False) -> dict[str, Any]:
    """Variables of a Matlab file (v4 to v7.2); Bad where it has them not.

    objects: structs as `mat_struct`, else as arrays with named fields.
    """
    try:
        found = loadmat(path, struct_as_record=not objects, variable_names=names)
    # scipy raises what it likes for a broken file; nothing is hidden, the message says it
    except Exception as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise Bad(f"{path.name} cannot be read as a MATLAB file: {words}") from None
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


def structs(value: Any) -> list[mat_struct]:
    """The structs of a struct array; none where there is something else."""
    if not isinstance(value, np.ndarray):
        return []
    return [one for one in value.ravel() if isinstance(one, mat_struct)]


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
