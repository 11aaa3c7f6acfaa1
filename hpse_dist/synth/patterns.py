"""Cloth: colours as functions of the place on the body, so that they are the same in every view."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from hpse_dist.synth.surface import Places
from hpse_dist.synth.textures import abstract, linear

Cloth = Callable[[Places, np.ndarray], np.ndarray]
"""(places, indices (n,)) -> linear RGB (n, 3)."""


def ripple(
    rng: np.random.Generator, point: np.ndarray, length: float, waves: int = 5
) -> np.ndarray:
    """Smooth noise over space, about -1..1: (N, 3) metres -> (N,); `length` its typical size."""
    direction = rng.normal(size=(waves, 3))
    direction *= 2 * np.pi / length / np.linalg.norm(direction, axis=1, keepdims=True)
    direction *= rng.uniform(0.5, 1.6, (waves, 1))
    angle = point @ direction.T.astype(np.float32) + rng.uniform(0, 6.28, waves).astype(np.float32)
    total: np.ndarray = np.sin(angle, out=angle).sum(1) * np.float32((2 / waves) ** 0.5)
    return total


def dye(rng: np.random.Generator) -> np.ndarray:
    """The colour of a garment, linear (3,): grey, black, white and navy as often as colours."""
    kind = rng.random()
    if kind < 0.14:
        level = rng.uniform(18, 52)
        return linear(*np.clip(level + rng.normal(0, 4, 3), 5, 255))
    if kind < 0.27:
        return linear(*np.clip(rng.uniform(205, 242) + rng.normal(0, 5, 3), 0, 250))
    if kind < 0.38:
        level = rng.uniform(70, 185)
        return linear(*np.clip(level + rng.normal(0, 5, 3), 5, 255))
    hue, saturation = rng.random(), rng.beta(2.2, 2.4)
    value = rng.uniform(0.25, 0.88)
    if kind < 0.52:  # navy and denim blues
        hue, saturation, value = (
            rng.uniform(0.56, 0.64),
            rng.uniform(0.3, 0.8),
            rng.uniform(0.2, 0.6),
        )
    hsv = np.array([[[hue * 360, saturation, value]]], dtype=np.float32)
    red, green, blue = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0] * 255
    return linear(red, green, blue)


def sober_dye(rng: np.random.Generator) -> np.ndarray:
    """A colour for trousers and skirts: mostly dark, grey, denim or sand."""
    kind = rng.random()
    if kind < 0.2:
        return dye(rng)
    if kind < 0.5:
        return linear(*np.clip(rng.uniform(18, 75) + rng.normal(0, 4, 3), 5, 255))
    if kind < 0.75:
        return linear(
            *(np.array([62, 82, 116]) * rng.uniform(0.5, 1.5) + rng.normal(0, 4, 3)).clip(5)
        )
    if kind < 0.9:
        return linear(*(np.array([176, 158, 128]) * rng.uniform(0.6, 1.2)).clip(5, 245))
    return linear(*np.clip(rng.uniform(110, 225) + rng.normal(0, 4, 3), 5, 255))


def contrast(rng: np.random.Generator, colour: np.ndarray) -> np.ndarray:
    """A second dye that can be told from the first."""
    for _ in range(8):
        other = dye(rng)
        if np.abs(other**0.45 - colour**0.45).max() > 0.25:
            break
    return other


def draw_cloth(rng: np.random.Generator, kind: str = "", colour: np.ndarray | None = None) -> Cloth:
    """A random cloth, or one of the named kinds of CLOTHS."""
    names, shares = zip(*_SHARES.items(), strict=True)
    kind = kind or str(rng.choice(names, p=np.array(shares) / sum(shares)))
    first = dye(rng) if colour is None else colour
    return CLOTHS[kind](rng, first, contrast(rng, first))


def _plain(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    return lambda places, at: np.broadcast_to(first, (len(at), 3)).copy()


def _mix(on: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where(on[:, None], second, first).astype(np.float32)


def _stripes(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    period, share = rng.uniform(0.05, 0.14), rng.uniform(0.25, 0.6)
    upright = rng.random() < 0.3

    def cloth(places: Places, at: np.ndarray) -> np.ndarray:
        value = (places.around if upright else places.along)[at]
        return _mix((value / period) % 1 < share, first, second)

    return cloth


def _checks(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    period, share = rng.uniform(0.06, 0.13), rng.uniform(0.25, 0.5)
    line = contrast(rng, first)

    def cloth(places: Places, at: np.ndarray) -> np.ndarray:
        a, b = (places.along[at] / period) % 1, (places.around[at] / period) % 1
        weave = 0.5 * (a < share).astype(np.float32) + 0.5 * (b < share)
        colour = first + weave[:, None] * (second - first)
        return _mix((np.abs(a - 0.75) < 0.05) | (np.abs(b - 0.75) < 0.05), colour, line)

    return cloth


def _dots(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    period, size = rng.uniform(0.05, 0.11), rng.uniform(0.06, 0.14)

    def cloth(places: Places, at: np.ndarray) -> np.ndarray:
        a, b = places.along[at] / period, places.around[at] / period
        b = b + 0.5 * (np.floor(a) % 2)
        return _mix(((a % 1 - 0.5) ** 2 + (b % 1 - 0.5) ** 2) < size, first, second)

    return cloth


def _blobs(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    size, third = rng.uniform(0.08, 0.25), contrast(rng, first)
    seeds = rng.integers(0, 2**31, 2)

    def cloth(places: Places, at: np.ndarray) -> np.ndarray:
        one, two = (
            ripple(np.random.default_rng(seed), places.point[at], size, 7) for seed in seeds
        )
        return _mix(two > 0.55, _mix(one > 0.1, first, second), third)

    return cloth


def _wash(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    """Denim and washed cloth: paler in patches."""
    seed = rng.integers(0, 2**31)
    pale = np.minimum(1.9 * first + 0.05, 0.9)

    def cloth(places: Places, at: np.ndarray) -> np.ndarray:
        share = ripple(np.random.default_rng(seed), places.point[at], 0.25, 6) * 0.25 + 0.3
        return (first + np.clip(share, 0, 1)[:, None] * (pale - first)).astype(np.float32)

    return cloth


def _fade(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    middle, width = rng.uniform(0.0, 0.3), rng.uniform(0.05, 0.3)

    def cloth(places: Places, at: np.ndarray) -> np.ndarray:
        share = np.clip((places.point[at, 1] - middle) / width + 0.5, 0, 1)
        return (first + share[:, None] * (second - first)).astype(np.float32)

    return cloth


def _blocks(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    """Colour blocks: halves, a band, contrasting sleeves or stripes down the sides."""
    kind = rng.integers(4)
    low, high = np.sort(rng.uniform(0.05, 0.42, 2)) + np.array([0.0, 0.06])
    third = contrast(rng, second)

    def cloth(places: Places, at: np.ndarray) -> np.ndarray:
        point = places.point[at]
        if kind == 0:
            return _mix(point[:, 0] > 0, first, second)
        if kind == 1:
            band = (point[:, 1] > low) & (point[:, 1] < high) & (places.arm[at] < 0.05)
            return _mix(band, first, second)
        if kind == 2:
            cuff = (places.arm[at] > 1.6) | (places.leg[at] > 1.6)
            return _mix(cuff, _mix((places.arm[at] > -0.2), first, second), third)
        return _mix(np.abs(np.abs(places.around[at] / 0.07) - 1.57) < 0.25, first, second)

    return cloth


def _print(rng: np.random.Generator, first: np.ndarray, second: np.ndarray) -> Cloth:
    """A plain shirt with a picture on the chest and a sign on the back."""
    size, height = rng.uniform(0.12, 0.26), rng.uniform(0.26, 0.38)
    picture = abstract(rng, (24, 24))
    back = rng.random() < 0.6
    letters = (rng.random((5, 9)) < 0.55) & (np.arange(9) % 3 < 2)

    def cloth(places: Places, at: np.ndarray) -> np.ndarray:
        point = places.point[at]
        colour = np.broadcast_to(first, (len(at), 3)).copy()
        column, row = point[:, 0] / size + 0.5, (height - point[:, 1]) / size + 0.5
        inside = (column >= 0) & (column < 1) & (row >= 0) & (row < 1)
        chest = inside & (point[:, 2] > 0)
        colour[chest] = picture[(row[chest] * 24).astype(int), (column[chest] * 24).astype(int)]
        if back:
            sign = inside & (point[:, 2] <= 0)
            on = letters[(row[sign] * 5).astype(int), (column[sign] * 9).astype(int)]
            colour[np.flatnonzero(sign)[on]] = second
        return colour

    return cloth


CLOTHS: dict[str, Callable[[np.random.Generator, np.ndarray, np.ndarray], Cloth]] = {
    "plain": _plain,
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "blobs": _blobs,
    "wash": _wash,
    "fade": _fade,
    "blocks": _blocks,
    "print": _print,
}
"""Kinds of cloth: (rng, first colour, second colour) -> Cloth."""

_SHARES = {
    "plain": 3.0, "stripes": 1.6, "checks": 1.5, "dots": 0.8, "blobs": 0.8, "wash": 0.8,
    "fade": 0.5, "blocks": 1.3, "print": 1.6,
}  # fmt: skip
