"""Where synthetic people are: a room or a view outdoors, lamps, furniture, and a rig of cameras.

World: metres, y up, floor at y = 0, the person's path around the origin. A scene is drawn once per
sequence and shared by all its cameras and moments, so that views of one moment show one world.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hpse_dist.synth import textures
from hpse_dist.synth.furniture import Furniture, draw_furniture
from hpse_dist.synth.textures import linear


@dataclass(frozen=True)
class Camera:
    """A calibrated camera: x right, y down, z forward; its full picture is never rendered."""

    rotation: np.ndarray
    """(3, 3) world to camera."""
    translation: np.ndarray
    """(3,) world to camera, metres."""
    focal: float
    """In pixels of the full picture."""
    exposure: np.ndarray
    """(3,) gain of red, green and blue."""
    blur: float
    """Blur of the optics, pixels of the crop."""
    grain: float
    """Noise of the sensor, share of full scale."""

    @property
    def eye(self) -> np.ndarray:
        """(3,) where the camera is in the world."""
        place: np.ndarray = -self.rotation.T @ self.translation
        return place


@dataclass(frozen=True)
class Light:
    """A far lamp or the sun, and what comes from everywhere."""

    direction: np.ndarray
    """(3,) unit, towards the lamp."""
    colour: np.ndarray
    """(3,) strength on a surface that faces it."""
    sky: np.ndarray
    """(3,) from above."""
    ground: np.ndarray
    """(3,) from below."""
    softness: float
    """Spread of the lamp, radians: how soft its shadows are."""


@dataclass(frozen=True)
class Wall:
    """One inner side of the box around the scene, with its picture."""

    axis: int
    """0, 1 or 2: which coordinate is constant."""
    upper: bool
    """Whether it is the side with the larger coordinate."""
    across: tuple[int, int]
    """Coordinates that run along the picture's columns and rows."""
    scale: float
    """Texels per metre."""
    pyramid: tuple[np.ndarray, ...]
    """(H, W, 3) linear RGB, each half the size of the one before."""
    repeat: bool
    """Whether the picture is repeated, mirrored, instead of covering the whole side."""


@dataclass(frozen=True)
class Scene:
    """One place with its cameras."""

    low: np.ndarray
    """(3,) corner of the box around everything."""
    high: np.ndarray
    """(3,) the opposite corner."""
    walls: tuple[Wall, ...]
    """Six sides."""
    light: Light
    furniture: Furniture
    cameras: tuple[Camera, ...]


def draw_scene(
    rng: np.random.Generator,
    *,
    num_cameras: int,
    path: np.ndarray,
    seat: tuple[float, float, float] | None = None,
) -> Scene:
    """A random scene around a person whose pelvis moves along path (M, 2), x and z in metres.

    seat: x, z and height of something to sit on.
    """
    extent = float(np.abs(path).max()) if len(path) else 0.0
    outdoors = rng.random() < 0.38
    cameras = draw_rig(rng, num_cameras, extent)
    reach = max(float(np.abs(c.eye[[0, 2]]).max()) for c in cameras)
    if outdoors:
        half = np.array([rng.uniform(18, 32), 0, rng.uniform(18, 32)])
        top = 22.0
    else:
        half = reach + 0.3 + rng.uniform(0.0, 2.0, 3)
        top = rng.uniform(2.7, 4.5) + 0.5 * (extent > 1.5)
    low, high = np.array([-half[0], 0.0, -half[2]]), np.array([half[0], top, half[2]])
    light = draw_light(rng, outdoors)
    walls = _walls(rng, low, high, light, outdoors)
    eyes = np.stack([c.eye for c in cameras])
    furniture = draw_furniture(rng, path=path, half=half, eyes=eyes, outdoors=outdoors, seat=seat)
    return Scene(low, high, walls, light, furniture, cameras)


def draw_light(rng: np.random.Generator, outdoors: bool) -> Light:
    """Sun and sky, or a lamp and bright walls."""
    high, turn = np.radians(rng.uniform(32, 75)), rng.uniform(0, 2 * np.pi)
    direction = np.array(
        [np.cos(high) * np.cos(turn), np.sin(high), np.cos(high) * np.sin(turn)], dtype=np.float32
    )
    if outdoors:
        cloudy = rng.random() < 0.4
        strength, ambient = (
            (0.25, 0.85) if cloudy else (rng.uniform(0.7, 1.0), rng.uniform(0.3, 0.5))
        )
        sun, sky = np.array([1.0, 0.93, 0.82]), np.array([0.88, 0.95, 1.06])
        softness = 0.25 if cloudy else 0.03
    else:
        strength, ambient = rng.uniform(0.3, 0.75), rng.uniform(0.4, 0.65)
        warm = rng.uniform(0, 1)
        sun = np.array([1.0, 0.98 - 0.12 * warm, 0.98 - 0.3 * warm])
        sky = np.array([1.0, 1.0 - 0.04 * warm, 1.0 - 0.1 * warm])
        softness = rng.uniform(0.08, 0.22)
    ground = 0.55 * ambient * np.array([1.0, 0.95, 0.88])
    return Light(
        direction,
        (strength * sun).astype(np.float32),
        (ambient * sky).astype(np.float32),
        ground.astype(np.float32),
        softness,
    )


