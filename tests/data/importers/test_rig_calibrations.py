"""One rig in three formats is the same cameras."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from hpse_dist.data.importers.rig_calibrations import read_calibration

RIG = {
    "cam01": ([1500.5, 0, 960, 0, 1490, 540, 0, 0, 1], [-0.1, 0.02, 0, 0.001, 0], [0.1, 1.2, -0.3]),
    "02": ([900, 0, 480, 0, 905, 300, 0, 0, 1], [0, 0, 0, 0, 0], [-2.0, 0.1, 0.4]),
}
T = {"cam01": [100.0, -200, 3000], "02": [-50.0, 10, 2500]}  # millimetres
SIZE = {"cam01": (1920, 1080), "02": (960, 600)}


def write_toml(folder: Path) -> Path:
    text = ""
    for name, (k, lens, turn) in RIG.items():
        matrix = np.reshape(k, (3, 3)).tolist()
        text += f'[section_{name}]\nname = "{name}"\nsize = {list(SIZE[name])}\n'
        text += f"matrix = {matrix}\ndistortions = {lens}\nrotation = {turn}\n"
        text += f"translation = {T[name]}\n"
    path = folder / "calibration.toml"
    path.write_text(text)
    return path


def write_opencv(folder: Path, as_matrix: bool = True) -> Path:
    path = folder / "calibration.yml"
    file = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    file.write("calibration_time", "today")
    for name, (k, lens, turn) in RIG.items():
        file.startWriteStruct(f"cam{name[-2:]}", cv2.FileNode_MAP)
        file.write("image_width", SIZE[name][0])
        file.write("image_height", SIZE[name][1])
        file.write("camera_matrix", np.reshape(k, (3, 3)).astype(float))
        file.write("distortion_coefficients", np.array(lens, float).reshape(-1, 1))
        rotation = cv2.Rodrigues(np.array(turn))[0]
        file.write("R", rotation if as_matrix else np.array(turn).reshape(3, 1))
        file.write("T", np.array(T[name], float).reshape(3, 1))
        file.endWriteStruct()
    file.release()
    return path


def write_easymocap(folder: Path) -> Path:
    intri = cv2.FileStorage(str(folder / "intri.yml"), cv2.FILE_STORAGE_WRITE)
    extri = cv2.FileStorage(str(folder / "extri.yml"), cv2.FILE_STORAGE_WRITE)
    for file in (intri, extri):
        file.startWriteStruct("names", cv2.FileNode_SEQ)
        for name in RIG:
            file.write("", name)
        file.endWriteStruct()
    for name, (k, lens, turn) in RIG.items():
        intri.write(f"K_{name}", np.reshape(k, (3, 3)).astype(float))
        intri.write(f"dist_{name}", np.array([lens], float))
        intri.write(f"W_{name}", SIZE[name][0])
        intri.write(f"H_{name}", SIZE[name][1])
        extri.write(f"R_{name}", np.array(turn).reshape(3, 1))
        extri.write(f"Rot_{name}", cv2.Rodrigues(np.array(turn))[0])
        extri.write(f"T_{name}", np.array(T[name], float).reshape(3, 1))
    intri.release()
    extri.release()
    return folder / "intri.yml"


@pytest.mark.parametrize("as_matrix", [True, False])
def test_one_rig_in_three_formats(tmp_path: Path, as_matrix: bool) -> None:
    toml = read_calibration(write_toml(tmp_path), 0.001)
    opencv = read_calibration(write_opencv(tmp_path, as_matrix), 0.001)
    mocap = read_calibration(write_easymocap(tmp_path), 0.001)
    assert [*toml] == [*mocap] == [*RIG] and [*opencv] == ["cam01", "cam02"]
    for one, *others in zip(toml.values(), opencv.values(), mocap.values(), strict=True):
        assert np.allclose(one.translation, np.array(T[one.name]) / 1000)
        for other in others:
            assert other.size == one.size and not other.fisheye
            for key in ("matrix", "distortions", "rotation", "translation"):
                assert np.allclose(getattr(other, key), getattr(one, key), atol=1e-9), key


def test_broken_files_are_said(tmp_path: Path) -> None:
    intri = write_easymocap(tmp_path)
    text = intri.read_text()
    intri.write_text(text.replace("H_02", "X_02"))
    with pytest.raises(ValueError, match="camera 02: W_02 and H_02 are missing"):
        read_calibration(intri)
    intri.write_text(text.replace("K_02", "X_02"))
    with pytest.raises(ValueError, match="camera 02: 'matrix' is missing"):
        read_calibration(intri)
    intri.write_text(text)
    (tmp_path / "extri.yml").unlink()
    with pytest.raises(ValueError, match=r"extri\.yml: no such calibration file"):
        read_calibration(intri)
    path = write_opencv(tmp_path)
    path.write_text(path.read_text().replace("T:", "t:"))
    with pytest.raises(ValueError, match="cam01: 'translation' is missing"):
        read_calibration(path)
    path.write_text("%YAML:1.0\n---\na: 1\n")
    with pytest.raises(ValueError, match="no camera in it"):
        read_calibration(path)
    path.write_text("%YAML:1.0\n---\na: [1, {\n")
    with pytest.raises(ValueError, match="not readable as YAML"):
        read_calibration(path)


def test_what_ends_opencvs_own_reader_ends_in_a_sentence_here(tmp_path: Path) -> None:
    intri = write_easymocap(tmp_path)
    text = intri.read_text()
    assert "dt: d" in text
    for damaged, words in (
        (text.replace("data: [", "data: [x, ", 1), "K_cam01 must be a matrix"),
        (text.replace("rows: 3", "rows: -3", 1), "K_cam01 must be a matrix"),
        (text.replace("rows: 3", "rows: 99999999999", 1), "K_cam01 must be a matrix"),
        (text.replace("!!opencv-matrix", "!!python/object/apply:os.system", 1), "is not allowed"),
        (text.replace("- cam01", "- [1]", 1), "`names` must be a list"),
        (text.replace("names:", "names: &a", 1).replace("W_02:", "W_02: *a #"), "aliases"),
    ):
        intri.write_text(damaged)
        with pytest.raises(ValueError, match=words) as error:
            read_calibration(intri)
        assert "\n" not in str(error.value)
    # not a number to us, as no name is one
    intri.write_text(text.replace('"02"', "02"))
    assert [*read_calibration(intri)] == [*RIG]


def test_a_bad_rotation_is_one_line(tmp_path: Path) -> None:
    path = write_opencv(tmp_path)
    text = path.read_text()
    path.write_text(
        text.replace("R: !!opencv-matrix\n      rows: 3", "R: !!opencv-matrix\n      rows: 1")
    )
    with pytest.raises(ValueError, match="R must be a matrix"):
        read_calibration(path)
    head, sign, rest = text.partition("R: !!opencv-matrix")
    path.write_text(head + sign + rest.replace("data: [ ", "data: [ 1", 1))
    with pytest.raises(ValueError, match="no rotation") as error:
        read_calibration(path)
    assert "\n" not in str(error.value)
