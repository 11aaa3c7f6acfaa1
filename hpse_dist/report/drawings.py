"""Drawings of what a study compares: label curves, errors by condition, spread over settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from hpse_dist.report.breakdown import Breakdown
from hpse_dist.report.figures import FAINT, INK, canvas, plain, to_svg
from hpse_dist.report.learning import LabelStudy, Sensitivity, Spread
from hpse_dist.report.tables import metric


def labels_svg(found: LabelStudy, ink: Mapping[str, str], baseline: str) -> str:
    """Each source's figure over the share of labels, on its logarithm, with its interval; a dotted
    line is what the baseline reaches with all labels."""
    figure, axes = canvas()
    what = metric(found.metric)
    shares = sorted({share for curve in found.curves for share in curve.shares})
    for number, curve in enumerate(found.curves):
        means = np.array([value.mean for value in curve.values])
        ends = np.array([[value.low, value.high] for value in curve.values]).T
        offset = 1 + 0.03 * (number - (len(found.curves) - 1) / 2)  # so that bars do not hide bars
        x = np.array(curve.shares) * offset
        style = "--" if curve.source == baseline else "-"
        colour = ink[curve.source]
        axes.plot(x, means, style, marker="o", markersize=3.5, color=colour, linewidth=1.6)
        lengths = np.nan_to_num(np.abs(ends - means))
        axes.errorbar(x, means, lengths, fmt="none", ecolor=colour, elinewidth=1, alpha=0.6)
        if curve.source == baseline:
            axes.axhline(means[-1], color=colour, linewidth=0.9, linestyle=":")
    means = [value.mean for curve in found.curves for value in curve.values]
    _limit(axes, means)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(shares))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.set_xlabel("share of the labels")
    axes.set_ylabel(plain(f"{what.label}{f' ({what.unit})' if what.unit else ''}"))
    return to_svg(figure, f"{found.task}: {what.label} over the share of labels")


def bins_svg(found: Breakdown, name: str, ink: Mapping[str, str]) -> str:
    """Each source's figure in each bin of a condition, with its interval over people."""
    figure, axes = canvas()
    what = metric(name)
    width = 0.5 / max(len(found.sources) - 1, 1)
    for number, source in enumerate(found.sources):
        values = [each.values[number] for each in found.bins]
        places = np.arange(len(values)) + (number - (len(found.sources) - 1) / 2) * width
        means = np.array([value.mean for value in values])
        ends = np.array([[value.low, value.high] for value in values]).T
        lengths = np.nan_to_num(np.abs(ends - means))
        axes.errorbar(
            places, means, lengths, fmt="o", markersize=4, color=ink[source], elinewidth=1.2
        )
    _limit(axes, [value.mean for each in found.bins for value in each.values])
    axes.set_xlim(-0.6, len(found.bins) - 0.4)
    labels = [f"{each.name}\n{each.examples} examples" for each in found.bins]
    axes.set_xticks(range(len(found.bins)), labels)
    axes.set_ylabel(plain(f"{what.label}{f' ({what.unit})' if what.unit else ''}"))
    return to_svg(figure, f"{what.label} by {found.condition.lower()}")


def spread_svg(found: Sequence[Spread], name: str, ink: Mapping[str, str]) -> str:
    """A dot for each point of the grid, a line of dots for each source, the median as a stroke."""
    figure, axes = canvas()
    what = metric(name)
    for number, row in enumerate(reversed(found)):
        values = np.array(row.values)
        axes.plot(
            [values.min(), values.max()], [number, number], color=FAINT, linewidth=3, zorder=1
        )
        for value, hollow in zip(values, row.stopped or [False] * len(values), strict=True):
            _dot(axes, value, number, ink[row.source], hollow)
        axes.plot(float(np.median(values)), number, "|", markersize=13, color=INK)
    axes.set_yticks(range(len(found)), [plain(row.source) for row in reversed(found)])
    axes.set_ylim(-0.6, len(found) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    axes.set_xlabel(plain(f"{what.label}{f' ({what.unit})' if what.unit else ''}"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return to_svg(figure, f"{what.label} over the grid")


def sensitivity_svg(found: Sensitivity, name: str, ink: Mapping[str, str]) -> str:
    """A dot for each setting tried over one hyper-parameter, and a line through the best at each
    value; hollow dots were stopped early."""
    figure, axes = canvas()
    what = metric(name)
    for row in found.rows:
        best: dict[float, float] = {}
        for place, value, hollow in zip(row.places, row.values, row.stopped, strict=True):
            at = float(place[found.key])
            best.setdefault(at, value)  # they come best first
            _dot(axes, at, value, ink[row.source], hollow)
        line = sorted(best.items())
        axes.plot(*zip(*line, strict=True), color=ink[row.source], linewidth=1.2, alpha=0.6)
    if found.logarithmic:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(plain(found.key.rpartition(".")[2].replace("_", " ")))
    axes.set_ylabel(plain(f"{what.label}{f' ({what.unit})' if what.unit else ''}"))
    return to_svg(figure, f"{what.label} over {found.key}")


def _dot(axes: Any, x: float, y: float, colour: str, hollow: bool) -> None:
    axes.plot(x, y, "o", markersize=4.5, color=colour, fillstyle="none" if hollow else "full")


def _limit(axes: object, means: Sequence[float]) -> None:
    """Intervals that are huge, as those of two seeds are, run out of the figure rather than squeeze
    the means into a line."""
    known = [mean for mean in means if np.isfinite(mean)]
    if known:
        room = max(max(known) - min(known), 1e-3 * abs(max(known)), 1e-9)
        low, high = axes.get_ylim()  # type: ignore[attr-defined]
        ends = max(low, min(known) - 0.8 * room), min(high, max(known) + 0.8 * room)
        axes.set_ylim(*ends)  # type: ignore[attr-defined]
