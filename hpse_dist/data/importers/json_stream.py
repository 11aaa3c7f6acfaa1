"""JSON files with long arrays, read one element at a time: memory holds one element.

Annotation files of large datasets have hundreds of megabytes, and ten times that as objects. A file
that is missing, breaks off or is no JSON is a ValueError of one sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hpse_dist.data.importers.official import Bad, required
from hpse_dist.safety import one_line, parsed_json

_CHUNK = 1 << 20
_LARGEST = 1 << 29  # bytes of one element; more is no annotation, or the file is broken there
_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Element:
    """One element of an array of the file, or the value of another of its keys."""

    key: str
    """The outermost object's key; empty where the outermost is an array."""
    value: Any
    """None where the element is not UTF-8."""
    start: int
    """Where its text begins, bytes."""
    stop: int


def elements(path: Path) -> Iterator[Element]:
    """Elements of every array under the outermost object, or of the outermost array."""
    with open(path, "rb") as file:
        text = _Text(file, path)
        if text.peek() == "[":
            yield from text.array("")
        else:
            for key in text.members():
                if text.peek() == "[":
                    yield from text.array(key)
                else:
                    yield text.value(key)
        if text.peek():
            raise text.broken()


def json_items(path: Path, origin: str, key: str | None = None) -> Iterator[Any]:
    """Entries of the list that the file is, or that stands under `key` of its outermost object.

    origin: where a missing file is from.
    """
    with open(required(path, origin), "rb") as file:
        text = _Text(file, path)
        if key is not None and not _found(text, key):
            raise ValueError(f"{path} has no {key!r}")
        if text.peek() not in ("[", ""):
            raise ValueError(f"{path} holds no list{f' under {key!r}' if key else ''}")
        yield from (element.value for element in text.array(key or ""))


def json_pairs(path: Path, origin: str) -> Iterator[tuple[str, Any]]:
    """Keys and values of the outermost object, each value at once; origin as in `json_items`."""
    with open(required(path, origin), "rb") as file:
        text = _Text(file, path)
        if text.peek() not in ("{", ""):
            raise ValueError(f"{path} is no JSON object")
        for key in text.members():
            yield key, text.value(key).value
        if text.peek():
            raise text.broken()


def read_json(path: Path) -> Any:
    """What a small file holds, at once; Bad where it is no JSON."""
    try:
        return parsed_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        words = one_line(str(error))
        raise Bad(f"{path.name} cannot be read as JSON: {words}") from None


def _found(text: _Text, key: str) -> bool:
    """Go to the value of an outermost key; False where there is none."""
    if text.peek() not in ("{", ""):
        return False
    for name in text.members():
        if name == key:
            return True
        if text.peek() == "[":
            for _ in text.array(name):
                pass
        else:
            text.value(name)
    return False


def read_element(file: BinaryIO, start: int, stop: int) -> Any:
    """The value of an element found by `elements`, read again; None where it is not UTF-8."""
    file.seek(start)
    return _parsed(file.read(stop - start))


def _parsed(data: bytes) -> Any:
    try:
        return parsed_json(data.decode("utf-8"))
    except UnicodeDecodeError:
        return None


class _Text:
    """A window on the file; Latin-1, so that a character is a byte, and JSON's signs are ASCII."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._before = "", 0, 0
        self._more()
        if self._text.startswith("\xef\xbb\xbf"):
            self._at = 3
        self._first = True

    def _more(self) -> bool:
        """Read on, by as much again as waits, and forget what is behind; False at the end."""
        data = self._file.read(max(_CHUNK, len(self._text) - self._at))
        self._before += self._at
        self._text, self._at = self._text[self._at :] + data.decode("latin-1"), 0
        return bool(data)

    def broken(self) -> ValueError:
        return ValueError(
            f"{self._path} is no whole JSON file: it breaks off or goes wrong after byte "
            f"{self._before + self._at}; get it again"
        )

    def peek(self) -> str:
        """The next sign that is no space; empty at the end."""
        while True:
            self._at = _end_of_space(self._text, self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, sign: str) -> None:
        if self.peek() != sign:
            raise self.broken()
        self._at += 1
        self._first = sign in "[{"

    def ends(self, sign: str) -> bool:
        """Whether an array or object ends here; else its next element does begin here."""
        if self.peek() == sign:
            self._at += 1
            self._first = False
            return True
        if not self._first:
            self.take(",")
        self._first = False
        return False

    def members(self) -> Iterator[str]:
        """Keys of the object that begins here; who asks reads a key's value before the next."""
        self.take("{")
        while not self.ends("}"):
            key = self.value("").value
            if not isinstance(key, str):
                raise self.broken()
            self.take(":")
            yield key

    def array(self, key: str) -> Iterator[Element]:
        self.take("[")
        while not self.ends("]"):
            yield self.value(key)
        self._first = False

    def value(self, key: str) -> Element:
        """The value that begins here, once the text holds it and the sign after it."""
        self.peek()
        while True:
            try:
                value, stop = _DECODER.raw_decode(self._text, self._at)
                if self._text[_end_of_space(self._text, stop) :][:1] in (",", "]", "}", ":"):
                    break
            except json.JSONDecodeError:
                pass
            except (ValueError, RecursionError):  # a number too long, brackets too deep
                raise self.broken() from None
            if len(self._text) - self._at > _LARGEST or not self._more():
                raise self.broken()
        raw = self._text[self._at : stop]
        if not raw.isascii():
            value = _parsed(raw.encode("latin-1"))
        found = Element(key, value, self._before + self._at, self._before + stop)
        self._at = stop
        return found


def _end_of_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
