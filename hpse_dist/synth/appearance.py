"""How synthetic people look: build, skin, face and hair; clothes come from the wardrobe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

from hpse_dist.synth import additions
from hpse_dist.synth.additions import Addition
from hpse_dist.synth.mesh import Topology
from hpse_dist.synth.patterns import draw_cloth, dye, ripple
from hpse_dist.synth.surface import BodySurface, Places
from hpse_dist.synth.textures import linear
from hpse_dist.synth.wardrobe import Wardrobe, wear_clothes

_SKINS = (
    (246, 214, 190), (236, 196, 164), (224, 178, 142), (210, 160, 122), (190, 138, 102),
    (160, 112, 80), (126, 86, 62), (94, 64, 48), (70, 48, 38),
)  # fmt: skip
_HAIRS = (
    (24, 20, 20), (34, 26, 22), (50, 36, 28), (74, 50, 34), (104, 72, 46), (150, 112, 70),
    (196, 162, 106), (132, 66, 36), (150, 148, 146), (206, 202, 198),
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """One person, ready to be posed and rendered."""

    betas: np.ndarray
    """(10,) shape."""
    cloth_shift: np.ndarray
    """(V, 3) what garments, shoes and hair add to the rest body, metres, template frame."""
    shape_shift: np.ndarray
    """(V, 3) how far the shape moves each vertex of the rest body."""
    additions: tuple[Addition, ...]
    """Extra meshes: long hair, skirts, bags."""
    topology: Topology
    """Of body and additions together."""
    extra_vertices: np.ndarray
    """(A, 3) template vertices of all additions."""
    extra_weights: np.ndarray
    """(A, 24)."""
    near_vertex: np.ndarray
    """(A,) nearest body vertex of each extra vertex: where its labels come from."""
    skirted: bool
    """Wears a skirt, which follows walking legs but not deep bends of the hips."""
    paint: np.ndarray
    """(F + extra faces, cells^2, 3) linear RGB."""


def draw_look(rng: np.random.Generator, body: BodySurface) -> Look:
    """A random person."""
    wear = Wardrobe(rng, body)
    skin = _draw_skin(rng)
    hair = _draw_hair_colour(rng)
    bearded = rng.random() < 0.2
    _paint_skin(wear, skin)
    _paint_face(wear, skin, hair, bearded)
    _wear_hair(wear, hair)
    wear_clothes(wear, skirts=not bearded)
    return _finish(wear, np.clip(rng.normal(0.0, 0.9, 10), -2.2, 2.2))


def _finish(wear: Wardrobe, betas: np.ndarray) -> Look:
    body, extra = wear.body, wear.additions
    count, faces, colours = len(body.template), [body.faces], []
    for addition in extra:
        faces.append(addition.faces + count)
        count += len(addition.vertices)
        colours.append(np.repeat(addition.colour[:, None], body.cells**2, axis=1))
    paint = wear.paint.reshape(len(body.faces), -1, 3)
    vertices = np.concatenate([np.zeros((0, 3)), *(a.vertices for a in extra)])
    near = scipy.spatial.cKDTree(body.template).query(vertices)[1].astype(np.int64)
    return Look(
        betas=betas.astype(np.float32),
        cloth_shift=wear.shift,
        shape_shift=(body.shapes @ betas).astype(np.float32),
        additions=tuple(extra),
        topology=Topology(np.concatenate(faces), count) if extra else body.topology,
        extra_vertices=vertices.astype(np.float32),
        extra_weights=np.concatenate([np.zeros((0, 24)), *(a.weights for a in extra)]).astype("f4"),
        near_vertex=near,
        skirted=wear.skirted,
        paint=np.concatenate([paint, *colours]).clip(0.003, 0.95).astype(np.float32),
    )


def _draw_skin(rng: np.random.Generator) -> np.ndarray:
    """A skin tone between two neighbours of the palette, linear (3,)."""
    where = rng.uniform(0, len(_SKINS) - 1.001)
    low = np.array(_SKINS[int(where)], float)
    high = np.array(_SKINS[int(where) + 1], float)
    tone = low + (where - int(where)) * (high - low)
    return linear(*np.clip(tone + rng.normal(0, 3, 3), 10, 252))


def _draw_hair_colour(rng: np.random.Generator) -> np.ndarray:
    share = np.array([3, 3, 3, 2.5, 2, 1.6, 1.2, 0.9, 1.0, 0.6])
    base = np.array(_HAIRS[rng.choice(len(_HAIRS), p=share / share.sum())], dtype=float)
    if rng.random() < 0.04:  # dyed
        base = rng.uniform(30, 210, 3)
    return linear(*np.clip(base + rng.normal(0, 4, 3), 8, 250))


def _paint_skin(wear: Wardrobe, skin: np.ndarray) -> None:
    rng, places = wear.rng, wear.body.at_cells
    tone = 0.05 * ripple(rng, places.point, 0.35, 4) + 0.03 * ripple(rng, places.point, 0.05, 4)
    wear.paint[:] = skin * (1 + tone)[:, None]
    # blood shows at cheeks, nose, knuckles and knees
    x, y, z = places.face.T
    flush = np.exp(-(((np.abs(x) - 0.33) / 0.16) ** 2) - ((y + 0.02) / 0.14) ** 2) * (z > -0.6)
    flush += 0.8 * np.exp(-(x**2 + y**2 + z**2) / 0.01)
    flush += 0.6 * np.exp(-(((places.arm - 2.45) / 0.12) ** 2))
    flush += 0.5 * np.exp(-(((places.leg - 1.0) / 0.12) ** 2))
    warm = np.array([1.06, 0.84, 0.82], dtype=np.float32)
    wear.paint *= 1 + np.minimum(flush, 1)[:, None] * (warm - 1)


def _paint_face(wear: Wardrobe, skin: np.ndarray, hair: np.ndarray, bearded: bool) -> None:
    """Eyes, brows, lips, sometimes beard or glasses; a little strong, to be seen when small."""
    rng, places = wear.rng, wear.body.at_cells
    x, y, z = places.face.T
    side, front = np.abs(x), places.is_head & (z > -0.62)

    def put(on: np.ndarray, colour: np.ndarray, share: float = 1.0) -> None:
        at = front & on
        wear.paint[at] += share * (colour - wear.paint[at])

    socket = ((side - 0.206) / 0.15) ** 2 + ((y - 0.27) / 0.1) ** 2
    put(socket < 1, skin * 0.55, 0.5)
    lid = ((side - 0.206) / 0.098) ** 2 + ((y - 0.253) / 0.043) ** 2
    put(lid < 1.6, skin * 0.25)
    put(lid < 1, linear(214, 210, 204))
    iris = (side - 0.206) ** 2 + (y - 0.255) ** 2
    put((iris < 0.05**2) & (lid < 1.1), linear(*((44, 30, 22), (50, 66, 82))[rng.random() < 0.25]))
    arch = 0.37 + 0.05 * np.cos((side - 0.22) / 0.17 * 1.5) - 0.03
    brow = (np.abs(y - arch) < rng.uniform(0.024, 0.042)) & (side > 0.07) & (side < 0.38)
    put(brow, hair * 0.7, 0.85)
    lips = np.abs(y + 0.212) < 0.062 * np.sqrt(np.maximum(1 - (x / 0.19) ** 2, 0))
    put(lips, skin * (0.85, 0.5, 0.5), rng.uniform(0.45, 0.9))
    put((np.abs(y + 0.212) < 0.012) & (side < 0.17), skin * 0.3, 0.8)
    put((np.abs(y + 0.06) < 0.02) & (np.abs(side - 0.05) < 0.03), skin * 0.4, 0.7)  # nostrils
    jaw = (y < -0.08 - 0.3 * np.clip(0.35 - side, 0, 1)) & (y > -0.56) & (z > -0.75) & ~lips
    if bearded and rng.random() < 0.5:
        jaw |= (y < 0.2) & (side > 0.42) & (z > -0.85) & (y > -0.56)
    if bearded:
        wear.paint[places.is_head & jaw] = hair * 0.9
    elif rng.random() < 0.16:
        wear.paint[places.is_head & jaw] *= (0.72, 0.74, 0.78)
    if rng.random() < 0.14:
        rim = np.abs(np.maximum(np.abs(side - 0.21) / 0.17, np.abs(y - 0.24) / 0.13) - 0.92) < 0.11
        bridge = (side < 0.06) & (np.abs(y - 0.28) < 0.02) & (z > -0.3)
        shade = rng.random() < 0.35
        lens = np.maximum(np.abs(side - 0.21) / 0.17, np.abs(y - 0.24) / 0.13) < 0.9
        if shade:
            put(lens, linear(26, 26, 30))
        put(rim | bridge, linear(*rng.uniform(10, 60, 3)))


def _scalp(body: BodySurface, places: Places, hairline: float) -> np.ndarray:
    """How deep inside the hairline points lie: (N,) about 0..1, negative outside."""
    x, y, z = places.face.T
    dx, dy, dz = x, y - 0.42, z + 0.72  # from the middle of the skull
    rise = np.degrees(np.arctan2(dy, np.hypot(dx, dz)))
    turn = np.degrees(np.arctan2(np.abs(dx), dz))  # 0 in front, 180 behind
    edge = np.interp(
        turn, [0, 30, 50, 68, 84, 100, 115, 180], [32, 31, 24, 6, -4, -6, -34, -44]
    ) + hairline * np.interp(turn, [0, 60, 90], [1, 0.6, 0])
    ear = (np.abs(dx) > 0.545) & (y < 0.36) & (turn > 60) & (turn < 125)
    depth = (rise - edge) / 30.0
    return np.where(places.is_head & ~ear, depth, -1.0)


def _wear_hair(wear: Wardrobe, hair: np.ndarray) -> None:
    rng, body = wear.rng, wear.body
    styles = ("bald", "crop", "short", "full", "afro", "long", "bob", "tail", "bun", "curls")
    style = rng.choice(styles, p=[0.05, 0.14, 0.22, 0.12, 0.05, 0.16, 0.1, 0.08, 0.05, 0.03])
    hairline = rng.normal(0, 5) + (rng.uniform(5, 25) if rng.random() < 0.15 else 0)
    volume = {
        "bald": 0.0,
        "crop": 0.006,
        "afro": 0.055,
        "curls": 0.035,
        "tail": 0.012,
        "bun": 0.012,
    }
    thick = volume.get(style, rng.uniform(0.014, 0.03))
    depth = _scalp(body, body.at_cells, hairline)
    at = np.flatnonzero(depth > 0)
    strand = ripple(rng, body.at_cells.point[at] * (1.0, 0.25, 1.0), 0.012, 8)
    clump = ripple(rng, body.at_cells.point[at], 0.05, 5)
    tone = hair * (1 + 0.16 * strand + 0.14 * clump)[:, None]
    cover = 0.35 if style == "bald" else 1.0
    share = cover * np.clip(depth[at] / 0.08, 0.4, 1)[:, None]
    wear.paint[at] += share * (tone - wear.paint[at])
    grow = np.clip(_scalp(body, body.at_vertices, hairline) / 0.45, 0, 1) ** 0.7
    lump = 1 + 0.22 * ripple(rng, body.template, 0.06, 5)
    out = body.at_vertices.face - (0, 0.42, -0.72)
    out = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-6)
    wear.shift += ((grow * lump * thick)[:, None] * out).astype(np.float32)
    if style in ("long", "bob"):
        length = rng.uniform(0.16, 0.36) if style == "long" else rng.uniform(0.03, 0.1)
        wear.additions.append(additions.long_hair(rng, body, hair, length, thick))
    elif style == "tail":
        wear.additions.append(additions.ponytail(rng, body, hair))
    elif style == "bun":
        place = np.array([0, rng.uniform(0.5, 1.15), -1.45]) * body.head_unit + body.nose
        size = np.full(3, rng.uniform(0.03, 0.045))
        wear.additions.append(additions.blob(place, size, 15, hair))
    if rng.random() < 0.13:
        _wear_hat(wear)


def _wear_hat(wear: Wardrobe) -> None:
    """A woollen hat, or a cap with a brim."""
    rng, body = wear.rng, wear.body
    colour, brim = dye(rng), rng.random() < 0.55
    edge = rng.uniform(0.5, 0.62)

    def region(places: Places) -> np.ndarray:
        tilt = 0.12 if brim else 0.0
        on: np.ndarray = places.is_head & (
            places.face[:, 1] > edge + tilt * (places.face[:, 2] + 0.7)
        )
        return on

    on = region(body.at_vertices)
    wear.shift[on] *= 0.5
    wear.dress(draw_cloth(rng, "plain" if brim else "", colour), region, 0.011, drape=0.5)
    if brim:
        place = body.nose + body.head_unit * np.array([0, edge + 0.02, -0.02])
        size = np.array([0.07, 0.006, 0.085])
        wear.additions.append(additions.blob(place, size, 15, colour * 0.9))
