"""Labels from joints before a camera."""

from __future__ import annotations

import numpy as np
import pytest

from hpse_dist.data.importers.joint_labels import joint_labels


def test_a_joint_in_the_lens_is_refused_before_its_pixel_overflows() -> None:
    joints, valid = np.array([[0.1, 0.0, 2.0], [0.1, 0.0, 1e-300]]), np.array([True, True])
    with pytest.raises(ValueError, match="behind the camera"):
        joint_labels(joints, valid, np.eye(3), (100, 100))
    joints[1, 2] = 1.0
    matrix = np.diag([1.0, 1.0, 1e-300])  # no camera's, but a file may say so
    assert np.isfinite(joint_labels(joints, valid, matrix, (100, 100))["joints2d"]).all()
    assert joint_labels(joints, valid, np.eye(3), (100, 100))["joints3d"].shape == (2, 4)
