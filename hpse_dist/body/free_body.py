"""A free body in SMPL's file format, made from anny (code Apache-2.0, body assets CC0). The only door of anny.

Anny's rest shape stands with hanging, bent arms, z up. SMPL's zero pose stands with the arms straight out to the sides,
palms down, y up, facing +z, left on +x. So every sampled shape is brought into that pose first. It is done by inverting
linear blend skinning instead of applying it: turning the arms of the result back down gives anny's own sculpted surface
exactly, so the errors of skinning are smallest near the poses people are mostly in. The pelvis joint is the origin.

Made once per machine, without a network, in the user's cache: $HPSE_CACHE, or ~/.cache/hpse_dist.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import nnls

from hpse_dist.body import joints
from hpse_dist.body.simplify import simplify

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

logger = logging.getLogger(__name__)

FILE_NAME = "free_body_1.npz"  # the number rises with every change of shape: betas of old collections refer to it
NUM_BETAS = 10
NUM_SHAPES = 400
NUM_VERTICES = 6000

# Anny's bone whose head is each joint of SMPL24 ("*" stands for L or R).
_BONE_OF_JOINT = {
    "pelvis": "root",
    "hip": "upperleg01.*",
    "knee": "lowerleg01.*",
    "ankle": "foot.*",
    "foot": "toe2-1.*",
    "spine1": "spine04",
    "spine2": "spine02",
    "spine3": "spine01",
    "neck": "neck01",
    "head": "head",
    "collar": "clavicle.*",
    "shoulder": "upperarm01.*",
    "elbow": "lowerarm01.*",
    "wrist": "wrist.*",
    "hand": "finger3-1.*",
}
# All toes follow the foot joint and all fingers the hand joint, not only the ones whose bone gives the joint its place.
_WHOLE_FAMILIES = {"toe": "foot", "finger": "hand"}
_INNER_PARTS = ("eye_back.L", "eye_back.R", "eye_cavity.L", "eye_cavity.R", "mouth_cavity", "tongue")
_ADULT_AGES = (20.0, 75.0)


@dataclass
class AnnyShapes:
    """Adult rest shapes of anny, metres, y up, facing +z, on one mesh."""

    vertices: Array  # (S, V, 3)
    bone_heads: Array  # (S, bones, 3)
    bone_names: list[str]
    bone_parents: list[int]
    bone_weights: Array  # (V, bones), rows sum to 1
    faces: Indices  # (F, 3)
    corner_uv: Array  # (F, 3, 2) texture coordinates of each face's corners, 0..1


def cache_folder() -> Path:
    """Where things made once per user are kept: $HPSE_CACHE, or ~/.cache/hpse_dist."""
    return Path(os.environ.get("HPSE_CACHE") or Path.home() / ".cache" / "hpse_dist")


def free_body_path(cache: Path | None = None) -> Path:
    """Path of the free body's .npz; the first call makes it, which takes about a minute and a half.

    Several processes may call this at once: one makes the file, the others wait for it. It is published by a rename,
    so a file that exists is whole.
    """
    folder = cache_folder() if cache is None else Path(cache)
    path = folder / FILE_NAME
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / (FILE_NAME + ".lock")):
        if path.exists():
            return path
        logger.warning("Making the free body once, in %s: about a minute and a half.", folder)
        scratch = Path(tempfile.mkdtemp(prefix="free_body.", dir=folder))
        try:
            arrays = make_free_body(scratch)
            np.savez_compressed(scratch / FILE_NAME, allow_pickle=False, **arrays)
            os.replace(scratch / FILE_NAME, path)
        finally:
            shutil.rmtree(scratch)
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; released by the system if the process dies."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_free_body(scratch: Path) -> dict[str, NDArray[Any]]:
    """The arrays of the body file: SMPL's own names, and beside them `vertex_uv`, `corner_uv`, `vertex_part`.

    scratch: a folder for anny's own cache (0.8 GB while it runs), removed by the caller.
    """
    shapes = _load_anny(scratch, NUM_SHAPES)
    shapes = _reduced(shapes, NUM_VERTICES)
    weights, rest_joints = _smpl_rig(shapes)
    vertices, joint_places = _to_zero_pose(shapes, weights, rest_joints)
    template, shapedirs, scores = _shape_space(vertices, shapes.faces)
    regressor = _joint_regressor(template, shapedirs, joint_places, scores)
    num_vertices = len(template)
    parents = np.array(joints.PARENTS, dtype=np.int64)
    kintree = np.stack([np.where(parents < 0, 2**32 - 1, parents), np.arange(24)])
    return {
        "v_template": template.astype(np.float32),
        "shapedirs": shapedirs.astype(np.float32),
        "posedirs": np.zeros((num_vertices, 3, 9 * 23), dtype=np.float32),
        "J_regressor": regressor.astype(np.float32),
        "weights": weights.astype(np.float32),
        "kintree_table": kintree.astype(np.uint32),
        "f": shapes.faces.astype(np.uint32),
        "vertex_uv": _uv_of_vertices(shapes).astype(np.float32),
        "corner_uv": shapes.corner_uv.astype(np.float32),
        "vertex_part": joints.parts_from_weights(weights, range(24)).astype(np.uint8),
        "source": np.array("anny (Apache-2.0 code, CC0 assets), see hpse_dist.body.free_body"),
    }


def _load_anny(scratch: Path, num_shapes: int) -> AnnyShapes:
    """Sample adult shapes; heights, weights and build follow the WHO-calibrated tables that anny carries."""
    import anny
    import anny.paths
    from anny.face_segmentation import get_face_segmentation_mask
    from anny.shape_distribution import SimpleShapeDistribution

    before = anny.paths.get_anny_cache_path()
    anny.paths.set_anny_cache_path(scratch / "anny")
    try:
        # "lbs" keeps warp, its kernels and its messages out; nothing here needs a GPU.
        model = anny.Anny(skinning_method="lbs", phenotypes="all", phenotype_blendshapes="original")
    finally:
        anny.paths.set_anny_cache_path(before)
    low, high = (torch.tensor(age, dtype=model.dtype) for age in _ADULT_AGES)
    half = torch.tensor(0.4, dtype=model.dtype)
    adults = SimpleShapeDistribution(
        model,
        morphological_age_distribution=torch.distributions.Uniform(low, high),
        gender_distribution=torch.distributions.Beta(half, half),  # mostly near one end, some between
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        _, phenotypes = adults.sample(num_shapes)
        batches = [
            model(phenotype_kwargs={name: values[start : start + 50] for name, values in phenotypes.items()})
            for start in range(0, num_shapes, 50)
        ]
    inner = get_face_segmentation_mask(model, list(_INNER_PARTS)).numpy()
    bones = np.zeros((len(model.template_vertices), len(model.bone_labels)))
    np.add.at(
        bones,
        (np.arange(len(bones))[:, None], model.vertex_bone_indices.numpy()),
        model.vertex_bone_weights.numpy(),
    )
    corner_uv = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]
    return AnnyShapes(
        vertices=np.concatenate([_y_up(batch["rest_vertices"].numpy()) for batch in batches]),
        bone_heads=np.concatenate([_y_up(batch["rest_bone_heads"].numpy()) for batch in batches]),
        bone_names=list(model.bone_labels),
        bone_parents=list(model.bone_parents),
        bone_weights=bones / bones.sum(axis=1, keepdims=True),
        faces=model.faces.numpy()[~inner],
        corner_uv=corner_uv[~inner],
    )


def _y_up(points: Array) -> Array:
    """(..., 3) from z up, facing -y to y up, facing +z; left stays on +x."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def _reduced(shapes: AnnyShapes, num_vertices: int) -> AnnyShapes:
    """The same shapes on fewer vertices, each one of anny's own, so that weights and displacements carry over."""
    faces, corner_uv = simplify(shapes.vertices.mean(axis=0), shapes.faces, shapes.corner_uv, num_vertices)
    kept, flat = np.unique(faces, return_inverse=True)
    return AnnyShapes(
        vertices=shapes.vertices[:, kept],
        bone_heads=shapes.bone_heads,
        bone_names=shapes.bone_names,
        bone_parents=shapes.bone_parents,
        bone_weights=shapes.bone_weights[kept],
        faces=flat.reshape(-1, 3),
        corner_uv=corner_uv,
    )


