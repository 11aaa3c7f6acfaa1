"""A study's recipe: which sources, tasks, label fractions and seeds are compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hpse_dist.recipe import located


@dataclass(frozen=True)
class StudySource:
    """One arm of a study: a pre-training recipe to run, or something that exists."""

    pretrain: Path | None = None
    """A pre-training recipe; run once, however many arms share it."""
    overrides: tuple[str, ...] = ()
    """key=value applied to that recipe: arms that differ in a field or two need no file each."""
    run: str | None = None
    """A run folder, a file, or `random`."""

    def __post_init__(self) -> None:
        if (self.pretrain is None) == (self.run is None):
            raise ValueError("name either pretrain (a recipe) or run (a folder, a file or random)")
        if self.overrides and self.pretrain is None:
            raise ValueError("overrides change a pre-training recipe; name one under pretrain")


@dataclass(frozen=True)
class StudyMachine:
    """Where a study runs."""

    out: Path = Path("runs")
    """Folder in which the study's folder is made."""
    concurrent: int | None = None
    """Fine-tuning runs at a time; null takes as many as the cluster holds."""


@dataclass(frozen=True)
class StudyRecipe:
    """Sources x tasks x seeds, one fine-tuning run each."""

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
    baseline: str = "random"
    """The arm that the others are compared with."""
    overrides: tuple[str, ...] = ()
    """key=value applied to every fine-tuning recipe."""
    machine: StudyMachine = StudyMachine()
    """Below the line: where."""

    def __post_init__(self) -> None:
        if not (self.sources and self.tasks and self.seeds):
            raise ValueError("a study needs at least one source, one task and one seed")
        if not all(0 < fraction <= 1 for fraction in self.label_fractions):
            raise ValueError(
                f"label_fractions must be in (0, 1], found {list(self.label_fractions)}"
            )
        if self.baseline not in self.sources:
            raise ValueError(
                f"baseline must be one of the sources {', '.join(self.sources)}, "
                f"found {self.baseline!r}"
            )

    def folder(self) -> Path:
        return located(self.machine.out) / self.name
