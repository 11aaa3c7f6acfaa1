"""Body files: what the licensed pickles hold is read, what would run code is refused by name."""

from __future__ import annotations

import os
import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from hpse_dist.body.smpl_files import read_body_file
from tests.body.made_files import made_body


@pytest.fixture
def chumpy(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """Modules named as chumpy's, whose classes pickle as chumpy's do."""
    names = types.SimpleNamespace()
    for module_name, class_name in (("chumpy.ch", "Ch"), ("chumpy.reordering", "Select")):
        made = type(class_name, (), {"__module__": module_name})
        module = types.ModuleType(module_name)
        setattr(module, class_name, made)
        monkeypatch.setitem(sys.modules, module_name, module)
        setattr(names, class_name, made)
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    yield names


def _write(path: Path, content: object, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def _same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_npz_comes_back_and_odd_entries_are_left_alone(tmp_path: Path) -> None:
    body = made_body()
    # SMPL-X's own .npz holds pickled tables of names among its arrays.
    odd = np.array({"names": 1}, dtype=object)
    np.savez(tmp_path / "body.npz", joint2num=odd, **body)
    found = read_body_file(tmp_path / "body.npz")
    assert _same(found, body)
    assert set(found) == set(body)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol_come_back(tmp_path: Path, protocol: int) -> None:
    body = made_body() | {"hands_mean": np.zeros(45)}
    body["shapedirs"] = np.asfortranarray(body["shapedirs"])
    path = _write(tmp_path / "body.pkl", body | {"bs_type": "lrotmin"}, protocol)
    assert _same(read_body_file(path), body)


def test_sparse_and_lazy_arrays_come_back_dense(
    tmp_path: Path, chumpy: types.SimpleNamespace
) -> None:
    body = made_body()
    body["J_regressor"] = np.where(body["J_regressor"] > 0.02, body["J_regressor"], 0)
    lazy = chumpy.Ch()
    lazy.__dict__ = {"x": body["shapedirs"], "_dirty_vars": set()}
    chosen = chumpy.Select()
    order = np.arange(body["posedirs"].size)[::-1]
    inner = chumpy.Ch()
    inner.x = body["posedirs"].ravel()[::-1].copy()
    chosen.__dict__ = {"a": inner, "idxs": order, "preferred_shape": body["posedirs"].shape}
    for sparse in (scipy.sparse.csc_matrix, scipy.sparse.csr_matrix):
        content = dict(
            body, J_regressor=sparse(body["J_regressor"]), shapedirs=lazy, posedirs=chosen
        )
        assert _same(read_body_file(_write(tmp_path / "body.pkl", content)), body)


def test_a_pickle_as_python_2_wrote_it(tmp_path: Path) -> None:
    """Text protocol, old module names, bytes as text, objects by copy_reg."""
    body = made_body(vertices=6)
    body["J_regressor"] = np.eye(24, 6)
    text = "(dp0\n"
    for name, array in body.items():
        text += f"S'{name}'\n"
        if name == "J_regressor":
            text += "ccopy_reg\n_reconstructor\n(cscipy.sparse.csc\ncsc_matrix\n"
            text += "c__builtin__\nobject\nNtR(dS'_shape'\n(I24\nI6\nts"
            sparse = scipy.sparse.csc_matrix(array)
            for key in ("data", "indices", "indptr"):
                text += f"S'{key}'\n" + _python_2(getattr(sparse, key)) + "s"
            text += "b"
        else:
            text += _python_2(array)
        text += "s"
    path = tmp_path / "body.pkl"
    path.write_text(text + ".", encoding="latin1", newline="")
    assert _same(read_body_file(path), body)


def _python_2(array: np.ndarray) -> str:
    shape = "(" + "".join(f"I{size}\n" for size in array.shape) + "t"
    content = repr(array.tobytes())[1:]
    return (
        "cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        f"(I1\n{shape}cnumpy\ndtype\n(S'{array.dtype.str[1:]}'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\n"
        f"I0\ntbI00\nS{content}\ntb"
    )


class _Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), "posix.system"),
        (eval, ("open({!r}, 'w')",), "builtin.*eval"),
        (np.load, ("{}", None, True), "numpy.load"),
        (np.ndarray, ((2, 2),), "of a body model|array"),
    ],
)
def test_a_pickle_that_would_run_code_is_refused_by_name(
    tmp_path: Path, function: Any, arguments: tuple[object, ...], name: str, protocol: int
) -> None:
    witness = tmp_path / "witness"
    filled = [a.format(witness) if isinstance(a, str) else a for a in arguments]
    body = dict(made_body(), v_template=_Runs(function, *filled))
    path = _write(tmp_path / "body.pkl", body, protocol)
    with pytest.raises(ValueError, match=name) as raised:
        read_body_file(path)
    assert str(path) in str(raised.value)
    assert not witness.exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"\x80\x02}.", b"cos\nsystem\n.", b"]."])
def test_broken_pickles_end_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "body.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="body"):
        read_body_file(path)


def test_truncated_files_end_in_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path / "body.pkl", tmp_path / "body.npz"):
        if path.suffix == ".pkl":
            _write(path, made_body())
        else:
            np.savez(path, **made_body())
        whole = path.read_bytes()
        for share in (0.1, 0.5, 0.99):
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(ValueError, match=r"cannot be read as a body model"):
                read_body_file(path)


def test_a_huge_memory_place_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "body.pkl"
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\xf0.")  # LONG_BINPUT: place four billion
    with pytest.raises(ValueError, match="lacks v_template"):
        read_body_file(path)


def test_a_pickle_cannot_change_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "body.pkl"
    path.write_bytes(b"cscipy.sparse.csc\ncsc_matrix\n(N(dS'dense'\nc__builtin__\nobject\nstb.")
    with pytest.raises(ValueError, match="refused: it changes something"):
        read_body_file(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weights": None}, "lacks weights"),
        ({"weights": np.zeros((80, 23))}, r"weights must be .* \(80, 24\), found"),
        ({"v_template": np.full((80, 3), np.nan)}, "v_template must be finite"),
        ({"f": np.full((5, 3), 80)}, "f must hold vertex numbers from 0 to 79"),
        ({"kintree_table": np.full((2, 24), 7)}, "kintree_table must name"),
        ({"v_template": np.array(["a"])}, "v_template must be"),
    ],
)
def test_a_file_that_does_not_fit_together(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    arrays = {name: a for name, a in (made_body() | change).items() if a is not None}
    np.savez(tmp_path / "body.npz", **arrays)
    with pytest.raises(ValueError, match=sentence):
        read_body_file(tmp_path / "body.npz")


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_body_file(tmp_path / "body.npz")
    (tmp_path / "body.txt").touch()
    with pytest.raises(ValueError, match=r"ends in \.npz or \.pkl"):
        read_body_file(tmp_path / "body.txt")
