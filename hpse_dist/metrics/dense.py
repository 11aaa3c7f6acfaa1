"""Dense pose by distance on the surface: geodesic point similarity (Güler et al., CVPR 2018).

A prediction says for each annotated point which place of the body's surface it shows. How wrong
that is, is the length of the shortest way over the surface.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
import torch
from torch import Tensor

KAPPA_METRES = 0.255
"""The paper's normaliser: half a body segment, 0.30 m, away is a similarity of 0.5."""


def closest_vertices(
    parts: np.ndarray, uv: np.ndarray, vertex_part: np.ndarray, vertex_uv: np.ndarray
) -> np.ndarray:
    """(P,) the vertex of each point's part whose surface coordinates are nearest; -1 where none.

    parts (P,) 0 the background, uv (P, 2); vertex_part (V,) 1..K and vertex_uv (V, 2) of the mesh.
    """
    found: np.ndarray = np.full(len(parts), -1, dtype=np.int64)
    for part in np.unique(parts[parts > 0]):
        there = np.flatnonzero(vertex_part == part)
        if len(there):
            here = parts == part
            found[here] = there[scipy.spatial.cKDTree(vertex_uv[there]).query(uv[here])[1]]
    return found


def geodesic_distances(
    vertices: np.ndarray, faces: np.ndarray, sources: np.ndarray | None = None
) -> np.ndarray:
    """(S, V) metres from each source vertex to all, along the edges of the mesh.

    vertices (V, 3), faces (F, 3), sources (S,) vertex numbers, None for all. Ways along edges are
    a few percent longer than ways across faces; infinite between parts that no edge joins.
    """
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1), axis=0)
    length = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    graph = scipy.sparse.coo_matrix(
        (length, (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2
    )
    return scipy.sparse.csgraph.dijkstra(graph.tocsr(), directed=False, indices=sources)


def gps(distance: Tensor, known: Tensor, normaliser: float | Tensor = KAPPA_METRES) -> Tensor:
    """(B,) geodesic point similarity 0..1: mean over the known points of exp(-d^2 / (2 k^2)).

    distance (B, P) metres, infinite where the prediction shows no body; known (B, P) bool;
    normaliser k, one or (B, P): the evaluation code has its own for each part. NaN without points.
    """
    value = (-distance.square() / (2 * torch.as_tensor(normaliser).square())).exp()
    count = known.sum(1)
    return value.where(known, 0.0).sum(1) / count.where(count > 0, math.nan)


def gpsm(similarity: Tensor, mask_iou: Tensor) -> Tensor:
    """(B,) masked similarity: the geometric mean of GPS and the masks' intersection over union."""
    return (similarity * mask_iou).sqrt()
