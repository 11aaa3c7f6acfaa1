"""Predictions or ground truth of a set of examples, and what can be wrong with them.

Arrays by name, one row to an example:

    joints3d (N, J, 3 or 4)  metres; the fourth number, of ground truth, is above 0 where known
    vertices (N, V, 3)       metres; with vertices_known (N,) where some have none
    joints2d (N, J, 2 or 3)  0..1 of the crop; the third number as above
    label (N,), probability (N, K)      classes, from 0; 0..1 of each
    part_map (N, H, W)       body part of each pixel 0..255, 0 the background
    vertex (N, P)            dense pose: the body's vertex at each point; -1 none, or no point
    part (N, P), mask (N, H, W)         part of each point, pixels of the person
    id, sequence, person (N,) text, time, image, score, area (N,)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TEXT = ("id", "sequence", "person")
WHOLE = ("mesh_vertices", "mesh_faces")  # one for the whole set: the body that `vertex` is about
WIDTHS = {"joints3d": (3, 4), "vertices": (3,), "joints2d": (2, 3)}
_DIMENSIONS = {
    **dict.fromkeys(("joints3d", "vertices", "joints2d", "part_map", "mask"), 3),
    **dict.fromkeys(("probability", "vertex", "part"), 2),
    **dict.fromkeys(("label", "id", "image", "score", "vertices_known"), 1),
}
_RANGES = {"label": (0, 2**31 - 1), "probability": (0, 1), "part_map": (0, 255)}
_ROUNDING = 1e-3  # what a softmax of 16 bits has beyond 1


@dataclass(frozen=True)
class Examples:
    """N examples from one file."""

    where: str
    """The file, for messages."""
    arrays: dict[str, np.ndarray]

    def __post_init__(self) -> None:
        _check(self.where, self.arrays)

    def __len__(self) -> int:
        return _rows(self.arrays)

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        """The array; ValueError where the file does not hold it."""
        if name not in self.arrays:
            held = ", ".join(self.arrays)
            raise ValueError(f"{self.where}: it holds no {name}, which is needed (it has {held})")
        return self.arrays[name]

    def taken(self, rows: np.ndarray) -> Examples:
        """Some of the examples, in that order."""
        arrays = {k: v if k in WHOLE else v[rows] for k, v in self.arrays.items()}
        return Examples(self.where, arrays)

    def name(self, row: int) -> str:
        """What a message calls an example."""
        return f"example {self.arrays['id'][row]}" if "id" in self.arrays else f"example {row}"


def matched(predicted: Examples, true: Examples, complete: bool) -> tuple[Examples, Examples]:
    """The examples that both have, in the truth's order.

    By id where both have one, else by their place in the file. Where a protocol is complete, all
    of the truth must be there.
    """
    if not ("id" in predicted and "id" in true):
        if len(predicted) != len(true):
            raise ValueError(
                f"{predicted.where}: {len(predicted)} predictions for {len(true)} examples of "
                f"{true.where}; without ids there must be one for each, in its order"
            )
        return predicted, true
    places = _places(predicted)
    strangers = places.keys() - _places(true).keys()
    if strangers and complete:
        raise ValueError(
            f"{predicted.where}: {len(strangers)} predictions are of no example in {true.where}, "
            f"such as {sorted(strangers)[0]}"
        )
    here = [row for row, name in enumerate(true["id"].tolist()) if name in places]
    if len(here) < len(true) and complete:
        lost = next(n for n in true["id"].tolist() if n not in places)
        raise ValueError(
            f"{predicted.where}: {len(true) - len(here)} of {len(true)} examples have no "
            f"prediction, such as {lost}, and this protocol needs them all"
        )
    if not here:
        raise ValueError(f"{predicted.where}: no prediction is of an example of {true.where}")
    rows = np.array(here, dtype=np.int64)
    order = np.array([places[name] for name in true["id"][rows].tolist()], dtype=np.int64)
    return predicted.taken(order), true.taken(rows)


def _places(examples: Examples) -> dict[str, int]:
    names = examples["id"].tolist()
    places = {name: row for row, name in enumerate(names)}
    if len(places) < len(names):
        twice = next(name for row, name in enumerate(names) if places[name] != row)
        raise ValueError(f"{examples.where}: example {twice} is there twice")
    return places


def _rows(arrays: dict[str, np.ndarray]) -> int:
    return next((len(v) for k, v in arrays.items() if k not in WHOLE), 0)


def _check(where: str, arrays: dict[str, np.ndarray]) -> None:
    """Shapes and numbers are what they must be; else one clear sentence."""
    for name, array in arrays.items():
        if array.ndim == 0 and name not in WHOLE:
            raise ValueError(f"{where}: {name} is one number, and must have a row to an example")
    if _rows(arrays) == 0:
        raise ValueError(f"{where}: it holds no examples")
    for name, array in arrays.items():
        if name not in WHOLE and len(array) != _rows(arrays):
            raise ValueError(
                f"{where}: {name} has {len(array)} rows and other arrays have {_rows(arrays)}"
            )
        if array.ndim != _DIMENSIONS.get(name, array.ndim):
            raise ValueError(
                f"{where}: {name} must have {_DIMENSIONS[name]} dimensions, one row to an example, "
                f"found shape {_shape(array.shape)}"
            )
        if name in WIDTHS and array.shape[-1] not in WIDTHS[name]:
            allowed = " or ".join(map(str, WIDTHS[name]))
            raise ValueError(
                f"{where}: {name} must have {allowed} numbers to a place, found shape "
                f"{_shape(array.shape)}"
            )
        if name not in WHOLE:
            _check_numbers(where, name, array, arrays)


def _check_numbers(where: str, name: str, array: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    if array.dtype.kind not in "biufU" or (array.dtype.kind == "U") != (name in TEXT):
        raise ValueError(f"{where}: {name} holds {array.dtype}, which it cannot be")
    if name in _RANGES and array.size:
        low, high = _RANGES[name]
        if array.min() < low - _ROUNDING or array.max() > high + _ROUNDING:
            raise ValueError(
                f"{where}: {name} must be {low} to {high}, found {array.min():g} to {array.max():g}"
            )
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = ~np.isfinite(array)
    if name in ("joints3d", "joints2d") and array.shape[-1] == max(WIDTHS[name]):
        bad &= ~(array[..., -1:] == 0)  # a place that is not known may hold anything
    if name == "vertices" and "vertices_known" in arrays:
        bad &= arrays["vertices_known"][:, None, None].astype(bool)
    if bad.any():
        row = int(np.flatnonzero(bad.reshape(len(bad), -1).any(1))[0])
        example = arrays["id"][row] if "id" in arrays else row
        raise ValueError(
            f"{where}: {name} of example {example} is not a number (NaN or infinite); ground truth "
            "says that a place is not known by confidence 0"
        )


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))})"
