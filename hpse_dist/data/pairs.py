"""Which frames go together: mined from frames.parquet alone, no image is opened.

Cross-view pairs show one person at one moment from two cameras; cross-pose pairs show one person
from one camera at two moments. A pair never leaves its split nor its shard. What is drawn is drawn
from `draws`, keyed by sample ids: the same table gives the same pairs on any machine.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from hpse_dist.config import digest, to_dict
from hpse_dist.data.collection import PAIR_SCHEMA, Collection
from hpse_dist.data.descriptors import POSE_KINDS, covisibility, pose_distances
from hpse_dist.draws import uniform

VIEW, POSE = 0, 1
_TRIES = 4  # gaps drawn for each cross-pose pair wanted


@dataclass(frozen=True)
class PairsConfig:
    """Limits of the pairs and how many are kept."""

    view_angle_deg: tuple[float, float] = (10.0, 90.0)
    """Cross-view: angle between the viewing directions at the person, degrees within 0..90."""
    min_view_overlap: float = 0.0
    """Cross-view: least co-visibility of the body's surface, where both surfaces are known."""
    max_view_per_moment: int = 16
    """Cross-view: pairs (of either order) kept per person and moment; 0 for none."""
    time_gap_s: tuple[float, float] = (0.2, 3.0)
    """Cross-pose: seconds between the frames, drawn log-uniformly."""
    pose_distance: tuple[float, float] = (0.1, 1.0)
    """Cross-pose: mean displacement of joints over their mean distance from the body's centre."""
    silhouette_distance: tuple[float, float] = (0.05, 0.8)
    """Cross-pose: the same where only silhouettes are known, 1 - intersection / union."""
    unknown_pose: bool = True
    """Cross-pose: whether frames with neither joints nor silhouette are paired by time alone."""
    max_pose_per_frame: int = 2
    """Cross-pose: later frames (of either order) kept per frame; 0 for none."""
    both_orders: bool = True
    """Store (b, a) beside every (a, b)."""
    seed: int = 0
    """Of the draws."""

    def __post_init__(self) -> None:
        for name in ("view_angle_deg", "time_gap_s", "pose_distance", "silhouette_distance"):
            low, high = getattr(self, name)
            if not 0 <= low < high:
                raise ValueError(f"{name} must be two growing numbers from 0, found {low}, {high}")
        if self.view_angle_deg[1] > 90:
            raise ValueError(
                "view_angle_deg must end at 90 or below, where 4 cos a (1 - cos a) reaches 0, "
                f"found {self.view_angle_deg[1]}"
            )
        if self.time_gap_s[0] <= 0:
            raise ValueError("time_gap_s must begin above 0: it is drawn log-uniformly")
        if self.max_view_per_moment < 0 or self.max_pose_per_frame < 0:
            raise ValueError("max_view_per_moment and max_pose_per_frame must be 0 or more")


def write_pairs(collection: Collection, config: PairsConfig) -> Collection:
    """Mine a collection's pairs into pairs.parquet; pairs of the same config are kept as they are.

    The collection is changed in place and returned; contact sheets of other pairs are removed.
    """
    mark = digest(config, ignore=())
    if collection.manifest.get("pairs", {}).get("digest") == mark:
        return collection
    table = mine(collection.frames, config)
    summary = {"digest": mark, "config": to_dict(config), **pair_counts(table)}
    shutil.rmtree(collection.folder / "sheets", ignore_errors=True)
    collection.update_file("pairs.parquet", lambda path: pq.write_table(table, path), pairs=summary)
    return collection


def pair_counts(table: pa.Table) -> dict[str, object]:
    """How many pairs of each kind a table has, and why candidates were dropped."""
    kinds = table["kind"].to_numpy()
    dropped = (table.schema.metadata or {}).get(b"dropped", b"{}")
    return {
        "view": int((kinds == VIEW).sum()),
        "pose": int((kinds == POSE).sum()),
        "dropped": json.loads(dropped),
    }


