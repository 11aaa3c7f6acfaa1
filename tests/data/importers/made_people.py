"""People made of spots before calibrated cameras, for writing datasets' layouts in tests."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image

from hpse_dist.data.crops import CollectionConfig, Pictures, prepare_frame
from hpse_dist.data.pairs import PairsConfig, mine
from hpse_dist.data.shards import FRAME_SCHEMA
from hpse_dist.geometry.camera import look_at
from hpse_dist.records import FrameRecord

SIZE = (320, 240)  # width, height
MATRIX = np.array([[260.0, 0, 158.0], [0, 262.0, 121.0], [0, 0, 1]])
_DEGREES = (0, 50, 170, 260)


def camera(
    number: int, up: tuple[float, float, float] = (0, 0, 1)
) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera rotation (3, 3) and translation (3,), metres, around (0, 0, 0.9)."""
    angle = np.radians(_DEGREES[number])
    eye = np.array([3.5 * np.cos(angle), 3.5 * np.sin(angle), 1.3])
    return look_at(eye, np.array([0.0, 0.0, 0.9]), up)


def person(count: int, seed: int = 0) -> np.ndarray:
    """(count, 3) joints in the world, metres, within a person's size."""
    random = np.random.default_rng(seed)
    return random.uniform((-0.3, -0.3, 0.1), (0.3, 0.3, 1.7), (count, 3))


def project(points: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """World points (N, 3) as pixels (N, 2) of a camera of MATRIX, written out."""
    seen = [rotation @ point + translation for point in points]
    rays = [MATRIX @ (point / point[2]) for point in seen]
    return np.array([ray[:2] for ray in rays])


def picture(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: a white spot at each pixel, on grey."""
    image: np.ndarray = np.full((SIZE[1], SIZE[0], 3), 60, np.uint8)
    for x, y in np.round(pixels).astype(int):
        cv2.circle(image, (int(x), int(y)), 1, (255, 255, 255), -1)
    return image


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


def film(path: Path, images: list[np.ndarray], rate: float) -> None:
    """A motion-JPEG video of the pictures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), code, rate, SIZE)
    for image in images:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()


def check(record: FrameRecord) -> None:
    """The 3D joints project onto the 2D ones, those lie on the picture's spots and in the box, and
    a collection takes the record."""
    joints3d, joints2d = record.labels["joints3d"], record.labels["joints2d"]
    assert record.intrinsics is not None and record.centre is not None
    assert record.rotation is not None and record.translation is not None
    rays = joints3d[:, :3] @ record.intrinsics.T
    known = joints3d[:, 3] > 0
    assert known.any() and (joints2d[known, 2] > 0).all()
    assert np.abs(rays[:, :2] / rays[:, 2:] - joints2d[:, :2])[known].max() < 0.5
    image = Pictures().read(record.image)
    for x, y in np.round(joints2d[known, :2]).astype(int):
        assert image[y - 1 : y + 2, x - 1 : x + 2].max() > 200, "no spot where the joint should be"
        assert record.box[0] < x < record.box[2] and record.box[1] < y < record.box[3]
    centre = record.rotation @ record.centre + record.translation
    assert np.linalg.norm(centre - joints3d[known, :3].mean(axis=0)) < 1.0
    prepare_frame(record, CollectionConfig(crop_px=32, min_side_px=20), Pictures())


def apart(record: FrameRecord) -> np.ndarray:
    """(N, 2) by how many pixels 2D joints, which count from the picture's corner, lie beside the
    spots that were drawn round the nearest pixels."""
    image = Pictures().read(record.image)[..., 0].astype(float) - 60
    joints = record.labels["joints2d"]
    found = []
    for x, y in joints[joints[:, 2] > 0, :2]:
        column, row = int(x), int(y)  # the pixel that it lies in
        window = np.clip(image[row - 2 : row + 3, column - 2 : column + 3], 0, None)
        rows, columns = np.indices(window.shape)
        middle = np.array([(window * columns).sum(), (window * rows).sum()]) / window.sum()
        found.append([x, y] - (middle + [column - 2, row - 2] + 0.5))
    return np.array(found)


def view_pairs(records: list[FrameRecord]) -> list[float]:
    """Degrees of the cross-view pairs that are mined from the records' table, one order of each."""
    rows = []
    for number, record in enumerate(records):
        about = prepare_frame(
            record, CollectionConfig(crop_px=32, min_side_px=20), Pictures()
        ).about
        rows.append({**about, "sample_id": number, "shard": 0, "row": number, "split": "train"})
    table = pa.Table.from_pylist(rows, FRAME_SCHEMA)
    pairs = mine(table, PairsConfig(max_pose_per_frame=0, both_orders=False))
    return [float(angle) for angle in pairs["angle_deg"].to_pylist()]
