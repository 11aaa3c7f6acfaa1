"""Ground truth made up for every protocol, and files of it in each layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hpse_dist.protocols import PROTOCOLS, Protocol
from hpse_dist.protocols.examples import Examples
from hpse_dist.protocols.files import FILES, write, write_coco

COUNT = 6


def made(protocol: Protocol, seed: int = 0) -> tuple[Examples, Examples]:
    """Exact predictions, and the ground truth."""
    rng = np.random.default_rng(seed)
    truth = MAKERS[protocol.kind](protocol, rng)
    truth["id"] = np.array([f"s{row}" for row in range(COUNT)])
    others = ("mesh_vertices", "mesh_faces", "part")
    mine = {k: v.copy() for k, v in truth.items() if k not in others}  # a test may change a side
    if "joints3d" in mine:
        mine["joints3d"] = mine["joints3d"][..., :3]
    if protocol.kind == "keypoints":
        mine["score"] = rng.uniform(size=COUNT)
    if protocol.kind == "classes":
        mine = {"probability": np.eye(4)[truth["label"]], "id": truth["id"]}
    return Examples("mine", mine), Examples("truth", truth)


def files(protocol: Protocol, folder: Path, mine: Examples, true: Examples) -> tuple[Path, Path]:
    names = FILES[protocol.layout]
    if protocol.layout == "coco":
        return (
            write_coco(mine, folder / names[0], truth=False),
            write_coco(true, folder / names[1], truth=True),
        )
    return write(protocol, mine, folder / names[0]), write(protocol, true, folder / names[1])


def _joints(protocol: Protocol, rng: np.random.Generator) -> dict[str, np.ndarray]:
    count = len(protocol.names())
    places = rng.normal(0, 0.3, (COUNT, count, 3)) + np.array([0, 0, 3])
    known = np.ones((COUNT, count, 1))
    vertices = rng.normal(0, 0.3, (COUNT, protocol.vertices or 50, 3))
    table = {"joints3d": np.concatenate((places, known), -1), "vertices": vertices}
    if protocol.layout == "3dpw":
        table |= {
            "sequence": np.array(["run", "run", "run", "run", "sit", "sit"]),
            "person": np.array(["a", "a", "b", "b", "a", "a"]),
            "time": np.array([0.0, 0.1, 0.0, 0.1, 0.0, 0.2]),
            "rotations": np.tile(np.eye(3), (COUNT, 24, 1, 1)),
        }
    return table


def _keypoints(protocol: Protocol, rng: np.random.Generator) -> dict[str, np.ndarray]:
    points = rng.uniform(0, 200, (COUNT, 17, 2))
    seen = np.ones((COUNT, 17, 1))
    return {
        "joints2d": np.concatenate((points, seen), -1),
        "image": np.array([1, 1, 2, 3, 4, 4]),
        "area": np.full(COUNT, 100.0**2),
    }


def _dense(protocol: Protocol, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Annotated on a tetrahedron with a roof: 5 vertices a metre apart or so."""
    places = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]], dtype=float)
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 4], [1, 3, 4]])
    vertex = rng.integers(0, 5, (COUNT, 12))
    vertex[0, 7:] = -1  # fewer points than the others
    return {
        "vertex": vertex,
        "part": rng.integers(1, 25, (COUNT, 12)),
        "mask": rng.uniform(size=(COUNT, 8, 8)) < 0.5,
        "mesh_vertices": places,
        "mesh_faces": faces,
    }


def _pixels(protocol: Protocol, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if "part_iou" in protocol.figures:
        return {"part_map": rng.integers(0, 5, (COUNT, 8, 8))}
    points = rng.uniform(size=(COUNT, 9, 3))
    points[0, 3] = [np.nan, np.nan, 0.0]  # not labelled: may hold anything
    return {"joints2d": points}


MAKERS = {
    "body": _joints,
    "hand": _joints,
    "keypoints": _keypoints,
    "dense": _dense,
    "classes": lambda _, rng: {"label": rng.integers(0, 4, COUNT)},
    "pixels": _pixels,
}
assert {protocol.kind for protocol in PROTOCOLS.values()} <= MAKERS.keys()
