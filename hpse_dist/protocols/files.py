"""Files of predictions and of ground truth, in the layouts of the benchmarks' evaluation servers.

npz       arrays by the names of `protocols.examples`; every protocol reads it too
freihand  pred.json: [joints of every hand, vertices of every hand]; ground truth also as the
          benchmark's folder with evaluation_xyz.json and evaluation_verts.json; where ours is not
          known everywhere, a joint's fourth number and a third list, one number to a hand's
          mesh, are 0 there
3dpw      a folder of <split>/<sequence>.pkl: jointPositions (people, frames, 24, 3) and
          orientations (people, frames, 9, 3, 3); ours says with valid (people, frames), or
          (people, frames, 24) where people are known in part, where ground truth is known
coco      results.json: a list of {image_id, category_id, keypoints, score}; ground truth is
          COCO's annotation file
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.arrays import read_npz
from hpse_dist.body.joints import PARENTS
from hpse_dist.body.smpl_files import read_pickled_arrays
from hpse_dist.disk import whole_file, write_text
from hpse_dist.metrics.average_precision import keypoint_ap
from hpse_dist.metrics.pose2d import COCO_SIGMAS
from hpse_dist.protocols.base import Protocol
from hpse_dist.protocols.examples import Examples
from hpse_dist.protocols.score import Regressor, Score, score
from hpse_dist.safety import parsed_json

FILES = {
    "npz": ("predictions.npz", "truth.npz"),
    "freihand": ("pred.json", "truth.json"),
    "3dpw": ("3dpw", "3dpw_truth"),
    "coco": ("results.json", "annotations.json"),
}
"""Names of the files of predictions and of ground truth in each layout."""
_PIXEL = 0.5  # ours count from the picture's corner, COCO's from the first pixel's middle
_ORIENTED = (0, 1, 2, 4, 5, 16, 17, 18, 19)  # joints whose rotation 3DPW's challenge asks for


def score_files(
    protocol: Protocol, predictions: Path, truth: Path, regressor: Path | None = None
) -> Score:
    """Score a file of predictions, ours or anybody's; ValueError in one sentence for a bad one."""
    if protocol.kind == "keypoints":
        return _score_keypoints(protocol, predictions, truth)
    given = Regressor.read(regressor) if regressor else None
    return score(protocol, read(protocol, predictions), read(protocol, truth), given)


def score_examples(protocol: Protocol, predicted: Examples, true: Examples) -> Score:
    """The same of examples that are in no file, without a regressor."""
    if protocol.kind == "keypoints":
        people = _as_coco(true, truth=True)
        return _keypoint_score(protocol, people, _as_coco(predicted, truth=False))
    return score(protocol, predicted, true)


def read(protocol: Protocol, path: Path) -> Examples:
    """Examples from a file in the protocol's layout, or from a .npz."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder")
    if path.is_file() and path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty")
    if path.suffix == ".npz":
        return _read_npz(path)
    if protocol.layout == "freihand":
        return _read_freihand(path)
    if protocol.layout == "3dpw":
        return _read_3dpw(path)
    raise ValueError(f"{path}: protocol {protocol.name} is scored from .npz files")


def write(protocol: Protocol, examples: Examples, path: Path) -> Path:
    """Write examples in the protocol's layout; coco's is written by `write_coco`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = examples.arrays
    if protocol.layout == "freihand":
        write_text(path, json.dumps(_as_freihand(examples)))
    elif protocol.layout == "3dpw":
        _write_3dpw(examples, path)
    else:
        with whole_file(path) as draft, draft.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return path


def _read_npz(path: Path) -> Examples:
    try:
        return Examples(str(path), read_npz(path))
    except ValueError as error:
        raise ValueError(f"{path}: not readable as .npz ({error}); is it whole?") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds; ValueError in one sentence if it is empty, broken or cut off."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    text = path.read_text(encoding="utf-8", errors="replace")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    try:
        return parsed_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); is it whole?") from None


def _as_freihand(examples: Examples) -> list[Any]:
    joints, known = examples["joints3d"], np.ones(len(examples))
    if joints.shape[2] == 4 and (joints[..., 3] > 0).all():
        joints = joints[..., :3]
    if "vertices_known" in examples:
        known = examples["vertices_known"].astype(np.float64)
    lists = [joints.tolist(), examples["vertices"].tolist()]
    return lists if known.all() else [*lists, known.tolist()]


def _read_freihand(path: Path) -> Examples:
    if path.is_dir():
        both = [read_json(path / f"evaluation_{name}.json") for name in ("xyz", "verts")]
    else:
        both = read_json(path)
    if not isinstance(both, list) or len(both) not in (2, 3):
        raise ValueError(f"{path}: FreiHAND's layout is a list of two: joints, vertices")
    if not both[0] or not both[1]:
        raise ValueError(f"{path}: it holds no examples")
    names = ("joints3d", "vertices", "vertices_known")
    arrays = {n: _numbers(path, n, x) for n, x in zip(names, both, strict=False)}
    return Examples(str(path), arrays)


