"""A study's recipe: which sources, tasks, label fractions, settings and seeds are compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpse_dist.config import check_name
from hpse_dist.recipe import located

PLANNED = ("name", "seed", "source", "source_name", "label_fraction")  # the plan's own keys
_SET = ("name", "seed", "source", "source_name", "machine.workers", "machine.out")  # in every run


def check_overrides(section: str, overrides: Sequence[str], varied: Collection[str]) -> None:
    """ValueError where an override of fine-tuning would be undone by what the plan itself sets.

    section: where they stand; varied: the keys that are tried in several values, as a grid's.
    """
    for key in (text.partition("=")[0] for text in overrides):
        if key in (*_SET, *varied):
            whose = "what is varied" if key in varied else "the plan's own"
            raise ValueError(
                f"{section}: {key} is {whose}, so setting it would change nothing; leave it out"
            )


def check_pretraining(overrides: Sequence[str], sources: Mapping[str, StudySource]) -> None:
    """ValueError where overrides of every pre-training recipe have none to change, or set what is
    each arm's own."""
    for key in (text.partition("=")[0] for text in overrides):
        if key in ("name", "source"):
            raise ValueError(f"pretraining: {key} is each arm's own; leave it out")
    if overrides and all(source.pretrain is None for source in sources.values()):
        raise ValueError(
            "pretraining changes pre-training recipes, and no source names one under pretrain"
        )


@dataclass(frozen=True)
class StudySource:
    """One arm of a study: a pre-training recipe to run, or something that exists."""

    pretrain: Path | None = None
    """A pre-training recipe; run once, however many arms share it."""
    overrides: tuple[str, ...] = ()
    """key=value applied to that recipe after the study's `pretraining`: arms that differ in a field
    or two need no file each."""
    starts_from: str | None = None
    """Another arm, whose encoder that pre-training starts from; it is made first."""
    run: str | None = None
    """A run folder, a file, `random`, or `blind`: a random one that sees no picture, which tells
    what the labels alone are worth."""

    def __post_init__(self) -> None:
        if (self.pretrain is None) == (self.run is None):
            raise ValueError(
                "name either pretrain (a recipe) or run (a folder, a file, random or blind)"
            )
        if (self.overrides or self.starts_from) and self.pretrain is None:
            raise ValueError(
                "overrides and starts_from change a pre-training recipe; name one under pretrain"
            )
        if self.starts_from and any(text.startswith("source=") for text in self.overrides):
            raise ValueError(
                f"starts_from ({self.starts_from}) and an override of source both say what the "
                "pre-training starts from; keep one of them"
            )


@dataclass(frozen=True)
class StudyMachine:
    """Where a study runs, and what it may use up."""

    out: Path = Path("runs")
    """Folder in which the study's folder is made."""
    concurrent: int | None = None
    """Fine-tuning runs at a time; null takes as many as the cluster holds."""
    free_finished: bool = True
    """Remove the checkpoints of fine-tuning runs that are finished or stopped early by a sweep,
    with all their optimizer state; encoder, head and figures stay, which is all that predicting and
    reporting need."""
    hours: float | None = None
    """Start no further run after so many hours of one command; what runs is finished."""
    failures: int | None = None
    """Start no further run once so many have failed; null lets every run have its try."""
    disk_gb: float | None = None
    """Start no further run once the study's folder holds so many gigabytes."""

    def __post_init__(self) -> None:
        for name in ("concurrent", "hours", "failures", "disk_gb"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, or null for no limit; found {value}")


@dataclass(frozen=True)
class StudyRecipe:
    """Sources x tasks x label fractions x settings x seeds, one fine-tuning run each."""

    name: str
    """Name of the study and of its folder."""
    sources: dict[str, StudySource]
    """The arms."""
    tasks: dict[str, Path]
    """Fine-tuning recipes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One run of every arm and task each."""
    label_fractions: tuple[float, ...] = ()
    """Shares of the labels, one run of every arm, task and seed each, all of equal steps; none: as
    the fine-tuning recipes say."""
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Hyper-parameters of fine-tuning: dotted key -> values; every combination is run, so that no
    source loses for want of tuning and the spread can be seen."""
    baseline: str = "random"
    """The arm that the others are compared with."""
    pretraining: tuple[str, ...] = ()
    """key=value applied to every pre-training recipe: one size, one collection for all arms. The
    runs are then <study>-<arm>."""
    overrides: tuple[str, ...] = ()
    """key=value applied to every fine-tuning recipe."""
    machine: StudyMachine = StudyMachine()
    """Below the line: where."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not (self.sources and self.tasks and self.seeds):
            raise ValueError("a study needs at least one source, one task and one seed")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ from one another, found {list(self.seeds)}")
        if not all(0 < fraction <= 1 for fraction in self.label_fractions):
            raise ValueError(
                f"label_fractions must be in (0, 1], found {list(self.label_fractions)}"
            )
        if self.baseline not in self.sources:
            raise ValueError(
                f"baseline must be one of the sources {', '.join(self.sources)}, "
                f"found {self.baseline!r}"
            )
        for key, values in self.grid.items():
            if key in PLANNED or key.startswith("machine."):
                raise ValueError(
                    f"grid: {key} is the plan's own or decides no result; the grid is for "
                    "hyper-parameters such as optim.lr"
                )
            if not values:
                raise ValueError(f"grid: {key} has no values; give at least one")
        check_pretraining(self.pretraining, self.sources)
        varied = [*self.grid, *(["label_fraction"] if self.label_fractions else [])]
        check_overrides("overrides", self.overrides, varied)

    def folder(self) -> Path:
        return located(self.machine.out) / self.name