def mine(frames: pa.Table, config: PairsConfig) -> pa.Table:
    """All pairs of a collection's frames.parquet, in the columns of pairs.parquet.

    angle_deg: between viewing directions at the person (0 for cross-pose pairs of a still camera,
    null where the camera is unknown). pose_distance: of cross-pose pairs, null where nothing is
    known of the poses. overlap: Jaccard index of the body surface both show, else, for cross-pose,
    intersection over union of the boxes, else null. weight: 4 cos a (1 - cos a) for cross-view
    pairs, 1 for cross-pose pairs. The schema's metadata `dropped` counts, as JSON, the
    candidates left out by reason.
    """
    dropped = Counter[str]()
    shards = frames["shard"].to_numpy()
    order = np.argsort(shards, kind="stable")
    edges = np.flatnonzero(np.diff(shards[order], prepend=-1, append=-1))
    found = [PAIR_SCHEMA.empty_table()]
    for start, stop in itertools.pairwise(edges):
        shard = _Frames(frames.take(order[start:stop]))
        for kind, pairs in (
            (VIEW, _view_pairs(shard, config, dropped)),
            (POSE, _pose_pairs(shard, config, dropped)),
        ):
            found.append(_table(shard, kind, *pairs, config.both_orders))
    metadata = {"dropped": json.dumps(dict(dropped.most_common()))}
    return pa.concat_tables(found).combine_chunks().replace_schema_metadata(metadata)


