"""Arrays of strangers."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hpse_dist.arrays import read_npz


def made(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def npy(array: np.ndarray, **how: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **how)  # type: ignore[arg-type]
    return stream.getvalue()


def test_what_numpy_wrote_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.arange(3.0), b=np.array("x"), c=np.ones((2, 2)))
    assert [*read_npz(path)] == ["a", "b", "c"]
    found = read_npz(path, ("c", "a", "none"))
    assert [*found] == ["c", "a"] and np.array_equal(found["a"], np.arange(3.0))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"no magic", "magic"),
        (npy(np.array([{}], dtype=object), allow_pickle=True), "allow_pickle=False"),
        (npy(np.ones(3))[:-4], "EOF|read"),
        (npy(np.ones(1000)), "over 2000"),
        (npy(np.ones(3)).replace(b"(3,)", b"(9999999999999,)"), "ValueError|MemoryError"),
    ],
)
def test_all_else_is_one_line(tmp_path: Path, member: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_npz(made(tmp_path / "a.npz", a=member), most_bytes=2000)
    assert "\n" not in str(error.value)


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(npy(np.ones(3)))
    with pytest.raises(ValueError, match="not a zip file"):
        read_npz(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="No such file"):
        read_npz(tmp_path / "none.npz")
