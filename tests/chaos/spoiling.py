"""How a valid file is spoilt: taken apart, changed at a place and put together, or byte by byte."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import random
import tarfile
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.io
import torch
import yaml
from safetensors.torch import load, save

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2, 1 << 31, 1 << 63, 10**19, 10**400, 0.5, 1e300, -1e300),
    *(math.nan, math.inf, -math.inf, "", "x", "../../etc/passwd", "/etc/passwd", "a\0b", "²"),
    *("\ud800", "9" * 400, "a" * 5000, "a\nb", [], {}, [[]], [None], [1e300] * 4, {"x": []}, DEEP),
)


class Payload:
    """Makes a folder when it is unpickled without an allow-list."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.canary,)


def spoil(path: Path, data: bytes, draw: random.Random, canary: Path) -> bytes:
    """The bytes of a file of this name, spoilt in one of the two ways."""
    form = FORMS.get(path.suffix.lower())
    if form is not None and draw.random() < 0.6:
        read, write = form
        try:
            return write(read(data), draw, canary)
        except Exception:  # what a format cannot hold, such as texts among numbers
            return spoil_bytes(data, draw, canary)
    return spoil_bytes(data, draw, canary)


def spoil_bytes(data: bytes, draw: random.Random, canary: Path) -> bytes:
    """One to three places changed; of a zip's, more often a member's."""
    if data[:2] == b"PK" and draw.random() < 0.8:
        return _with_spoilt_member(data, draw, canary)
    for _ in range(draw.randint(1, 3)):
        at, length = draw.randrange(len(data) + 1), draw.randint(1, 12)
        new = draw.choice(
            [
                draw.randbytes(length),
                draw.choice(_tokens(canary)),
                b"",
                data[draw.randrange(len(data) + 1) :][:length],
            ]
        )
        data = data[:at] + new + data[at + draw.choice([0, len(new), length]) :]
        if draw.random() < 0.05:
            data = data[: draw.randrange(len(data) + 1)]
    return data


def _tokens(canary: Path) -> tuple[bytes, ...]:
    name = str(canary).encode()
    return (
        *(b"1e999", b"-1", b"NaN", b"9" * 400, b"null", b'"x"', b"[]", b"{}", b"true", b"\0"),
        *(b"\n", b"../../etc/passwd", b"\xff\xfe", b"[" * 3000, b'{"a":' * 3000, b"&a [*a, *a]"),
        b"!!python/object/apply:os.mkdir [" + name + b"]",
        # what a pickle that is read without an allow-list would run
        *(b"cos\nmkdir\n(V" + name + b"\ntR",) * 4,
    )


def _with_spoilt_member(data: bytes, draw: random.Random, canary: Path) -> bytes:
    source, made = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    names = source.namelist()
    chosen = draw.choice([name for name in names if name.endswith(".pkl")] or names)
    with zipfile.ZipFile(made, "w") as target:
        for name in names:
            inner = source.read(name)
            target.writestr(name, spoil_bytes(inner, draw, canary) if name == chosen else inner)
    return made.getvalue()


def changed(value: Any, draw: random.Random, odd: Callable[[random.Random], Any]) -> Any:
    """A copy of nested plain values and arrays that differs at one place."""
    inside = draw.random() < 0.8
    if isinstance(value, dict) and value and inside:
        key = draw.choice([*value])
        return {**value, key: changed(value[key], draw, odd)}
    if isinstance(value, (list, tuple)) and value and inside:
        items = list(value)
        at = draw.randrange(len(items))
        items[at] = changed(items[at], draw, odd)
        return type(value)(items)
    if isinstance(value, np.ndarray) and value.dtype.kind in "OV" and value.size and inside:
        return _changed_record(value, draw, odd)
    if draw.random() < 0.4:
        return odd(draw)
    if isinstance(value, dict) and value:
        return _changed_keys(value, draw, odd)
    if isinstance(value, (list, tuple)) and value:
        return _changed_items(value, draw, odd)
    if isinstance(value, np.ndarray):
        return _changed_array(value, draw)
    if isinstance(value, torch.Tensor):
        return torch.from_numpy(_changed_array(value.detach().numpy(), draw, kinds="df"))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return draw.choice([-value, value + 1, value * 1000000, value / 7, str(value), [value]])
    return odd(draw)


def plain(draw: random.Random) -> Any:
    return draw.choice(VALUES)


def _changed_record(value: np.ndarray, draw: random.Random, odd: Any) -> np.ndarray:
    """One element of an array of objects or of records."""
    value = value.copy()
    at = np.unravel_index(draw.randrange(value.size), value.shape)
    if value.dtype.kind == "O":
        made = changed(value[at], draw, odd)
        # a list would be spread over the array
        value[at] = np.array(made, dtype=object) if isinstance(made, list) and value.ndim else made
    else:
        name = draw.choice(value.dtype.names or ())
        value[name][at] = changed(value[name][at], draw, odd)
    return value


