"""The text of a collection's manifest: sealed with its own hash, looked through when it is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from hpse_dist.safety import parsed_json

_FIRST, _LAST = "sealed", "sha256"  # one damaged byte cannot take both away
_KINDS: dict[str, type] = {
    "counts": dict,
    "shards": list,
    "files": dict,
    "fields": dict,
    "config": dict,
    "details": dict,
    "pairs": dict,
}
_TEXTS = ("importer", "licence", "citation", "joint_set", "recipe_digest")
_NEEDED = ("counts", "shards", "files")


def sealed_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as JSON whose last key is the sha256 of all that is before it."""
    bare = {key: value for key, value in manifest.items() if key not in (_FIRST, _LAST)}
    inner = json.dumps({_FIRST: True, **bare}, indent=1, default=str)
    own = hashlib.sha256(inner.encode()).hexdigest()
    return f'{inner.removesuffix(chr(10) + "}")},\n "{_LAST}": "{own}"\n}}\n'


def seal_holds(text: str) -> bool:
    """Whether a manifest is, byte for byte, what was written; one without a seal is believed."""
    manifest = parsed_json(text)
    if _FIRST not in manifest and _LAST not in manifest:
        return True  # of a version before there were seals
    return text == sealed_text(manifest)


def checked_shape(manifest: Any) -> dict[str, Any]:
    """The manifest, if what reads it can rely on its keys; ValueError says what is not as it is
    written."""
    if not isinstance(manifest, dict):
        raise ValueError("it is no table of keys")
    for key, kind in _KINDS.items():
        if not isinstance(manifest.get(key, None if key in _NEEDED else kind()), kind):
            raise ValueError(f"{key} is missing or damaged")
    for key in _TEXTS:
        if not isinstance(manifest.get(key), str | None):
            raise ValueError(f"{key} is no text")
    _check_counts(manifest)
    for name, entry in manifest["files"].items():
        whole = isinstance(entry, dict) and _is_count(entry.get("bytes"))
        if not whole or not isinstance(entry.get("sha256"), str) or PurePath(name).name != name:
            raise ValueError(f"files: the entry of {name[:80]!r} is damaged")
    for name in manifest["shards"]:
        if not isinstance(name, str) or name not in manifest["files"]:
            raise ValueError(f"shards: {str(name)[:80]!r} is not among the files")
    for name, field in manifest.get("fields", {}).items():
        if not _is_field(field):
            raise ValueError(f"fields: the entry of {name[:80]!r} is damaged")
    parts = manifest.get("details", {}).get("parts", [])
    if not isinstance(parts, list) or not all(map(_is_part, parts)):
        raise ValueError("details.parts is damaged")
    return manifest


def _check_counts(manifest: dict[str, Any]) -> None:
    """Frames, and what is counted by split, by reason and by kind of pair."""
    counts, pairs = manifest["counts"], manifest.get("pairs", {})
    if not _is_count(counts.get("frames")):
        raise ValueError("counts.frames is missing or damaged")
    for key in ("splits", "rejects"):
        tally = counts.get(key, {})
        if not isinstance(tally, dict) or not all(map(_is_count, tally.values())):
            raise ValueError(f"counts.{key} is damaged")
    for key in ("view", "pose"):
        if not _is_count(pairs.get(key, 0)):
            raise ValueError(f"pairs.{key} is damaged")


def _is_part(value: Any) -> bool:
    """Whether it says where a part of a merged collection came from."""
    kinds = {"importer": str, "details": dict, "labels": list}
    empty: dict[str, Any] = {"details": {}, "labels": []}  # neither has to be there
    return isinstance(value, dict) and all(
        isinstance(value.get(key, empty.get(key)), kind) for key, kind in kinds.items()
    )


def _is_field(value: Any) -> bool:
    """Whether a label's entry names a shape and a numpy dtype of plain numbers."""
    if not isinstance(value, dict) or not isinstance(value.get("shape"), list):
        return False
    try:
        kind = np.dtype(value.get("dtype", "O")).kind
    except (TypeError, ValueError):
        return False
    return kind in "biuf" and all(map(_is_count, value["shape"]))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53
