"""Boxes of people in videos, from a user's file.

CSV with the header `video,frame,x0,y0,x1,y1` (or `time`, in seconds, in place of `frame`; and
perhaps `track`), or one JSON object with these keys per line:

    video,frame,x0,y0,x1,y1,track
    holiday/beach.mp4,0,312,80,455,610,anna
    holiday/beach.mp4,25,330,84,470,612,anna

video: the path below the root, with slashes. frame: counts from 0. x0, y0, x1, y1: pixels of the
picture as it is shown, edges, the far ones not included. track: any word or number that stays with
a person within a video. Between two boxes of one track that are near enough in time, boxes are
interpolated: one box every half second will do. Boxes without a track are associated.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpse_dist.data.importers.shots import Shot
from hpse_dist.data.importers.video_people import Found
from hpse_dist.safety import parsed_json

_KEYS = ("video", "frame", "time", "x0", "y0", "x1", "y1", "track")
Entry = tuple[float, bool, tuple[float, float, float, float], str | None]  # at, by frame, box, who


def read_boxes(path: Path, videos: Iterable[str]) -> dict[str, list[Entry]]:
    """The entries of each video; ValueError names the line that is wrong."""
    known = set(videos)
    found: dict[str, list[Entry]] = defaultdict(list)
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        video = str(row.get("video") or "")
        if video not in known:
            some = ", ".join(sorted(known)[:5]) or "none"
            raise ValueError(
                f"{where}: there is no video {video!r} (write its path below the root; there are "
                f"{some}{', ...' if len(known) > 5 else ''})"
            )
        found[video].append(_entry(row, where))
    if not found:
        raise ValueError(f"{path}: no box in this file")
    return dict(found)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Number and content of each line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in (".json", ".jsonl", ".ndjson"):
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _object(path, number, line)
                return
            reader = csv.DictReader(file, skipinitialspace=True)
            unknown = [name for name in reader.fieldnames or () if name not in _KEYS]
            if unknown or "video" not in (reader.fieldnames or ()):
                raise ValueError(
                    f"{path}: the first line names the columns, video,frame,x0,y0,x1,y1 and "
                    f"perhaps track, or time for frame; found {reader.fieldnames}"
                )
            for row in reader:
                yield reader.line_num, row
    except FileNotFoundError:
        raise ValueError(
            f"{path}: no such file of boxes; set `source.boxes`, relative to the root"
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: the boxes cannot be read: {error}") from None


def _object(path: Path, number: int, line: str) -> Mapping[str, Any]:
    try:
        row = parsed_json(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}: not one JSON object per line")
    return row


def _entry(row: Mapping[str, Any], where: str) -> Entry:
    by_frame = row.get("frame") not in (None, "")
    try:
        at = float(int(row["frame"])) if by_frame else float(row["time"])
        x0, y0, x1, y1 = (float(row[key]) for key in ("x0", "y0", "x1", "y1"))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{where}: needs video, frame or time, x0, y0, x1, y1; found {dict(row)}"
        ) from None
    if not all(map(math.isfinite, (at, x0, y0, x1, y1))) or at < 0 or not (x0 < x1 and y0 < y1):
        raise ValueError(f"{where}: a box needs x0 < x1, y0 < y1 and a time from 0; {dict(row)}")
    track = row.get("track")
    return at, by_frame, (x0, y0, x1, y1), None if track in (None, "") else str(track)


class GivenBoxes:
    """The boxes given for one video, at its frames."""

    def __init__(
        self, entries: Iterable[Entry], times: np.ndarray, shots: Sequence[Shot], gap_s: float
    ) -> None:
        """`times` (n,) of the frames; a track's boxes up to `gap_s` apart in a shot are joined."""
        self._times = times
        self._shot: np.ndarray = np.full(len(times), -1)
        for number, shot in enumerate(shots):
            self._shot[shot.start : shot.stop] = number
        self.beyond: list[str] = []
        """Where boxes are given that the video has no frame of."""
        self._at: dict[int, list[Found]] = defaultdict(list)
        tracks: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
        for at, by_frame, box, name in entries:
            index = int(at) if by_frame else self._nearest(at)
            if index is None or index >= len(times):
                self.beyond.append(f"frame {at:.0f}" if by_frame else f"{at:g} s")
            elif name is None:
                self._add(index, np.array(box), None)
            else:
                tracks[name][index] = np.array(box)
        for name, boxes in tracks.items():
            self._fill(name, boxes, gap_s)

    def _nearest(self, time: float) -> int | None:
        """The frame taken at a time, None where none was within a tenth of a second."""
        if len(self._times) == 0:
            return None
        index = int(np.abs(self._times - time).argmin())
        return index if abs(self._times[index] - time) <= 0.1 else None

    def _add(self, index: int, box: np.ndarray, name: str | None) -> None:
        self._at[index].append(Found(index, float(self._times[index]), box, name=name))

    def _fill(self, name: str, boxes: Mapping[int, np.ndarray], gap_s: float) -> None:
        """A track's boxes, and those of the frames between."""
        given = sorted(boxes)
        for index in given:
            self._add(index, boxes[index], name)
        for before, after in itertools.pairwise(given):
            gap = self._times[after] - self._times[before]
            if gap > gap_s or self._shot[before] != self._shot[after]:
                continue
            for index in range(before + 1, after):
                share = (self._times[index] - self._times[before]) / gap
                self._add(index, (1 - share) * boxes[before] + share * boxes[after], name)

    def frames(self) -> list[int]:
        """Numbers of the frames with a box, growing."""
        return sorted(self._at)

    def find(self, index: int) -> list[Found]:
        """Who is in a frame."""
        return self._at.get(index, [])
