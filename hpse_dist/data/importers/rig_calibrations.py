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

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

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
    with _storage(path) as file:
        if not file.getNode("names").empty():
            return _easymocap(path, file, unit_m)
        root = file.root()
        names = [key for key in root.keys() if root.getNode(key).isMap()]  # noqa: SIM118
        cameras = {}
        for name in names:
            where = f"{path}, {name}"
            cameras[name] = camera_of(where, name, _opencv(root.getNode(name)), unit_m)
    if not cameras:
        raise ValueError(
            f"{path}: no camera in it; each needs a map with image_width, image_height, "
            "camera_matrix, distortion_coefficients, R and T"
        )
    return cameras


def _opencv(node: Any) -> dict[str, Any]:
    """A camera's map under the names of the TOML files."""
    values: dict[str, Any] = {}
    for name, keys in _OPENCV.items():
        found = [array for key in keys if (array := _array(node.getNode(key))) is not None]
        if found:
            values[name] = found[0]
    width, height = (_number(node.getNode(key)) for key in ("image_width", "image_height"))
    if width is not None and height is not None:
        values["size"] = [width, height]
    values["fisheye"] = bool(_number(node.getNode("fisheye_model")) or 0)
    return _flat(values)


def _easymocap(path: Path, intri: Any, unit_m: float) -> dict[str, Camera]:
    listed = intri.getNode("names")
    names = [_name(listed.at(i)) for i in range(listed.size())]
    cameras: dict[str, Camera] = {}
    with _storage(path.with_name(path.name.replace("intri", "extri"))) as extri:
        for name in names:
            where = f"{path}, camera {name}"
            given = {
                "matrix": _array(intri.getNode(f"K_{name}")),
                "distortions": _first(intri, f"dist_{name}", f"D_{name}"),
                "rotation": _first(extri, f"R_{name}", f"Rot_{name}"),
                "translation": _array(extri.getNode(f"T_{name}")),
            }
            size = [_number(intri.getNode(f"{key}_{name}")) for key in "WH"]
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


def _first(file: Any, *keys: str) -> np.ndarray | None:
    found = [array for key in keys if (array := _array(file.getNode(key))) is not None]
    return found[0] if found else None


def _array(node: Any) -> np.ndarray | None:
    """A matrix, or a list of numbers; None where there is neither."""
    if node.empty():
        return None
    if node.isSeq():
        return np.array([node.at(i).real() for i in range(node.size())])
    return node.mat() if node.isMap() else None


def _number(node: Any) -> float | None:
    return float(node.real()) if node.isInt() or node.isReal() else None


def _name(node: Any) -> str:
    """A camera's name; OpenCV reads an unquoted 01 as a number."""
    return str(node.string()) if node.isString() else str(int(node.real()))


@contextmanager
def _storage(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such calibration file; set `calibration`")
    try:
        file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
    except (cv2.error, SystemError) as error:
        raise ValueError(f"{path}: cannot be read as OpenCV's YAML: {_words(error)}") from None
    try:
        yield file
    except cv2.error as error:
        raise ValueError(f"{path}: cannot be read as OpenCV's YAML: {_words(error)}") from None
    finally:
        file.release()


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())