def _smpl_rig(shapes: AnnyShapes) -> tuple[Array, Array]:
    """Skinning weights (V, 24) summed over anny's bones, and the joints' places (S, 24, 3) in anny's rest pose."""
    heads = np.array([shapes.bone_names.index(_bone_of(name)) for name in joints.SMPL24])
    joint_of_bone = np.zeros(len(shapes.bone_names), dtype=np.int64)
    for bone, name in enumerate(shapes.bone_names):  # parents come before their children
        family = next((joint for prefix, joint in _WHOLE_FAMILIES.items() if name.startswith(prefix)), None)
        if bone in heads:
            joint_of_bone[bone] = int(np.flatnonzero(heads == bone)[0])
        elif family is not None:
            side = "left" if name.endswith(".L") else "right"
            joint_of_bone[bone] = joints.SMPL24.index(f"{side}_{family}")
        elif shapes.bone_parents[bone] >= 0:
            joint_of_bone[bone] = joint_of_bone[shapes.bone_parents[bone]]
    weights = np.zeros((len(shapes.bone_weights), len(joints.SMPL24)))
    np.add.at(weights.T, joint_of_bone, shapes.bone_weights.T)
    return weights, shapes.bone_heads[:, heads]


def _bone_of(joint: str) -> str:
    side, _, bare = joint.partition("_")
    return _BONE_OF_JOINT[bare or joint].replace("*", side[0].upper())


