"""Clothes, put on from the skin outwards: each a region of the body, a cloth and a thickness."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hpse_dist.synth import additions
from hpse_dist.synth.additions import Addition
from hpse_dist.synth.patterns import Cloth, contrast, draw_cloth, dye, ripple, sober_dye
from hpse_dist.synth.surface import BodySurface, Places
from hpse_dist.synth.textures import linear

Region = Callable[[Places], np.ndarray]
"""Places -> (N,) bool: whether they are covered."""


class Wardrobe:
    """Paint and shift of one person while they get dressed, from the skin outwards."""

    def __init__(self, rng: np.random.Generator, body: BodySurface) -> None:
        self.rng = rng
        self.body = body
        self.paint: np.ndarray = np.zeros((len(body.at_cells), 3), dtype=np.float32)
        self.shift = np.zeros_like(body.template, dtype=np.float32)
        self.additions: list[Addition] = []
        self.skirted = False

    def dress(self, cloth: Cloth, region: Region, thick: float, drape: float = 0.0) -> None:
        """Put cloth on a region; thick: metres above what is there; drape 0..1: hides hollows."""
        at = np.flatnonzero(region(self.body.at_cells))
        if len(at) == 0:
            return
        colour = cloth(self.body.at_cells, at)
        crease = ripple(self.rng, self.body.at_cells.point[at] * (1.0, 0.6, 1.0), 0.12, 6)
        self.paint[at] = colour * (1 + 0.1 * crease)[:, None]
        on = region(self.body.at_vertices)
        if drape > 0:
            self.smooth(on, drape)
        self.shift[on] += thick * self.body.normals[on]

    def smooth(self, on: np.ndarray, share: float, times: int = 24) -> None:
        """Move the vertices of a region towards their neighbours' middle, never inwards."""
        shape = self.body.template + self.shift
        smoothed = self.body.topology.smooth(shape.astype(np.float32), times)
        move = (smoothed - shape) * share
        inward = np.minimum((move * self.body.normals).sum(1, keepdims=True), 0)
        move -= inward * self.body.normals
        self.shift[on] += move[on]


def wear_clothes(wear: Wardrobe, skirts: bool) -> None:
    """One of a few kinds of outfit, each with its own lengths, cloths and looseness."""
    rng = wear.rng
    outfit = rng.choice(["everyday", "sport", "dress", "formal"], p=[0.6, 0.16, 0.14, 0.1])
    if outfit == "dress" and not skirts:
        outfit = "everyday"
    _wear_shoes(wear, "sport" if outfit == "sport" else "")
    if outfit == "dress":
        _wear_dress(wear)
    elif outfit == "sport":
        tight = rng.random() < 0.5
        end = rng.choice([0.35, 0.6, 1.9])
        _wear_legs(wear, draw_cloth(rng, colour=sober_dye(rng)), end, 0.003 if tight else 0.014)
        sleeve = rng.choice([-0.25, 0.3, 0.5, 1.9])
        _wear_top(wear, draw_cloth(rng), hem=0.03, sleeve=sleeve, thick=0.004 if tight else 0.012)
    else:
        _wear_everyday(wear, plain=outfit == "formal", skirts=skirts)


def _wear_dress(wear: Wardrobe) -> None:
    """A top and a skirt of one colour, bare legs or tights."""
    rng, colour = wear.rng, dye(wear.rng)
    if rng.random() < 0.3:
        _wear_legs(wear, draw_cloth(rng, "plain", sober_dye(rng)), 1.95, 0.002)
    else:
        _wear_legs(wear, draw_cloth(rng, "plain", colour), 0.15, 0.003)
    sleeve = rng.choice([-0.22, 0.3, 1.9])
    _wear_top(wear, draw_cloth(rng, colour=colour), hem=-0.02, sleeve=sleeve, thick=0.006)
    _wear_skirt(wear, colour)


def _wear_skirt(wear: Wardrobe, colour: np.ndarray) -> None:
    wear.skirted = True
    second = contrast(wear.rng, colour)
    wear.additions.append(additions.skirt(wear.rng, wear.body, colour, second))


def _wear_everyday(wear: Wardrobe, plain: bool, skirts: bool) -> None:
    """Trousers, shorts or a skirt; a shirt; sometimes a jacket or a bag."""
    rng = wear.rng
    if skirts and not plain and rng.random() < 0.16:
        under = draw_cloth(rng, "plain", sober_dye(rng))
        _wear_legs(wear, under, rng.choice([0.15, 1.95]), 0.002)
        _wear_skirt(wear, sober_dye(rng))
    else:
        kind = str(rng.choice(["wash", "plain", ""], p=[0.35, 0.5, 0.15]))
        end = rng.choice([0.55, 0.85, 1.4, 1.9, 1.95], p=[0.1, 0.13, 0.07, 0.35, 0.35])
        _wear_legs(wear, draw_cloth(rng, kind, sober_dye(rng)), end, rng.uniform(0.005, 0.018))
    sleeve = rng.choice([-0.25, 0.35, 0.55, 1.0, 1.9], p=[0.08, 0.27, 0.2, 0.1, 0.35])
    hem = rng.uniform(-0.06, 0.06)
    cloth = draw_cloth(rng, "plain" if plain else "")
    _wear_top(wear, cloth, hem, sleeve, rng.uniform(0.006, 0.016))
    if plain or rng.random() < 0.22:
        _wear_jacket(wear)
    if rng.random() < 0.1:
        wear.additions.append(additions.backpack(rng, wear.body, dye(rng)))


