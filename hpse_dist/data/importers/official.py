"""What readers of official distributions share: files that must be there, numbers that must hold.

`Bad` says why one record is left out; ValueError says what a user has to put where.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hpse_dist.data.pictures import Unreadable, believed_size

MOST = 1e9  # no pixel, metre or millimetre of a dataset is larger
NEAR_M = 1e-3  # nearer to a camera is nobody
_SPLITS = {"train": "train", "val": "val", "test": "test"}
_SPLITS |= {"validation": "val", "minival": "val", "valminusminival": "train"}


class Bad(ValueError):
    """A record that cannot be used; the message is the reason its reject gives."""


_BOUNDS = {"occluded_confidence": (0, 1), "box_margin": (0, 4), "every": (1, 1 << 40)}


def check_shared_keys(config: Any) -> None:
    """ValueError for an impossible value of a key that several importers have."""
    if not getattr(config, "splits", True):
        raise ValueError("splits must name at least one part of the dataset")
    for key, (least, most) in _BOUNDS.items():
        value = getattr(config, key, least)
        if not least <= value <= most:
            raise ValueError(f"{key} must be in {least}..{most}, found {value}")
    if not getattr(config, "frame_rate", 1.0) > 0:
        raise ValueError(f"frame_rate must be above 0, found {config.frame_rate}")


def required(path: Path, origin: str) -> Path:
    """The path of a file or folder that a distribution has; ValueError names it where missing."""
    if not path.exists():
        raise ValueError(f"{path} is missing; {origin}")
    return path


def inside(folder: Path, name: Any) -> Path:
    """The path of a file that annotation names under a folder; Bad where it leads elsewhere.

    The folder may be a link, and so may the folders right below it: users keep pictures on other
    disks. A deeper link, or a file that is one, must not lead out.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise Bad(f"the file name is {_short(name)}, not a name")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise Bad(f"the file name {_short(name)} leads out of the dataset's folder")
    if len(name) > 4096 or any(len(part.encode("utf-8", "replace")) > 255 for part in parts.parts):
        raise Bad(f"the file name {_short(name)} is longer than a file's can be")
    path = folder / parts
    try:
        resolved = path.resolve()
        stays = resolved.is_relative_to(_resolved(folder)) or (
            len(parts.parts) > 1 and resolved.is_relative_to(_resolved(folder / parts.parts[0]))
        )
    except (OSError, RuntimeError, ValueError):  # names too long, links in a circle
        raise Bad(f"the file name {_short(name)} is none that a file can have") from None
    if not stays:
        raise Bad(f"the file {_short(name)} is a link that leads out of the dataset's folder")
    return path


@lru_cache(maxsize=64)
def _resolved(folder: Path) -> Path:
    return folder.resolve()


def picture_at(folder: Path, name: Any) -> Path:
    """`inside`, and the file is there."""
    path = inside(folder, name)
    if not path.is_file():
        raise Bad(f"there is no picture {_short(name)} in {folder.name or folder}")
    return path


def numbers(value: Any, shape: int | tuple[int | None, ...], what: str) -> np.ndarray:
    """Finite numbers as float64 of that shape, None for any length; Bad for anything else.

    Axes of length 1 more than wanted are dropped: files write a column now as [1, 2], now as
    [[1], [2]].
    """
    wanted = (shape,) if isinstance(shape, int) else shape
    words = _by(wanted)
    if not isinstance(value, list | tuple | np.ndarray):
        raise Bad(f"{what} is {_short(value)}, not a list of {words} numbers")
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, OverflowError):
        raise Bad(f"{what} holds lists of different lengths, not {words} numbers") from None
    if found.dtype.kind not in "fiub":
        raise Bad(f"{what} holds what is not a number, or one beyond all bounds")
    with np.errstate(invalid="ignore"):  # a signalling NaN, which is found below
        found = found.astype(np.float64)
    if not _fits(found.shape, wanted):
        if not _fits(found.squeeze().shape, wanted):
            raise Bad(f"{what} has {_by(found.shape)} numbers, not {words}")
        found = found.squeeze()
    if not np.isfinite(found).all():
        raise Bad(f"{what} holds NaN or infinity")
    if found.size and np.abs(found).max() > MOST:
        raise Bad(f"{what} holds a number beyond all bounds, above {MOST:.0e}")
    return found


def _by(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if length is None else str(length) for length in shape) or "1"


def _fits(found: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(
        length in (None, is_) for is_, length in zip(found, wanted, strict=True)
    )


def whole(value: Any, what: str) -> int:
    """A whole number, 0 or more; Bad for anything else."""
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise Bad(f"{what} is {_short(value)}, not a whole number")
    return value


def picture_size(about: dict[str, Any]) -> tuple[int, int]:
    """Height and width that annotation gives a picture; Bad where it gives none to believe."""
    height, width = whole(about.get("height"), "height"), whole(about.get("width"), "width")
    believed(width, height)
    return height, width


def believed(width: int, height: int) -> None:
    """Bad for a size that no picture has."""
    try:
        believed_size(width, height)
    except Unreadable as reason:
        raise Bad(str(reason)) from None


def box_of_joints(joints: np.ndarray, margin: float) -> tuple[float, float, float, float]:
    """The box around the labelled of (J, 3) joints, wider by a share of its longer side."""
    seen = joints[joints[:, 2] > 0, :2]
    if len(seen) < 2:
        raise Bad("there is no box, and fewer than two joints to put one around")
    low, high = seen.min(axis=0), seen.max(axis=0)
    more = margin * float((high - low).max())
    (x0, y0), (x1, y1) = (low - more).tolist(), (high + more).tolist()
    return x0, y0, x1, y1


def box_of(value: Any) -> tuple[float, float, float, float]:
    """Corners of a box given as x, y, width, height."""
    x, y, width, height = numbers(value, 4, "bbox").tolist()
    if width <= 0 or height <= 0:
        raise Bad("the box is empty")
    return x, y, x + width, y + height


def any_joint(joints: np.ndarray) -> np.ndarray:
    """The joints, of which at least one is labelled."""
    if not (joints[:, 2] > 0).any():
        raise Bad("no joint is labelled")
    return joints


def split_of(name: str) -> str | None:
    """The collection's word for a distribution's split; None where the collection is to choose."""
    return _SPLITS.get(name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