def _to_zero_pose(shapes: AnnyShapes, weights: Array, rest: Array) -> tuple[Array, Array]:
    """Vertices (S, V, 3) and joints (S, 24, 3) in SMPL's zero pose, pelvis at the origin.

    With G_k the turn of joint k from anny's rest to the zero pose, skinning the result back by the inverse turns has to
    give anny's surface: sum_k w_k (G_k^T (v - j_k) + r_k) = v_anny, which is three linear equations per vertex.
    """
    turns = _turns(shapes, rest)  # (S, 24, 3, 3)
    posed = np.zeros_like(rest)
    for joint, parent in enumerate(joints.PARENTS[1:], start=1):
        offset = rest[:, joint] - rest[:, parent]
        posed[:, joint] = posed[:, parent] + np.einsum("sij,sj->si", turns[:, parent], offset)
    vertices = np.empty_like(shapes.vertices)
    for index, (turn, here, there) in enumerate(zip(turns, rest, posed, strict=True)):
        back = turn.transpose(0, 2, 1)
        shift = here - np.einsum("kij,kj->ki", back, there)
        blended = np.einsum("vk,kij->vij", weights, back)
        vertices[index] = np.linalg.solve(blended, (shapes.vertices[index] - weights @ shift)[..., None])[..., 0]
    return vertices, posed


def _turns(shapes: AnnyShapes, rest: Array) -> Array:
    """(S, 24, 3, 3) turn of every joint, in world axes, from anny's rest pose to SMPL's zero pose.

    Trunk, head and feet stay. Thighs and shins point down. Upper arm and forearm point sideways, with the elbow's hinge
    (the normal of the bent arm) upright, so that the elbow bends about SMPL's y axis; palms face down.
    """
    turns = np.tile(np.eye(3), (*rest.shape[:2], 1, 1))
    at = {name: rest[:, index] for index, name in enumerate(joints.SMPL24)}
    for side, sign in (("left", 1.0), ("right", -1.0)):
        knee, ankle = at[f"{side}_knee"], at[f"{side}_ankle"]
        thigh, shin = knee - at[f"{side}_hip"], ankle - knee
        down = np.array([0.03 * sign, -1.0, 0.0])
        forward = np.array([0.0, 0.0, 1.0])
        for joint, bone in (("hip", thigh), ("knee", shin)):
            turns[:, joints.SMPL24.index(f"{side}_{joint}")] = _turn(bone, np.broadcast_to(forward, bone.shape), down, forward)
        upper = at[f"{side}_elbow"] - at[f"{side}_shoulder"]
        fore = at[f"{side}_wrist"] - at[f"{side}_elbow"]
        hinge = np.cross(upper, fore)
        out, hinge_to = np.array([sign, 0.0, 0.0]), np.array([0.0, -sign, 0.0])
        turns[:, joints.SMPL24.index(f"{side}_shoulder")] = _turn(upper, hinge, out, hinge_to)
        turns[:, joints.SMPL24.index(f"{side}_elbow")] = _turn(fore, hinge, out, hinge_to)
        index_base, little_base = (
            shapes.bone_heads[:, shapes.bone_names.index(f"finger{finger}-1.{side[0].upper()}")] for finger in (2, 5)
        )
        hand = at[f"{side}_hand"] - at[f"{side}_wrist"]
        palm = _turn(hand, index_base - little_base, out, forward)
        for joint in ("wrist", "hand"):
            turns[:, joints.SMPL24.index(f"{side}_{joint}")] = palm
    return turns


