"""A body's mirror image on its own surface: which surface coordinates change places."""

from __future__ import annotations

import functools

import numpy as np
import scipy
import torch
from torch import Tensor

from hpse_dist.body.model import Body, load_body

TABLE_SIDE = 512
_POINTS = 8  # along each edge of a face: finer than the table's cells on the free body
_NO_TWIN = 2e-3  # metres: the mirror image of a vertex is a vertex nearer than this


@functools.cache
def free_body_uv_mirror() -> Tensor:
    """`uv_mirror` of the free body, made once per process (a second)."""
    return uv_mirror(load_body("free"))


def uv_mirror(body: Body, side: int = TABLE_SIDE) -> Tensor:
    """(side, side, 2): for each cell [row of v, column of u] of the texture, the coordinates of the
    place opposite on the body.

    The charts of a texture may be mirrored in themselves or in one another, each about an axis of
    its own, so the table is measured: points all over every face, and the same points of the face
    that the mirror image covers. ValueError where the mesh has no mirror image.
    """
    vertices, faces = body.v_template.numpy(), body.faces.numpy()
    distance, twin = scipy.spatial.cKDTree(vertices).query(vertices * [-1.0, 1.0, 1.0])
    known = {tuple(sorted(face)): number for number, face in enumerate(faces.tolist())}
    pairs = [known.get(tuple(sorted(face)), -1) for face in twin[faces].tolist()]
    number = np.array(pairs)
    if (distance < _NO_TWIN).mean() < 0.95 or (number >= 0).mean() < 0.9:
        raise ValueError("this body's mesh is not its own mirror image, so uv_map has no mirror")
    here = np.flatnonzero(number >= 0)
    there = number[here]
    # corner c of a face goes to the corner of the other face that holds the vertex's twin
    corner = (faces[there][:, None, :] == twin[faces[here]][:, :, None]).argmax(2)
    uv = body.corner_uv.numpy()
    opposite = uv[there[:, None], corner]
    shares = _shares()
    places = (shares @ uv[here]).reshape(-1, 2)
    values = (shares @ opposite).reshape(-1, 2)
    cells = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1) + 0.5) / side
    nearest = scipy.spatial.cKDTree(places).query(cells.reshape(-1, 2))[1].reshape(side, side)
    # the rest of the way from the measured point to the cell's middle is left out: under a cell
    return torch.from_numpy(values[nearest].astype(np.float32))


def _shares() -> np.ndarray:
    """(K, 3) weights of a face's corners at points spread over it."""
    steps = [(i, j, _POINTS - i - j) for i in range(_POINTS + 1) for j in range(_POINTS + 1 - i)]
    return np.array(steps, np.float64) / _POINTS
