"""Reads body model files, .npz or .pkl, without ever running what a file says.

SMPL's and MANO's pickles come from Python 2 and hold numpy arrays, scipy's sparse matrices and
chumpy's lazy arrays. Here each of these names stands for a small class of our own that only keeps
what it is given; any other name in the pickle is refused. So neither chumpy nor scipy is needed,
and no byte of the file reaches a constructor written elsewhere.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from hpse_dist.arrays import read_npz

REQUIRED = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
OPTIONAL = ("hands_mean", "vertex_uv", "corner_uv", "vertex_part", "tips")

_MOST_BYTES = 2 * 1024**3


def read_body_file(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of an SMPL, SMPL-H, SMPL-X or MANO file, under the file's own names.

    v_template (V, 3), shapedirs (V, 3, K), posedirs (V, 3, 9 (J - 1)), J_regressor (J, V) dense,
    weights (V, J), kintree_table (2, J), f (F, 3); where the file has them hands_mean (45,),
    vertex_uv (V, 2), corner_uv (F, 3, 2), vertex_part (V,), tips (5,). All else is left unread.

    Raises ValueError for a file that is no such model, is broken, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"body model file {path} does not exist.")
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} is larger than any body model file (2 GiB), so it was not read.")
    readers: dict[str, Callable[[Path], dict[str, Any]]] = {".npz": _read_npz, ".pkl": _read_pickle}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: a body model file ends in .npz or .pkl.")
    arrays = reader(path)
    lacking = [name for name in REQUIRED if name not in arrays]
    if lacking:
        raise ValueError(f"{path} is not a body model file: it lacks {', '.join(lacking)}.")
    _check(path, arrays)
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path, (*REQUIRED, *OPTIONAL), _MOST_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a body model .npz: {error}.") from None


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as file:
            content = _BodyUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError("it holds no table of arrays")
        names = [name for name in (*REQUIRED, *OPTIONAL) if name in content]
        return {name: _as_array(content[name]) for name in names}
    except _Refused as error:
        raise ValueError(f"{path} was refused: {error}, which no body model needs.") from error
    except MemoryError as error:
        raise ValueError(f"{path} asks for more memory than there is.") from error
    # A broken or hostile pickle can make the unpickler raise anything at all; nothing is hidden.
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a body model pickle: {error!r}.") from error


def read_pickled_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the named entries that a pickled table has, as arrays; lists of them are stacked.

    A name such as camera/extrinsics is an entry of a table that is an entry of the table, betas/0
    the first of a list of arrays that need not be of one shape. For tables of numbers that other
    people pickled; nothing that the file says is run.
    Raises ValueError for a file that is broken, holds something else there, or would run code.
    """
    try:
        with path.open("rb") as file:
            content = _BodyUnpickler(file, encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError("it holds no table of arrays")
        found = {name: _entry(content, name) for name in names}
        return {name: _stacked(value) for name, value in found.items() if value is not None}
    except _Refused as error:
        raise ValueError(
            f"{path} was refused: {error}, which no table of numbers needs."
        ) from error
    # as for body models: a broken pickle can make the unpickler raise anything at all
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a pickled table: {error!r}.") from error


def _entry(table: object, name: str) -> object:
    """What stands under a name, or None."""
    for key in name.split("/"):
        if isinstance(table, list) and key.isdecimal():
            table = table[int(key)] if int(key) < len(table) else None
        else:
            table = table.get(key) if isinstance(table, dict) else None
    return table


def _stacked(value: object) -> np.ndarray:
    if isinstance(value, str):
        return np.asarray(value)
    if isinstance(value, (list, tuple)) and any(isinstance(item, _Array) for item in value):
        return np.stack([_as_array(item) for item in value])
    return _as_array(value)


def _check(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Shapes fit one another and numbers are numbers; else ValueError."""
    vertices, joints, faces = (
        arrays[name].shape[axis] if arrays[name].ndim == 2 else -1
        for name, axis in (("v_template", 0), ("kintree_table", 1), ("f", 0))
    )
    shapes: dict[str, tuple[int | None, ...]] = {
        "v_template": (vertices, 3),
        "shapedirs": (vertices, 3, None),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "J_regressor": (joints, vertices),
        "weights": (vertices, joints),
        "kintree_table": (2, joints),
        "f": (faces, 3),
        "vertex_uv": (vertices, 2),
        "corner_uv": (faces, 3, 2),
        "vertex_part": (vertices,),
        "tips": (5,),
    }
    for name, array in arrays.items():
        wanted = shapes.get(name, (None,) * array.ndim)
        fits = len(wanted) == array.ndim and all(
            size in (None, found) for size, found in zip(wanted, array.shape, strict=True)
        )
        if not fits or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            shape = ", ".join("any" if size is None else str(size) for size in wanted)
            raise ValueError(
                f"{path}: {name} must be finite numbers of shape ({shape}), "
                f"found {array.dtype} of shape {array.shape}."
            )
    if arrays["f"].size and not 0 <= arrays["f"].min() <= arrays["f"].max() < vertices:
        raise ValueError(f"{path}: f must hold vertex numbers from 0 to {vertices - 1}.")
    parents: np.ndarray = arrays["kintree_table"][0].astype(np.int64)
    if not all(0 <= parent < joint for joint, parent in enumerate(parents[1:], start=1)):
        raise ValueError(f"{path}: kintree_table must name each joint's parent before the joint.")


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not on the list."""


class _Dtype:
    """numpy.dtype: only plain numbers; anything else makes an array that cannot be used."""

    def __init__(self, code: str, *_: object) -> None:
        self.code = code
        self.order = "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.order = state[1]

    def plain(self) -> np.dtype | None:
        if len(self.code) == 2 and self.code[0] in "biuf" and self.code[1] in "1248":
            return np.dtype(self.order + self.code)
        return None


class _Array:
    """numpy.ndarray, as `_reconstruct` makes it: empty, until its state is set."""

    value: np.ndarray | None = None

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_column, content = state
        plain = dtype.plain()
        if plain is None:
            return  # strings and objects: not among the arrays of a body
        if isinstance(content, str):  # the bytes of a Python 2 string
            content = content.encode("latin1")
        flat = np.frombuffer(content, dtype=plain)
        self.value = flat.reshape(shape, order="F" if by_column else "C").astype(
            plain.newbyteorder("=")
        )


class _Sparse:
    """scipy's csc_matrix or csr_matrix: compressed columns or rows."""

    by_column = True

    def __init__(self, *_: object) -> None: ...

    def dense(self) -> np.ndarray:
        fields = {name.removeprefix("_"): value for name, value in vars(self).items()}
        data, indices, starts = (_as_array(fields[name]) for name in ("data", "indices", "indptr"))
        height, width = (int(size) for size in fields["shape"])
        if height * width > _MOST_BYTES // 8:
            raise ValueError("a sparse matrix is too large")
        if len(data) != len(indices) or starts[-1] != len(data):
            raise ValueError("a sparse matrix does not fit together")
        dense = np.zeros((height, width))
        lines: np.ndarray = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        at = (indices, lines) if self.by_column else (lines, indices)
        np.add.at(dense, at, data)
        return dense


class _SparseByRow(_Sparse):
    by_column = False


class _Chumpy:
    """chumpy.ch.Ch: an array under the name x."""

    def __init__(self, *_: object) -> None: ...

    def array(self) -> np.ndarray:
        return _as_array(vars(self)["x"])


class _ChumpySelect(_Chumpy):
    """chumpy.reordering.Select: chosen elements of another array."""

    def array(self) -> np.ndarray:
        fields = vars(self)
        chosen = _as_array(fields["a"]).ravel()[_as_array(fields["idxs"])]
        return chosen.reshape(tuple(int(size) for size in _as_array(fields["preferred_shape"])))


def _as_array(value: object) -> np.ndarray:
    if isinstance(value, _Chumpy):
        return value.array()
    if isinstance(value, _Sparse):
        return value.dense()
    if isinstance(value, _Array):
        if value.value is None:
            raise ValueError("an array of a body model does not hold numbers")
        return value.value
    if isinstance(value, (bool, int, float, list, tuple, np.ndarray)):
        return np.asarray(value)
    raise TypeError(f"a {type(value).__name__.lstrip('_')} stands where an array should be")


def _reconstruct(kind: type, *_: object) -> _Array:
    if kind is not _Array:
        raise _Refused("it builds an array of another kind")
    return _Array()


def _frombuffer(content: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    """numpy's function for arrays in pickle protocol 5."""
    array = _Array()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return _as_array(array)


def _scalar(dtype: _Dtype, content: bytes | str) -> np.ndarray:
    array = _Array()
    array.__setstate__((1, (), dtype, False, content))
    return _as_array(array)


def _new_object(kind: type, base: type, _: object) -> object:
    """copy_reg._reconstructor, as Python 2's text protocol makes objects."""
    if kind not in _CLASSES.values() or base is not object:
        raise _Refused("it builds an object of another kind")
    return kind()


def _latin1(text: str, encoding: str) -> bytes:
    """_codecs.encode, as Python 3 writes bytes in old protocols."""
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"it encodes text as {encoding}")
    return text.encode("latin1")


_CLASSES: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("scipy.sparse.csc", "csc_matrix"): _Sparse,
    ("scipy.sparse._csc", "csc_matrix"): _Sparse,
    ("scipy.sparse.csr", "csr_matrix"): _SparseByRow,
    ("scipy.sparse._csr", "csr_matrix"): _SparseByRow,
    ("chumpy.ch", "Ch"): _Chumpy,
    ("chumpy.reordering", "Select"): _ChumpySelect,
}
_FUNCTIONS: dict[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("copy_reg", "_reconstructor"): _new_object,
    ("copyreg", "_reconstructor"): _new_object,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("_codecs", "encode"): _latin1,
}
_ALLOWED: dict[tuple[str, str], object] = {**_CLASSES, **_FUNCTIONS}


_SET_STATE: Callable[[Any], None] = pickle._Unpickler.dispatch[pickle.BUILD[0]]


class _BodyUnpickler(pickle._Unpickler):
    """An unpickler that knows the names above and nothing else.

    The one written in Python: the one in C makes a table as large as a pickle says, 4 billion
    places if it says so, and lets it change our classes. A body is a few hundred steps.
    """

    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"it calls for {module}.{name}")
        return _ALLOWED[module, name]

    def load_build(self) -> None:
        """Give an object its state: one of the classes above, never a class or function itself."""
        if type(self.stack[-2]) not in _CLASSES.values():
            raise _Refused("it changes something other than an array")
        _SET_STATE(self)

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BUILD[0]: load_build,
    }
