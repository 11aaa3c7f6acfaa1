"""Posing: a look and a motion become world meshes and the labels of every camera's crop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpse_dist.body.joints import PARENTS
from hpse_dist.body.model import Body
from hpse_dist.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from hpse_dist.synth.appearance import Look
from hpse_dist.synth.motion import Motion
from hpse_dist.synth.render import Person
from hpse_dist.synth.scene import Camera
from hpse_dist.synth.surface import BodySurface


@dataclass(frozen=True)
class PosedPerson:
    """A person through a whole sequence, standing on the floor of the world."""

    person: tuple[Person, ...]
    """One per moment."""
    joints: np.ndarray
    """(M, 24, 3) world."""
    rotation: np.ndarray
    """(M, 3, 3) of the pelvis in the world."""
    body_pose: np.ndarray
    """(M, 69)."""
    betas: np.ndarray
    """(10,)."""
    transl: np.ndarray
    """(M, 3) smplx translation in the world."""
    rest: np.ndarray
    """(24, 3) joints in the rest pose; `global_orient` turns about the first."""
    turns: np.ndarray
    """(M, 24, 3, 3) of every joint in the world."""

    @property
    def pelvis(self) -> np.ndarray:
        """(3,) pelvis joint in the rest pose."""
        return self.rest[0]


def pose_person(
    body: Body,
    surface: BodySurface,
    look: Look,
    motion: Motion,
    moved: np.ndarray | None = None,
) -> PosedPerson:
    """Skin body, garments and additions for every moment, and stand the result on the floor.

    moved (M, V, 3): how far the body's vertices are from their places at rest, besides.
    """
    count = len(motion.times)
    betas = torch.from_numpy(look.betas)[None].expand(count, 10)
    vectors = torch.from_numpy(np.concatenate([motion.global_orient, motion.body_pose], axis=1))
    local = axis_angle_to_matrix(vectors.view(count, 24, 3))
    with torch.no_grad():
        output = body.forward_matrices(local, betas, torch.zeros(count, 3))
        rest = body.rest_joints(betas[:1])[0].numpy()
    turn = _world_turns(local.numpy())  # (M, 24, 3, 3)
    vertices, joints = output.vertices.numpy(), output.joints.numpy()
    blended = np.einsum("vj,mjk->mvk", surface.weights, turn.reshape(count, 24, 9))
    shift = np.einsum("mvij,vj->mvi", blended.reshape(count, -1, 3, 3), look.cloth_shift)
    if moved is not None:
        shift = shift + np.einsum("mvij,mvj->mvi", blended.reshape(count, -1, 3, 3), moved)
    vertices = vertices + shift
    if len(look.extra_vertices):
        moved = look.extra_vertices + _carry_shape(surface, look)
        extra = _skin(moved, look.extra_weights, turn, rest, joints)
        vertices = np.concatenate([vertices, extra], axis=1)
    pelvis = joints[:, 0]
    transl: np.ndarray = np.zeros((count, 3), dtype=np.float32)
    transl[:, 0] = motion.root[:, 0] - pelvis[:, 0]
    transl[:, 2] = motion.root[:, 1] - pelvis[:, 2]
    transl[:, 1] = motion.lift - vertices[..., 1].min(1)
    part = np.concatenate([surface.part, surface.part[look.near_vertex]])
    corner_uv = _corner_uv(surface, look)
    people = tuple(
        Person(
            vertices=(vertices[m] + transl[m]).astype(np.float32),
            topology=look.topology,
            paint=look.paint,
            cells=surface.cells,
            part=part,
            corner_uv=corner_uv,
        )
        for m in range(count)
    )
    return PosedPerson(
        person=people,
        joints=joints + transl[:, None],
        rotation=turn[:, 0],
        body_pose=motion.body_pose,
        betas=look.betas,
        transl=transl,
        rest=rest,
        turns=turn,
    )


def _world_turns(local: np.ndarray) -> np.ndarray:
    """Rotations relative to the parent (M, 24, 3, 3) -> relative to the world."""
    turn = local.copy()
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            turn[:, joint] = turn[:, parent] @ local[:, joint]
    return turn


def _skin(
    rest_vertices: np.ndarray,
    weights: np.ndarray,
    turn: np.ndarray,
    rest: np.ndarray,
    joints: np.ndarray,
) -> np.ndarray:
    """Linear blend skinning of extra vertices (A, 3) -> (M, A, 3)."""
    place = joints - np.einsum("mjik,jk->mji", turn, rest)
    count = len(turn)
    linear = np.einsum("aj,mjk->mak", weights, turn.reshape(count, 24, 9)).reshape(count, -1, 3, 3)
    posed: np.ndarray = np.einsum("maij,aj->mai", linear, rest_vertices)
    return posed + np.einsum("aj,mji->mai", weights, place)


def _carry_shape(surface: BodySurface, look: Look) -> np.ndarray:
    """How far the body's shape moves extra vertices (A, 3): as it moves their nearest vertex."""
    moved: np.ndarray = look.shape_shift[look.near_vertex]
    return moved


