"""Figures of a study as SVG text, drawn small so that two stand side by side and one fills a phone.

Text stays text in the page's own font. Colours are told apart by colour-blind readers (after
Okabe and Ito); the baseline is always grey and dashed, so print keeps the difference too.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hpse_dist.report.runs import Run
from hpse_dist.report.tables import Interval, interval, metric

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a4fbf", "#8c564b")
BASELINE = "#7a7a7a"
INK, FAINT = "#2b2b2b", "#d9d7d2"
SIZE_IN = (4.0, 2.7)


@dataclass(frozen=True)
class Curve:
    """A line with the values of several seeds at the same steps."""

    label: str
    colour: str
    steps: np.ndarray
    """(S,) optimizer steps."""
    values: np.ndarray
    """(seeds, S), NaN where a seed has none."""
    dashed: bool = False


def colours(names: Sequence[str], baseline: str = "") -> dict[str, str]:
    """One colour for each name, the same in every figure of a page."""
    others = [name for name in names if name != baseline]
    chosen = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(others)}
    return chosen | ({baseline: BASELINE} if baseline in names else {})


def curve(
    runs: Sequence[Run], name: str, label: str, colour: str, *, training: bool, dashed: bool = False
) -> Curve | None:
    """The values of one figure over the steps of runs that differ in their seed, or None."""
    rows = [run.training if training else run.history for run in runs]
    per_run = [{int(row["step"]): row[name] for row in run if name in row} for run in rows]
    steps = sorted(set().union(*per_run)) if per_run else []
    if not steps:
        return None
    values = np.array([[found.get(step, np.nan) for step in steps] for found in per_run])
    return Curve(label, colour, np.array(steps), values, dashed)


def curves_svg(title: str, curves: Sequence[Curve], *, name: str, logarithmic: bool = False) -> str:
    """Mean over seeds, and as a band what lies between the lowest and the highest seed."""
    figure, axes = canvas()
    for line in curves:
        steps, values = _thinned(line)
        known = np.isfinite(values).any(axis=0)
        steps, values = steps[known], values[:, known]
        style = "--" if line.dashed else "-"
        mark = "o" if len(steps) <= 12 else ""
        axes.plot(
            steps,
            np.nanmean(values, axis=0),
            style,
            marker=mark,
            markersize=2.5,
            color=line.colour,
            linewidth=1.6,
        )
        if len(values) > 1:
            low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
            axes.fill_between(steps, low, high, color=line.colour, alpha=0.15, linewidth=0)
    what = metric(name)
    if logarithmic:
        axes.set_yscale("log")
    axes.set_ylabel(plain(f"{what.label}{f' ({what.unit})' if what.unit else ''}"))
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    return to_svg(figure, title)


def _thinned(line: Curve, most: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points, each the mean of its neighbours: a phone shows no more."""
    if len(line.steps) <= most:
        return line.steps, line.values
    edges = np.linspace(0, len(line.steps), most + 1).astype(int)[:-1]
    count = np.add.reduceat(np.isfinite(line.values).astype(float), edges, axis=1)
    total = np.add.reduceat(np.nan_to_num(line.values), edges, axis=1)
    width: np.ndarray = np.diff(np.append(edges, len(line.steps)))
    steps = np.add.reduceat(line.steps.astype(float), edges) / width
    return steps, np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval_svg(
    values: Interval, seeds: Sequence[float], low: float, high: float, ink: str
) -> str:
    """One row of a table drawn: the seeds as dots, the mean as a stroke, the interval as a bar."""
    width, height, middle = 160.0, 20.0, 10.0

    def x(value: float) -> float:
        return 4 + (width - 8) * (value - low) / (high - low if high > low else 1.0)

    parts = [f'<line x1="0" x2="{width:g}" y1="{middle}" y2="{middle}" stroke="{FAINT}"/>']
    if values.known:
        left, right = max(x(values.low), 0.0), min(x(values.high), width)
        parts.append(
            f'<rect x="{left:.1f}" y="6" width="{max(right - left, 1):.1f}" height="8" rx="2" '
            f'fill="{ink}" fill-opacity="0.25"/>'
        )
    parts += [
        f'<circle cx="{x(value):.1f}" cy="{middle}" r="2.2" fill="{ink}"/>' for value in seeds
    ]
    parts.append(f'<rect x="{x(values.mean) - 1:.1f}" y="3" width="2" height="14" fill="{ink}"/>')
    return (
        f'<svg class="interval" viewBox="0 0 {width:g} {height:g}" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def gain_svg(rows: Mapping[str, Mapping[str, float]], ink: Mapping[str, str]) -> str:
    """Reference gain in percent, a group of bars for each run and a bar for each pair kind."""
    figure, axes = canvas()
    kinds = [kind for kind in ("all", "view", "pose") if any(kind in row for row in rows.values())]
    thick = 0.8 / max(len(rows), 1)
    for number, (run, row) in enumerate(rows.items()):
        places = np.arange(len(kinds)) + (number - (len(rows) - 1) / 2) * thick
        values = np.array([row.get(kind, np.nan) for kind in kinds])
        axes.bar(places, np.nan_to_num(values), thick * 0.9, color=ink[run])
        for place, value in zip(places, values, strict=True):
            if np.isfinite(value):
                axes.annotate(
                    f"{value:.1f}",
                    (place, value),
                    (0, 3 if value >= 0 else -9),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=INK,
                )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.margins(y=0.15)
    axes.set_xticks(range(len(kinds)), [{"all": "all pairs"}.get(k, f"{k} pairs") for k in kinds])
    axes.set_ylabel("error with a wrong reference (+%)")
    return to_svg(figure, "Reference gain")


def seed_values(runs: Sequence[Run], name: str) -> list[float]:
    """The finite final values of one figure."""
    return [run.metrics[name] for run in runs if name in run.metrics]


def span(rows: Sequence[Interval], seeds: Sequence[float]) -> tuple[float, float]:
    """One scale for all rows of a table: every seed and mean, and intervals that are not huge."""
    points = [*seeds, *(row.mean for row in rows)]
    low, high = min(points), max(points)
    room = max(high - low, 1e-9)
    ends = [end for row in rows if row.known for end in (row.low, row.high)]
    low = min([low, *(max(end, low - 1.5 * room) for end in ends)])
    high = max([high, *(min(end, high + 1.5 * room) for end in ends)])
    return low, high


def mean_of(runs: Sequence[Run], name: str) -> Interval:
    """Interval of one final figure over runs."""
    return interval(seed_values(runs, name))


def canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_IN, layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8.5, length=3, color=FAINT)
    axes.xaxis.label.set(size=9, color=INK)
    axes.yaxis.label.set(size=9, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 2.5, 5, 10]))
    return figure, axes


def plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return text.replace("$", r"\$")


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an inline <svg> that takes its width and font from the page."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # matplotlib's own <style> would hold for the whole page, and its group ids come twice in it
    for pattern, new in (
        (r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", ""),
        (r'<g id="[^"]*">', "<g>"),
        (r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px"),
        (r"font-family: [^;\"]*;? ?", ""),
        (r"(\d+\.\d\d)\d+(?=[^<>]*>)", r"\1"),  # of places, not of what is written at a tick
        (r"\n\s*", "\n"),
    ):
        text = re.sub(pattern, new, text, flags=re.DOTALL)
    opening = re.match(r"<svg[^>]*>", text)
    assert opening is not None
    box = re.search(r'viewBox="[^"]*"', opening[0])
    assert box is not None
    return (
        f'<svg class="figure" role="img" aria-label="{html.escape(title)}" {box[0]} '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{text[opening.end() :]}'
    )
