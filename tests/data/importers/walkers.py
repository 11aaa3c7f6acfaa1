"""People who walk through made pictures: drawn limb by limb, so that their place is known."""

from __future__ import annotations

import cv2
import numpy as np

SIZE = (320, 240)  # width, height
RED, BLUE = (60, 60, 210), (200, 90, 40)


def room(seed: int, size: tuple[int, int] = SIZE, detail: int = 12) -> np.ndarray:
    """(H, W, 3) uint8 BGR: patches of colours, different for each seed."""
    rng = np.random.default_rng(seed)
    base = rng.integers(40, 216, 3)
    cells = (size[1] // detail, size[0] // detail, 3)
    noise = np.clip(base + rng.integers(-60, 60, cells), 0, 255).astype(np.uint8)
    return cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)


def draw(
    image: np.ndarray,
    x: float,
    height: float = 140,
    swing: float = 0.0,
    shirt: tuple[int, int, int] = RED,
    feet: float = 220,
) -> np.ndarray:
    """Draw a person whose feet stand at (x, feet); arms and legs `swing` (radians); box (4,)."""
    unit = height / 8
    head, neck, hip = feet - 7.4 * unit, feet - 6.6 * unit, feet - 3.8 * unit
    points = [(x, head - 0.6 * unit)]
    thick = max(round(unit * 0.8), 1)
    limbs = [((x, neck + 0.4 * unit), 3.0, side * 0.3 + swing * side, shirt) for side in (-1, 1)]
    limbs += [((x, hip), 3.6, side * 0.15 + swing * side * 0.6, (60, 50, 40)) for side in (-1, 1)]
    for (start_x, start_y), length, angle, colour in limbs:
        end = (start_x + length * unit * np.sin(angle), start_y + length * unit * np.cos(angle))
        cv2.line(image, _at(start_x, start_y), _at(*end), colour, thick, cv2.LINE_AA)
        points.append(end)
    cv2.line(image, _at(x, neck), _at(x, hip), shirt, round(unit * 1.6), cv2.LINE_AA)
    cv2.circle(image, _at(x, head), round(unit * 0.6), (150, 180, 220), -1, cv2.LINE_AA)
    low, high = np.min(points, axis=0) - thick / 2, np.max(points, axis=0) + thick / 2
    return np.array([low[0], low[1], high[0], high[1]])


def _at(x: float, y: float) -> tuple[int, int]:
    return round(x), round(y)


def noisy(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camera's noise."""
    noise = rng.integers(0, 7, image.shape, dtype=np.uint8)
    return cv2.subtract(cv2.add(image, noise), np.full_like(image, 3))


def walk(
    frames: int,
    start: float,
    stop: float,
    *,
    seed: int = 0,
    shirt: tuple[int, int, int] = RED,
    swings: bool = True,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Pictures of somebody who walks from x = start to stop before a still camera; boxes (n, 4)."""
    rng, background = np.random.default_rng(seed), room(seed)
    pictures, boxes = [], []
    for n in range(frames):
        image = background.copy()
        swing = 0.5 * np.sin(n * 0.45) if swings else 0.0
        place = start + (stop - start) * n / max(frames - 1, 1)
        boxes.append(draw(image, place, swing=swing, shirt=shirt))
        pictures.append(noisy(image, rng))
    return pictures, np.array(boxes)


def pan(seed: int, frames: int, step: float) -> list[np.ndarray]:
    """A camera that turns: a window of the picture's size slides over a wide one."""
    wide = room(seed, (SIZE[0] + round(frames * step) + 1, SIZE[1]))
    return [
        np.ascontiguousarray(wide[:, round(n * step) : round(n * step) + SIZE[0]])
        for n in range(frames)
    ]


def dissolve(first: list[np.ndarray], second: list[np.ndarray], frames: int) -> list[np.ndarray]:
    """The first's end and the second's beginning mixed, more and more of the second."""
    mixed = [
        cv2.addWeighted(a, 1 - (n + 1) / (frames + 1), b, (n + 1) / (frames + 1), 0)
        for n, (a, b) in enumerate(zip(first[-frames:], second[:frames], strict=True))
    ]
    return [*first[:-frames], *mixed, *second[frames:]]
