"""`python -m pipelines.layers <source> ... --on <collection>`: what blocks of encoders know."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpse_dist.config import ConfigError
from pipelines import command_parser, place, progress_bar, run_command

if TYPE_CHECKING:
    from hpse_dist.layers import Look

RANDOM = "random"


def parser() -> argparse.ArgumentParser:
    made = command_parser(
        "layers",
        "What each block of some encoders knows of held-out people's joints, by ridge regression "
        "from its tokens, and how alike the blocks are (CKA) to those of the first encoder: where "
        "sources differ, and what fine-tuning has changed. Nothing is trained.",
        "python -m pipelines.layers runs/demo_completion runs/pose2d random "
        "--on collections/demo\n"
        "  python -m pipelines.layers runs/demo_completion runs/demo/completion-body_mesh-seed0 "
        "--on collections/demo --figure layers.png",
    )
    made.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="whatever source= of a recipe takes: run folders, files, timm:<name>; or random, of "
        "the first one's shape",
    )
    made.add_argument("--on", type=place, required=True, help="the collection to look at")
    made.add_argument("--split", default="val", help="whose frames; val by default")
    made.add_argument("--frames", type=int, default=400, help="at most so many; 400 by default")
    made.add_argument("--batch", type=int, default=32, help="pictures at a time; 32 by default")
    made.add_argument("--json", type=Path, help="write all figures here too")
    made.add_argument("--figure", type=Path, help="draw them here: .png, .svg or .pdf")
    return made


def main(options: argparse.Namespace) -> None:
    from hpse_dist.data.collection import Collection
    from hpse_dist.layers import look

    if min(options.frames, options.batch) < 1:
        raise ConfigError("--frames and --batch must be at least 1")
    if options.figure and options.figure.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"--figure ends in .png, .svg or .pdf, found {options.figure}")
    names = _names(options.sources)
    encoders = _encoders(options.sources)
    collection = Collection.open(options.on)
    found: dict[str, Look] = {}
    with progress_bar(len(names), "layers", "encoder") as bar:
        for name, encoder in zip(names, encoders, strict=True):
            seen = look(encoder, collection, options.split, options.frames, options.batch)
            found[name] = seen
            bar.update()
    likeness = _likeness(found)
    print(_table(found, likeness))
    if not any(one.explained for one in found.values()):
        print(f"{options.on} has no joints of split train to learn from: blocks are compared only")
    if options.json:
        figures = {
            name: {"explained": list(one.explained), "cka": likeness[name]}
            for name, one in found.items()
        }
        text = json.dumps({"first": names[0], "encoders": figures}, indent=1)
        options.json.write_text(text, encoding="utf-8")
    if options.figure:
        _draw(found, likeness, options.figure)
    for path in (options.json, options.figure):
        if path:
            print(f"done: {path}")


def _names(sources: list[str]) -> list[str]:
    """Each source by the last part of its path, or by all of it where that is another's too."""
    if len({*sources}) < len(sources):
        raise ConfigError(f"sources must differ from one another, found {', '.join(sources)}")
    lasts = [Path(source).name for source in sources]
    return [
        last if lasts.count(last) == 1 else source
        for last, source in zip(lasts, sources, strict=True)
    ]


def _encoders(sources: list[str]) -> list[Any]:
    import torch

    from hpse_dist.models.encoder import build_encoder
    from hpse_dist.source import TIMM
    from hpse_dist.use import load_encoder

    if sources[0] == RANDOM:
        raise ConfigError(f"{RANDOM} has the first source's shape: name it after one")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    made: list[Any] = []
    for source in sources:
        if source == RANDOM:
            torch.manual_seed(0)
            encoder = build_encoder(made[0].config).eval()
        else:
            encoder = load_encoder(source if source.startswith(TIMM) else place(source))
        made.append(encoder.to(device))
    return made


def _likeness(found: Mapping[str, Look]) -> dict[str, list[list[float]]]:
    """CKA of each encoder's blocks (rows) and the first one's (columns)."""
    from hpse_dist.layers import alike

    first = next(iter(found.values()))
    return {
        name: [[alike(mine, its) for its in first.kernels] for mine in one.kernels]
        for name, one in found.items()
    }


def _table(found: Mapping[str, Look], likeness: Mapping[str, list[list[float]]]) -> str:
    """A line for each block: what it explains, and its CKA with the first one's at that place."""
    first, *others = found
    width = max(10, *(len(name) for name in found))
    known = [name for name, one in found.items() if one.explained]
    headers = [f"{name:>{width}}" for name in known] + [f"{name:>{width}}" for name in others]
    over = f"joints explained, %{' ' * max(0, (width + 2) * len(known) - 19)}" if known else ""
    beside = f"CKA with {first}" if others else ""
    lines = [f"{'':9}  {over}  {beside}".rstrip(), "  ".join([" " * 9, *headers])]
    for row in range(max(len(one.kernels) for one in found.values())):
        cells = [_cell(found[name].explained, row, width, ".1f") for name in known]
        cells += [_cell(_same_place(likeness[name]), row, width, ".2f") for name in others]
        lines.append("  ".join([f"block {row + 1:<3}", *cells]).rstrip())
    return "\n".join(lines)


def _same_place(likeness: list[list[float]]) -> list[float]:
    """CKA with the block of the first encoder that is as far up, in relation to its depth."""
    depth = len(likeness)
    return [row[round((i + 1) / depth * len(row)) - 1] for i, row in enumerate(likeness)]


def _cell(values: Any, row: int, width: int, form: str) -> str:
    return f"{values[row]:{width}{form}}" if row < len(values) else " " * width


def _draw(found: Mapping[str, Look], likeness: Mapping[str, Any], path: Path) -> None:
    """What blocks explain as lines; beside it each encoder's blocks against the first one's."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    known = {name: one.explained for name, one in found.items() if one.explained}
    count = len(found) + bool(known)
    figure = Figure(figsize=(3.4 * count, 3.4), layout="constrained")
    panels: Any = figure.subplots(1, count, squeeze=False)[0]
    if known:
        for name, values in known.items():
            panels[0].plot(range(1, len(values) + 1), values, "o-", markersize=4, label=name)
        panels[0].set(xlabel="block", ylabel="joints explained, %")
        panels[0].grid(alpha=0.3)
        panels[0].legend(frameon=False, fontsize=8)
    first = next(iter(found))
    for panel, (name, rows) in zip(panels[count - len(found) :], likeness.items(), strict=True):
        ends = (0.5, len(rows[0]) + 0.5, 0.5, len(rows) + 0.5)
        drawn = panel.imshow(rows, origin="lower", extent=ends, vmin=0, vmax=1, cmap="viridis")
        panel.set(xlabel=f"block of {first}", ylabel="block", title=name)
        panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels:
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(drawn, ax=panels[-1], label="CKA", shrink=0.8)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(run_command(main, parser()))
