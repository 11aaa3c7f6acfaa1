"""Your own labelled pictures: text files with one JSON object for each person in a picture.

    {"picture": "cam1/000100.jpg", "box": [410, 120, 655, 790], "person": "anna",
     "sequence": "walk", "camera": "cam1", "time": 4.0, "joints2d": [[512.5, 161.0, 1.0], ...]}

picture             its file, below the root; all other keys may be left out
box                 x0, y0, x1, y1, pixels; else put around the 2D joints
person, sequence, camera, time (seconds), track
                    who, where and when; pairs are made of one person's pictures of one sequence,
                    at one time from two cameras or at two from one. A sequence needs times; without
                    one, each picture is a sequence of its own
split               train, val or test; else chosen by the person
joints2d            (J, 3) x, y in pixels, confidence 0..1, or (J, 2) where all are sure
joints3d            (J, 4) x, y, z, confidence, or (J, 3); where 2D joints are left out and
                    intrinsics given, they are projected
intrinsics          (3, 3) of a picture without lens distortion, pixels
rotation, translation
                    (3, 3) and (3,), world to camera
centre              (3,) where the person is in the world; else the middle of the 3D joints, or
                    transl, of the lines with rotation
global_orient, body_pose, betas, transl
                    SMPL's, in the camera's frame: 3, 69 and 10 numbers, and 3 metres; 3D joints
                    follow from them where the line has none and the recipe names SMPL's file
hand_orient, hand_pose, hand_betas, hand_transl
                    MANO's, in the camera's frame: 3, 45 and 10 numbers, and 3 metres
mask, part_map      files below the root, as large as the picture: what is not black is the person;
                    grey values or palette numbers 1..14, the parts of `body.joints.PART_NAMES`
label               the class, one of source.classes

Lines stand in any order: they are taken by sequence and time. What is wrong with one is its reject.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hpse_dist.data.importers.labelled_config import LabelledConfig
from hpse_dist.data.importers.labelled_lines import HOW, Posed, read_line, record_of, when
from hpse_dist.data.importers.official import Bad, inside, required
from hpse_dist.data.pictures import Unreadable
from hpse_dist.records import FrameRecord, Provenance, Reject

_LONGEST = 1 << 24  # bytes of a line; more is no person's labels

Config = LabelledConfig


def frames(config: LabelledConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each line of a file, by sequence as they first appear in it, then by time."""
    if not config.root.is_dir():
        raise ValueError(f"source.root: {config.root} is no folder; give that of your pictures")
    posed = Posed(config)
    for name in config.files:
        try:
            path = inside(config.root, name)
        except Bad as reason:
            raise ValueError(f"source.files: {reason}") from None
        yield from _records(required(path, HOW), config, posed)


def provenance(config: LabelledConfig) -> Provenance:
    """Licence and origin as the recipe gives them."""
    said = {
        "body": "free" if "free" in (config.body, config.hand) else "",
        "body_model": "smpl" if config.body == "smpl" else "",
        "hand_model": "MANO" if config.hand == "mano" else "",
        "classes": list(config.classes),
    }
    return Provenance(
        importer="labelled",
        licence=config.licence,
        commercial=config.commercial,
        citation=config.citation,
        joint_set=config.joints,
        details={"files": list(config.files)}
        | {key: value for key, value in said.items() if value},
    )


def _records(path: Path, config: LabelledConfig, posed: Posed) -> Iterator[FrameRecord | Reject]:
    """One file's, read twice: of each line, memory holds its place, and names of sequences."""
    numbers: dict[str, int] = {}  # of sequences
    order, times, starts, lines = array("q"), array("d"), array("q"), array("q")
    with open(path, "rb") as file:
        for line, (start, text) in enumerate(_lines(file), start=1):
            if not text.strip():
                continue
            try:
                sequence, time = when(read_line(text))
            except Bad as reason:
                yield Reject(f"{path.name}, line {line}", str(reason))
                continue
            order.append(numbers.setdefault(sequence, len(numbers)))
            times.append(time)
            starts.append(start)
            lines.append(line)
        for row in np.lexsort((np.asarray(times), np.asarray(order))).tolist():
            file.seek(starts[row])
            source = f"{path.name}, line {lines[row]}"
            try:
                yield record_of(read_line(file.readline(_LONGEST)), source, config, posed)
            except (Bad, Unreadable) as reason:
                yield Reject(source, str(reason))


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Where each line begins, and the line."""
    start = 0
    while text := file.readline(_LONGEST):
        yield start, text
        start += len(text)
