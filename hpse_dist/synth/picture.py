"""A camera's picture of a moment, and the labels of its pixels.

One ray per pixel, four more where the person or an edge is, and two look-ups per ray: the paint of
the triangle's cell and the light between its corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hpse_dist.synth.render import Moment
from hpse_dist.synth.scene import Camera, Scene, Wall
from hpse_dist.synth.surface import cell_index
from hpse_dist.synth.textures import sample


@dataclass(frozen=True)
class Picture:
    """One rendered crop with its labels."""

    image: np.ndarray
    """(H, W, 3) uint8 sRGB."""
    mask: np.ndarray
    """(H, W) bool, True on the person."""
    part_map: np.ndarray
    """(H, W) uint8, 0 background."""
    uv_map: np.ndarray
    """(2, H, W) float32 in 0..1, 0 on the background."""
    visible: float
    """Share of the person's pixels that nothing else hides; 0 when there are none."""


def render(
    moment: Moment,
    camera: Camera,
    intrinsics: np.ndarray,
    size: int,
    rng: np.random.Generator,
    supersample: int = 2,
) -> Picture:
    """A crop of size x size pixels seen by `camera` through crop intrinsics (3, 3) in pixels."""
    rows, columns = np.divmod(np.arange(size * size), size)
    rays = _Rays(moment, camera, intrinsics, columns + 0.5, rows + 0.5)
    mask = rays.on_person.reshape(size, size)
    image: np.ndarray = np.empty((size * size, 3), dtype=np.float32)
    fine: np.ndarray = np.zeros((size, size), dtype=bool)
    if supersample > 1:
        edge = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        fine = edge | _edges(rays.kind.reshape(size, size))
    fine_at = np.flatnonzero(fine)
    coarse_at = np.flatnonzero(~fine)
    image[coarse_at] = rays.colour(coarse_at)
    if len(fine_at):
        step = (np.arange(supersample) + 0.5) / supersample
        dx = np.tile(step, supersample)
        dy: np.ndarray = np.repeat(step, supersample)
        some = _Rays(
            moment,
            camera,
            intrinsics,
            (columns[fine_at, None] + dx).ravel(),
            (rows[fine_at, None] + dy).ravel(),
        )
        every = np.arange(len(some.kind))
        image[fine_at] = some.colour(every).reshape(len(fine_at), -1, 3).mean(1)
    part_map, uv_map = rays.labels(size)
    image = _develop(image.reshape(size, size, 3), camera, rng)
    return Picture(image, mask, part_map, uv_map, rays.visible)


