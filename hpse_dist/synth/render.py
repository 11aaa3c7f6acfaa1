"""Ray casting: what is where, and how much light reaches it. The only door of embree.

Here is what does not depend on the camera, done once per moment for all of them: the ray-casting
tree, and the light that reaches every vertex (lamp with shadow, sky and floor light with occlusion)
and the floor. `picture.py` then looks at it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from hpse_dist.synth.mesh import Topology, face_rows
from hpse_dist.synth.scene import Light, Scene
from hpse_dist.synth.textures import sample

_SKIN = 0.006  # metres by which shadow rays start off the surface


class Caster:
    """A ray-casting tree over one triangle mesh."""

    def __init__(self, vertices: np.ndarray, rows: np.ndarray) -> None:
        """vertices (V, 3) metres; rows: what `mesh.face_rows` gave."""
        self._scene = EmbreeScene()
        # as Python numbers: embree's binding reads them one by one
        TriangleMesh(self._scene, vertices.astype(object), rows)

    def first(self, eye: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """First hits of rays from `eye` (3,) along (N, 3): primID (-1 none), u, v, tfar, each (N,).

        The hit lies at (1-u-v) a + u b + v c of the face's corners and at eye + tfar * direction.
        """
        origins = np.ascontiguousarray(np.broadcast_to(eye.astype(np.float32), directions.shape))
        hits: dict[str, np.ndarray] = self._scene.run(
            origins, np.ascontiguousarray(directions, np.float32), output=1
        )
        return hits

    def blocked(self, origins: np.ndarray, directions: np.ndarray, reach: float) -> np.ndarray:
        """(N,) bool: whether anything lies within `reach` along rays from (N, 3) along (N, 3)."""
        found = self._scene.run(
            np.ascontiguousarray(origins, np.float32),
            np.ascontiguousarray(directions, np.float32),
            dists=reach,
            query="OCCLUDED",
        )
        blocked: np.ndarray = found >= 0
        return blocked


@dataclass(frozen=True)
class FloorLight:
    """How much light reaches the floor, on a grid: shares of lamp and sky, (H, W, 2) float32."""

    origin: tuple[float, float]
    """x and z of the first texel's centre, metres."""
    scale: float
    """Texels per metre."""
    share: np.ndarray

    def at(self, points: np.ndarray) -> np.ndarray:
        """Shares (N, 2) at world points (N, 3); 1 outside the grid."""
        column = (points[:, 0] - self.origin[0]) * self.scale
        row = (points[:, 2] - self.origin[1]) * self.scale
        return sample(self.share, column, row, cv2.BORDER_CONSTANT, (1.0, 1.0))


class Stage:
    """A scene made ready: its still things cast and lit."""

    def __init__(self, scene: Scene, rng: np.random.Generator) -> None:
        self.scene = scene
        things = scene.furniture
        self.caster = Caster(things.vertices, face_rows(things.faces))
        corners = things.vertices[things.faces]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        middle = corners.mean(1)
        # seen from outside only: flip normals that look into their own thing cannot be told, so
        # light both sides alike and let the lamp decide
        light = scene.light
        lamp = _lamp_share(self.caster, things.vertices, np.repeat(normal, 3, 0), light, rng)
        facing: np.ndarray = np.repeat(np.maximum(normal @ light.direction, 0.0), 3)
        low = np.clip(0.55 + 0.6 * things.vertices[:, 1], 0.55, 1.0)  # darker near the floor
        up: np.ndarray = np.repeat(0.5 + 0.5 * normal[:, 1], 3)
        self.thing_light = (
            (facing * lamp)[:, None] * light.colour
            + low[:, None] * (up[:, None] * light.sky + (1 - up)[:, None] * light.ground)
        ).reshape(-1, 3, 3)  # (F, corner, RGB)
        near = np.abs(middle[:, [0, 2]]).max() if len(middle) else 1.0
        half = float(min(near + 1.5, 9.0))
        self.floor = _floor_light(self.caster, light, rng, (-half, -half, half, half), 0.07, 5)


def _lamp_share(
    caster: Caster,
    points: np.ndarray,
    normals: np.ndarray,
    light: Light,
    rng: np.random.Generator,
) -> np.ndarray:
    """Share (N,) of the lamp seen from points, one jittered ray each; 0 where they face away."""
    share: np.ndarray = np.zeros(len(points), dtype=np.float32)
    faces = np.flatnonzero(normals @ light.direction > 0)
    towards = light.direction + light.softness * rng.standard_normal((len(faces), 3), np.float32)
    share[faces] = ~caster.blocked(points[faces] + _SKIN * normals[faces], towards, 30.0)
    return share


