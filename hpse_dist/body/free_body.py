"""A free body in SMPL's file format, made from anny (Apache-2.0, assets CC0). The door of anny.

Made once per machine, without a network, in the user's cache: $HPSE_CACHE or ~/.cache/hpse_dist.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hpse_dist.body import joints
from hpse_dist.body.simplify import simplify
from hpse_dist.body.smpl_form import joint_regressor, shape_space, to_zero_pose

logger = logging.getLogger(__name__)

# The number rises with every change of the body: a collection's betas mean this body and no other.
FILE_NAME = "free_body_1.npz"
NUM_BETAS = 10
NUM_SHAPES = 400
NUM_VERTICES = 6000  # of the 12,488 that can be seen; SMPL has 6,890
LONGEST_EDGE = 0.04  # metres
ADULT_AGES = (20.0, 75.0)  # years

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
# All toes follow the foot and all fingers the hand, not just those whose bone places the joint.
_FAMILIES = {"toe": "foot", "finger": "hand"}
_SIDED_INNER_PARTS = ("eye_back", "eye_cavity")
_INNER_PARTS = [f"{part}.{side}" for part in _SIDED_INNER_PARTS for side in "LR"]
_INNER_PARTS += ["mouth_cavity", "tongue"]


@dataclass(frozen=True)
class AnnyShapes:
    """Adult rest shapes of anny on one mesh: metres, y up, facing +z."""

    vertices: np.ndarray  # (S, V, 3)
    bone_heads: np.ndarray  # (S, bones, 3)
    bone_names: list[str]
    bone_parents: list[int]
    bone_weights: np.ndarray  # (V, bones), rows sum to 1
    faces: np.ndarray  # (F, 3)
    corner_uv: np.ndarray  # (F, 3, 2) texture coordinates of the faces' corners, 0..1

    def heads(self, bone: str) -> np.ndarray:
        """(S, 3) place of a bone's head in every shape."""
        return self.bone_heads[:, self.bone_names.index(bone)]

    def knuckles(self) -> np.ndarray:
        """(S, 4, 3) bases of left index, left little, right index, right little finger."""
        return np.stack([self.heads(f"finger{n}-1.{s}") for s in "LR" for n in (2, 5)], axis=1)


def cache_folder() -> Path:
    """Where things made once per user are kept: $HPSE_CACHE, or ~/.cache/hpse_dist."""
    return Path(os.environ.get("HPSE_CACHE") or Path.home() / ".cache" / "hpse_dist")


def free_body_path(cache: Path | None = None) -> Path:
    """Path of the free body's .npz; the first call makes it, in about a minute and a half.

    Several processes may call this at once: one makes the file, the others wait. It is published
    by a rename, so a file that exists is whole.
    """
    folder = cache_folder() if cache is None else Path(cache)
    path = folder / FILE_NAME
    made_once(path, lambda scratch: make_free_body(scratch))
    return path


