"""FFCV's files: writing shards, and reading their rows; the only module that imports ffcv.

A shard is a plain FFCV file (`.beton`): one image field of constant size, `sample_id`, and labels
of fixed shape. Any FFCV loader can read it (`yardsticks` does, for comparison).

We read it with FFCV's own decoder, compiled by FFCV's own compiler, but without FFCV's `Loader`.
A `Loader` compiles its pipeline anew for each file and field (0.5 to 2 s each), owns a thread that
dies in silence, yields views into a ring of buffers, and ignores what the JPEG decoder returns.
Here two small kernels are compiled once for a process, any thread may call them on any shard
(they release the interpreter's lock), rows land where the caller wants them, and a damaged picture
is an error that names its shard.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpse_dist.data.child import Child
from hpse_dist.data.rows import Row, ShardSpec, check_rows, layouts

__all__ = [
    "BetonWriter",
    "Damaged",
    "Row",
    "Shard",
    "ShardSpec",
    "read_encoded",
    "read_rows",
    "write_shard",
]

_MIN_PAGE = 1 << 21  # FFCV's smallest page, 2 MiB; a sample must fit into one page
_STORED_NAME_LENGTH = 16  # FFCV cuts longer names in silence
_WRITE = "hpse_dist.data.beton:write_file"


@cache
def ffcv_package() -> Any:
    """The package, imported late and tamed: its import compiles for 3 s and sets torch's threads.

    What it compiles is a table of two numbers in numba's typed dictionary, which is a plain one
    while numba's compiler is off.
    """
    import numba.typed

    settings: Any = numba.config
    threads, compiler_off = torch.get_num_threads(), settings.DISABLE_JIT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports distutils
        try:
            settings.DISABLE_JIT = True
            import ffcv
            import ffcv.fields
            import ffcv.libffcv
            import ffcv.pipeline.compiler
            import ffcv.reader
            import ffcv.types
        finally:
            settings.DISABLE_JIT = compiler_off
            torch.set_num_threads(threads)
    return ffcv


@cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    """(decode, copy), compiled for the process; call them on ranges that were checked before."""
    compiler = ffcv_package().pipeline.compiler.Compiler
    imdecode = compiler.compile(ffcv_package().libffcv.imdecode)
    memcpy = compiler.compile(ffcv_package().libffcv.memcpy)

    def decode(data, starts, sizes, places, images, codes):  # type: ignore[no-untyped-def]
        height, width = images.shape[1], images.shape[2]
        for i in range(len(starts)):
            jpeg = data[starts[i] : starts[i] + sizes[i]]
            codes[i] = imdecode(
                jpeg, images[places[i]], height, width, height, width, 0, 0, 1, 1, False, False
            )

    def copy(data, starts, sizes, places, out):  # type: ignore[no-untyped-def]
        for i in range(len(starts)):
            memcpy(data[starts[i] : starts[i] + sizes[i]], out[places[i]])

    return compiler.compile(decode), compiler.compile(copy)


def _stored_name(name: str) -> str:
    """The FFCV name of a field: itself, or cut and made unique by a hash of the whole."""
    if len(name) <= _STORED_NAME_LENGTH and name.isascii():
        return name
    mark = hashlib.blake2b(name.encode(), digest_size=2).hexdigest()
    return f"{name.encode('ascii', 'replace').decode()[:11]}~{mark}"


class Damaged(ValueError):
    """Pictures that cannot be decoded; all others that were asked for are in their places."""

    def __init__(self, message: str, which: np.ndarray) -> None:
        super().__init__(message)
        self.which = which
        """Their places among the rows that were asked for."""


class Shard:
    """An open shard. Safe to use from several threads; the file is mapped, not loaded.

    A file that is no complete shard raises ValueError naming it, here and not later.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._check_length()
        try:
            reader = ffcv_package().reader.Reader(str(path))
        except Exception as error:
            raise ValueError(f"{path}: not readable as an FFCV shard ({error})") from error
        self.num_rows = int(reader.num_samples)
        self._fields: dict[str, Any] = reader.handlers
        self._metadata = {name: reader.metadata[f"f{i}"] for i, name in enumerate(reader.handlers)}
        self._data = np.asarray(np.memmap(self.path, np.uint8, mode="r"))
        self._ranges = self._find_ranges(reader.alloc_table)
        image = self._metadata["image"]
        sides = np.unique(np.stack([image["height"], image["width"]]))
        if len(sides) != 1 or len(np.unique(image["mode"])) != 1:
            raise ValueError(f"{path}: its pictures are not all of one size and kind")
        self.crop_px = int(sides[0])
        self._is_jpeg = int(image["mode"][0]) == 0
        self._decode, self._copy = _kernels()

    def _check_length(self) -> None:
        """FFCV writes the header last and the table of allocations at the end, without checks."""
        types = ffcv_package().types
        try:
            size = self.path.stat().st_size
            header = np.fromfile(self.path, types.HeaderType, count=1)
        except FileNotFoundError:
            raise ValueError(f"{self.path}: no such shard") from None
        if len(header) == 0 or header["version"][0] != types.CURRENT_VERSION:
            raise ValueError(f"{self.path}: not an FFCV file of version {types.CURRENT_VERSION}")
        table, rows = int(header["alloc_table_ptr"][0]), int(header["num_samples"][0])
        entries, rest = divmod(size - table, types.ALLOC_TABLE_TYPE.itemsize)
        if table == 0 or rows == 0 or size <= table or rest or entries % rows:
            raise ValueError(
                f"{self.path}: the shard is cut short or was never finished; "
                "prepare the collection again"
            )

    def _find_ranges(self, table: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Stored name -> (starts, sizes) in the file, (num_rows,) int64 each."""
        order = np.argsort(table["ptr"])
        starts, sizes = table["ptr"][order].astype(np.int64), table["size"][order].astype(np.int64)
        ranges = {}
        for name, metadata in self._metadata.items():
            if isinstance(
                self._fields[name],
                ffcv_package().fields.IntField | ffcv_package().fields.FloatField,
            ):
                continue  # numbers are kept in the metadata
            pointers = (metadata["data_ptr"] if name == "image" else metadata).astype(np.int64)
            found = np.searchsorted(starts, pointers)
            if found.max() >= len(starts) or np.any(starts[found] != pointers):
                raise ValueError(f"{self.path}: damaged, field {name} points outside its data")
            ranges[name] = (pointers, sizes[found])
        if int((starts + sizes).max()) > len(self._data):
            raise ValueError(f"{self.path}: cut short, its last rows are missing")
        return ranges

    def layout(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """(shape of one row, dtype) of a field."""
        stored = _stored_name(name)
        if stored not in self._fields:
            raise ValueError(f"{self.path}: no field {name}; it has {', '.join(self._fields)}")
        if name == "image":
            return (self.crop_px, self.crop_px, 3), np.dtype(np.uint8)
        kind = self._fields[stored]
        if stored in self._ranges:
            return tuple(int(n) for n in kind.shape), np.dtype(kind.dtype)
        return (), self._metadata[stored].dtype

    def read(self, name: str, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Put field `name` of `rows` (n,) into out[places], out (B, *shape) contiguous."""
        stored = _stored_name(name)
        rows, places = np.asarray(rows, np.int64), np.asarray(places, np.int64)
        if len(rows) == 0:
            return
        if rows.min() < 0 or rows.max() >= self.num_rows:
            raise ValueError(f"{self.path}: asked for row {rows.max()} of {self.num_rows}")
        shape, dtype = self.layout(name)
        assert out.shape[1:] == shape and out.dtype == dtype and out.flags.c_contiguous
        assert len(places) == len(rows) and places.min() >= 0 and places.max() < len(out)
        if stored not in self._ranges:
            out[places] = self._metadata[stored][rows]
            return
        starts, sizes = (table[rows] for table in self._ranges[stored])
        if name == "image" and self._is_jpeg:
            codes: np.ndarray = np.zeros(len(rows), np.int32)
            self._decode(self._data, starts, sizes, places, out, codes)
            if codes.any():
                which = np.flatnonzero(codes)
                raise Damaged(
                    f"{self.path}: row {int(rows[which[0]])}: the picture is damaged; "
                    "check the collection with prepare --verify",
                    which,
                )
            return
        flat: np.ndarray = out.reshape(len(out), -1).view(np.uint8)
        if np.any(sizes != flat.shape[1]):
            raise ValueError(f"{self.path}: field {name} has a row of a wrong size")
        self._copy(self._data, starts, sizes, places, flat)

    def encoded(self, rows: np.ndarray) -> list[np.ndarray]:
        """The JPEG of each row's picture, (n,) uint8, as it is stored."""
        assert self._is_jpeg, "raw pictures are not encoded"
        starts, sizes = (table[np.asarray(rows, np.int64)] for table in self._ranges["image"])
        return [
            np.array(self._data[a : a + n])
            for a, n in zip(starts.tolist(), sizes.tolist(), strict=True)
        ]

    def read_many(self, names: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Fields of some rows as new arrays (n, *shape)."""
        result = {}
        for name in names:
            shape, dtype = self.layout(name)
            result[name] = np.empty((len(rows), *shape), dtype)
            self.read(name, rows, result[name], np.arange(len(rows)))
        return result


def read_rows(
    path: Path, rows: Sequence[int] | np.ndarray, fields: Sequence[str]
) -> dict[str, np.ndarray]:
    """Some rows of a shard: field -> (n, *shape); image is (n, crop, crop, 3) uint8 RGB."""
    return Shard(path).read_many(fields, np.asarray(rows, np.int64))


def read_encoded(path: Path, rows: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """The pictures of some rows of a JPEG shard as they are stored: (n,) uint8 each."""
    return Shard(path).encoded(np.asarray(rows, np.int64))


class BetonWriter:
    """Writes shards one after the other in one child process; use it in `with`.

    FFCV's writer forks a worker and waits for ever if that dies; so it runs in a child with a
    watchdog. The child is started once, because FFCV's import takes seconds.
    """

    def __init__(self, timeout_s: float = 600.0) -> None:
        self._child = Child(_WRITE, timeout_s)

    def write(self, path: Path, rows: Sequence[Row], spec: ShardSpec) -> None:
        """Write a shard under a temporary name, read it back, rename it to `path`.

        Rows are held in memory twice (here and in the child). Raises ValueError for a row that
        does not fit the spec; OSError for a full disk, a dead writer, or more than `timeout_s`
        (TimeoutError).
        """
        path = Path(path)
        check_rows(path, rows, spec)
        partial = path.with_name(path.name + ".partial")
        try:
            self._child.call(str(partial), list(rows), spec)
            os.replace(partial, path)
        except OSError as error:
            error.filename = str(path)
            raise
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()

    def close(self) -> None:
        """End the child; nothing else can be written."""
        self._child.close()

    def __enter__(self) -> BetonWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_shard(path: Path, rows: Sequence[Row], spec: ShardSpec, timeout_s: float = 600.0) -> None:
    """Write one shard; `BetonWriter` is faster for several. Errors as in `BetonWriter.write`."""
    with BetonWriter(timeout_s) as writer:
        writer.write(path, rows, spec)


class _Rows:
    """Rows as the indexable data set of tuples that FFCV's writer asks for."""

    def __init__(self, rows: Sequence[Row], names: Sequence[str]) -> None:
        self.rows, self.names = rows, names

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        return tuple(np.asarray(self.rows[index][name]) for name in self.names)


def write_file(path: str, rows: Sequence[Row], spec: ShardSpec) -> None:
    """Write a shard, read it back, make it durable; may wait for ever, so see `BetonWriter`."""
    fields = ffcv_package().fields
    columns: dict[str, Any] = {}
    for name, (shape, dtype) in layouts(spec).items():
        if name == "image":
            kind = fields.RGBImageField(spec.image_mode, jpeg_quality=spec.jpeg_quality)
            # FFCV names a field's kind by its exact class, so the field itself is changed
            kind.encode = partial(_encode, kind.encode, spec.crop_px)
        elif shape == ():
            kind = fields.FloatField() if dtype.kind == "f" else fields.IntField()
        else:
            kind = fields.NDArrayField(dtype, shape)
        columns[_stored_name(name)] = kind
    assert len(columns) == len(layouts(spec)), "two labels share a stored name"
    page = max(_MIN_PAGE, 1 << (spec.sample_bytes() - 1).bit_length())
    # one worker: the file's bytes then depend on the rows alone
    writer = ffcv_package().DatasetWriter(path, columns, page_size=page, num_workers=1)
    writer.from_indexed_dataset(_Rows(rows, list(layouts(spec))))
    _compare(path, rows, spec)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _encode(
    encode: Callable[..., None],
    crop_px: int,
    destination: np.ndarray,
    image: np.ndarray,
    malloc: Callable[[int], tuple[int, np.ndarray]],
) -> None:
    """FFCV's `RGBImageField.encode`; a picture that is a JPEG already is stored as it is."""
    if image.ndim > 1:
        encode(destination, image, malloc)
        return
    destination["mode"] = ffcv_package().fields.rgb_image.IMAGE_MODES["jpg"]
    destination["height"] = destination["width"] = crop_px
    destination["data_ptr"], storage = malloc(image.nbytes)
    storage[:] = image


def _compare(path: str, rows: Sequence[Row], spec: ShardSpec, chunk: int = 64) -> None:
    """Read a shard back: labels must be equal, pictures equal or, as JPEG, close."""
    shard = Shard(Path(path))
    if shard.num_rows != len(rows):
        raise OSError(errno.EIO, f"{len(rows)} rows were written, {shard.num_rows} came back")
    for start in range(0, len(rows), chunk):
        index = range(start, min(start + chunk, len(rows)))
        back = shard.read_many(list(layouts(spec)), np.array(index))
        for i, n in enumerate(index):
            for name, values in back.items():
                sent = np.asarray(rows[n][name])
                if name == "image" and sent.ndim == 1:
                    same = np.array_equal(shard.encoded(np.array([n]))[0], sent)
                elif name == "image" and spec.image_mode == "jpg":
                    same = np.abs(values[i].astype(np.int16) - sent).mean() < 48
                else:
                    same = np.array_equal(values[i], sent, equal_nan=sent.dtype.kind == "f")
                if not same:
                    raise OSError(errno.EIO, f"row {n}: {name} came back changed")
