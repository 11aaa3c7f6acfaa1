"""What a recipe says of your own labelled pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.data.importers import official

NOT_IN_SET = "-"


@dataclass(frozen=True)
class LabelledConfig:
    """Pictures, the files of their labels, and what the numbers mean."""

    root: Path
    """The folder of the pictures."""
    licence: str
    """Licence of pictures and labels, kept with the collection and every source trained on it."""
    files: tuple[str, ...] = ("people.jsonl",)
    """The label files, under root."""
    joints: str | None = None
    """Name of the joints' order, as `coco17` or `smpl24`; null where no line has joints."""
    names: tuple[str, ...] = ()
    """What the lines' joints are called in that order, where theirs is another: `-` for one that it
    lacks; those of the order that are not named are unknown."""
    pixels: Literal["corner", "middle"] = "corner"
    """Where pixels count from: the picture's corner, or the first pixel's middle, as COCO, OpenCV
    and their calibrations do."""
    joints3d_in: Literal["camera", "world"] = "camera"
    """The frame of 3D joints."""
    unit_m: float = 1.0
    """Metres per unit of 3D joints, translation and centre: 0.001 where they are millimetres."""
    body: Literal["", "smpl", "free"] = ""
    """Whose the body parameters are: SMPL's neutral model's, or the free body's."""
    body_file: Path | None = None
    """An SMPL file, or a folder with one: makes the 3D joints of lines that have its parameters and
    no joints, where `joints` is smpl24. For the free body none is needed."""
    hand: Literal["", "mano", "free"] = ""
    """Whose the hand parameters are."""
    classes: tuple[str, ...] = ()
    """Names of the classes; a line's label is a name, or its place among them from 0."""
    box_margin: float = 0.12
    """What a box put around joints is wider on each side, as share of its longer side."""
    commercial: bool = False
    """Whether the licence allows commercial use."""
    citation: str = ""
    """What to cite."""

    def __post_init__(self) -> None:
        official.check_shared_keys(self)
        if not self.files:
            raise ValueError("files must name at least one file of labels")
        if not self.unit_m > 0:
            raise ValueError(f"unit_m must be above 0, found {self.unit_m}")
        if self.joints is not None and self.joints not in JOINT_SETS:
            raise ValueError(f"joints must be one of {', '.join(JOINT_SETS)}, found {self.joints}")
        if self.names and self.joints is None:
            raise ValueError("names are those of an order of joints: set joints to it")
        known = [name for name in self.names if name != NOT_IN_SET]
        unknown = sorted({*known} - {*JOINT_SETS.get(self.joints or "", ())})
        if unknown or len({*known}) < len(known):
            raise ValueError(
                f"names must be of {self.joints}, each once, or {NOT_IN_SET}: "
                f"{', '.join(JOINT_SETS[str(self.joints)])}; found {', '.join(unknown or known)}"
            )
        if len({*self.classes}) < len(self.classes):
            raise ValueError(f"classes must be named once each, found {', '.join(self.classes)}")
        if self.body_file is not None and (self.body, self.joints) != ("smpl", "smpl24"):
            raise ValueError("body_file makes joints of SMPL: set body to smpl, joints to smpl24")
        if "free" in (self.body, self.hand) and {self.body, self.hand} & {"smpl", "mano"}:
            raise ValueError("body and hand must both be the free ones, or none of them")
