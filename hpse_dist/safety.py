"""What is done before a file of somebody else's is read, and what is said where one is no good."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_weights_only() -> None:
    """From here on no `torch.load` of this process and its children runs code that a file brings.

    Our own loads say so themselves; this is for those in other people's packages.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch refuses to have both


def one_line(text: str) -> str:
    """A text for a terminal: names in other people's files may hold line ends and escape codes."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def in_words(error: BaseException, most: int = 200) -> str:
    """An error's kind and its first letters, in one line, for a sentence about a file."""
    return one_line(f"{type(error).__name__}: {error}")[:most]


@contextlib.contextmanager
def as_written(where: Path, but: str = "", advice: str = "") -> Iterator[None]:
    """Around reading what this program wrote and somebody may have changed: whatever that breaks
    is one ValueError. but: what speaks for the file; advice: what to do."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        words = in_words(error)
        raise ValueError(f"{where}: {but}not as this program writes it ({words}){advice}") from None


def parsed_json(text: str | bytes) -> Any:
    """What JSON says; ValueError where it is none, or nested deeper than Python can follow."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