def _wear_shoes(wear: Wardrobe, kind: str) -> None:
    rng, body = wear.rng, wear.body
    chance = rng.random()
    if chance < 0.05 and not kind:
        return  # barefoot
    height = 1.55 if chance < 0.18 and not kind else rng.uniform(1.93, 2.0)
    if kind or rng.random() < 0.5:  # socks
        top = rng.uniform(1.55, 1.9)
        wear.dress(draw_cloth(rng, "plain"), lambda places: places.leg > top, 0.002)
    colour, sole = dye(rng), dye(rng) if rng.random() < 0.4 else linear(228, 226, 220)
    on = body.at_vertices.leg > height
    wear.smooth(on, 1.0, times=14)  # no toes
    wear.dress(draw_cloth(rng, "plain", colour), lambda places: places.leg > height, 0.007)
    edge = body.soles + 0.022
    rim = np.flatnonzero((body.at_cells.point[:, 1] < edge) & (body.at_cells.leg > height))
    wear.paint[rim] = sole
    if rng.random() < 0.5:  # laces or a stripe
        x, _, z = body.at_cells.point.T
        axis = np.abs(np.abs(x) - body.joints[10, 0])
        lace = (axis < 0.014) & (z > body.joints[7, 2] + 0.05) & (body.at_cells.leg > height)
        lace &= body.at_cells.point[:, 1] > edge + 0.02
        wear.paint[lace] = contrast(rng, colour)


def _wear_legs(wear: Wardrobe, cloth: Cloth, end: float, thick: float) -> None:
    """Trousers, shorts or tights down to `end` on the leg's scale."""
    waist = wear.rng.uniform(0.16, 0.26)
    wear.dress(
        cloth,
        lambda p: (p.trunk < waist) & (p.arm < -0.5) & (p.leg < end),
        thick,
        drape=0.6 if thick > 0.006 else 0.0,
    )
    if thick > 0.01:  # wider towards the hem
        places = wear.body.at_vertices
        on = (places.trunk < 0) & (places.arm < -0.5) & (places.leg < end) & (places.leg > 0.5)
        grow = np.clip((places.leg - 0.5) / max(end - 0.5, 0.3), 0, 1)[:, None]
        wear.shift += on[:, None] * grow * 0.012 * wear.body.normals


def _neckline(places: Places, depth: float, width: float) -> np.ndarray:
    """True below a garment's neckline."""
    x, _, z = places.point.T
    front = np.clip(z / 0.06, 0, 1)
    scoop = depth * front * np.clip(1 - np.abs(x) / width, 0, 1)
    below: np.ndarray = (places.trunk < 0.94 - scoop) & ~(places.is_head & (places.trunk > 0.98))
    return below


def _wear_top(wear: Wardrobe, cloth: Cloth, hem: float, sleeve: float, thick: float) -> None:
    """A shirt from `hem` (on the trunk's scale) to the neck, sleeves to `sleeve` on the arm's."""
    rng = wear.rng
    depth, width = rng.choice([0.02, 0.08, 0.2]), rng.uniform(0.06, 0.11)
    strap = sleeve < 0

    def region(places: Places) -> np.ndarray:
        on = (places.trunk > hem) & (places.leg < 0.2) & _neckline(places, depth, width)
        if strap:
            return on & (np.abs(places.point[:, 0]) < 0.125) & (places.arm < sleeve + 0.3)
        return on & (places.arm < sleeve)

    wear.dress(cloth, region, thick, drape=0.7)
    if thick > 0.009:  # loose hems and sleeves
        places = wear.body.at_vertices
        low = np.clip(1 - (places.trunk - hem) / 0.4, 0, 1) * (places.arm < -0.3)
        wrist = np.clip(places.arm / max(sleeve, 0.2), 0, 1)
        wear.shift += (
            ((region(places) * (0.008 * low + 0.007 * wrist))[:, None]) * wear.body.normals
        )


def _wear_jacket(wear: Wardrobe) -> None:
    """A jacket or coat, open in front."""
    rng = wear.rng
    hem = rng.choice([0.04, 0.0, -0.1])
    gap = rng.uniform(0.012, 0.05)

    def region(places: Places) -> np.ndarray:
        x, _, z = places.point.T
        lapel = gap + 0.05 * np.clip((places.trunk - 0.45) / 0.5, 0, 1)
        open_front = (np.abs(x) < lapel) & (z > -0.01)
        coat = (places.trunk > hem) & (places.arm < 1.93) & ~open_front
        return coat & _neckline(places, 0.06, 0.1)

    kind = "" if rng.random() < 0.2 else "plain"
    wear.dress(draw_cloth(rng, kind), region, rng.uniform(0.008, 0.016), drape=0.6)