class _Rays:
    """Rays through points of the picture, and what each meets first."""

    def __init__(
        self,
        moment: Moment,
        camera: Camera,
        intrinsics: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
    ) -> None:
        self.moment = moment
        self.eye: np.ndarray = camera.eye.astype(np.float32)
        flat: np.ndarray = np.empty((len(x), 3), dtype=np.float32)
        flat[:, 0] = (x - intrinsics[0, 2]) / intrinsics[0, 0]
        flat[:, 1] = (y - intrinsics[1, 2]) / intrinsics[1, 1]
        flat[:, 2] = 1.0  # so that distances along a ray are depths
        self.directions = flat @ camera.rotation.astype(np.float32)
        self.pixel = 1.0 / float(intrinsics[0, 0])  # metres per pixel at depth 1
        self.body = moment.caster.first(self.eye, self.directions)
        self.things = moment.stage.caster.first(self.eye, self.directions)
        on_body, on_thing = self.body["primID"] >= 0, self.things["primID"] >= 0
        nearer = self.body["tfar"] < self.things["tfar"]
        self.on_person = on_body & (nearer | ~on_thing)
        self.visible = float(self.on_person.sum() / max(on_body.sum(), 1))
        on_thing &= ~self.on_person
        # -2 the person, -1 background, else the colour group of the thing
        self.kind = np.where(self.on_person, -2, np.where(on_thing, self.things["primID"], -1))

    def colour(self, at: np.ndarray) -> np.ndarray:
        """Linear RGB (n, 3) of the rays `at` (n,)."""
        image: np.ndarray = np.empty((len(at), 3), dtype=np.float32)
        kind = self.kind[at]
        person, thing, far = (np.flatnonzero(on) for on in (kind == -2, kind >= 0, kind == -1))
        if len(person):
            image[person] = self._person_colour(at[person])
        if len(thing):
            image[thing] = self._thing_colour(at[thing])
        if len(far):
            image[far] = self._far_colour(at[far])
        return image

    def _person_colour(self, at: np.ndarray) -> np.ndarray:
        person = self.moment.person
        face, u, v = (self.body[name][at] for name in ("primID", "u", "v"))
        paint = person.paint[face, cell_index(u, v, person.cells)]
        light = self.moment.light
        a, b, c = person.topology.faces[face].T
        u, v = u[:, None], v[:, None]
        colour: np.ndarray = paint * (light[a] * (1 - u - v) + light[b] * u + light[c] * v)
        return colour

    def _thing_colour(self, at: np.ndarray) -> np.ndarray:
        stage = self.moment.stage
        face, u, v = (self.things[name][at] for name in ("primID", "u", "v"))
        light = stage.thing_light[face]
        u, v = u[:, None], v[:, None]
        lit = light[:, 0] * (1 - u - v) + light[:, 1] * u + light[:, 2] * v
        colour: np.ndarray = stage.scene.furniture.colours[face] * lit
        return colour

    def _far_colour(self, at: np.ndarray) -> np.ndarray:
        """Floor, walls and sky: where rays leave the box around the scene."""
        scene, d = self.moment.stage.scene, self.directions[at]
        d = np.where(np.abs(d) < 1e-6, np.float32(1e-6), d)
        ahead = np.where(d > 0, scene.high.astype(np.float32), scene.low.astype(np.float32))
        distance = (ahead - self.eye) / d  # (n, 3)
        axis = distance.argmin(1)
        depth = distance[np.arange(len(d)), axis]
        points = self.eye + depth[:, None] * d
        grazing = np.abs(d[np.arange(len(d)), axis]) / np.linalg.norm(d, axis=1)
        footprint = depth * self.pixel / np.sqrt(np.maximum(grazing, 0.05))
        image: np.ndarray = np.empty((len(at), 3), dtype=np.float32)
        for wall in scene.walls:
            upper = d[:, wall.axis] > 0
            on = np.flatnonzero((axis == wall.axis) & (upper == wall.upper))
            if len(on) == 0:
                continue
            colour = _wall_colour(wall, scene, points[on], footprint[on])
            if wall.axis == 1 and not wall.upper:
                colour *= self._floor_lit(points[on])
            image[on] = colour
        return image

    def _floor_lit(self, points: np.ndarray) -> np.ndarray:
        """Light on the floor at world points: (n, 3)."""
        light = self.moment.stage.scene.light
        share = self.moment.stage.floor.at(points) * self.moment.floor.at(points)
        lamp = light.colour * light.direction[1]
        lit: np.ndarray = share[:, :1] * lamp + share[:, 1:] * 0.9 * light.sky
        return lit

    def labels(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """part_map (size, size) uint8 and uv_map (2, size, size) of one ray per pixel."""
        person = self.moment.person
        at = np.flatnonzero(self.on_person)
        face, u, v = (self.body[name][at] for name in ("primID", "u", "v"))
        share = np.stack([1 - u - v, u, v], axis=1)
        nearest = person.topology.faces[face, share.argmax(1)]
        part: np.ndarray = np.zeros(size * size, dtype=np.uint8)
        part[at] = person.part[nearest]
        uv: np.ndarray = np.zeros((2, size * size), dtype=np.float32)
        uv[:, at] = np.einsum("nc,ncd->dn", share, person.corner_uv[face])
        return part.reshape(size, size), uv.reshape(2, size, size).clip(0, 1)


def _wall_colour(wall: Wall, scene: Scene, points: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Linear RGB (n, 3) of a wall's picture at world points, as fine as the pixel there."""
    first, second = wall.across
    base = wall.pyramid[0]
    column = (points[:, first] - scene.low[first]) * wall.scale
    if wall.repeat:
        row = (points[:, second] - scene.low[second]) * wall.scale
    else:  # pictures of walls have their first row on top
        row = (scene.high[second] - points[:, second]) * wall.scale
    level = np.log2(np.maximum(footprint * wall.scale, 1.0)).astype(int)
    level = np.minimum(level, len(wall.pyramid) - 1)
    # mirrored, so that the edges of the picture cannot be seen
    border = cv2.BORDER_REFLECT if wall.repeat else cv2.BORDER_REPLICATE
    image: np.ndarray = np.empty((len(points), 3), dtype=np.float32)
    for number in np.unique(level):
        on = level == number
        picture = wall.pyramid[number]
        sx, sy = picture.shape[1] / base.shape[1], picture.shape[0] / base.shape[0]
        image[on] = sample(picture, column[on] * sx - 0.5, row[on] * sy - 0.5, border)
    return image


def _edges(kind: np.ndarray) -> np.ndarray:
    """True where a pixel's right or lower neighbour shows another thing; both are marked."""
    edge = np.zeros(kind.shape, dtype=bool)
    across, down = kind[:, 1:] != kind[:, :-1], kind[1:] != kind[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _develop(image: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Linear light (H, W, 3) -> uint8 sRGB: exposure, a soft shoulder, blur and grain."""
    image = image * camera.exposure
    if camera.blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), camera.blur)
    image = 1.18 * image / (1 + 0.22 * image)  # highlights are compressed, not cut
    image = np.clip(image, 0, 1) ** (1 / 2.2)
    image += camera.grain * rng.standard_normal(image.shape, np.float32)
    developed: np.ndarray = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    return developed
