"""The body's surface as a tailor sees it: where on the body a point of the skin lies.

Everything is measured on the template (mean shape, zero pose, arms out), so the same garment sits
on the same vertices of every subject. Paint is kept per triangle, on a small grid of cells; that
needs no texture coordinates and has no seams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from hpse_dist.body.model import Body
from hpse_dist.synth.mesh import Topology

_CELLS_PER_BODY = 220_000


@dataclass(frozen=True)
class Places:
    """Points of the template's surface and what they belong to; all arrays (N,) or (N, 3)."""

    point: np.ndarray
    """Template position, metres, pelvis at the origin, y up, facing +z."""
    arm: np.ndarray
    """0 at the shoulder, 1 elbow, 2 wrist; negative on the trunk, legs and head."""
    leg: np.ndarray
    """0 at the hip, 1 knee, 2 ankle, more on the foot; negative above the hip."""
    trunk: np.ndarray
    """0 at the hip joints, 1 at the neck joint."""
    along: np.ndarray
    """Metres along the limb or the trunk."""
    around: np.ndarray
    """Metres around the limb or the trunk, 0 in front (on top, for arms)."""
    face: np.ndarray
    """(N, 3) from the nose tip, in head units (nose tip to crown = 1)."""
    is_head: np.ndarray
    """Belongs to head or neck."""

    def __len__(self) -> int:
        return len(self.arm)


class BodySurface:
    """A body model's template, its landmarks, and the places of its vertices and paint cells."""

    def __init__(self, body: Body) -> None:
        zero = torch.zeros
        with torch.no_grad():
            output = body(zero(1, 3), zero(1, 69), zero(1, 10), zero(1, 3))
        self.template: np.ndarray = output.vertices[0].numpy()  # (V, 3)
        self.joints: np.ndarray = output.joints[0].numpy()  # (24, 3)
        self.faces: np.ndarray = body.faces.numpy()
        self.part: np.ndarray = body.vertex_part.numpy()
        self.corner_uv: np.ndarray = body.corner_uv.numpy()
        self.vertex_uv: np.ndarray = body.vertex_uv.numpy()
        self.shapes: np.ndarray = body.shapedirs.numpy()  # (V, 3, 10)
        self.weights = _weights24(body)
        self.topology = Topology(self.faces, len(self.template))
        self.normals = self.topology.normals(self.template)
        head = self.weights[:, 15] > 0.5
        self.crown = float(self.template[head, 1].max())
        middle = head & (np.abs(self.template[:, 0]) < 0.01)
        front = np.flatnonzero(middle)[self.template[middle, 2].argmax()]
        self.nose: np.ndarray = self.template[front]
        self.head_unit = self.crown - float(self.nose[1])
        self.soles = float(self.template[:, 1].min())
        self.cells = int(np.clip(round((_CELLS_PER_BODY / len(self.faces)) ** 0.5), 2, 8))
        """A triangle's paint is cells x cells small triangles."""
        self.at_vertices = self._places(self.template, self.weights)
        corners = cell_centres(self.cells)  # (K, 3)
        points = np.einsum("kc,fcx->fkx", corners, self.template[self.faces]).reshape(-1, 3)
        weights = np.einsum("kc,fcj->fkj", corners, self.weights[self.faces])
        self.at_cells = self._places(points, weights.reshape(len(points), -1))

    def _places(self, point: np.ndarray, weights: np.ndarray) -> Places:
        """Places of template points (N, 3) with skinning weights (N, 24)."""
        point = point.astype(np.float32)
        x, y, z = point.T
        joints = self.joints
        reach = [
            float(joints[j, 0]) for j in (16, 18, 20)
        ]  # shoulder, elbow, wrist of the left arm
        drop = [-float(joints[j, 1]) for j in (1, 4, 7)]  # hip, knee, ankle
        on_arm = weights[:, 16:24].sum(1) > 0.3
        arm = np.where(on_arm, _chain(np.abs(x), reach), -1.0)
        on_leg = ~on_arm & (weights[:, [1, 2, 4, 5, 7, 8, 10, 11]].sum(1) > 0.5)
        leg = np.where(on_arm, -1.0, _chain(-y, drop))
        hip, neck = joints[1, 1], joints[12, 1]
        # the limb's axis, for the angle around it
        side = np.sign(x)
        axis_x = np.where(on_leg, side * joints[4, 0], 0.0)
        axis_z = np.where(on_leg, joints[4, 2] - 0.01, joints[6, 2] + 0.02)
        angle = np.arctan2(x - axis_x, z - axis_z)
        radius = np.where(on_leg, 0.07, 0.14)
        roll = np.arctan2(z - joints[18, 2], y - joints[18, 1])
        is_head = weights[:, [12, 15]].sum(1) > 0.5
        return Places(
            point=point,
            arm=arm.astype(np.float32),
            leg=leg.astype(np.float32),
            trunk=((y - hip) / (neck - hip)).astype(np.float32),
            along=np.where(on_arm, np.abs(x), y).astype(np.float32),
            around=np.where(on_arm, 0.05 * roll, radius * angle).astype(np.float32),
            face=((point - self.nose) / self.head_unit).astype(np.float32),
            is_head=is_head,
        )


def _chain(value: np.ndarray, knots: list[float]) -> np.ndarray:
    """Piecewise linear position along three joints, 0 to 2, continued at both ends."""
    first = (value - knots[0]) / (knots[1] - knots[0])
    second = 1 + (value - knots[1]) / (knots[2] - knots[1])
    return np.where(value < knots[1], first, second)


def _weights24(body: Body) -> np.ndarray:
    """Skinning weights (V, 24) on SMPL's joints, also for files with finger joints."""
    weights: np.ndarray = body.skinning_weights.numpy()
    if body.turned_by is None:
        return weights
    summed: np.ndarray = np.zeros((len(weights), 24), dtype=np.float32)
    carrier: list[int] = []
    for joint, parent in enumerate(body.file_parents):
        own = body.turned_by[joint]
        carrier.append(own if own < 24 else carrier[parent])
        summed[:, carrier[joint]] += weights[:, joint]
    return summed


def cell_centres(cells: int) -> np.ndarray:
    """Barycentric centres of a triangle's cells^2 small triangles, in `cell_index`'s order."""
    index = np.arange(cells)
    grid = np.stack(np.meshgrid(index, index, np.arange(2), indexing="ij"))
    i, j, upper = grid.reshape(3, -1)
    inside = i + j + upper < cells
    third = np.where(upper[inside] == 1, 2 / 3, 1 / 3)
    u, v = (i[inside] + third) / cells, (j[inside] + third) / cells
    return np.stack([1 - u - v, u, v], axis=1)  # (cells^2, 3)


def cell_index(u: np.ndarray, v: np.ndarray, cells: int) -> np.ndarray:
    """Number of the cell that holds barycentric (u, v), each (N,), of a triangle."""
    i = np.minimum((u * cells).astype(np.int32), cells - 1)
    j = np.clip((v * cells).astype(np.int32), 0, cells - 1 - i)
    upper = ((u * cells - i) + (v * cells - j) > 1.0) & (i + j + 1 < cells)
    # rows i hold 2 (cells - i) - 1 cells: their starts are i (2 cells - i)
    index: np.ndarray = i * (2 * cells - i) + 2 * j + upper
    return index
