"""What a protocol pins down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hpse_dist.body.joints import JOINT_SETS

Kind = Literal["body", "hand", "keypoints", "dense", "classes", "pixels"]
Layout = Literal["npz", "freihand", "3dpw", "coco"]
_OF_SETS = ("ap", "ar", "gps_ap", "gpsm_ap", "macro_f1", "f1", "nmje", "nmve")  # and ap_50, ...


@dataclass(frozen=True)
class Protocol:
    """One way of measuring. Numbers of two protocols are never in one column."""

    name: str
    kind: Kind
    """What is predicted, and so how it is judged."""
    figures: tuple[str, ...]
    """Its numbers, by their names in report.tables.METRICS; the first one ranks."""
    doc: str
    """One paragraph: whose protocol it is and what is easily got wrong."""
    joint_set: str = ""
    """The order of joints, by its name in JOINT_SETS; empty where any will do or none is needed."""
    joints: tuple[str, ...] = ()
    """Which of them are judged."""
    root: str = ""
    """The joint that both sides are moved to the origin by; empty: left where they are."""
    regressor: str = ""
    """The matrix that makes the joints of the vertices, where they are not the body's own; the
    sha256 of the file that was used stands beside the numbers."""
    alignment: str = "none beyond the root"
    """What else is done to a prediction before it is compared."""
    truth: str = "as annotated"
    """Where ground truth comes from: gendered or neutral body, or people's marks."""
    misses: str = "every example must be predicted"
    """What counts as a miss, and what a miss does to the number."""
    complete: bool = True
    """Whether a file that leaves out examples is refused."""
    unit: str = "mm"
    vertices: int | None = None
    """Vertices of the benchmark's mesh; None: as many as the ground truth has."""
    layout: Layout = "npz"
    """The layout of prediction files: the benchmark's own, where it has one."""
    kappas: tuple[float, ...] = ()
    """Dense pose: the distance in metres that counts as far, for each part from 1 on."""

    def __post_init__(self) -> None:
        names = JOINT_SETS.get(self.joint_set, ())
        strangers = {*self.joints, *([self.root] if self.root else [])} - {*names}
        assert not strangers, f"{self.name}: not in {self.joint_set}: {strangers}"
        assert self.figures and self.doc, self.name

    @property
    def set_figures(self) -> tuple[str, ...]:
        """Those of its figures that are no means over examples."""
        return tuple(
            name
            for name in self.figures
            if any(name == kind or name.startswith(f"{kind}_") for kind in _OF_SETS)
        )

    def names(self) -> tuple[str, ...]:
        """All joints of a file, in order."""
        return JOINT_SETS.get(self.joint_set, ())

    def judged(self) -> list[int]:
        """Places of the judged joints among `names`."""
        return [self.names().index(joint) for joint in self.joints]

    def check_joint_set(self, given: str | None, where: str) -> None:
        """ValueError unless joints called `given` can be judged; None, untold, is let through."""
        if given is None or not self.joint_set or given == self.joint_set:
            return
        raise ValueError(
            f"{where}: its joints are {given} and protocol {self.name} judges {self.joint_set} "
            "(joints of one name are not at one place in two sets); use data with those joints, "
            "or another protocol"
        )

    def check_joint_count(self, count: int, where: str) -> None:
        """ValueError unless as many joints are given as the set has."""
        if self.joint_set and count != len(self.names()):
            raise ValueError(
                f"{where}: {count} joints, and protocol {self.name} needs the {len(self.names())} "
                f"of {self.joint_set} in their order"
            )

    def describe(self) -> str:
        """The whole protocol as text, for people who compare numbers."""
        said = [f"{self.name}: {self.doc}"]
        if self.joints:
            said.append(f"Joints: {_joined(self.joints, self.names())} of {self.joint_set}")
            said[-1] += f", from the {spoken(self.root)}." if self.root else ", as they are."
        if self.regressor:
            said.append(f"Regressor: {self.regressor}.")
        if self.kind in ("body", "hand"):
            said.append(f"Alignment: {self.alignment}.")
        said.append(f"Ground truth: {self.truth}. Misses: {self.misses}. Unit: {self.unit}.")
        return " ".join(said)


def _joined(joints: Sequence[str], names: Sequence[str]) -> str:
    if len(joints) == len(names):
        return f"all {len(joints)}"
    left_out = [name for name in names if name not in joints]
    if len(left_out) < len(joints):
        return f"{len(joints)}, all but {', '.join(map(spoken, left_out))},"
    return f"{len(joints)}, {', '.join(map(spoken, joints))},"


def spoken(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")
