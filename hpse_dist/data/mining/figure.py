"""One picture of how pairs are spread before and after the rules, drawn from the manifest alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hpse_dist.data.mining.distributions import CANDIDATES, KEPT

_BEFORE, _AFTER, _INK = "#c4c1ba", "#0072b2", "#2b2b2b"
_STYLE: Any = {
    "font.size": 8,
    "axes.edgecolor": "#8a8a8a",
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": _INK,
    "legend.frameon": False,
}
_TITLES = {
    "angle_deg": "angle between views, degrees",
    "time_gap_s": "time gap, s",
    "pose_distance": "pose distance",
    "overlap": "overlap",
    "difficulty": "difficulty",
}
_SHOWN = {
    "view": ("angle_deg", "overlap", "difficulty"),
    "pose": ("time_gap_s", "pose_distance", "overlap", "difficulty"),
}


def save_figure(path: Path, name: str, pairs: dict[str, Any]) -> None:
    """Draw `pairs` of a manifest (see `mining.distributions`) of the collection `name` as a PNG.

    A kind without a candidate is left out.
    """
    kinds = [kind for kind in _SHOWN if pairs["spread"][kind][CANDIDATES]]
    with rc_context(_STYLE):
        figure = Figure(figsize=(11, 0.2 + 4.4 * len(kinds)))
        FigureCanvasAgg(figure)
        title = f"{name}: candidates and the pairs kept of them"
        figure.text(0.03, _from_top(figure, 0.22), title, fontsize=12)
        drawn = [Patch(color=_BEFORE), Line2D([], [], color=_AFTER)]
        figure.legend(drawn, [CANDIDATES, KEPT], loc="upper right", ncols=2)
        for number, kind in enumerate(kinds):
            top, found = 0.5 + 4.32 * number, pairs["spread"][kind]
            heading = f"cross-{kind}: {found[KEPT]:,} kept of {found[CANDIDATES]:,} candidates"
            figure.text(0.03, _from_top(figure, top), heading, fontsize=10)
            for column, measure in enumerate(_SHOWN[kind]):
                axes = _place(figure, column, top + 1.48)
                _histogram(axes, _TITLES[measure], found.get(measure))
            for column, owner in enumerate(("subject", "moment", "camera")):
                _ranking(_place(figure, column, top + 3.51), owner, found.get(f"per_{owner}"))
            _reasons(_place(figure, 3, top + 3.51), kind, pairs["dropped"])
        figure.savefig(path, dpi=100, metadata={"Software": None})


def _from_top(figure: Figure, inches: float) -> float:
    """So far down from the upper edge, as a share of the height from the lower one."""
    return 1 - inches / figure.get_figheight()


def _place(figure: Figure, column: int, bottom: float) -> Axes:
    """Axes in one of four columns, `bottom` inches down; fixed, as fitting them takes seconds."""
    height = 1.17 / figure.get_figheight()
    return figure.add_axes((0.06 + 0.24 * column, _from_top(figure, bottom), 0.18, height))


def _histogram(axes: Axes, title: str, counts: dict[str, list[float]] | None) -> None:
    """A measure's bins: shares of all candidates, and of all that are kept."""
    axes.set_title(title)
    if counts is None:
        _unknown(axes)
        return
    edges = np.array(counts["edges"])
    for which, colour, filled in ((CANDIDATES, _BEFORE, True), (KEPT, _AFTER, False)):
        share = 100 * np.array(counts[which]) / max(1, sum(counts[which]))
        axes.stairs(share, edges, color=colour, fill=filled, linewidth=1.4)
    if title.startswith("time"):
        axes.set_xscale("log")
        ticks = [edge for edge in (0.04, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60) if edge >= edges[0]]
        axes.set_xticks([t for t in ticks if t <= edges[-1]] or [edges[0], edges[-1]])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
    axes.set_ylabel("% of each")


def _ranking(axes: Axes, owner: str, found: dict[str, Any] | None) -> None:
    """Pairs of each subject, moment or camera, from the one with most to the one with least."""
    if found is None:
        axes.set_title(f"pairs per {owner}")
        _unknown(axes)
        return
    most = [f"{found[which]['largest_share']:.1%}" for which in (CANDIDATES, KEPT)]
    axes.set_title(f"pairs per {owner} ({found['number']:,})\nthe first has {' → '.join(most)}")
    for which, colour in ((CANDIDATES, _BEFORE), (KEPT, _AFTER)):
        values = found[which]["most_to_least"]
        axes.plot(np.linspace(0, 100, len(values)), values, color=colour)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.minorticks_off()
    axes.set_xlabel(f"% of {owner}s, most pairs first")


def _reasons(axes: Axes, kind: str, dropped: dict[str, int]) -> None:
    """What each rule left out."""
    axes.set_axis_off()
    lines = [
        f"{count:,}  {reason.removeprefix(f'{kind}: ')}"
        for reason, count in dropped.items()
        if reason.startswith(kind)
    ]
    text = "\n".join(["left out:", *lines]) if lines else "nothing left out"
    axes.text(0, 1, text, va="top", transform=axes.transAxes, fontsize=8, linespacing=1.6)


def _unknown(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing known", ha="center", transform=axes.transAxes, color="#8a8a8a")
