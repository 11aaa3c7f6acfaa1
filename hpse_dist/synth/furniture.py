"""Things that stand around: tables, chairs, shelves, plants, posts; some in front of the person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hpse_dist.synth.textures import PAINTS, STONES, WOODS, linear, pick

Mesh = tuple[np.ndarray, np.ndarray, np.ndarray]
"""vertices (V, 3), faces (F, 3), colours (F, 3) linear RGB; standing on y = 0 around the y axis."""


@dataclass(frozen=True)
class Furniture:
    """All still things of a scene as one mesh; no triangle shares a vertex with another."""

    vertices: np.ndarray
    """(3F, 3) world."""
    faces: np.ndarray
    """(F, 3)."""
    colours: np.ndarray
    """(F, 3) linear RGB."""


_BOX_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (0, 1) for z in (-0.5, 0.5)])
_BOX_FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
     [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]
)  # fmt: skip


def box(
    size: tuple[float, float, float], at: tuple[float, float, float], colour: np.ndarray
) -> Mesh:
    """A box of width, height and depth standing at `at`."""
    vertices = _BOX_CORNERS * np.array(size) + np.array(at)
    return vertices, _BOX_FACES, np.tile(colour, (12, 1))


def tube(
    radii: tuple[float, ...], heights: tuple[float, ...], colour: np.ndarray, sides: int = 12
) -> Mesh:
    """A turned shape: radii at heights, closed at both ends if the radii there are 0."""
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    rings = [np.stack([r * np.cos(turn), np.full(sides, h), r * np.sin(turn)], 1)
             for r, h in zip(radii, heights, strict=True)]  # fmt: skip
    count = (len(radii) - 1) * sides
    i, j = np.divmod(np.arange(count), sides)
    a, b = i * sides + j, i * sides + (j + 1) % sides
    faces = np.concatenate([np.stack([a, a + sides, b], 1), np.stack([b, a + sides, b + sides], 1)])
    return np.concatenate(rings), faces, np.tile(colour, (len(faces), 1))


def ball(radius: float, at: tuple[float, float, float], colour: np.ndarray) -> Mesh:
    """A sphere around `at`."""
    angle = np.linspace(0, np.pi, 8)
    mesh = tube(
        tuple(np.maximum(radius * np.sin(angle), 1e-4)), tuple(-radius * np.cos(angle)), colour, 14
    )
    return mesh[0] + np.array(at), mesh[1], mesh[2]


def join(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    colours: list[np.ndarray] = []
    count = 0
    for v, f, c in meshes:
        vertices.append(v)
        faces.append(f + count)
        colours.append(c)
        count += len(v)
    return np.concatenate(vertices), np.concatenate(faces), np.concatenate(colours)


def place(mesh: Mesh, x: float, z: float, turn: float) -> Mesh:
    """Turn about y (radians) and move over the floor."""
    c, s = np.cos(turn), np.sin(turn)
    rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return mesh[0] @ rotation.T + np.array([x, 0, z]), mesh[1], mesh[2]


def _table(rng: np.random.Generator) -> Mesh:
    wood, w, d, h = (
        pick(rng, WOODS),
        rng.uniform(0.6, 1.5),
        rng.uniform(0.5, 0.8),
        rng.uniform(0.45, 0.76),
    )
    parts = [box((w, 0.04, d), (0, h - 0.04, 0), wood)]
    for x in (-1, 1):
        for z in (-1, 1):
            parts.append(
                box((0.05, h - 0.04, 0.05), (x * (w / 2 - 0.06), 0, z * (d / 2 - 0.06)), 0.8 * wood)
            )
    for _ in range(rng.integers(0, 4)):
        at = (rng.uniform(-0.4, 0.4) * w, h, rng.uniform(-0.35, 0.35) * d)
        size = (rng.uniform(0.06, 0.3), rng.uniform(0.02, 0.25), rng.uniform(0.06, 0.25))
        parts.append(box(size, at, linear(*rng.uniform(20, 240, 3))))
    return join(*parts)


def _chair(rng: np.random.Generator) -> Mesh:
    colour, seat = pick(rng, WOODS + STONES), pick(rng, WOODS + PAINTS)
    h, w = rng.uniform(0.42, 0.48), rng.uniform(0.4, 0.5)
    parts = [box((w, 0.05, w), (0, h - 0.05, 0), seat)]
    for x in (-1, 1):
        for z in (-1, 1):
            parts.append(box((0.04, h, 0.04), (x * (w / 2 - 0.03), 0, z * (w / 2 - 0.03)), colour))
        parts.append(box((0.04, 0.45, 0.04), (x * (w / 2 - 0.03), h, -w / 2 + 0.03), colour))
    parts.append(box((w, 0.2, 0.03), (0, h + 0.22, -w / 2 + 0.03), seat))
    return join(*parts)


def _shelf(rng: np.random.Generator) -> Mesh:
    wood, w, h, d = pick(rng, WOODS + PAINTS), rng.uniform(0.7, 1.5), rng.uniform(1.0, 2.1), 0.32
    parts = [box((w, h, 0.03), (0, 0, -d / 2), 0.7 * wood)]
    for x in (-1, 1):
        parts.append(box((0.03, h, d), (x * w / 2, 0, 0), wood))
    levels = np.arange(0.05, h, rng.uniform(0.3, 0.42)).tolist()
    for level in levels:
        parts.append(box((w, 0.03, d), (0, level, 0), wood))
        spot = -w / 2 + 0.05
        while spot < w / 2 - 0.1 and level < levels[-1]:
            wide = rng.uniform(0.03, 0.16)
            if rng.random() < 0.8:
                size = (wide, rng.uniform(0.12, 0.26), 0.2)
                parts.append(
                    box(size, (spot + wide / 2, level + 0.03, 0), linear(*rng.uniform(15, 225, 3)))
                )
            spot += wide + 0.01
    return join(*parts)


def _cupboard(rng: np.random.Generator) -> Mesh:
    colour = pick(rng, WOODS + PAINTS)
    w, h, d = rng.uniform(0.5, 1.4), rng.uniform(0.6, 2.0), rng.uniform(0.35, 0.6)
    doors = rng.integers(1, 4)
    parts = [box((w, h, d), (0, 0, 0), colour)]
    for k in range(doors):
        x = (k + 0.5) / doors * w - w / 2
        parts.append(box((w / doors - 0.03, h - 0.1, 0.02), (x, 0.05, d / 2), 0.88 * colour))
        parts.append(
            box((0.02, 0.1, 0.03), (x + 0.3 * w / doors, h / 2, d / 2 + 0.02), 0.3 * colour)
        )
    return join(*parts)


def _sofa(rng: np.random.Generator) -> Mesh:
    cloth, w = linear(*rng.uniform(30, 200, 3)), rng.uniform(0.9, 2.0)
    parts = [
        box((w, 0.4, 0.8), (0, 0.03, 0), cloth),
        box((w, 0.5, 0.2), (0, 0.4, -0.32), 0.92 * cloth),
        box((0.18, 0.58, 0.8), (-w / 2, 0.03, 0), 0.95 * cloth),
        box((0.18, 0.58, 0.8), (w / 2, 0.03, 0), 0.95 * cloth),
    ]
    return join(*parts)


def _plant(rng: np.random.Generator) -> Mesh:
    pot = tube(
        (0.001, 0.12, 0.17, 0.15, 0.001), (0, 0.001, 0.26, 0.27, 0.26), pick(rng, STONES + WOODS)
    )
    parts = [pot, tube((0.02, 0.015), (0.2, 0.7), linear(70, 56, 38), 6)]
    for _ in range(rng.integers(8, 16)):
        at = (rng.normal(0, 0.13), rng.uniform(0.5, 1.3), rng.normal(0, 0.13))
        green = linear(*(np.array([62, 96, 48]) * rng.uniform(0.6, 1.4)))
        leaf = ball(rng.uniform(0.07, 0.16), (0, 0, 0), green)
        squash = leaf[0] * np.array([1.0, rng.uniform(0.2, 0.9), 0.7]) + np.array(at)
        parts.append((squash, leaf[1], leaf[2]))
    return join(*parts)


def _lamp(rng: np.random.Generator) -> Mesh:
    pole = tube((0.14, 0.14, 0.015, 0.015), (0, 0.02, 0.03, 1.5), linear(60, 60, 64), 10)
    shade = tube((0.2, 0.12), (1.42, 1.75), linear(244, 232, 200), 14)
    return join(pole, shade)


def _crate(rng: np.random.Generator) -> Mesh:
    colour = linear(*(np.array([176, 136, 92]) * rng.uniform(0.6, 1.2)))
    if rng.random() < 0.4:
        colour = linear(*rng.uniform(30, 210, 3))
    w, h, d = rng.uniform(0.3, 0.8), rng.uniform(0.25, 0.75), rng.uniform(0.3, 0.7)
    band = box((w + 0.01, 0.07, d + 0.01), (0, h * 0.45, 0), 0.75 * colour)
    return join(box((w, h, d), (0, 0, 0), colour), band)


def _post(rng: np.random.Generator) -> Mesh:
    colour, r, h = pick(rng, STONES + WOODS), rng.uniform(0.04, 0.12), rng.uniform(1.0, 2.6)
    return tube((r, r, 0.001), (0, h, h), colour)


def _barrier(rng: np.random.Generator) -> Mesh:
    colour, w, h = linear(*rng.uniform(40, 230, 3)), rng.uniform(0.8, 2.0), rng.uniform(0.5, 1.0)
    parts = [box((0.05, h, 0.05), (s * w / 2, 0, 0), 0.6 * colour) for s in (-1, 0, 1)]
    parts += [box((w, 0.07, 0.03), (0, y * h, 0), colour) for y in (0.4, 0.9)]
    return join(*parts)


def _toy(rng: np.random.Generator) -> Mesh:
    r = rng.uniform(0.1, 0.35)
    return ball(r, (0, r, 0), linear(*rng.uniform(30, 235, 3)))


def _tree(rng: np.random.Generator) -> Mesh:
    trunk = tube((0.2, 0.14, 0.1), (0, 0.8, 2.6), linear(86, 66, 48), 9)
    parts = [trunk]
    base = np.array([(66, 92, 44), (92, 110, 52), (120, 100, 44)][rng.integers(3)])
    for _ in range(rng.integers(9, 16)):
        crown = ball(rng.uniform(0.4, 0.9), (0, 0, 0), linear(*(base * rng.uniform(0.6, 1.35))))
        at = np.array([rng.normal(0, 0.6), rng.uniform(2.2, 4.4), rng.normal(0, 0.6)])
        parts.append((crown[0] * np.array([1, 0.8, 1]) + at, crown[1], crown[2]))
    return join(*parts)


def _bush(rng: np.random.Generator) -> Mesh:
    parts = []
    for _ in range(rng.integers(6, 12)):
        green = linear(*(np.array([70, 92, 50]) * rng.uniform(0.6, 1.35)))
        at = (rng.normal(0, 0.3), rng.uniform(0.1, 0.6), rng.normal(0, 0.3))
        parts.append(ball(rng.uniform(0.15, 0.35), at, green))
    return join(*parts)


def _bench(rng: np.random.Generator) -> Mesh:
    wood, w = pick(rng, WOODS), rng.uniform(1.2, 1.8)
    parts = [box((w, 0.03, 0.1), (0, 0.42, 0.12 * k - 0.12), wood) for k in range(3)]
    parts += [box((w, 0.1, 0.03), (0, y, -0.24), wood) for y in (0.55, 0.72)]
    parts += [
        box((0.06, 0.82, 0.06), (s * w * 0.42, 0, -0.22), linear(60, 60, 62)) for s in (-1, 1)
    ]
    parts += [box((0.06, 0.42, 0.06), (s * w * 0.42, 0, 0.14), linear(60, 60, 62)) for s in (-1, 1)]
    return join(*parts)


def _car(rng: np.random.Generator) -> Mesh:
    colour, glass, black = linear(*rng.uniform(20, 235, 3)), linear(50, 60, 70), linear(24, 24, 26)
    parts = [
        box((4.2, 0.55, 1.75), (0, 0.3, 0), colour),
        box((2.2, 0.5, 1.55), (-0.2, 0.85, 0), glass),
        box((2.0, 0.06, 1.5), (-0.2, 1.35, 0), colour),
    ]
    for x in (-1.3, 1.3):
        for z in (-0.85, 0.85):
            wheel = tube((0.001, 0.32, 0.32, 0.001), (-0.1, -0.1, 0.1, 0.1), black)
            parts.append((wheel[0][:, [0, 2, 1]] + np.array([x, 0.32, z]), wheel[1], wheel[2]))
    return join(*parts)


INDOOR: tuple[Callable[[np.random.Generator], Mesh], ...] = (
    _table, _chair, _shelf, _cupboard, _sofa, _plant, _lamp, _crate, _shelf,
)  # fmt: skip
OUTDOOR: tuple[Callable[[np.random.Generator], Mesh], ...] = (
    _tree, _bush, _bench, _car, _post, _tree, _bush, _barrier,
)  # fmt: skip
FRONT: tuple[Callable[[np.random.Generator], Mesh], ...] = (
    _chair, _table, _crate, _post, _barrier, _plant, _toy,
)  # fmt: skip


def draw_furniture(
    rng: np.random.Generator,
    *,
    path: np.ndarray,
    half: np.ndarray,
    eyes: np.ndarray,
    outdoors: bool,
    seat: tuple[float, float, float] | None,
) -> Furniture:
    """Things along the walls or in the open, sometimes one between a camera and the person.

    path (M, 2) of the pelvis, half (3,) of the room, eyes (C, 3) of the cameras.
    """
    meshes: list[Mesh] = []
    if seat is not None:
        meshes.append(_seat(rng, *seat))
    for _ in range(rng.integers(3, 9)):
        makers = OUTDOOR if outdoors else INDOOR
        mesh = makers[rng.integers(len(makers))](rng)
        spot = _far_spot(rng, half, outdoors)
        size = float(np.abs(mesh[0][:, [0, 2]]).max())
        turn = float(np.arctan2(-spot[0], -spot[1]) + rng.normal(0, 0.2))
        clear = np.hypot(*(eyes[:, [0, 2]] - spot).T).min() > size + 0.35
        if clear and np.hypot(*(path - spot).T).min() > size + 1.0:
            meshes.append(place(mesh, float(spot[0]), float(spot[1]), turn))
    if rng.random() < 0.35:
        eye = eyes[rng.integers(len(eyes)), [0, 2]]
        near = path[rng.integers(len(path))]
        away = (eye - near) / max(np.hypot(*(eye - near)), 1e-6)
        mesh = FRONT[rng.integers(len(FRONT))](rng)
        size = float(np.abs(mesh[0][:, [0, 2]]).max())
        sideways = rng.normal(0, 0.25) * np.array([away[1], -away[0]])
        spot = near + away * (size + rng.uniform(0.6, 1.0)) + sideways
        clear = np.hypot(*(eyes[:, [0, 2]] - spot).T).min() > size + 0.4
        if clear and np.hypot(*(path - spot).T).min() > size + 0.5:
            meshes.append(place(mesh, float(spot[0]), float(spot[1]), rng.uniform(0, 6.28)))
    if not meshes:  # embree needs one triangle; this one lies under the floor
        meshes.append(box((0.1, 0.1, 0.1), (0, -1, 0), linear(0, 0, 0)))
    vertices, faces, colours = join(*meshes)
    flat = vertices[faces].reshape(-1, 3)
    return Furniture(flat, np.arange(len(flat)).reshape(-1, 3), colours.astype(np.float32))


def _far_spot(rng: np.random.Generator, half: np.ndarray, outdoors: bool) -> np.ndarray:
    """x and z along a wall, or anywhere outdoors."""
    if outdoors:
        turn, distance = rng.uniform(0, 2 * np.pi), rng.uniform(3.0, 14.0)
        return distance * np.array([np.cos(turn), np.sin(turn)])
    spot = rng.uniform(-0.9, 0.9, 2) * half[[0, 2]]
    wall = rng.integers(2)
    spot[wall] = (half[[0, 2]][wall] - rng.uniform(0.3, 0.6)) * (1 if rng.random() < 0.5 else -1)
    return spot


def _seat(rng: np.random.Generator, x: float, z: float, height: float) -> Mesh:
    """A stool, a crate or a block of the right height."""
    colour = pick(rng, WOODS + STONES + PAINTS)
    kind = rng.integers(3)
    if kind == 0:
        mesh = box((0.42, height, 0.42), (0, 0, 0), colour)
    elif kind == 1:
        mesh = tube((0.19, 0.19, 0.001), (0, height, height), colour, 16)
    else:
        parts = [box((0.4, 0.05, 0.4), (0, height - 0.05, 0), colour)]
        parts += [box((0.04, height, 0.04), (a * 0.16, 0, b * 0.16), 0.7 * colour)
                  for a in (-1, 1) for b in (-1, 1)]  # fmt: skip
        mesh = join(*parts)
    return place(mesh, x, z, rng.uniform(0, 1.5))
