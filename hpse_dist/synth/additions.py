"""What people wear that is not skin: long hair, ponytails, skirts, bags, brims, as extra meshes.

Each is modelled on the template and skinned to SMPL's joints like the body itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpse_dist.synth.surface import BodySurface


@dataclass(frozen=True)
class Addition:
    """A mesh on the template."""

    vertices: np.ndarray
    """(V, 3) template positions."""
    faces: np.ndarray
    """(F, 3) of its own vertices."""
    weights: np.ndarray
    """(V, 24) skinning weights."""
    colour: np.ndarray
    """(F, 3) linear RGB of each triangle."""


def _sheet(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Triangles of a grid of rows x columns vertices; closed: the last column meets the first."""
    wide = columns if closed else columns - 1
    i, j = np.divmod(np.arange((rows - 1) * wide), wide)
    k = (j + 1) % columns
    a, b, c, d = i * columns + j, i * columns + k, (i + 1) * columns + j, (i + 1) * columns + k
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])


def _rigid(count: int, joint: int) -> np.ndarray:
    weights: np.ndarray = np.zeros((count, 24), dtype=np.float32)
    weights[:, joint] = 1.0
    return weights


def _strands(rng: np.random.Generator, count: int, colour: np.ndarray) -> np.ndarray:
    """Hair colours of `count` triangles."""
    tone: np.ndarray = colour * (1 + 0.18 * rng.standard_normal((count, 1)).clip(-2, 2))
    return tone.astype(np.float32)


def long_hair(
    rng: np.random.Generator, body: BodySurface, colour: np.ndarray, length: float, volume: float
) -> Addition:
    """Hair falling over neck and back; `length` metres below the ears, `volume` metres of depth."""
    unit, nose = body.head_unit, body.nose
    rows, columns = 9, 25
    share = np.linspace(0, 1, rows)[:, None]
    angle = np.linspace(-1, 1, columns)[None] * rng.uniform(1.75, 2.2)  # 0 at the back of the head
    ear = nose[1] + 0.45 * unit
    y = ear + 0.25 * unit - share * (length + 0.25 * unit)
    narrow = 1 - 0.12 * np.sin(np.pi * np.clip(1.6 * share, 0, 1))
    wave = 0.006 * np.sin(share * 14 + 4 * angle + rng.uniform(0, 6)) * share
    x = (0.57 * unit + volume) * narrow * np.sin(angle) + wave
    middle = nose[2] - 0.72 * unit
    z = middle - (0.66 * unit + volume) * narrow * np.cos(angle) + wave
    low = np.clip(
        (body.joints[12, 1] + 0.01 - y) / 0.08, 0, 1
    )  # below the neck it lies on the back
    behind = _back_of(body, y) - 0.012 - 0.02 * np.abs(np.cos(angle))
    z = np.where(low > 0, np.minimum(z, z + low * (np.minimum(z, behind) - z)), z)
    vertices = np.stack(np.broadcast_arrays(x, y, z), -1).reshape(-1, 3)
    weights = _rigid(len(vertices), 15)
    fall = (0.75 * low * np.ones_like(angle)).reshape(-1)
    weights[:, 15], weights[:, 9] = 1 - fall, fall
    faces = _sheet(rows, columns, closed=False)
    return Addition(vertices, faces, weights, _strands(rng, len(faces), colour))


def _back_of(body: BodySurface, y: np.ndarray) -> np.ndarray:
    """Smallest z of the trunk at heights y (any shape)."""
    trunk = body.at_vertices.arm < -0.2
    points = body.template[trunk & (np.abs(body.template[:, 0]) < 0.16)]
    edges = np.linspace(points[:, 1].min(), points[:, 1].max(), 60)
    slot = np.clip(np.digitize(points[:, 1], edges), 0, 59)
    depth = np.full(60, 0.0)
    np.minimum.at(depth, slot, points[:, 2])
    result: np.ndarray = np.interp(y, edges, depth)
    return result


def blob(
    centre: np.ndarray, radii: np.ndarray, joint: int, colour: np.ndarray, rings: int = 7
) -> Addition:
    """An ellipsoid fixed to a joint: buns, brims, balls of wool."""
    polar = np.linspace(0.02, np.pi - 0.02, rings)[:, None]
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)[None]
    unit = np.stack(
        np.broadcast_arrays(
            np.sin(polar) * np.cos(turn), np.cos(polar), -np.sin(polar) * np.sin(turn)
        ),
        -1,
    ).reshape(-1, 3)
    vertices = centre + unit * radii
    faces = _sheet(rings, 12, closed=True)
    colours = np.broadcast_to(colour, (len(faces), 3)).astype(np.float32)
    return Addition(vertices, faces, _rigid(len(vertices), joint), colours)


