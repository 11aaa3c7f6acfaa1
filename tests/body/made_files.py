"""Body and hand files out of random numbers, so that no licensed file is needed."""

from __future__ import annotations

import numpy as np

from hpse_dist.body.joints import PARENTS

# SMPL-X: 22 body joints, jaw, eyes, then fifteen joints for each hand on wrists 20 and 21.
SMPLX_PARENTS = (
    *PARENTS[:22],
    *(15, 15, 15),
    *(
        parent
        for wrist, at in ((20, 25), (21, 40))
        for parent in (p for f in range(5) for p in (wrist, at + 3 * f, at + 3 * f + 1))
    ),
)
HAND_PARENTS = (-1, *(p for f in range(5) for p in (0, 1 + 3 * f, 2 + 3 * f)))


def made_body(
    parents: tuple[int, ...] = PARENTS, vertices: int = 80, betas: int = 10, seed: int = 0
) -> dict[str, np.ndarray]:
    """Arrays of a body file over any tree: random template, regressor, weights, displacements."""
    rng = np.random.default_rng(seed)
    joints = len(parents)
    tree = np.array([parents, range(joints)], dtype=np.int64)
    tree[0, 0] = 2**32 - 1
    return {
        "v_template": rng.normal(size=(vertices, 3)),
        "shapedirs": rng.normal(size=(vertices, 3, betas)) * 0.03,
        "posedirs": rng.normal(size=(vertices, 3, 9 * (joints - 1))) * 0.01,
        "J_regressor": rng.dirichlet(np.ones(vertices), size=joints),
        "weights": rng.dirichlet(np.full(joints, 0.1), size=vertices),
        "kintree_table": tree.astype(np.uint32),
        "f": rng.integers(0, vertices, size=(2 * vertices, 3)).astype(np.uint32),
    }


def made_hand(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays of a MANO file: 778 vertices, 16 joints, a mean pose."""
    rng = np.random.default_rng(seed)
    return made_body(HAND_PARENTS, 778, seed=seed) | {"hands_mean": rng.normal(size=45) * 0.2}
