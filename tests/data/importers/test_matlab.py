"""Matlab files: what a broken one says, and that the reader outlives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from hpse_dist.data.importers.matlab import read_mat
from hpse_dist.data.importers.official import Bad


def test_a_broken_file_says_why_and_the_next_one_is_read(tmp_path: Path) -> None:
    savemat(tmp_path / "good.mat", {"x": np.arange(3.0)})
    (tmp_path / "broken.mat").write_bytes(b"no Matlab\x1b[31m\n at all " * 20)
    with pytest.raises(Bad, match=r"^broken\.mat cannot be read as a MATLAB file: ValueError: .*"):
        read_mat(tmp_path / "broken.mat", ("x",))
    assert read_mat(tmp_path / "good.mat", ("x",))["x"].ravel().tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(Bad, match=r"good\.mat lacks y"):
        read_mat(tmp_path / "good.mat", ("x", "y"))