def draw_rig(rng: np.random.Generator, count: int, extent: float) -> tuple[Camera, ...]:
    """Cameras around the origin: spread over a full circle or an arc, at varied heights."""
    arc = rng.choice([2 * np.pi, rng.uniform(0.3, 1.0) * np.pi])
    gaps = arc / count if arc > 6.2 else arc / max(count - 1, 1)
    start = rng.uniform(0, 2 * np.pi)
    cameras = []
    for k in range(count):
        turn = start + k * gaps + rng.normal(0, 0.12) * min(gaps, 1.0)
        distance = extent + rng.uniform(2.3, 4.6)
        height = rng.choice([rng.uniform(0.3, 1.0), rng.uniform(1.0, 2.0), rng.uniform(2.0, 2.6)],
                            p=[0.2, 0.6, 0.2])  # fmt: skip
        eye = np.array([distance * np.sin(turn), height, distance * np.cos(turn)])
        target = np.array([rng.normal(0, 0.15), rng.uniform(0.7, 1.1), rng.normal(0, 0.15)])
        rotation = _facing(target - eye, roll=rng.normal(0, 0.03))
        gain = rng.uniform(0.85, 1.15) * (1 + rng.normal(0, 0.03, 3))
        cameras.append(
            Camera(
                rotation=rotation,
                translation=-rotation @ eye,
                focal=float(rng.uniform(700, 1600)),
                exposure=gain.astype(np.float32),
                blur=float(rng.choice([0.0, 0.0, rng.uniform(0.3, 0.5)])),
                grain=float(rng.uniform(0.0, 0.018)),
            )
        )
    return tuple(cameras)


def _facing(forward: np.ndarray, roll: float) -> np.ndarray:
    """World-to-camera rotation (3, 3) of a camera that looks along `forward`."""
    z = forward / np.linalg.norm(forward)
    x = np.cross(z, [0.0, 1.0, 0.0])
    x /= np.linalg.norm(x)
    y = np.cross(z, x)  # down
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * x + s * y, c * y - s * x, z])


# --- the box around the scene -------------------------------------------------------------------


def _walls(
    rng: np.random.Generator, low: np.ndarray, high: np.ndarray, light: Light, outdoors: bool
) -> tuple[Wall, ...]:
    size = high - low
    if outdoors:
        return _outdoor_walls(rng, size, light)
    painter = textures.WALLS[rng.integers(len(textures.WALLS))]
    accent = textures.WALLS[rng.integers(len(textures.WALLS))]
    odd, seed = rng.integers(4), rng.integers(2**31)
    walls = [_floor(rng, size, light, textures.FLOORS), _ceiling(rng, light)]
    scale = 40.0
    for k, (axis, upper) in enumerate(((0, False), (0, True), (2, False), (2, True))):
        own = accent if k == odd and rng.random() < 0.5 else painter
        other = 2 if axis == 0 else 0
        shape = (int(size[1] * scale), int(size[other] * scale))
        # walls in the same paint look the same, an accent wall does not
        picture = own(np.random.default_rng(seed if own is painter else seed + 1), shape, scale)
        textures.furnish_wall(rng, picture, scale)
        inward = np.zeros(3)
        inward[axis] = -1.0 if upper else 1.0
        lit = max(float(inward @ light.direction), 0.0) * 0.6 * light.colour
        rows = np.linspace(1.0, 0.72, shape[0], dtype=np.float32)[:, None, None]
        picture = picture * rows * (lit + 0.5 * (light.sky + light.ground)).astype(np.float32)
        walls.append(Wall(axis, upper, (other, 1), scale, _pyramid(picture), repeat=False))
    return tuple(walls)


def _floor(
    rng: np.random.Generator, size: np.ndarray, light: Light, painters: tuple[textures.Painter, ...]
) -> Wall:
    painter = painters[rng.integers(len(painters))]
    scale = 50.0
    shape = (int(min(float(size[2]), 9.0) * scale), int(min(float(size[0]), 9.0) * scale))
    picture = painter(rng, shape, scale)
    if rng.random() < 0.5:
        picture = picture[::-1].transpose(1, 0, 2)  # boards run the other way
    return Wall(1, False, (0, 2), scale, _pyramid(np.ascontiguousarray(picture)), repeat=True)


def _ceiling(rng: np.random.Generator, light: Light) -> Wall:
    picture = np.broadcast_to(linear(238, 238, 234), (64, 64, 3)) * (0.5 * light.sky + light.ground)
    picture = picture.astype(np.float32).copy()
    if rng.random() < 0.6:
        picture[24:40, 12:52] = 1.2  # a lamp
    return Wall(1, True, (0, 2), 24.0, _pyramid(picture), repeat=True)


def _outdoor_walls(rng: np.random.Generator, size: np.ndarray, light: Light) -> tuple[Wall, ...]:
    walls = [_floor(rng, size, light, textures.GROUNDS)]
    seed, scale = rng.integers(2**31), 14.0
    bright = (0.75 * light.sky + 0.55 * light.colour).astype(np.float32)
    tall = int(size[1] * scale)
    round_trip = int(2 * (size[0] + size[2]) * scale)
    # one panorama cut into four sides, so that the horizon goes through the corners
    view = textures.skyline(np.random.default_rng(seed), (tall, round_trip), scale) * bright
    overhead = np.broadcast_to(view[0].mean(0), (8, 8, 3)).astype(np.float32).copy()
    walls.append(Wall(1, True, (0, 2), 1.0, _pyramid(overhead), repeat=True))
    start = 0
    for axis, upper in ((0, False), (2, False), (0, True), (2, True)):
        other = 2 if axis == 0 else 0
        width = int(size[other] * scale)
        picture = np.ascontiguousarray(view[:, start : start + width])
        walls.append(Wall(axis, upper, (other, 1), scale, _pyramid(picture), repeat=False))
        start += width
    return tuple(walls)


def _pyramid(picture: np.ndarray) -> tuple[np.ndarray, ...]:
    levels: list[np.ndarray] = [picture.astype(np.float32)]
    while min(levels[-1].shape[:2]) > 8 and len(levels) < 7:
        half = (max(levels[-1].shape[1] // 2, 1), max(levels[-1].shape[0] // 2, 1))
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return tuple(levels)