def _changed_keys(value: dict[Any, Any], draw: random.Random, odd: Any) -> dict[Any, Any]:
    key, kind = draw.choice([*value]), draw.randrange(3)
    rest = {k: v for k, v in value.items() if k != key}
    if kind == 0:
        return rest
    if kind == 1:
        return {**rest, draw.choice(["x", "", f"{key}0", str(key).upper()]): value[key]}
    return {**value, key: value[draw.choice([*value])]}


def _changed_items(value: Any, draw: random.Random, odd: Any) -> Any:
    items, at = list(value), draw.randrange(len(value))
    made = draw.choice(
        [items[:at], items[:at] + items[at + 1 :], [*items, items[at]], items * 3, [items]]
    )
    return type(value)(made)


def _changed_array(value: np.ndarray, draw: random.Random, kinds: str = "dfiuU?") -> np.ndarray:
    """Another shape, another type, or other numbers."""
    kind = draw.randrange(4)
    if kind == 0:
        shapes = [value[:0], value[None], value.T, value.ravel(), value[..., None]]
        shapes += [value[:1], value[..., :1], value[:-1]] if value.ndim else []
        return np.ascontiguousarray(draw.choice(shapes))
    if kind == 1:
        types = {
            "d": np.float64,
            "f": np.float16,
            "i": np.int8,
            "u": np.uint64,
            "U": "U4",
            "?": "?",
        }
        with np.errstate(all="ignore"):
            return np.asarray(value).astype(types[draw.choice(kinds)])
    made = np.array(value)
    if made.size and made.dtype.kind in "fiu":
        number = draw.choice([math.nan, math.inf, -1e30, 0.0, -1.0, 1e9])
        if made.dtype.kind != "f":
            limits = np.iinfo(made.dtype)
            number = draw.choice([0, limits.min, limits.max, 1 % limits.max])
        if kind == 2:
            made.flat[draw.randrange(made.size)] = number
        else:
            made[...] = number
    return made


def _hostile(canary: Path) -> Callable[[random.Random], Any]:
    """For formats that hold objects: now and then one that would run something."""
    return lambda draw: Payload(canary) if draw.random() < 0.5 else plain(draw)


def _json_lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.splitlines()
    at = draw.randrange(len(lines))
    lines[at] = json.dumps(changed(json.loads(lines[at]), draw, plain)).encode()
    return b"\n".join(lines) + b"\n"


def _npz(data: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(data), allow_pickle=True) as found:
        return dict(found)


def _write_npz(value: Any, draw: random.Random, canary: Path) -> bytes:
    made, file = changed(value, draw, _hostile(canary)), io.BytesIO()
    arrays = {
        k: np.asarray(v) if not isinstance(v, Payload) else _holding(v) for k, v in made.items()
    }
    np.savez(file, **arrays)
    return file.getvalue()


def _holding(value: Any) -> np.ndarray:
    made: np.ndarray = np.empty((), object)
    made[()] = value
    return made


def _write_torch(value: Any, draw: random.Random, canary: Path) -> bytes:
    file = io.BytesIO()
    torch.save(changed(value, draw, _hostile(canary)), file)
    return file.getvalue()


def _safetensors(data: bytes) -> dict[str, Any]:
    size = int.from_bytes(data[:8], "little")
    about = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    about = {k: json.loads(v) if v[:1] in "{[" else v for k, v in about.items()}
    return {"about": about, "tensors": load(data)}


def _write_safetensors(value: Any, draw: random.Random, canary: Path) -> bytes:
    part = "about" if value["about"] and draw.random() < 0.5 else "tensors"
    made = {**value, part: changed(value[part], draw, plain)}
    about = {k: v if isinstance(v, str) else json.dumps(v) for k, v in made["about"].items()}
    tensors = {str(k): torch.as_tensor(v).contiguous() for k, v in made["tensors"].items()}
    return save(tensors, about)


