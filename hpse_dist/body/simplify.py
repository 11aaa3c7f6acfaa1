"""Fewer vertices for a mesh, none of them moved: edge collapses by quadric error.

Garland and Heckbert, Surface simplification using quadric error metrics, 1997.

A collapse here lets one vertex vanish into a neighbour (a "half-edge" collapse), so every vertex
left is one of the old ones: skinning weights, shape displacements and texture coordinates stay
true without any interpolation.
"""

from __future__ import annotations

import heapq

import numpy as np

_LEAST_COSINE = 0.5  # a face may turn by 60 degrees in one collapse, not further


def simplify(
    vertices: np.ndarray,
    faces: np.ndarray,
    corner_uv: np.ndarray,
    num_vertices: int,
    longest_edge: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Faces (F', 3) over the same vertex numbers and their `corner_uv` (F', 3, 2).

    vertices: (V, 3); faces: (F, 3); corner_uv: (F, 3, 2) texture coordinates of the corners.
    num_vertices: how many vertices the faces shall still use; fewer collapses are done if no more
    are possible. longest_edge: no edge longer than this is made, so that flat places near a joint
    keep enough vertices to bend. Borders and texture seams keep all their vertices.
    """
    mesh = _Mesh(vertices, faces, corner_uv, longest_edge)
    mesh.collapse_until(num_vertices)
    kept = np.flatnonzero(mesh.alive)
    return mesh.faces[kept], mesh.corner_uv[kept]


class _Mesh:
    """The mesh while it shrinks: faces are switched off or renumbered, vertices never move."""

    def __init__(
        self, vertices: np.ndarray, faces: np.ndarray, corner_uv: np.ndarray, longest_edge: float
    ) -> None:
        self.vertices = np.asarray(vertices, dtype=np.float64)
        self.faces = np.array(faces, dtype=np.int64)
        self.corner_uv = np.array(corner_uv, dtype=np.float64)
        self.longest_edge = longest_edge
        self.alive: np.ndarray = np.ones(len(faces), dtype=bool)
        self.faces_of: list[set[int]] = [set() for _ in vertices]
        for number, face in enumerate(faces.tolist()):
            for vertex in face:
                self.faces_of[vertex].add(number)
        self.quadrics = _quadrics(self.vertices, self.faces)
        self.fixed = _on_border(faces, len(vertices)) | _on_seam(faces, corner_uv, len(vertices))
        self.version = [0] * len(vertices)  # an entry in the queue counts if its version is current
        self.queue: list[tuple[float, int, int, int]] = []  # cost, vertex, target, version

    def collapse_until(self, num_vertices: int) -> None:
        left = sum(1 for faces in self.faces_of if faces)
        for vertex, faces in enumerate(self.faces_of):
            if faces:
                self._propose(vertex)
        while left > num_vertices and self.queue:
            _, vertex, target, version = heapq.heappop(self.queue)
            if version != self.version[vertex]:
                continue
            if self._allowed(vertex, target):
                self._collapse(vertex, target)
                left -= 1
            else:
                self._propose(vertex, only_allowed=True)

    def _propose(self, vertex: int, only_allowed: bool = False) -> None:
        """Put the cheapest collapse of this vertex into the queue, in place of older ones.

        only_allowed: the cheapest of those allowed; looking is dear, so it waits until needed.
        """
        self.version[vertex] += 1
        if self.fixed[vertex]:
            return
        neighbours = np.array(sorted(self._neighbours(vertex)))
        homogeneous = np.concatenate(
            [self.vertices[neighbours], np.ones((len(neighbours), 1))], axis=1
        )
        costs = np.einsum("ni,ij,nj->n", homogeneous, self.quadrics[vertex], homogeneous)
        for index in np.argsort(costs, kind="stable"):
            target = int(neighbours[index])
            if not only_allowed or self._allowed(vertex, target):
                entry = (float(costs[index]), vertex, target, self.version[vertex])
                heapq.heappush(self.queue, entry)
                return

    def _allowed(self, vertex: int, target: int) -> bool:
        """Whether the surface stays a surface: no fold, no pinch, no torn texture, no long edge."""
        shared = self.faces_of[vertex] & self.faces_of[target]
        if len(shared) != 2 or len(self._neighbours(vertex) & self._neighbours(target)) != 2:
            return False
        first, second = (self.corner_uv[face][self.faces[face] == target][0] for face in shared)
        if not np.array_equal(first, second):
            return False
        moved = np.array(sorted(self.faces_of[vertex] - shared))
        before = self.vertices[self.faces[moved]]
        place = self.vertices[target]
        after = np.where((self.faces[moved] == vertex)[..., None], place, before)
        if np.linalg.norm(after - place, axis=-1).max() > self.longest_edge:
            return False
        old, new = _normals(before), _normals(after)
        cosine_times_sizes = (old * new).sum(axis=1)
        sizes = np.linalg.norm(old, axis=1) * np.linalg.norm(new, axis=1)
        return bool((cosine_times_sizes > _LEAST_COSINE * sizes).all())

    def _collapse(self, vertex: int, target: int) -> None:
        shared = self.faces_of[vertex] & self.faces_of[target]
        any_shared = next(iter(shared))
        target_uv = self.corner_uv[any_shared][self.faces[any_shared] == target][0]
        for face in shared:
            self.alive[face] = False
            for corner in self.faces[face].tolist():
                self.faces_of[corner].discard(face)
        for face in self.faces_of[vertex]:
            corner = self.faces[face] == vertex
            self.faces[face][corner] = target
            self.corner_uv[face][corner] = target_uv
            self.faces_of[target].add(face)
        self.faces_of[vertex] = set()
        self.version[vertex] += 1
        self.quadrics[target] += self.quadrics[vertex]
        for changed in sorted(self._neighbours(target) | {target}):
            self._propose(changed)

    def _neighbours(self, vertex: int) -> set[int]:
        around = {corner for face in self.faces_of[vertex] for corner in self.faces[face].tolist()}
        return around - {vertex}


def _normals(corners: np.ndarray) -> np.ndarray:
    """(F, 3, 3) corners -> (F, 3) normals as long as twice the face's area."""
    (ax, ay, az), (bx, by, bz) = (
        (corners[:, k] - corners[:, 0]).T for k in (1, 2)
    )  # np.cross spends more on its options than on the product of a handful of rows
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def _quadrics(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 4, 4): x^T Q x is x's squared distance to the planes of a vertex's faces, by area."""
    corners = vertices[faces]
    normals = _normals(corners)
    sizes = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = normals / np.maximum(sizes, 1e-18)
    planes = np.concatenate(
        [normals, -(normals * corners[:, 0]).sum(axis=1, keepdims=True)], axis=1
    )
    per_face = planes[:, :, None] * planes[:, None, :] * sizes[..., None]
    quadrics = np.zeros((len(vertices), 4, 4))
    for corner in range(3):
        np.add.at(quadrics, faces[:, corner], per_face)
    return quadrics


def _on_border(faces: np.ndarray, num_vertices: int) -> np.ndarray:
    """(V,) vertices of edges that do not have exactly two faces."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    border: np.ndarray = np.zeros(num_vertices, dtype=bool)
    border[unique[counts != 2]] = True
    return border


def _on_seam(faces: np.ndarray, corner_uv: np.ndarray, num_vertices: int) -> np.ndarray:
    """(V,) vertices whose faces disagree about their texture coordinate."""
    uv = corner_uv.reshape(-1, 2)
    vertex = faces.ravel()
    one = np.zeros((num_vertices, 2))
    one[vertex] = uv
    seam: np.ndarray = np.zeros(num_vertices, dtype=bool)
    seam[vertex[(one[vertex] != uv).any(axis=1)]] = True
    return seam