def _numbers(path: Path, name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(
            f"{path}: {name} must be numbers, as many for every example; some have more or fewer"
        ) from None


def _read_3dpw(path: Path) -> Examples:
    files = [path] if path.is_file() else sorted(path.rglob("*.pkl"))
    if not files:
        raise ValueError(f"{path}: it holds no .pkl of a sequence")
    joints: list[np.ndarray] = []
    names: list[str] = []
    for file in files:
        arrays = read_pickled_arrays(file, ("jointPositions", "valid"))
        places = arrays.get("jointPositions")
        if places is None or places.ndim != 4 or places.shape[-1] != 3:
            raise ValueError(
                f"{file}: 3DPW's layout has jointPositions of shape (people, frames, 24, 3), found "
                f"{'none' if places is None else places.shape}"
            )
        valid = arrays.get("valid", np.ones(places.shape[:2]))
        if valid.shape not in (places.shape[:2], places.shape[:3]):
            raise ValueError(
                f"{file}: valid must have shape (people, frames), or one number more to each "
                f"joint, found {valid.shape}"
            )
        valid = valid.reshape(*places.shape[:2], -1, 1)
        known = np.broadcast_to(valid, (*places.shape[:3], 1))
        with_known = np.concatenate((places, known), axis=-1)
        joints.append(with_known.reshape(-1, places.shape[2], 4))
        people, frames = places.shape[:2]
        names += [f"{file.stem}/{p}/{f}" for p in range(people) for f in range(frames)]
    counts = {len(table[0]) for table in joints}
    if len(counts) > 1:
        raise ValueError(f"{path}: sequences have different numbers of joints, {sorted(counts)}")
    return Examples(str(path), {"joints3d": np.concatenate(joints), "id": np.array(names)})


def _write_3dpw(examples: Examples, folder: Path) -> None:
    """One file for each sequence and camera; `person` and `frame` number what is in it."""
    split = folder / "test"
    split.mkdir(parents=True, exist_ok=True)
    for old in split.glob("*.pkl"):
        old.unlink()
    sequence = examples["sequence"]
    for name in np.unique(sequence):
        rows = np.flatnonzero(sequence == name)
        _, person = np.unique(examples["person"][rows], return_inverse=True)
        _, frame = np.unique(examples["time"][rows], return_inverse=True)
        shape = (person.max() + 1, frame.max() + 1)
        places = examples["joints3d"][rows]
        joints, valid = np.zeros((*shape, 24, 3)), np.zeros((*shape, 24))
        known = places[..., 3] > 0 if places.shape[2] == 4 else np.ones(places.shape[:2], bool)
        joints[person, frame] = np.where(known[..., None], places[..., :3], 0.0)
        valid[person, frame] = known
        if (valid.all(2) == valid.any(2)).all():
            valid = valid[..., 0]
        # plain lists: arrays of today's numpy cannot be read by the numpy of an old server
        table = {"jointPositions": joints.tolist(), "valid": valid.tolist()}
        if "rotations" in examples:
            turns = np.tile(np.eye(3), (*shape, len(_ORIENTED), 1, 1))
            turns[person, frame] = _in_camera(examples["rotations"][rows])[:, _ORIENTED]
            table["orientations"] = turns.tolist()
        with whole_file(split / f"{name}.pkl") as draft, draft.open("wb") as file:
            pickle.dump(table, file, protocol=2)


def _in_camera(rotations: np.ndarray) -> np.ndarray:
    """(N, 24, 3, 3) relative to each joint's parent -> in the camera's frame, as 3DPW has them."""
    turned: np.ndarray = rotations.astype(np.float64)
    for joint, parent in enumerate(PARENTS[1:], start=1):
        turned[:, joint] = turned[:, parent] @ turned[:, joint]
    return turned


def write_coco(examples: Examples, path: Path, *, truth: bool) -> Path:
    """Results, or annotations, from joints2d (N, 17, 3) in pixels of the whole pictures, from their
    corner as everywhere in here, image (N,), and score or area (N,)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(_as_coco(examples, truth)))
    return path


def _as_coco(examples: Examples, truth: bool) -> Any:
    """What a file of results, or of annotations, holds."""
    rows: list[dict[str, Any]] = []
    joints: np.ndarray = examples["joints2d"].astype(np.float64)
    joints[..., :2] -= _PIXEL
    image = examples["image"]
    for number, (points, picture) in enumerate(zip(joints, image.tolist(), strict=True), start=1):
        if truth:  # 2 labelled and visible, 0 not labelled
            seen = points[:, 2:] > 0
            points = np.concatenate((np.where(seen, points[:, :2], 0.0), 2.0 * seen), axis=1)
        row = {"image_id": int(picture), "category_id": 1, "keypoints": points.ravel().tolist()}
        if truth:
            low, high = points[:, :2].min(0), points[:, :2].max(0)
            row |= {
                "id": number,
                "num_keypoints": int((points[:, 2] > 0).sum()),
                "area": float(examples["area"][number - 1]),
                "bbox": [*low.tolist(), *(high - low).tolist()],
                "iscrowd": 0,
            }
        else:
            row["score"] = float(examples["score"][number - 1])
        rows.append(row)
    if not truth:
        return rows
    return {
        "images": [{"id": int(number)} for number in np.unique(image)],
        "annotations": rows,
        "categories": [{"id": 1, "name": "person"}],
    }


def _score_keypoints(protocol: Protocol, predictions: Path, truth: Path) -> Score:
    people, results = read_json(truth), read_json(predictions)
    if not isinstance(people, Mapping) or not isinstance(people.get("annotations"), list):
        raise ValueError(f"{truth}: COCO's annotation file has a list under annotations")
    if not isinstance(results, list):
        raise ValueError(f"{predictions}: COCO's results are a list, one entry to a person")
    if not results:
        raise ValueError(f"{predictions}: it holds no predictions")
    lists = {name: _ids(truth, people, name) for name in ("images", "categories")}
    rows = [_person(protocol, truth, n, p, True) for n, p in enumerate(people["annotations"])]
    found = [_person(protocol, predictions, n, p, False) for n, p in enumerate(results)]
    strangers = {row["image_id"] for row in found} - {one["id"] for one in lists["images"]}
    if strangers:
        raise ValueError(
            f"{predictions}: {len(strangers)} image_id are not among the images of {truth}, such "
            f"as {next(iter(strangers))}"
        )
    return _keypoint_score(protocol, {**lists, "annotations": rows}, found)


def _ids(where: Path, people: Mapping[str, Any], name: str) -> list[dict[str, int]]:
    """The ids of COCO's images or categories."""
    rows = people.get(name)
    whole = isinstance(rows, list) and all(isinstance(row, Mapping) for row in rows)
    if not whole or any(not _is_whole(row.get("id")) for row in rows):  # type: ignore[union-attr]
        raise ValueError(f"{where}: {name} must be a list of entries with an id, a whole number")
    return [{"id": row["id"]} for row in rows]  # type: ignore[union-attr]


def _keypoint_score(protocol: Protocol, people: Mapping[str, Any], results: list[Any]) -> Score:
    figures = keypoint_ap(people, results, COCO_SIGMAS)
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    return Score(protocol.name, known, len(people["annotations"]))


def _person(protocol: Protocol, where: Path, number: int, row: Any, truth: bool) -> dict[str, Any]:
    """What COCO's evaluation reads of an entry, looked through: it checks nothing itself."""
    if not isinstance(row, Mapping) or "image_id" not in row or "keypoints" not in row:
        raise ValueError(f"{where}: entry {number} has no image_id or no keypoints")
    points = _numbers(where, "keypoints", row["keypoints"])
    if points.ndim != 1 or len(points) % 3:
        raise ValueError(f"{where}: keypoints of entry {number} are not threes of x, y, v")
    protocol.check_joint_count(len(points) // 3, f"{where}, entry {number}")
    if not np.isfinite(points).all():
        raise ValueError(f"{where}: keypoints of entry {number} are not numbers (NaN)")
    if not truth and not _is_number(row.get("score")):
        raise ValueError(f"{where}: every entry needs a score, the model's own confidence")
    seen = int((points[2::3] > 0).sum())
    found = {"category_id": 1, "iscrowd": 0, "num_keypoints": seen, **row}
    names = ("image_id", "category_id", *(("id", "iscrowd", "num_keypoints") if truth else ()))
    for name in names:
        if not _is_whole(found.get(name)):
            raise ValueError(f"{where}: {name} of entry {number} must be a whole number")
    kept = {**{name: found[name] for name in names}, "keypoints": points.tolist()}
    if not truth:
        return {**kept, "score": row["score"]}
    box = _numbers(where, "bbox", row.get("bbox", ()))
    if box.shape != (4,) or not np.isfinite(box).all() or not _is_number(row.get("area")):
        raise ValueError(f"{where}: entry {number} needs an area, and four numbers as bbox")
    return {**kept, "area": row["area"], "bbox": box.tolist()}


def _is_whole(value: Any) -> bool:
    """Whether it is a whole number, and one that numpy can hold."""
    return type(value) is int and abs(value) < 1 << 53


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and type(value) is not bool and abs(value) < 1e30
