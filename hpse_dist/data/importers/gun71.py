"""GUN-71: hands that grasp objects, seen from the chest, in 71 kinds of grasp.

    root/Subject1/...jpg to root/Subject8/...jpg, at any depth

The second and third letter of a picture's name are the grasp's number in the taxonomy, 01 to 73,
of which 51 and 62 were never taken. Depth maps (.png) are not aligned with the pictures and are
left out. There are no boxes: a frame is the whole picture. This is the layout that
github.com/cccvt/hand-cnns reads; the dataset comes without a description of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpse_dist.data.importers.official import required
from hpse_dist.data.pictures import Unreadable, picture_size
from hpse_dist.records import FrameRecord, Provenance, Reject

GRASPS = tuple(number for number in range(1, 74) if number not in (51, 62))
_GET = (
    "get GUN-71 from gregrogez.net/research/egovision4health/gun-71 and unpack Subject1 to "
    "Subject8 in source.root"
)


@dataclass(frozen=True)
class Gun71Config:
    """Which of GUN-71's subjects."""

    root: Path
    """The folder that holds Subject1 to Subject8."""
    subjects: tuple[str, ...] = tuple(f"Subject{number}" for number in range(1, 9))
    """Folders of the subjects."""
    held_out: tuple[str, ...] = ("Subject8",)
    """Those of them that are split val, which fine-tuning is judged on; the others are train."""

    def __post_init__(self) -> None:
        if not self.subjects or set(self.held_out) - set(self.subjects):
            raise ValueError("held_out must be some of subjects, and subjects at least one")


Config = Gun71Config


def frames(config: Gun71Config) -> Iterator[FrameRecord | Reject]:
    """A record for each picture, with its grasp as the field label, subject by subject."""
    for subject in config.subjects:
        folder = required(config.root / subject, _GET)
        found = sorted(folder.rglob("*.jpg"))
        if not found:
            raise ValueError(f"{folder}: no picture (.jpg) in it; {_GET}")
        for path in found:
            source = str(path.relative_to(config.root))
            digits = re.fullmatch(r".([0-9]{2}).*", path.stem)
            if digits is None or int(digits[1]) not in GRASPS:
                yield Reject(source, "its name does not say which of the 71 grasps it shows")
                continue
            try:
                width, height = picture_size(path)
            except Unreadable as reason:
                yield Reject(source, str(reason))
                continue
            yield FrameRecord(
                image=path,
                box=(0.0, 0.0, float(width), float(height)),
                subject=subject,
                sequence=source,
                camera="",
                time=0.0,
                source=source,
                labels={"label": np.array(GRASPS.index(int(digits[1])))},
                split="val" if subject in config.held_out else "train",
            )


def provenance(config: Gun71Config) -> Provenance:
    """Origin of GUN-71, and the grasps by number."""
    return Provenance(
        importer="gun71",
        licence="none is stated: for research, ask the authors for any other use",
        commercial=False,
        citation="Rogez et al., Understanding Everyday Hands in Action from RGB-D Images, "
        "ICCV 2015",
        joint_set=None,
        details={"classes": [f"grasp {number:02d}" for number in GRASPS]},
    )
