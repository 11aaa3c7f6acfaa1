"""Measured figures as a table: medians of several rounds, their spread, ratios within a round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipelines import progress_bar

Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    unit: str
    rounds: tuple[float, ...]
    """What each round measured."""
    median: float
    ratio: float | None
    """To the line that is the measure of the others; None on that line."""
    target: str = ""

    @property
    def spread(self) -> float:
        """Half the range of the rounds over their median."""
        return (max(self.rounds) - min(self.rounds)) / 2 / self.median


def figure(name: str, unit: str, rounds: Sequence[float], target: str = "") -> Figure:
    """A line of its own, compared with nothing."""
    return Figure(name, unit, tuple(rounds), statistics.median(rounds), None, target)


def figures(
    rounds: Mapping[str, list[float]], unit: str, against: str, targets: Mapping[str, str]
) -> list[Figure]:
    """The table of several candidates measured in the same rounds."""
    lines = []
    for name, values in rounds.items():
        ratios = [a / b for a, b in zip(values, rounds[against], strict=True)]
        ratio = None if name == against else statistics.median(ratios)
        target = targets.get(name, "")
        lines.append(Figure(name, unit, tuple(values), statistics.median(values), ratio, target))
    return lines


def table(lines: list[Figure]) -> str:
    """Figures as aligned text."""
    rows = [("", "median", "spread", "ratio", "target")]
    for line in lines:
        ratio = "" if line.ratio is None else f"{line.ratio:.3f}"
        value = f"{line.median:,.1f} {line.unit}"
        rows.append((line.name, value, f"±{line.spread:.1%}", ratio, line.target))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        row[0].ljust(widths[0]) + "".join(f"  {row[i].rjust(widths[i])}" for i in range(1, 5))
        for row in rows
    )


def in_turn(
    measures: Mapping[str, Callable[[], Measured]], rounds: int
) -> dict[str, list[Measured]]:
    """`rounds` rounds of every measure; each round begins with another."""
    names = list(measures)
    measured: dict[str, list[Measured]] = {name: [] for name in names}
    with progress_bar(rounds * len(names), "bench") as bar:
        for number in range(rounds):
            for i in range(len(names)):
                name = names[(number + i) % len(names)]
                measured[name].append(measures[name]())
                bar.update()
    return measured