class _Frames:
    """One shard's frames as arrays, N of them."""

    def __init__(self, table: pa.Table) -> None:
        self.ids: np.ndarray = table["sample_id"].to_numpy()
        self.time: np.ndarray = table["time"].to_numpy()
        self.subject, known = _codes(table["subject"]), pc.not_equal(table["subject"], "")
        self.has_subject: np.ndarray = known.to_numpy()
        has_track = pc.not_equal(table["track"], "").to_numpy()
        # a person without a name is known by the track, which lives in one sequence
        self.has_person: np.ndarray = self.has_subject | has_track
        self.person = np.where(self.has_subject, self.subject, -1 - _codes(table["track"]))
        self.sequence = _codes(table["sequence"])
        self.camera = _codes(table["camera"])
        self.split = _codes(table["split"])
        self.box = _matrix(table["box"], 4)
        rotation = _matrix(table["R"], 9).reshape(-1, 3, 3)
        translation = _matrix(table["t"], 3)
        self.eye = -np.einsum("nji,nj->ni", rotation, translation)
        self.axis = rotation[:, 2]
        self.centre = _matrix(table["centre"], 3)
        self.pose = {kind: _pose_rows(table, kind) for kind in POSE_KINDS}
        surfaces = table["surface"].to_pylist()
        self.has_surface: np.ndarray = np.array([s is not None for s in surfaces], bool)
        packed = b"".join(s or bytes(128) for s in surfaces)
        self.surface: np.ndarray = np.frombuffer(packed, np.uint8).reshape(len(surfaces), 128)

    def __len__(self) -> int:
        return len(self.ids)

    def angle(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Degrees between the viewing directions at the person, NaN where a camera is unknown.

        Where the person's place is unknown: between the optical axes.
        """
        centre = (self.centre[a] + self.centre[b]) / 2
        placed = np.isfinite(centre).all(axis=1)[:, None]
        towards_a = np.where(placed, self.eye[a] - centre, -self.axis[a])
        towards_b = np.where(placed, self.eye[b] - centre, -self.axis[b])
        sine = np.linalg.norm(np.cross(towards_a, towards_b), axis=1)
        return np.degrees(np.arctan2(sine, (towards_a * towards_b).sum(axis=1)))

    def pose_change(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(pose distance, whether it is one of silhouettes); NaN where nothing is comparable."""
        distance: np.ndarray = np.full(len(a), np.nan)
        of_silhouettes: np.ndarray = np.zeros(len(a), bool)
        for kind in POSE_KINDS:
            row, values = self.pose[kind]
            both = (row[a] >= 0) & (row[b] >= 0)
            if both.any():
                distance[both] = pose_distances(kind, values[row[a[both]]], values[row[b[both]]])
                of_silhouettes[both] = kind == "silhouette"
        return distance, of_silhouettes

    def covisibility(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Share of the body surface that both show, NaN where a surface is unknown."""
        known = self.has_surface[a] & self.has_surface[b]
        return np.where(known, covisibility(self.surface[a], self.surface[b]), np.nan)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Texts as numbers, equal where the texts are: (N,) int64."""
    return pc.rank(column, tiebreaker="dense").to_numpy().astype(np.int64)


def _matrix(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """A column of lists as (N, width) float64, NaN where null."""
    known = column.is_valid().to_numpy()
    values: np.ndarray = np.full((len(column), width), np.nan)
    values[known] = pc.list_flatten(column).to_numpy().reshape(-1, width)
    return values


def _pose_rows(table: pa.Table, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(row in the matrix of each frame or -1, matrix of descriptors) of one kind of pose."""
    has = pc.fill_null(pc.equal(table["pose_kind"], kind), False).to_numpy()
    count = int(has.sum())
    row = np.where(has, np.cumsum(has) - 1, -1)
    values: np.ndarray = pc.list_flatten(table["pose"].filter(pa.array(has))).to_numpy()
    return row, values.reshape(count, -1) if count else np.zeros((0, 1), np.float32)


def _groups(*keys: np.ndarray) -> np.ndarray:
    """A number for each row, equal where all keys are."""
    return np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _view_pairs(
    frames: _Frames, config: PairsConfig, dropped: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (a, b) of the cross-view pairs kept, a before b."""
    rows = np.flatnonzero(frames.has_subject)
    if config.max_view_per_moment == 0 or len(rows) == 0:
        return _NONE, _NONE
    moment = np.round(frames.time * 1000).astype(np.int64)
    group = _groups(frames.subject[rows], frames.sequence[rows], frames.split[rows], moment[rows])
    order = np.lexsort((frames.ids[rows], group))
    rows, group = rows[order], group[order]
    pairs = [_NO_PAIRS]
    for lag in range(1, int(np.bincount(group).max())):  # as many as cameras, less one
        first = np.flatnonzero(group[lag:] == group[:-lag])
        pairs.append(np.stack([rows[first], rows[first + lag], group[first]]))
    a, b, group = np.concatenate(pairs, axis=1)
    other = frames.camera[a] != frames.camera[b]
    a, b, group = a[other], b[other], group[other]
    angle, overlap = frames.angle(a, b), frames.covisibility(a, b)
    low, high = config.view_angle_deg
    reasons = {
        "view: camera unknown": np.isnan(angle),
        f"view: angle below {low:g}": angle < low,
        f"view: angle above {high:g}": angle > high,
        f"view: overlap below {config.min_view_overlap:g}": overlap < config.min_view_overlap,
    }
    keep = _drop(reasons, dropped)
    a, b, group = a[keep], b[keep], group[keep]
    # weighted draw without replacement: the largest log(u) / weight (Efraimidis, Spirakis 2006)
    u = _draw(config.seed, "pairs/view", frames.ids[a], frames.ids[b])
    score = np.log(np.maximum(u, 2.0**-25)) / np.maximum(view_weight(angle[keep]), 1e-9)
    order = np.lexsort((-score, group))
    place: np.ndarray = np.empty(len(a), np.int64)
    place[order] = _place_in_run(group[order])
    keep = _drop({"view: over max_view_per_moment": place >= config.max_view_per_moment}, dropped)
    return a[keep], b[keep]


def view_weight(angle_deg: np.ndarray) -> np.ndarray:
    """4 cos a (1 - cos a): 1 at 60 degrees, 0 at 0 and 90. From CroCo v2's choice of real pairs."""
    cosine = np.cos(np.radians(angle_deg))
    return 4 * cosine * (1 - cosine)


def _pose_pairs(
    frames: _Frames, config: PairsConfig, dropped: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (a, b) of the cross-pose pairs kept, a earlier than b.

    Each frame draws time gaps, log-uniformly, and takes the frame nearest to each gap.
    """
    rows = np.flatnonzero(frames.has_person)
    if config.max_pose_per_frame == 0 or len(rows) == 0:
        return _NONE, _NONE
    group = _groups(
        frames.person[rows], frames.sequence[rows], frames.camera[rows], frames.split[rows]
    )
    order = np.lexsort((frames.time[rows], group))
    rows, group = rows[order], group[order]
    low, high = config.time_gap_s
    time = frames.time[rows] - frames.time[rows].min()
    place = time + group * (time.max() + 2 * high + 1)  # one axis, groups far apart
    tries = _TRIES * config.max_pose_per_frame
    u = uniform(config.seed, "pairs/pose", 0, torch.from_numpy(frames.ids[rows]), tries).numpy()
    wanted = place[:, None] + low * (high / low) ** u.astype(np.float64)
    after = np.clip(np.searchsorted(place, wanted), 1, len(place) - 1)
    nearest = np.where(wanted - place[after - 1] < place[after] - wanted, after - 1, after)
    first: np.ndarray = np.repeat(np.arange(len(rows)), tries)
    second = nearest.reshape(-1)
    gap = place[second] - place[first]
    slack = 1e-6  # times come as rounded frame numbers over rates
    real = (group[first] == group[second]) & (gap >= low - slack) & (gap <= high + slack)
    first, second = first[real], second[real]
    drawn = np.unique(first * len(rows) + second, return_index=True)[1]
    drawn = np.sort(drawn)  # in the order of drawing
    a, b = rows[first[drawn]], rows[second[drawn]]
    keep = _drop(_pose_reasons(frames, a, b, config), dropped)
    a, b = a[keep], b[keep]
    keep = _drop(
        {"pose: over max_pose_per_frame": _place_in_run(a) >= config.max_pose_per_frame}, dropped
    )
    return a[keep], b[keep]


def _pose_reasons(
    frames: _Frames, a: np.ndarray, b: np.ndarray, config: PairsConfig
) -> dict[str, np.ndarray]:
    """Why cross-pose candidates are dropped: reason -> (N,) bool."""
    distance, of_silhouettes = frames.pose_change(a, b)
    low = np.where(of_silhouettes, config.silhouette_distance[0], config.pose_distance[0])
    high = np.where(of_silhouettes, config.silhouette_distance[1], config.pose_distance[1])
    return {
        "pose: nothing known of it": np.isnan(distance) & (not config.unknown_pose),
        "pose: too alike": distance < low,
        "pose: too different": distance > high,
    }


def _drop(reasons: dict[str, np.ndarray], dropped: Counter[str]) -> np.ndarray:
    """Count each candidate under its first reason; returns the rows of those without one."""
    keep = np.ones_like(next(iter(reasons.values())), dtype=bool)
    for reason, holds in reasons.items():
        if count := int((keep & holds).sum()):
            dropped[reason] += count
        keep &= ~holds
    return np.flatnonzero(keep)


def _place_in_run(group: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... within each run of equal numbers: (N,) -> (N,)."""
    index: np.ndarray = np.arange(len(group))
    starts = np.concatenate([[True], group[1:] != group[:-1]])[: len(group)]
    return index - np.maximum.accumulate(np.where(starts, index, 0))


def _draw(seed: int, stream: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One number in [0, 1) for each pair of sample ids: (N,) float64."""
    ids = torch.from_numpy(np.ascontiguousarray(a)), torch.from_numpy(np.ascontiguousarray(b))
    return uniform(seed, stream, ids[1], ids[0])[:, 0].numpy().astype(np.float64)


def _table(frames: _Frames, kind: int, a: np.ndarray, b: np.ndarray, both_orders: bool) -> pa.Table:
    """Pairs of rows as pairs of sample ids with their measures."""
    order = np.lexsort((b, a))
    a, b = a[order], b[order]
    angle, overlap = frames.angle(a, b), frames.covisibility(a, b)
    if kind == VIEW:
        weight, distance = view_weight(angle), np.full(len(a), np.nan)
    else:
        weight, distance = np.ones(len(a)), frames.pose_change(a, b)[0]
        overlap = np.where(np.isnan(overlap), _box_iou(frames.box[a], frames.box[b]), overlap)
    measures = {
        "angle_deg": angle,
        "time_gap_s": np.abs(frames.time[a] - frames.time[b]),
        "pose_distance": distance,
        "overlap": overlap,
        "weight": weight,
    }
    first, second = frames.ids[a], frames.ids[b]
    if both_orders:
        first, second = np.concatenate([first, second]), np.concatenate([second, first])
        measures = {name: np.tile(values, 2) for name, values in measures.items()}
    columns = {"a": first, "b": second, "kind": np.full(len(first), kind), **measures}
    arrays = [
        pa.array(columns[field.name], from_pandas=True).cast(field.type, safe=False)
        for field in PAIR_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=PAIR_SCHEMA)


def _box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes in one camera's picture: (N, 4) twice -> (N,)."""
    size = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0)
    common = size.prod(axis=1)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1) + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return common / (areas - common)


_NONE: np.ndarray = np.zeros(0, np.int64)
_NO_PAIRS: np.ndarray = np.zeros((3, 0), np.int64)
