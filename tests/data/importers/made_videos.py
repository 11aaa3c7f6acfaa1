"""A small rig on disk: somebody made of balls walks before three still cameras."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from hpse_dist.geometry.camera import look_at

SIZE = (180, 240)  # width, height
MATRIX = np.array([[225.0, 0, 89.5], [0, 225.0, 119.5], [0, 0, 1]])
EYES = np.array([[3.0, 0, 1.2], [-1.2, 2.8, 1.3], [-1.2, -2.8, 1.1]])
LOOKS_AT = np.array([0, 0, 0.8])
RATE, FRAMES = 20.0, 40
# places (x, y, z) and radii of head, trunk, legs and arms around the person's spot on the floor
BALLS = [
    ((0, 0, 1.6), 0.13, (60, 90, 220)),
    ((0, 0, 1.25), 0.2, (40, 160, 60)),
    ((0, 0, 0.95), 0.2, (40, 160, 60)),
    ((0, 0.1, 0.6), 0.11, (200, 60, 60)),
    ((0, -0.1, 0.6), 0.11, (200, 60, 60)),
    ((0, 0.1, 0.35), 0.09, (200, 60, 60)),
    ((0, -0.1, 0.35), 0.09, (200, 60, 60)),
    ((0, 0.1, 0.1), 0.09, (60, 90, 220)),
    ((0, -0.1, 0.1), 0.09, (60, 90, 220)),
    ((0, 0.3, 1.2), 0.08, (60, 90, 220)),
    ((0, -0.3, 1.2), 0.08, (60, 90, 220)),
]


def pose(camera: int) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera rotation (3, 3) and translation (3,)."""
    return look_at(EYES[camera], LOOKS_AT, (0, 0, 1))


def spot(time: float) -> np.ndarray:
    """(3,) where the person stands: a slow walk through the middle, with a halt at its end."""
    return np.array([0.25 * np.sin(3 * time), -0.6 + 0.8 * min(time, 1.5), 0])


def balls(camera: int, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) of the balls' middles and their radii (N,), at the camera of MATRIX."""
    rotation, translation = pose(camera)
    places = np.array([place for place, _, _ in BALLS]) + spot(time)
    x, y, z = rotation @ places.T + translation[:, None]
    radii = MATRIX[0, 0] * np.array([radius for _, radius, _ in BALLS]) / z
    return np.stack([MATRIX[0, 0] * x / z, MATRIX[1, 1] * y / z], axis=1) + MATRIX[:2, 2], radii


def true_box(camera: int, time: float) -> np.ndarray:
    """(4,) the person's box in the camera's picture, edges counted from pixels' corners."""
    middles, radii = balls(camera, time)
    low, high = middles - radii[:, None], middles + radii[:, None]
    return np.concatenate([low.min(axis=0), high.max(axis=0)]) + 0.5


def room(camera: int) -> np.ndarray:
    """(H, W, 3) the camera's view without the person."""
    noise = np.random.default_rng(camera).integers(110, 170, (8, 6, 3), dtype=np.uint8)
    return cv2.resize(noise, SIZE, interpolation=cv2.INTER_LINEAR)


def picture(camera: int, time: float) -> np.ndarray:
    """(H, W, 3) uint8 BGR of the person in the room."""
    image = room(camera)
    rotation, translation = pose(camera)
    places = np.array([place for place, _, _ in BALLS]) + spot(time)
    depth = (rotation @ places.T + translation[:, None])[2]
    middles, radii = balls(camera, time)
    for i in np.argsort(-depth):
        at = tuple(int(v) for v in np.rint(middles[i] * 16))
        cv2.circle(image, at, round(radii[i] * 16), BALLS[i][2], -1, cv2.LINE_AA, 4)
    return image


def write_video(path: Path, pictures: list[np.ndarray], rate: float = RATE) -> Path:
    """A Motion-JPEG .avi or an MPEG-4 .mp4."""
    kind = "MJPG" if path.suffix == ".avi" else "mp4v"
    height, width = pictures[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*kind), rate, (width, height))
    assert writer.isOpened()
    for image in pictures:
        writer.write(image)
    writer.release()
    return path


def calibration(cameras: int = 3, distortions: str = "[0, 0, 0, 0]", extra: str = "") -> str:
    """The calibration file's text."""
    text = "[metadata]\nerror = 0.0\n"
    for i in range(cameras):
        rotation, translation = pose(i)
        turn = cv2.Rodrigues(rotation)[0].ravel().tolist()
        text += (
            f'\n[cam{i + 1}]\nname = "cam{i + 1}"\nsize = [{SIZE[0]}.0, {SIZE[1]}.0]\n'
            f"matrix = {MATRIX.tolist()}\ndistortions = {distortions}\nrotation = {turn}\n"
            f"translation = {translation.tolist()}\nfisheye = false\n{extra}"
        )
    return text


def make_rig(root: Path, *, frames: int = FRAMES, rates: tuple[float, ...] = (RATE,) * 3) -> Path:
    """The folder with its three videos of the same walk and the calibration."""
    root.mkdir(parents=True, exist_ok=True)
    for i, rate in enumerate(rates):
        count = round(frames * rate / RATE)
        pictures = [picture(i, n / rate) for n in range(count)]
        write_video(root / f"cam{i + 1}.avi", pictures, rate)
    (root / "calibration.toml").write_text(calibration())
    return root
