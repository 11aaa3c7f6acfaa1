"""Annotation files in JSON, read piece by piece, and what they say, checked.

The annotations of a large dataset are a gigabyte of JSON, ten of Python objects. Here the entries
of a file's outermost list or object come one at a time. What a file says is checked where it is
used: `numbers` and `inside` raise ValueError with a reason that can stand in a `Reject`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np

_CHUNK = 1 << 20
_LARGEST_ENTRY = 1 << 29  # characters; more is no annotation, or the file is broken there
_SPACE = re.compile(r"[ \t\r\n]*")


def json_items(path: Path, wanted: str, key: str | None = None) -> Iterator[Any]:
    """Entries of the list that the file is, or that stands under `key` of its outermost object.

    wanted: where the file comes from, for the message of a missing one. Raises ValueError for a
    missing file, broken JSON, another type.
    """
    yield from _entries(path, wanted, lambda text: text.items(key))


def json_pairs(path: Path, wanted: str) -> Iterator[tuple[str, Any]]:
    """Keys and values of the file's outermost object; otherwise as `json_items`."""
    yield from _entries(path, wanted, lambda text: text.pairs())


def numbers(value: object, shape: tuple[int, ...], name: str) -> np.ndarray:
    """`value` as a float64 array of that shape; ValueError says what it is instead."""
    words = " x ".join(map(str, shape))
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} is not {words} numbers") from None
    if array.size == np.prod(shape) and array.shape != shape and array.squeeze().shape == shape:
        array = array.squeeze()
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, not {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity")
    return array


def inside(root: Path, name: object) -> Path:
    """The file of that name below `root`; ValueError for a name that leads out of it."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"the file name is {name!r}, not a name")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"the file name {name!r} leads out of the dataset's folder")
    return root / path


class _Text:
    """A JSON text that is read in pieces."""

    def __init__(self, file: TextIO) -> None:
        self._file, self._decoder = file, json.JSONDecoder()
        self._buffer, self._at, self._ended = "", 0, False

    def items(self, key: str | None) -> Iterator[Any]:
        """Entries of this list, or of the list under `key` of this object."""
        if key is not None:
            self._find(key)
        self._take("[", f"a list{f' under {key!r}' if key else ''}")
        if self._next() == "]":
            self._take("]")
            return
        while True:
            yield self._value()
            if self._take(",]") == "]":
                return

    def pairs(self) -> Iterator[tuple[str, Any]]:
        """Keys and values of this object."""
        for name in self._keys():
            yield name, self._value()

    def _keys(self) -> Iterator[str]:
        """Keys of this object; whoever asks reads the value before going on."""
        self._take("{", "an object")
        if self._next() == "}":
            self._take("}")
            return
        while True:
            name = self._value()
            if not isinstance(name, str):
                raise ValueError("a key is no string")
            self._take(":")
            yield name
            if self._take(",}") == "}":
                return

    def _find(self, key: str) -> None:
        for name in self._keys():
            if name == key:
                return
            if self._next() == "[":
                for _ in self.items(None):
                    pass
            else:
                self._value()
        raise ValueError(f"it has no {key!r}")

    def _next(self) -> str:
        """The next character that is no space, not taken; empty at the end."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._buffer) or self._ended:
                return self._buffer[self._at : self._at + 1]
            self._read()

    def _take(self, allowed: str, words: str = "") -> str:
        found = self._next()
        if not found or found not in allowed:
            expected = words or " or ".join(allowed)
            raise ValueError(f"{expected} expected, found {found or 'the end of the file'!r}")
        self._at += 1
        return found

    def _value(self) -> Any:
        """One whole value; of a number it is known only by what follows that it is whole."""
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except ValueError:
                if self._ended:
                    raise
            else:
                if end < len(self._buffer) or self._ended:
                    self._at = end
                    return value
            self._read()

    def _read(self) -> None:
        rest = self._buffer[self._at :]
        if len(rest) > _LARGEST_ENTRY:
            raise ValueError("an entry never ends")
        piece = self._file.read(max(_CHUNK, len(rest)))  # doubling: an entry is parsed few times
        self._ended = not piece
        self._buffer, self._at = rest + piece, 0


def _entries(path: Path, wanted: str, read: Callable[[_Text], Iterator[Any]]) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing: {wanted}")
    with path.open(encoding="utf-8") as file:
        entries = read(_Text(file))
        while True:
            try:
                entry = next(entries)
            except StopIteration:
                return
            except (ValueError, RecursionError) as error:
                words = " ".join(str(error).split())
                raise ValueError(f"{path} cannot be read as JSON: {words}") from None
            yield entry
