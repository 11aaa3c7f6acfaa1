"""The one way in for numpy's files that come from others: arrays of numbers or texts, no more."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hpse_dist.safety import in_words


def read_npz(
    path: Path, names: Sequence[str] | None = None, most_bytes: int = 1 << 31
) -> dict[str, np.ndarray]:
    """The arrays of a file by name: all of them, or those of `names` that it has.

    No pickles, and no array of more than `most_bytes`, whatever the file says. ValueError says in
    one line what is wrong with the file, without its name.
    """
    try:
        # numpy leaves a file open that it opened itself and found broken
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            held = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
            found = {}
            for name in held if names is None else [name for name in names if name in held]:
                if held[name].file_size > most_bytes:
                    raise ValueError(
                        f"{name} takes {held[name].file_size} bytes, over {most_bytes}"
                    )
                with archive.open(held[name]) as member:
                    found[name] = _letters(np.lib.format.read_array(member, allow_pickle=False))
    # zipfile, zlib and numpy raise what they like for a broken file; nothing is hidden
    except Exception as error:
        raise ValueError(in_words(error, 300)) from None
    return found


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, as `read_npz` reads those of its files."""
    try:
        with path.open("rb") as stream:
            return _letters(np.lib.format.read_array(stream, allow_pickle=False))
    except Exception as error:  # as above
        raise ValueError(in_words(error, 300)) from None


def _letters(array: np.ndarray) -> np.ndarray:
    """An array, unless it holds texts of numbers that no letter has: Python dies of these."""
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        codes = np.ascontiguousarray(array).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
        if codes.max() > 0x10FFFF:
            raise ValueError("it holds texts that are none")
    return array