def _corner_uv(surface: BodySurface, look: Look) -> np.ndarray:
    """(F + extra faces, 3, 2): extra faces take the coordinates of the nearest body vertices."""
    extra = look.topology.faces[len(surface.faces) :] - len(surface.template)
    if len(extra) == 0:
        return surface.corner_uv
    return np.concatenate([surface.corner_uv, surface.vertex_uv[look.near_vertex][extra]])


def crop_intrinsics(
    camera: Camera, vertices: np.ndarray, size: int, scale: float, rng: np.random.Generator
) -> np.ndarray:
    """Camera matrix (3, 3) in pixels of a square crop around vertices (V, 3) in the world.

    The side is the larger side of the person's box times `scale`, give or take a little.
    """
    seen = vertices @ camera.rotation.T + camera.translation
    place = camera.focal * seen[:, :2] / np.maximum(seen[:, 2:], 0.1)
    low, high = place.min(0), place.max(0)
    side = float((high - low).max()) * scale * rng.uniform(0.94, 1.12)
    middle = (low + high) / 2 + side * rng.uniform(-0.05, 0.05, 2)
    zoom = size / side
    matrix = np.eye(3)
    matrix[0, 0] = matrix[1, 1] = camera.focal * zoom
    matrix[:2, 2] = size / 2 - middle * zoom
    return matrix


def labels(
    posed: PosedPerson, moment: int, camera: Camera, intrinsics: np.ndarray, size: int
) -> dict[str, np.ndarray]:
    """Exact labels of one crop: joints, and smplx parameters in the camera's frame.

    smplx turns the body about its pelvis joint p, so with the camera's R, t the translation that
    gives camera-frame vertices is R (p + transl) + t - p.
    """
    rotation, translation = camera.rotation, camera.translation
    joints = posed.joints[moment] @ rotation.T + translation
    image = joints @ intrinsics.T
    joints2d = image[:, :2] / image[:, 2:]
    inside = ((joints2d >= 0) & (joints2d < size)).all(1) & (joints[:, 2] > 0)
    turned = torch.from_numpy(rotation @ posed.rotation[moment])
    transl = rotation @ (posed.pelvis + posed.transl[moment]) + translation - posed.pelvis
    return {
        "joints2d": np.concatenate([joints2d, inside[:, None]], axis=1).astype(np.float32),
        "joints3d": np.concatenate([joints, np.ones((24, 1))], axis=1).astype(np.float32),
        "global_orient": matrix_to_axis_angle(turned).numpy().astype(np.float32),
        "body_pose": posed.body_pose[moment].astype(np.float32),
        "betas": posed.betas.astype(np.float32),
        "transl": transl.astype(np.float32),
    }
