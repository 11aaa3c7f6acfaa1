"""A free right hand in MANO's file format, cut out of the free body.

The free body's fingers follow its hand; those of anny, which it is made from, have bones. So the
hand's vertices and shape components are the free body's, and the fingers' joints and weights
anny's. Its zero pose is the free body's: a relaxed hand. Made once per machine, without a network,
in the user's cache; a folder as `load_hand` reads it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpse_dist.body import joints
from hpse_dist.body.free_body import (
    NUM_BETAS,
    AnnyShapes,
    adult_shapes,
    cache_folder,
    made_once,
    smpl_rig,
)
from hpse_dist.body.smpl_form import shape_space, to_zero_pose

# The number rises with every change of the hand, and with those of the free body.
FOLDER_NAME = "free_hand_1"
FILE_NAME = "MANO_RIGHT.npz"
NUM_JOINTS = 16
_WRIST, _HAND = joints.SMPL24.index("right_wrist"), joints.SMPL24.index("right_hand")
_FINGERS = ("index", "middle", "pinky", "ring", "thumb")  # of MANO, three joints each
_ANNY_NUMBER = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "pinky": 5}
_TIPS = ("thumb", "index", "middle", "ring", "pinky")


def free_hand_folder(cache: Path | None = None) -> Path:
    """The folder with the free hand's file; the first call makes it, in a minute and a half."""
    folder = (cache_folder() if cache is None else Path(cache)) / FOLDER_NAME
    made_once(folder / FILE_NAME, lambda scratch: make_free_hand(adult_shapes(scratch)))
    return folder


def read_body_vertices(folder: Path) -> np.ndarray:
    """(V,) the free body's vertices that the free hand's are."""
    with np.load(folder / FILE_NAME, allow_pickle=False) as file:
        numbers: np.ndarray = file["body_vertices"]
    return numbers


def make_free_hand(shapes: AnnyShapes) -> dict[str, np.ndarray]:
    """The file's arrays: MANO's own; `tips`, the vertices of the finger tips, and
    `body_vertices`, the numbers that these vertices have in the free body.

    They are those that wrist and hand alone move: by itself a hand is that part of the body.
    """
    weights, rest_joints = smpl_rig(shapes)
    chosen = np.flatnonzero(weights[:, [_WRIST, _HAND]].sum(axis=1) > 1 - 1e-6)
    posed, places = to_zero_pose(shapes.vertices, rest_joints, weights, shapes.knuckles())
    template, components, scores = shape_space(posed, shapes.faces, NUM_BETAS)
    template, components = template[chosen], components[chosen]
    inner = _carried(shapes, chosen, posed[:, chosen])
    inner = np.concatenate([places[:, _WRIST, None], inner], axis=1)  # (S, 16, 3)
    of_fingers = _finger_weights(shapes, chosen)
    renumbered: np.ndarray = np.full(len(weights), -1)
    renumbered[chosen] = np.arange(len(chosen))
    faces = renumbered[shapes.faces]
    parents = np.array([2**32 - 1, *joints.MANO_PARENTS[1:NUM_JOINTS]])
    return {
        "v_template": template.astype(np.float32),
        "shapedirs": components.astype(np.float32),
        "posedirs": np.zeros((len(chosen), 3, 9 * (NUM_JOINTS - 1)), np.float32),  # none
        "J_regressor": _regressor(template, components, inner, scores).astype(np.float32),
        "weights": of_fingers.astype(np.float32),
        "kintree_table": np.stack([parents, np.arange(NUM_JOINTS)]).astype(np.uint32),
        "f": faces[(faces >= 0).all(axis=1)].astype(np.uint32),
        "hands_mean": np.zeros(3 * (NUM_JOINTS - 1), np.float32),
        "tips": _tips(template, inner.mean(axis=0), of_fingers),
        "body_vertices": chosen,
        "source": np.array("made from anny: code Apache-2.0, body assets CC0"),
    }


def _bones() -> list[str]:
    """anny's bone of each of MANO's joints but the wrist."""
    return [f"finger{_ANNY_NUMBER[name]}-{k}.R" for name in _FINGERS for k in (1, 2, 3)]


def _carried(shapes: AnnyShapes, chosen: np.ndarray, posed: np.ndarray) -> np.ndarray:
    """(S, 15, 3) finger joints in the zero pose, carried as the hand's vertices (S, V, 3) were: by
    one rotation and shift of each shape (Kabsch)."""
    heads = np.stack([shapes.heads(bone) for bone in _bones()], axis=1)
    before, after = shapes.vertices[:, chosen], posed
    middle, there = before.mean(axis=1, keepdims=True), after.mean(axis=1, keepdims=True)
    u, _, vt = np.linalg.svd((before - middle).transpose(0, 2, 1) @ (after - there))
    sign = np.sign(np.linalg.det(u @ vt))[:, None, None] * np.array([0, 0, 1.0]) + [1.0, 1.0, 0]
    return (heads - middle) @ (u * sign @ vt) + there


def _finger_weights(shapes: AnnyShapes, chosen: np.ndarray) -> np.ndarray:
    """(V, 16) anny's weights of the fingers' bones; all others are the wrist's."""
    columns = [shapes.bone_names.index(bone) for bone in _bones()]
    weights = np.concatenate(
        [np.zeros((len(chosen), 1)), shapes.bone_weights[chosen][:, columns]], 1
    )
    weights[:, 0] = 1.0 - weights[:, 1:].sum(axis=1)
    return weights


def _regressor(
    template: np.ndarray, components: np.ndarray, places: np.ndarray, scores: np.ndarray
) -> np.ndarray:
    """(16, V) of least norm that gives the joints (S, 16, 3) of every shape, as `joint_regressor`
    of the body does; of either sign, as the wrist lies at the border of the cut."""
    slopes = np.einsum("sjc,sk->jck", places - places.mean(axis=0), scores) / (len(scores) - 1)
    rows = [template.T, components.reshape(len(template), -1).T, np.ones((1, len(template)))]
    count = len(places[0])
    wanted = [places.mean(axis=0).T, slopes.reshape(count, -1).T, np.ones((1, count))]
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(wanted), rcond=None)[0].T


def _tips(template: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(5,) the vertex of each finger's last bone that lies farthest out along it, thumb first."""
    found = []
    for name in _TIPS:
        last = 3 * _FINGERS.index(name) + 3
        along = places[last] - places[last - 1]
        reach = np.where(weights[:, last] > 0.9, (template - places[last]) @ along, -np.inf)
        found.append(int(reach.argmax()))
    return np.array(found)
