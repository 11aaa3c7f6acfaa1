"""frames.parquet as arrays: who is where and when, seen by which camera, in which pose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hpse_dist.data.descriptors import POSE_KINDS, SURFACE_CELLS, covisibility, pose_distances

_AT_ONCE = 1 << 15  # poses compared at a time
_SURFACE_BYTES = SURFACE_CELLS**2 // 8
_COLUMNS = ["sample_id", "box", "R", "t", "centre", "pose_kind", "pose", "surface"]


@dataclass(frozen=True)
class Names:
    """Who, where and when: numbers that are equal where the names are, each array (N,)."""

    person: np.ndarray
    """One number per subject; where that has no name, per track of a sequence."""
    has_subject: np.ndarray
    has_person: np.ndarray
    """Whether the subject or else the track has a name."""
    sequence: np.ndarray
    camera: np.ndarray
    split: np.ndarray
    moment: np.ndarray
    """One number per person, sequence, split and millisecond."""
    time: np.ndarray
    """Seconds, NaN where unknown."""

    @classmethod
    def of(cls, table: pa.Table) -> Names:
        """The names of a whole collection's frames."""
        has_subject = _named(table["subject"])
        sequence, track = _codes(table["sequence"]), _codes(table["track"])
        # a person without a name is known by the track, which lives in one sequence
        person = groups(
            np.where(has_subject, _codes(table["subject"]), 0),
            np.where(has_subject, 0, track),
            np.where(has_subject, 0, sequence),
        )
        time = table["time"].to_numpy().astype(np.float64)
        known = np.isfinite(time)
        moment = np.round(np.where(known, time, 0) * 1000).astype(np.int64)
        split = _codes(table["split"])
        return cls(
            person=person,
            has_subject=has_subject & known,
            has_person=(has_subject | _named(table["track"])) & known,
            sequence=sequence,
            camera=_codes(table["camera"]),
            split=split,
            moment=groups(person, sequence, split, moment),
            time=np.where(known, time, np.nan),
        )

    def take(self, rows: np.ndarray) -> Names:
        """Those of some frames."""
        fields = dataclasses.fields(self)
        return Names(**{field.name: getattr(self, field.name)[rows] for field in fields})


class Frames:
    """Some frames of a collection, N of them, with what is measured between them."""

    def __init__(self, table: pa.Table, names: Names, rows: np.ndarray) -> None:
        """Those in `rows` (N,) of a collection's table; `names` are of all its frames."""
        table = _rows(table.select(_COLUMNS), rows)
        self.rows, self.names = rows, names.take(rows)
        self.ids: np.ndarray = table["sample_id"].to_numpy()
        self.box = _matrix(table["box"], 4)
        rotation = _matrix(table["R"], 9).reshape(-1, 3, 3)
        translation = _matrix(table["t"], 3)
        self.eye = -np.einsum("nji,nj->ni", rotation, translation)
        self.axis = rotation[:, 2]
        self.centre = _matrix(table["centre"], 3)
        self.pose = {kind: _pose_rows(table, kind) for kind in POSE_KINDS}
        self.has_surface: np.ndarray = table["surface"].is_valid().to_numpy()
        self.surface = _surfaces(table["surface"])

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
            both = np.flatnonzero((row[a] >= 0) & (row[b] >= 0))
            for start in range(0, len(both), _AT_ONCE):
                part = both[start : start + _AT_ONCE]
                distance[part] = pose_distances(kind, values[row[a[part]]], values[row[b[part]]])
            of_silhouettes[both] = kind == "silhouette"
        return distance, of_silhouettes

    def covisibility(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Share of the body surface that both show, NaN where a surface is unknown."""
        known = np.flatnonzero(self.has_surface[a] & self.has_surface[b])
        shared: np.ndarray = np.full(len(a), np.nan)
        shared[known] = covisibility(self.surface[a[known]], self.surface[b[known]])
        return shared

    def box_overlap(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Intersection over union of the boxes, which must be of one camera's pictures."""
        one, two = self.box[a], self.box[b]
        size = np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])
        common = np.maximum(size, 0).prod(axis=1)
        areas = (one[:, 2:] - one[:, :2]).prod(axis=1) + (two[:, 2:] - two[:, :2]).prod(axis=1)
        return common / (areas - common)


def groups(*keys: np.ndarray) -> np.ndarray:
    """A number for each row, equal where all keys are and growing with them: (N,) -> (N,)."""
    order = np.lexsort(keys[::-1])
    changes: np.ndarray = np.zeros(len(order), bool)
    for values in keys:
        changes[1:] |= np.diff(values[order]) != 0
    number: np.ndarray = np.empty(len(order), np.int64)
    number[order] = np.cumsum(changes)
    return number


def _rows(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Some rows of a table, as a view where they follow one another."""
    if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        return table.slice(int(rows[0]), len(rows))
    return table.take(rows)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Texts as numbers, equal where the texts are: (N,) int64."""
    return pc.rank(pc.fill_null(column, ""), tiebreaker="dense").to_numpy().astype(np.int64)


def _named(column: pa.ChunkedArray) -> np.ndarray:
    return pc.not_equal(pc.fill_null(column, ""), "").to_numpy()


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


def _surfaces(column: pa.ChunkedArray) -> np.ndarray:
    """Seen cells of the body's surface as bits, (N, bytes) uint8, 0 where unknown."""
    cells: np.ndarray = np.zeros((len(column), _SURFACE_BYTES), np.uint8)
    known = column.is_valid().to_numpy()
    if known.any():
        packed = column.drop_null().cast(pa.binary(_SURFACE_BYTES)).combine_chunks()
        start = packed.offset * _SURFACE_BYTES
        whole: np.ndarray = np.frombuffer(packed.buffers()[1], np.uint8)
        cells[known] = whole[start : start + len(packed) * _SURFACE_BYTES].reshape(
            -1, _SURFACE_BYTES
        )
    return cells
