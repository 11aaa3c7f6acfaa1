"""Calibration files of a rig in the formats that people have, all as the same cameras.

    calibration.toml        Anipose, Pose2Sim: see rig_cameras
    calibration.yml         OpenCV's FileStorage, a map per camera named after it, with OpenCV's own
                            names in it: image_width, image_height, camera_matrix,
                            distortion_coefficients, R (3 x 3 or Rodrigues), T, fisheye_model
    intri.yml, extri.yml    EasyMocap: names, and per camera K_, dist_ (or D_), H_, W_; R_
                            (Rodrigues) or Rot_, and T_; give intri.yml, extri.yml is beside it

R and T lead from the world to the camera in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.config import read_opencv_yaml
from hpse_dist.data.importers import rig_cameras
from hpse_dist.data.importers.rig_cameras import Camera, camera_of

_OPENCV = {
    "matrix": ("camera_matrix",),
    "distortions": ("distortion_coefficients",),
    "rotation": ("R", "rotation"),
    "translation": ("T", "translation"),
}


def read_calibration(path: Path, unit_m: float = 1.0) -> dict[str, Camera]:
    """The cameras of a calibration file by name; ValueError says what is wrong in it.

    unit_m: metres per unit of the file's translations.
    """
    if path.suffix.lower() not in (".yml", ".yaml"):
        return rig_cameras.read_calibration(path, unit_m)
    values = read_opencv_yaml(path)
    if "names" in values:
        return _easymocap(path, values, unit_m)
    cameras = {}
    for name, camera in values.items():
        if isinstance(camera, dict) and "data" not in camera:  # a matrix is a mapping too
            where = f"{path}, {name}"
            cameras[name] = camera_of(where, str(name), _opencv(where, camera), unit_m)
    if not cameras:
        raise ValueError(
            f"{path}: no camera in it; each needs a map with image_width, image_height, "
            "camera_matrix, distortion_coefficients, R and T"
        )
    return cameras


def _opencv(where: str, camera: Mapping[str, Any]) -> dict[str, Any]:
    """A camera's map under the names of the TOML files."""
    values: dict[str, Any] = {}
    for name, keys in _OPENCV.items():
        found = _first(where, camera, *keys)
        if found is not None:
            values[name] = found
    width, height = (_number(camera.get(key)) for key in ("image_width", "image_height"))
    if width is not None and height is not None:
        values["size"] = [width, height]
    values["fisheye"] = bool(_number(camera.get("fisheye_model")) or 0)
    return _flat(values)


def _easymocap(path: Path, intri: Mapping[str, Any], unit_m: float) -> dict[str, Camera]:
    names = intri["names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: `names` must be a list of the cameras' names")
    cameras: dict[str, Camera] = {}
    extri = read_opencv_yaml(path.with_name(path.name.replace("intri", "extri")))
    for name in names:
        where = f"{path}, camera {name}"
        given = {
            "matrix": _first(where, intri, f"K_{name}"),
            "distortions": _first(where, intri, f"dist_{name}", f"D_{name}"),
            "rotation": _first(where, extri, f"R_{name}", f"Rot_{name}"),
            "translation": _first(where, extri, f"T_{name}"),
        }
        size = [_number(intri.get(f"{key}_{name}")) for key in "WH"]
        if None in size:
            raise ValueError(
                f"{where}: W_{name} and H_{name} are missing; add the width and height of the "
                "pictures that K is for, as whole numbers"
            )
        values = {key: value for key, value in given.items() if value is not None}
        cameras[name] = camera_of(where, name, _flat(values | {"size": size}), unit_m)
    if not cameras:
        raise ValueError(f"{path}: no camera in it; its `names` are empty")
    return cameras


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    """Columns and rows as the plain lists that TOML files hold."""
    for key in ("distortions", "translation", "rotation"):
        value = values.get(key)
        if value is not None and np.size(value) != 9:
            values[key] = np.asarray(value).ravel()
    return values


def _first(where: str, values: Mapping[str, Any], *keys: str) -> np.ndarray | None:
    """The matrix, or the list of numbers, that stands under the first of these keys there are."""
    for key in keys:
        if key in values:
            return _array(f"{where}: {key}", values[key])
    return None


def _array(where: str, value: Any) -> np.ndarray:
    try:
        if isinstance(value, list):
            return np.array([float(number) for number in value])
        size = int(value["rows"]), int(value["cols"])
        if min(size) < 1:
            raise ValueError
        return np.array([float(number) for number in value["data"]]).reshape(size)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{where} must be a matrix of OpenCV's (rows, cols, dt and as many numbers as data) "
            "or a list of numbers"
        ) from None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