def _floor_light(
    caster: Caster,
    light: Light,
    rng: np.random.Generator,
    bounds: tuple[float, float, float, float],
    step: float,
    rays: int,
) -> FloorLight:
    """Light on the floor under a mesh: `rays` jittered rays to lamp and sky per texel."""
    x, z = np.arange(bounds[0], bounds[2], step), np.arange(bounds[1], bounds[3], step)
    grid = np.stack(np.meshgrid(x, z), -1).reshape(-1, 2).astype(np.float32)
    share: np.ndarray = np.zeros((len(grid), 2), dtype=np.float32)
    start: np.ndarray = np.zeros((len(grid), 3), dtype=np.float32)
    start[:, 1] = 0.003
    for _ in range(rays):
        start[:, [0, 2]] = grid + step * (rng.random((len(grid), 2), np.float32) - 0.5)
        towards = light.direction + light.softness * rng.standard_normal((len(grid), 3), np.float32)
        towards[:, 1] = np.maximum(towards[:, 1], 0.15)
        share[:, 0] += ~caster.blocked(start, towards, 12.0)
        share[:, 1] += ~caster.blocked(start, _upward(rng, len(grid)), 0.7)
    share = share.reshape(len(z), len(x), 2) / rays
    share = cv2.GaussianBlur(share, (0, 0), 0.8)
    share[..., 1] = cv2.GaussianBlur(share[..., 1], (0, 0), 1.0)
    return FloorLight((float(x[0]), float(z[0])), 1.0 / step, share)


def _upward(rng: np.random.Generator, count: int) -> np.ndarray:
    """Directions (count, 3) over the upper half, more towards the top (by the cosine)."""
    towards = rng.standard_normal((count, 3), np.float32)
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    towards[:, 1] += 1.02
    return towards


@dataclass(frozen=True)
class Person:
    """A posed person of one moment, for `Moment`."""

    vertices: np.ndarray
    """(V, 3) world, garments and additions included."""
    topology: Topology
    paint: np.ndarray
    """(F, cells^2, 3) linear RGB."""
    cells: int
    part: np.ndarray
    """(V,) body part of each vertex."""
    corner_uv: np.ndarray
    """(F, 3, 2) surface coordinates of each face's corners."""


class Moment:
    """A person at one moment on a stage: cast and lit, to be seen by any camera."""

    def __init__(self, person: Person, stage: Stage, rng: np.random.Generator) -> None:
        self.person = person
        self.stage = stage
        self.caster = Caster(person.vertices, person.topology.rows)
        self.light = self._vertex_light(rng)  # (V, 3)
        self.floor = self._floor(rng)

    def _vertex_light(self, rng: np.random.Generator, rays: int = 4) -> np.ndarray:
        """Light that reaches each vertex, (V, 3)."""
        vertices, topology = self.person.vertices, self.person.topology
        light = self.stage.scene.light
        normals = topology.normals(vertices)
        start = vertices + _SKIN * normals
        lamp = _lamp_share(self.caster, vertices, normals, light, rng)
        seen = np.flatnonzero(lamp)
        ahead = np.broadcast_to(light.direction, (len(seen), 3))
        lamp[seen] = ~self.stage.caster.blocked(start[seen], ahead, 12.0)
        sky: np.ndarray = np.zeros(len(vertices), dtype=np.float32)
        for _ in range(rays):
            towards = rng.standard_normal(vertices.shape, np.float32)
            towards /= np.linalg.norm(towards, axis=1, keepdims=True)
            sky += ~self.caster.blocked(start, towards + 1.02 * normals, 0.45)
        sky = topology.smooth(sky / rays, 3)
        lamp = topology.smooth(lamp, 1)
        facing = np.maximum(normals @ light.direction, 0)[:, None]
        up = (0.5 + 0.5 * normals[:, 1:2]) * light.sky + (
            0.5 - 0.5 * normals[:, 1:2]
        ) * light.ground
        total: np.ndarray = (
            facing * lamp[:, None] * light.colour + (0.15 + 0.85 * sky[:, None]) * up
        )
        return total.astype(np.float32)

    def _floor(self, rng: np.random.Generator) -> FloorLight:
        light = self.stage.scene.light
        points = self.person.vertices
        shadow = points[:, [0, 2]] - points[:, 1:2] * (
            light.direction[[0, 2]] / max(light.direction[1], 0.3)
        )
        both = np.concatenate([points[:, [0, 2]], shadow])
        low, high = both.min(0) - 0.35, both.max(0) + 0.35
        step = float(max((high - low).max() / 64, 0.035))
        return _floor_light(self.caster, light, rng, (*low, *high), step, 2)