def _write_parquet(value: pa.Table, draw: random.Random, canary: Path) -> bytes:
    names = value.column_names
    at, kind, file = draw.randrange(len(names)), draw.randrange(5), io.BytesIO()
    column = value.column(at)
    if kind == 0:
        value = value.remove_column(at)
    elif kind == 1:
        value = value.rename_columns(
            [*names[:at], draw.choice(["x", "", *names]), *names[at + 1 :]]
        )
    elif kind == 2:
        value = value.slice(0, draw.choice([0, 1, len(value) // 2]))
    else:
        rows = column.to_pylist()
        if kind == 3:
            rows = [changed(rows[0], draw, plain)] * len(rows)
        else:
            place = draw.randrange(len(rows))
            rows[place] = changed(rows[place], draw, plain)
        try:
            made = pa.array(rows, column.type)
        except (pa.ArrowException, TypeError, OverflowError, ValueError):
            made = pa.array([str(row) for row in rows])
        value = value.set_column(at, names[at], made)
    pq.write_table(value, file)
    return file.getvalue()


def _matlab(data: bytes) -> dict[str, Any]:
    found = scipy.io.loadmat(io.BytesIO(data))
    return {k: v for k, v in found.items() if not k.startswith("__")}


def _write_matlab(value: Any, draw: random.Random, canary: Path) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, changed(value, draw, plain))
    return file.getvalue()


def _write_toml(value: Any, draw: random.Random, canary: Path) -> bytes:
    """What JSON and TOML write alike, and the sections."""
    text = ""
    for name, part in changed(value, draw, plain).items():
        if isinstance(part, dict):
            lines = [f"{json.dumps(k)} = {_toml(v)}\n" for k, v in part.items()]
            text += f"[{json.dumps(str(name))}]\n{''.join(lines)}"
        else:
            text = f"{json.dumps(str(name))} = {_toml(part)}\n{text}"
    return text.encode("utf-8", "surrogatepass")


def _toml(value: Any) -> str:
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf").replace("null", '""')


def _write_lines(value: list[bytes], draw: random.Random, canary: Path) -> bytes:
    """Lines of words or numbers: one left out, twice, elsewhere, or a word of it another."""
    lines, at, kind = list(value), draw.randrange(len(value)), draw.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(draw.randrange(len(lines) + 1), lines[at])
    elif kind == 2:
        lines = lines[:at]
    else:
        mark = b"," if b"," in lines[at] else b" "
        words = lines[at].split(mark)
        place = draw.randrange(len(words))
        words[place] = draw.choice([*_tokens(canary), b"", b"1", words[-1]])
        lines[at] = mark.join(words)
    return b"\n".join(lines) + b"\n"


def _zipped(data: bytes) -> list[tuple[zipfile.ZipInfo, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(one, archive.read(one)) for one in archive.infolist()]


def _write_zip(value: Any, draw: random.Random, canary: Path) -> bytes:
    file = io.BytesIO()
    entries = [(one, content) for one, content in value]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, content in [*entries, *draw.choices(entries, k=draw.randrange(3))]:
            made = zipfile.ZipInfo(one.filename if draw.random() < 0.5 else _led_out(draw, canary))
            made.external_attr = draw.choice([0, 0o100644, 0o120777, 0o040755, 0o020644]) << 16
            archive.writestr(made, draw.choice([content, str(canary).encode(), b"\0" * 400000]))
    return file.getvalue()


def _tarred(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(one, archive.extractfile(one).read()) for one in archive]  # type: ignore[union-attr]


def _write_tar(value: Any, draw: random.Random, canary: Path) -> bytes:
    file = io.BytesIO()
    form = draw.choice([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for one, content in [*value, *draw.choices(value, k=draw.randrange(3))]:
            made = tarfile.TarInfo(one.name if draw.random() < 0.5 else _led_out(draw, canary))
            made.type = draw.choice([*(tarfile.REGTYPE,) * 4, *tarfile.SUPPORTED_TYPES])
            made.linkname = draw.choice(["", "..", str(canary.parent), "a"])
            made.size = len(content) if draw.random() < 0.8 else draw.choice([0, 7, 1 << 30])
            archive.addfile(made, io.BytesIO(content.ljust(made.size if made.size < 999 else 0)))
    return file.getvalue()


def _led_out(draw: random.Random, canary: Path) -> str:
    names = ["../ran", "a/../../ran", "..\\ran", "C:\\ran", "a", "a/", ".", "/", "é" * 200]
    return draw.choice([*names, str(canary), "a/" * 60 + "b", ".unpacked/a.zip.json", "a\nb"])


def _plainly(write: Callable[[Any], str]) -> Callable[[Any, random.Random, Path], bytes]:
    def made(value: Any, draw: random.Random, canary: Path) -> bytes:
        return write(changed(value, draw, plain)).encode("utf-8", "surrogatepass")

    return made


_JSON = (json.loads, _plainly(json.dumps))
_LINES = (bytes.splitlines, _write_lines)
_YAML = (yaml.safe_load, _plainly(lambda v: yaml.safe_dump(v, allow_unicode=True)))
_TORCH = (lambda d: torch.load(io.BytesIO(d), weights_only=False), _write_torch)
Form = tuple[Callable[[bytes], Any], Callable[[Any, random.Random, Path], bytes]]
FORMS: dict[str, Form] = {
    ".json": _JSON,
    ".jsonl": (bytes, lambda data, draw, canary: _json_lines(data, draw)),
    ".yaml": _YAML,
    ".toml": (lambda data: tomllib.loads(data.decode()), _write_toml),
    ".npz": (_npz, _write_npz),
    ".pkl": (
        lambda data: pickle.loads(data, encoding="latin1"),
        lambda v, draw, canary: pickle.dumps(changed(v, draw, _hostile(canary)), protocol=2),
    ),
    ".pth": _TORCH,
    ".safetensors": (_safetensors, _write_safetensors),
    ".parquet": (lambda data: pq.read_table(io.BytesIO(data)), _write_parquet),
    ".mat": (_matlab, _write_matlab),
    ".zip": (_zipped, _write_zip),
    ".tar": (_tarred, _write_tar),
    **dict.fromkeys((".csv", ".txt", ".yml"), _LINES),
}