def made_once(path: Path, make: Callable[[Path], dict[str, np.ndarray]]) -> None:
    """Write the arrays that `make` gives, with a folder of its own, to an .npz, unless it exists.

    Of several processes one makes the file and the others wait for it; a process that dies lets
    the lock go. The file is published by a rename, so one that exists is whole.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(path.name + ".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if path.exists():  # made while this process waited for the lock
            return
        logger.warning("Making %s once: about a minute and a half.", path)
        scratch = Path(tempfile.mkdtemp(prefix="making.", dir=path.parent))
        try:
            np.savez_compressed(scratch / path.name, allow_pickle=False, **make(scratch))
            os.replace(scratch / path.name, path)
        finally:
            shutil.rmtree(scratch)


def make_free_body(scratch: Path) -> dict[str, np.ndarray]:
    """The file's arrays: SMPL's own, and beside them `vertex_uv`, `corner_uv`, `vertex_part`.

    scratch: a folder for anny's own cache, 0.8 GB while it runs; the caller removes it.
    """
    shapes = adult_shapes(scratch)
    weights, rest_joints = smpl_rig(shapes)
    vertices, places = to_zero_pose(shapes.vertices, rest_joints, weights, shapes.knuckles())
    template, shapedirs, scores = shape_space(vertices, shapes.faces, NUM_BETAS)
    parents = np.array(joints.PARENTS, dtype=np.int64)
    parents[0] = 2**32 - 1  # as SMPL's files write "none"
    vertex_uv = np.zeros((len(template), 2))
    vertex_uv[shapes.faces.ravel()] = shapes.corner_uv.reshape(-1, 2)  # on a seam: one of several
    return {
        "v_template": template.astype(np.float32),
        "shapedirs": shapedirs.astype(np.float32),
        "posedirs": np.zeros((len(template), 3, 9 * 23), dtype=np.float32),  # no correctives
        "J_regressor": joint_regressor(template, shapedirs, places, scores).astype(np.float32),
        "weights": weights.astype(np.float32),
        "kintree_table": np.stack([parents, np.arange(24)]).astype(np.uint32),
        "f": shapes.faces.astype(np.uint32),
        "vertex_uv": vertex_uv.astype(np.float32),
        "corner_uv": shapes.corner_uv.astype(np.float32),
        "vertex_part": joints.parts_from_weights(weights, range(24)).astype(np.uint8),
        "source": np.array("made from anny: code Apache-2.0, body assets CC0"),
    }


def adult_shapes(scratch: Path) -> AnnyShapes:
    """The shapes that the free body is made from, on its mesh; the same on every call."""
    return _reduced(_adults(scratch, NUM_SHAPES), NUM_VERTICES)


def _adults(scratch: Path, num_shapes: int) -> AnnyShapes:
    """Adult shapes whose height, weight and build follow anny's tables (calibrated on WHO data)."""
    # Here and not above: anny takes a second to import, and a body already made does not need it.
    import anny
    import anny.paths
    from anny.face_segmentation import get_face_segmentation_mask
    from anny.shape_distribution import SimpleShapeDistribution

    before = anny.paths.get_anny_cache_path()
    anny.paths.set_anny_cache_path(scratch / "anny")
    try:
        # "lbs" keeps the warp package, its kernels and its messages out.
        model = anny.Anny(skinning_method="lbs", phenotypes="all", phenotype_blendshapes="original")
    finally:
        anny.paths.set_anny_cache_path(before)
    youngest, oldest = (torch.tensor(age, dtype=model.dtype) for age in ADULT_AGES)
    most_near_an_end = torch.tensor(0.4, dtype=model.dtype)
    people = SimpleShapeDistribution(
        model,
        morphological_age_distribution=torch.distributions.Uniform(youngest, oldest),
        gender_distribution=torch.distributions.Beta(most_near_an_end, most_near_an_end),
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        _, phenotypes = people.sample(num_shapes)
        batches = [
            model(phenotype_kwargs={name: some[at : at + 50] for name, some in phenotypes.items()})
            for at in range(0, num_shapes, 50)
        ]
    bone_weights = np.zeros((len(model.template_vertices), len(model.bone_labels)))
    rows = np.arange(len(bone_weights))[:, None]
    columns = model.vertex_bone_indices.numpy()
    np.add.at(bone_weights, (rows, columns), model.vertex_bone_weights.numpy())
    corner_uv = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]
    outer = ~get_face_segmentation_mask(model, _INNER_PARTS).numpy()
    return AnnyShapes(
        vertices=np.concatenate([_y_up(batch["rest_vertices"].numpy()) for batch in batches]),
        bone_heads=np.concatenate([_y_up(batch["rest_bone_heads"].numpy()) for batch in batches]),
        bone_names=list(model.bone_labels),
        bone_parents=list(model.bone_parents),
        bone_weights=bone_weights / bone_weights.sum(axis=1, keepdims=True),
        faces=model.faces.numpy()[outer],
        corner_uv=corner_uv[outer],
    )


def _y_up(points: np.ndarray) -> np.ndarray:
    """(..., 3) from z up, facing -y to y up, facing +z; left stays on +x."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], axis=-1)


def _reduced(shapes: AnnyShapes, num_vertices: int) -> AnnyShapes:
    """The same shapes on fewer vertices, all of them anny's own, so that weights carry over."""
    mean = shapes.vertices.mean(axis=0)
    faces, corner_uv = simplify(mean, shapes.faces, shapes.corner_uv, num_vertices, LONGEST_EDGE)
    kept, renumbered = np.unique(faces, return_inverse=True)
    return replace(
        shapes,
        vertices=shapes.vertices[:, kept],
        bone_weights=shapes.bone_weights[kept],
        faces=renumbered.reshape(-1, 3),
        corner_uv=corner_uv,
    )


def smpl_rig(shapes: AnnyShapes) -> tuple[np.ndarray, np.ndarray]:
    """Skinning weights (V, 24) and the joints (S, 24, 3) in anny's rest pose.

    Each of anny's bones counts for the joint it places, or else for its parent bone's joint.
    """
    bone_of_joint = [_bone_of(name) for name in joints.SMPL24]
    joint_of_bone: list[int] = []
    for name, parent in zip(shapes.bone_names, shapes.bone_parents, strict=True):
        family = next((joint for start, joint in _FAMILIES.items() if name.startswith(start)), None)
        if name in bone_of_joint:
            joint_of_bone.append(bone_of_joint.index(name))
        elif family is not None:
            side = "left" if name.endswith(".L") else "right"
            joint_of_bone.append(joints.SMPL24.index(f"{side}_{family}"))
        else:
            joint_of_bone.append(joint_of_bone[parent])  # parents come first
    weights = np.zeros((len(shapes.bone_weights), len(joints.SMPL24)))
    np.add.at(weights.T, joint_of_bone, shapes.bone_weights.T)
    return weights, np.stack([shapes.heads(bone) for bone in bone_of_joint], axis=1)


def _bone_of(joint: str) -> str:
    side, _, bare = joint.partition("_")
    return _BONE_OF_JOINT[bare or joint].replace("*", side[0].upper())