def ponytail(rng: np.random.Generator, body: BodySurface, colour: np.ndarray) -> Addition:
    """A tail of hair from the back of the head."""
    unit, nose = body.head_unit, body.nose
    length, rows, columns = rng.uniform(0.14, 0.34), 8, 8
    share = np.linspace(0, 1, rows)[:, None]
    start = np.array([0.0, nose[1] + rng.uniform(0.4, 0.95) * unit, nose[2] - 1.42 * unit])
    thick = 0.03 * np.sin(np.pi * np.clip(0.12 + 0.86 * share, 0, 1)) ** 0.6 + 0.004
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    back = 0.07 * np.sin(np.pi * 0.5 * np.minimum(share * 2, 1)) - 0.02
    x = start[0] + thick * np.cos(turn)
    y = start[1] + 0.03 * np.sin(np.pi * share) - length * share + 0 * turn
    z = start[2] - back - thick * np.sin(turn)
    vertices = np.stack(np.broadcast_arrays(x, y, z), -1).reshape(-1, 3)
    weights = _rigid(len(vertices), 15)
    faces = _sheet(rows, columns, closed=True)[:, ::-1]
    return Addition(vertices, faces, weights, _strands(rng, len(faces), colour))


def skirt(
    rng: np.random.Generator, body: BodySurface, colour: np.ndarray, second: np.ndarray
) -> Addition:
    """A skirt from the waist to somewhere between thigh and shin."""
    rows, columns = 12, 36
    hip, knee, ankle = (float(body.joints[j, 1]) for j in (1, 4, 7))
    top = hip + rng.uniform(0.06, 0.13)
    hem = rng.uniform(knee + 0.75 * (ankle - knee), hip + 0.7 * (knee - hip))
    flare, folds = rng.uniform(0.02, 0.13), rng.integers(5, 12)
    share = np.linspace(0, 1, rows)[:, None]
    turn = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None]
    y = top + share * (hem - top)
    wide, deep, middle = _girth(body, np.minimum(y, top))
    wave = 0.35 * flare * share * np.sin(folds * turn + rng.uniform(0, 6))
    radius_x = wide + 0.014 + flare * share + wave
    radius_z = deep + 0.014 + flare * share + wave
    x, z = radius_x * np.sin(turn), middle + radius_z * np.cos(turn)
    vertices = np.stack(np.broadcast_arrays(x, y, z), -1).reshape(-1, 3)
    left = 0.5 + 0.5 * np.clip(x / 0.11, -1, 1)
    hang = np.clip((hip + 0.02 - y) / (hip - knee), 0, 1) ** 0.7 * 0.85
    weights = _rigid(len(vertices), 0)
    weights[:, 1] = (hang * left).reshape(-1)
    weights[:, 2] = (hang * (1 - left)).reshape(-1)
    weights[:, 0] = 1 - weights[:, 1] - weights[:, 2]
    faces = _sheet(rows, columns, closed=True)
    row = faces.min(1) // columns
    column = faces.min(1) % columns
    style = rng.integers(4)
    on = (
        np.zeros(len(faces), bool) if style == 0
        else row % 4 < 2 if style == 1
        else column % 6 < 3 if style == 2
        else row >= rows - 3
    )  # fmt: skip
    colours = np.where(on[:, None], second, colour).astype(np.float32)
    return Addition(vertices, faces, weights, colours)


def _girth(body: BodySurface, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half width, half depth, middle z of trunk and thighs at heights y; never narrower below."""
    lower = body.at_vertices.arm < -0.5
    points = body.template[lower]
    wide, front, back = [], [], []
    for level in y.ravel():
        near = points[np.abs(points[:, 1] - level) < 0.025]
        wide.append(np.abs(near[:, 0]).max())
        front.append(near[:, 2].max())
        back.append(near[:, 2].min())
    wide, front = np.maximum.accumulate(wide), np.maximum.accumulate(front)
    back = np.minimum.accumulate(back)
    shape = y.shape
    deep, middle = (front - back) / 2, (front + back) / 2
    return wide.reshape(shape), deep.reshape(shape), middle.reshape(shape)


def backpack(rng: np.random.Generator, body: BodySurface, colour: np.ndarray) -> Addition:
    """A rounded bag on the back."""
    chest = body.joints[9]
    size = np.array([rng.uniform(0.11, 0.16), rng.uniform(0.15, 0.22), rng.uniform(0.06, 0.1)])
    level = chest[1] - rng.uniform(0.02, 0.1)
    depth = float(_back_of(body, np.array(level)))
    bag = blob(np.zeros(3), np.ones(3), 9, colour, rings=9)
    unit = np.sign(bag.vertices) * np.abs(bag.vertices) ** 0.45  # between a ball and a box
    place = np.array([0.0, level, depth - size[2] * 0.8])
    weights = bag.weights.copy()
    weights[:, 9], weights[:, 6] = 0.6, 0.4
    tone = np.where((bag.faces.min(1) // 12 < 3)[:, None], 0.7 * colour, colour)
    return Addition(place + unit * size, bag.faces, weights, tone.astype(np.float32))
