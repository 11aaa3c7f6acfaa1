"""Coarser meshes of a mesh, for networks that have a token for each vertex of one.

Vertices are chosen evenly over the surface, each as far as possible from those chosen before it
(farthest points by distance along the edges, so that fingers and legs side by side stay apart).
Every other vertex belongs to the nearest chosen one; where the cells of three chosen vertices meet
they make a face. Works on any mesh: with borders, texture seams, several pieces.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy

from hpse_dist.disk import whole_file

NEIGHBOURS = 6  # chosen vertices that a vertex between them is interpolated from
_VERSION = 1
_STIFFNESS = 0.02  # of the interpolation's weights, over the squared distance of chosen vertices


@dataclass(frozen=True)
class Coarse:
    """One coarser mesh of a finer one with V vertices."""

    chosen: np.ndarray
    """(n,) numbers of its vertices in the finer mesh."""
    faces: np.ndarray
    """(F, 3) in its own numbers; those around it give `edges`."""
    near: np.ndarray
    """(V, k) its vertices from which each vertex of the finer mesh is interpolated."""
    weights: np.ndarray
    """(V, k) with these weights, rows sum to 1."""

    def adjacency(self) -> np.ndarray:
        """(n, n) bool: joined by an edge, or the same vertex."""
        joined: np.ndarray = np.eye(len(self.chosen), dtype=bool)
        a, b = edges_of(self.faces).T
        joined[a, b] = joined[b, a] = True
        return joined


def edges_of(faces: np.ndarray) -> np.ndarray:
    """(E, 2) edges of faces (F, 3), each once."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(np.sort(edges, axis=1), axis=0)


def coarsened(
    vertices: np.ndarray, faces: np.ndarray, sizes: Sequence[int], cache: Path | None = None
) -> list[Coarse]:
    """Meshes of so many vertices each, finest first, each a part of the one before.

    vertices (V, 3) metres, faces (F, 3). A size above the number of vertices keeps them all. With
    `cache`, a folder, the result is kept there under a name made of the mesh and the sizes: some
    seconds for thousands of vertices. The first is a mesh of the one given, the next of the first.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    if list(sizes) != sorted(sizes, reverse=True) or not sizes or min(sizes) < 1:
        raise ValueError(f"sizes of coarser meshes must fall and be 1 or more, found {list(sizes)}")
    if cache is None:
        return _coarsened(vertices, faces, sizes)
    text = f"{_VERSION} {NEIGHBOURS} {_STIFFNESS} {list(sizes)}".encode()
    key = hashlib.sha256(text + vertices.astype(np.float32).tobytes() + faces.tobytes()).hexdigest()
    path = cache / f"coarse_{key[:16]}.npz"
    if path.is_file():
        with np.load(path) as stored:
            names = Coarse.__dataclass_fields__
            return [Coarse(*(stored[f"{name}{i}"] for name in names)) for i in range(len(sizes))]
    levels = _coarsened(vertices, faces, sizes)
    cache.mkdir(parents=True, exist_ok=True)
    arrays = {f"{k}{i}": v for i, level in enumerate(levels) for k, v in vars(level).items()}
    with whole_file(path) as draft, draft.open("wb") as file:  # of two processes the last one's
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return levels


def _coarsened(vertices: np.ndarray, faces: np.ndarray, sizes: Sequence[int]) -> list[Coarse]:
    graph = _graph(vertices, faces)
    order = farthest_points(vertices, graph, sizes[0])
    levels, among = [], np.arange(len(vertices))
    for size in sizes:
        chosen = order[:size]
        # (n, V) distances, for the moment: 1723 x 6890 of them are 95 MB
        distance = scipy.sparse.csgraph.dijkstra(graph, indices=chosen)
        near, weights = _interpolation(vertices, distance[:, among], chosen, among)
        place: np.ndarray = np.zeros(len(vertices), np.int64)
        place[among] = np.arange(len(among))
        levels.append(
            Coarse(place[chosen], _meeting(distance.argmin(axis=0)[faces]), near, weights)
        )
        among = chosen
    return levels


def farthest_points(vertices: np.ndarray, graph: scipy.sparse.csr_array, count: int) -> np.ndarray:
    """(count,) numbers of vertices, each the farthest along the edges from those before it."""
    distance: np.ndarray = np.full(len(vertices), np.inf)
    chosen: list[int] = []
    farthest = int(vertices[:, 1].argmax())
    while len(chosen) < min(count, len(vertices)):
        reach = distance.max()  # a vertex farther off has a nearer chosen one already
        chosen.append(farthest)
        distance = np.minimum(
            distance, scipy.sparse.csgraph.dijkstra(graph, indices=farthest, limit=reach)
        )
        distance[farthest] = -1.0  # never again, even where several are in one place
        farthest = int(distance.argmax())
    return np.array(chosen)


def _graph(vertices: np.ndarray, faces: np.ndarray) -> scipy.sparse.csr_array:
    """The edges with their lengths; to csgraph a zero is no edge, hence a least length."""
    a, b = edges_of(faces).T
    lengths = np.maximum(np.linalg.norm(vertices[a] - vertices[b], axis=1), 1e-9)
    ends = np.concatenate([a, b]), np.concatenate([b, a])
    return scipy.sparse.csr_array((np.tile(lengths, 2), ends), shape=(len(vertices),) * 2)


def _meeting(cells: np.ndarray) -> np.ndarray:
    """(F', 3) the triples of different cells among the faces' corners (F, 3), each once."""
    a, b, c = cells.T
    cells = cells[(a != b) & (b != c) & (c != a)]
    _, first = np.unique(np.sort(cells, axis=1), axis=0, return_index=True)
    return cells[np.sort(first)]


def _interpolation(
    vertices: np.ndarray, distance: np.ndarray, chosen: np.ndarray, among: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """near (V, k) and weights (V, k) of `Coarse`, from distances (n, V) along the surface.

    Weights w of the k nearest places p_i with sum 1 and least |sum_i w_i p_i - v|^2 +
    sum_i s (d_i^2 + m) (w_i - u_i)^2, u falling with the distance d: they put the vertex where it
    is at rest, and follow the surface when it bends.
    """
    far = distance.T
    k = min(NEIGHBOURS, len(chosen))
    near = np.argpartition(far, k - 1, axis=1)[:, :k]
    length = np.take_along_axis(far, near, axis=1)
    spacing = np.median(length[:, 0]) + 1e-6
    length = np.minimum(length, 100 * spacing) ** 2  # another piece of the mesh is very far
    wish = 1 / (length + 0.01 * spacing**2)
    wish /= wish.sum(axis=1, keepdims=True)
    push = _STIFFNESS * (length + 0.01 * spacing**2)
    apart = vertices[chosen][near] - vertices[among][:, None]
    system: np.ndarray = np.zeros((len(among), k + 1, k + 1))
    system[:, :k, :k] = apart @ apart.transpose(0, 2, 1)
    system[:, range(k), range(k)] += push
    system[:, k, :k] = system[:, :k, k] = 1.0
    wanted = np.concatenate([push * wish, np.ones((len(among), 1))], axis=1)
    weights = np.linalg.solve(system, wanted[..., None])[:, :k, 0]
    own = near == np.argmin(far, axis=1)[:, None]
    kept = np.isin(among, chosen)
    weights[kept] = own[kept]  # a chosen vertex is itself
    return near, weights.astype(np.float32)