def _turn(first: Array, second: Array, first_to: Array, second_to: Array) -> Array:
    """(S, 3, 3) rotations that take `first` (S, 3) to the direction `first_to` (3,), and `second` as near to `second_to`."""
    source = _frame(first, second)
    target = _frame(first_to[None], second_to[None])
    return target @ source.transpose(0, 2, 1)


def _frame(first: Array, second: Array) -> Array:
    """(S, 3, 3) right-handed frames whose first column is along `first` and second in the plane of both."""
    x = first / np.linalg.norm(first, axis=-1, keepdims=True)
    y = second - (second * x).sum(-1, keepdims=True) * x
    y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def _shape_space(vertices: Array, faces: Indices) -> tuple[Array, Array, Array]:
    """Template (V, 3), shape components (V, 3, 10) of unit variance, and the samples' scores (S, 10).

    Principal components with each vertex weighted by its share of the surface: the mesh is densest in face and hands,
    and ten components should describe bodies.
    """
    template = vertices.mean(axis=0)
    centred = (vertices - template).reshape(len(vertices), -1)
    importance = np.repeat(_vertex_areas(template, faces), 3)
    # Scores from the Gram matrix (S, S): its eigenvectors are the left singular vectors of the weighted samples.
    _, vectors = np.linalg.eigh((centred * importance) @ centred.T)
    scores = vectors[:, ::-1][:, :NUM_BETAS] * np.sqrt(len(vertices) - 1)
    components = centred.T @ scores / (len(vertices) - 1)
    # An eigenvector's sign is arbitrary; more of a component shall mean a larger body.
    signs = np.sign(template.reshape(-1) @ components)
    return template, (components * signs).reshape(*template.shape, NUM_BETAS), scores * signs


def _vertex_areas(vertices: Array, faces: Indices) -> Array:
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    return np.bincount(faces.ravel(), np.repeat(areas / 3, 3), minlength=len(vertices))


def _joint_regressor(template: Array, shapedirs: Array, places: Array, scores: Array) -> Array:
    """(24, V) non-negative, sparse, rows sum to 1: the joints of every shape as weighted means of its vertices.

    For shape numbers drawn from N(0, 1) the expected squared error is that of the mean shape plus those of the ten
    components, so fitting these 33 equations is fitting all shapes at once.
    """
    mean = places.mean(axis=0)
    slopes = np.einsum("sjc,sk->jck", places - mean, scores) / (len(scores) - 1)  # (24, 3, 10)
    regressor = np.zeros((len(mean), len(template)))
    for joint in range(len(mean)):
        # Inner joints need vertices on all sides; a limb's joint needs none of the other limbs.
        near = np.argsort(np.linalg.norm(template - mean[joint], axis=1))[: len(template) // 4]
        rows = np.concatenate(
            [(template[near] - mean[joint]).T, (shapedirs[near] - slopes[joint]).reshape(len(near), -1).T]
        )
        # The last row asks for a sum of 1, in units where a miss of 1 % costs as much as a metre.
        rows = np.concatenate([rows, np.full((1, len(near)), 100.0)])
        wanted = np.zeros(len(rows))
        wanted[-1] = 100.0
        found, _ = nnls(rows, wanted)
        regressor[joint, near] = found / found.sum()
    return regressor


def _uv_of_vertices(shapes: AnnyShapes) -> Array:
    """(V, 2) one texture coordinate per vertex; on a seam, where a vertex has several, that of its last face."""
    uv = np.zeros((shapes.vertices.shape[1], 2))
    uv[shapes.faces.ravel()] = shapes.corner_uv.reshape(-1, 2)
    return uv
