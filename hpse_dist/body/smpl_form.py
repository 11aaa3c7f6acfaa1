"""From sampled rest shapes to SMPL's form: the zero pose, a linear shape space, a joint regressor.

SMPL's zero pose stands with the arms straight out to the sides, palms down, y up, facing +z, left
on +x. Shapes sculpted with hanging, bent arms are brought there by inverting linear blend skinning
instead of applying it: turning the arms of the result back down gives the sculpted surface exactly,
so skinning errs least near the poses people are mostly in.
"""

from __future__ import annotations

import numpy as np
import scipy

from hpse_dist.body import joints

_LEG_SPREAD = 0.03  # SMPL's legs in the zero pose lean a little outwards: x over y


def to_zero_pose(
    vertices: np.ndarray, rest: np.ndarray, weights: np.ndarray, knuckles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (S, V, 3) and joints (S, 24, 3) in SMPL's zero pose, pelvis at the origin.

    vertices (S, V, 3) and rest (S, 24, 3): shapes and joints as sculpted, y up, facing +z.
    weights (V, 24); knuckles (S, 4, 3): bases of left index, left little, right index, right little
    finger, which say where the palms face.

    With G_k the turn of joint k from the sculpted pose to the zero pose, r_k its sculpted and j_k
    its new place, skinning back has to give the sculpted surface:
    sum_k w_k (G_k^T (v - j_k) + r_k) = v_sculpted, three linear equations for each vertex.
    """
    turns = _turns(rest, knuckles)  # (S, 24, 3, 3)
    places = np.zeros_like(rest)
    for joint, parent in enumerate(joints.PARENTS[1:], start=1):
        bone = rest[:, joint] - rest[:, parent]
        places[:, joint] = places[:, parent] + np.einsum("sij,sj->si", turns[:, parent], bone)
    posed = np.empty_like(vertices)
    for sculpted, turn, here, there, out in zip(vertices, turns, rest, places, posed, strict=True):
        back = turn.transpose(0, 2, 1)
        shift = weights @ (here - np.einsum("kij,kj->ki", back, there))
        blended = np.einsum("vk,kij->vij", weights, back)
        out[:] = np.linalg.solve(blended, (sculpted - shift)[..., None])[..., 0]
    return posed, places


def _turns(rest: np.ndarray, knuckles: np.ndarray) -> np.ndarray:
    """(S, 24, 3, 3) turn of every joint, in world axes, from the sculpted to the zero pose.

    Trunk, head and feet stay as they are. The arm is turned so that the elbow's hinge, the normal
    of the plane of the bent arm, comes to stand upright: SMPL's elbow bends about y.
    """
    turns = np.tile(np.eye(3), (*rest.shape[:2], 1, 1))
    forward = np.broadcast_to([0.0, 0.0, 1.0], rest[:, 0].shape)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        hip, knee, ankle, shoulder, elbow, wrist, hand = (
            rest[:, joints.SMPL24.index(f"{side}_{name}")]
            for name in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist", "hand")
        )
        down, out = (_LEG_SPREAD * sign, -1.0, 0.0), (sign, 0.0, 0.0)
        hinge, hinge_to = np.cross(elbow - shoulder, wrist - elbow), (0.0, -sign, 0.0)
        first = 0 if side == "left" else 2
        across_palm = knuckles[:, first] - knuckles[:, first + 1]
        palm = _turn(hand - wrist, across_palm, out, (0.0, 0.0, 1.0))
        for name, turn in (
            ("hip", _turn(knee - hip, forward, down, (0.0, 0.0, 1.0))),
            ("knee", _turn(ankle - knee, forward, down, (0.0, 0.0, 1.0))),
            ("shoulder", _turn(elbow - shoulder, hinge, out, hinge_to)),
            ("elbow", _turn(wrist - elbow, hinge, out, hinge_to)),
            ("wrist", palm),
            ("hand", palm),
        ):
            turns[:, joints.SMPL24.index(f"{side}_{name}")] = turn
    return turns


def _turn(
    first: np.ndarray,
    second: np.ndarray,
    first_to: tuple[float, float, float],
    second_to: tuple[float, float, float],
) -> np.ndarray:
    """(S, 3, 3) turns of `first` (S, 3) into direction `first_to`, `second` next to `second_to`."""
    target = _frame(np.array([first_to]), np.array([second_to]))
    return target @ _frame(first, second).transpose(0, 2, 1)


def _frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(S, 3, 3) right-handed frames: column 0 along `first`, column 1 in the plane of both."""
    x = first / np.linalg.norm(first, axis=-1, keepdims=True)
    y = second - (second * x).sum(axis=-1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def shape_space(
    vertices: np.ndarray, faces: np.ndarray, num_betas: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Template (V, 3), components (V, 3, K) and the samples' scores (S, K) of unit variance.

    Principal components of the shapes (S, V, 3), each vertex counting by its share of the surface:
    a mesh is densest in face and hands, and the first components shall describe bodies.
    """
    template = vertices.mean(axis=0)
    centred = (vertices - template).reshape(len(vertices), -1)
    importance: np.ndarray = np.repeat(_vertex_areas(template, faces), 3)
    # Eigenvectors of the (S, S) Gram matrix are the weighted samples' left singular vectors.
    _, vectors = np.linalg.eigh((centred * importance) @ centred.T)
    scores = vectors[:, ::-1][:, :num_betas] * np.sqrt(len(vertices) - 1)
    components = centred.T @ scores / (len(vertices) - 1)
    # An eigenvector's sign is arbitrary: here more of each component makes a larger body.
    signs = np.sign(template.reshape(-1) @ components)
    return template, (components * signs).reshape(*template.shape, num_betas), scores * signs


def _vertex_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V,) a third of the area of each vertex's faces."""
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    return np.bincount(faces.ravel(), np.repeat(areas / 3, 3), minlength=len(vertices))


def joint_regressor(
    template: np.ndarray, shapedirs: np.ndarray, places: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """(24, V) sparse and non-negative, rows sum to 1: joints as weighted means of vertices.

    places (S, 24, 3) are the true joints of the shapes with scores (S, K). For betas drawn from
    N(0, 1) the expected squared error is that of the mean shape plus those of the K components, so
    these 3 + 3K equations per joint stand for all shapes at once.
    """
    mean = places.mean(axis=0)
    slopes = np.einsum("sjc,sk->jck", places - mean, scores) / (len(scores) - 1)  # (24, 3, K)
    regressor = np.zeros((len(mean), len(template)))
    sum_weight = 100.0  # a sum of weights off by 1 % costs as much as a joint off by a metre
    for joint, (place, slope) in enumerate(zip(mean, slopes, strict=True)):
        # Half of the mesh: an inner joint needs vertices all around it.
        near = np.argsort(np.linalg.norm(template - place, axis=1))[: len(template) // 2]
        equations = np.concatenate(
            [
                (template[near] - place).T,
                (shapedirs[near] - slope).reshape(len(near), -1).T,
                np.full((1, len(near)), sum_weight),
            ]
        )
        wanted = np.zeros(len(equations))
        wanted[-1] = sum_weight
        found, _ = scipy.optimize.nnls(equations, wanted)
        regressor[joint, near] = found / found.sum()
    return regressor
