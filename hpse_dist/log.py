"""What a run says of itself: metrics.jsonl, TensorBoard and pictures.

metrics.jsonl is the committed history: after a resume at step s, the lines of later steps are
gone, for those steps are about to happen again. Only the main process writes. On a full disk, or a
store that is away, lines and curves wait in memory and pictures are left out; checkpoints do not
come before the lines of their steps, so that none is lost.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from hpse_dist.disk import GrowingFile, sync, whole_file
from hpse_dist.safety import parsed_json
from hpse_dist.world import World

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
_MEASURED = ("val/", "tests/", "probe/")
LAYOUT: dict[str, dict[str, list[Any]]] = {  # TensorBoard's page of curves that belong together
    "learning": {
        "losses": ["Multiline", [r"train/loss.*"]],
        "learning rate": ["Multiline", ["train/lr"]],
        "gradient": ["Multiline", ["train/grad_norm"]],
    },
    "held out": {
        "losses": ["Multiline", [r"val/.*loss.*"]],
        "errors in mm": ["Multiline", [r"val/.*(mpjpe|pve).*"]],
        "other errors": ["Multiline", [r"val/.*error.*"]],
        "right, %": ["Multiline", [r"val/.*(pck|iou|accuracy|right|retrieval|precision).*"]],
        "gains": ["Multiline", [r"val/.*gain.*"]],
    },
    "probe": {
        "errors": ["Multiline", [r"probe/.*error.*"]],
        "explained, %": ["Multiline", ["probe/explained"]],
    },
    "speed": {
        "samples per second": ["Multiline", ["train/samples_per_s"]],
        "shares of the time": ["Multiline", [r"train/.*_share", "run/effective"]],
    },
}


class RunLog:
    """The log of one run folder, opened at the step it goes on from."""

    def __init__(
        self,
        folder: Path,
        world: World,
        every: int,
        *,
        start: int = 0,
        unmeasured: bool = False,
    ) -> None:
        """unmeasured: step `start` is about to be measured again, so what was measured goes."""
        if every < 1:
            raise ValueError(f"the log needs a line every 1 step or more, found {every}")
        self.folder = Path(folder)
        self.every = every
        self.incidents: list[tuple[str, str]] = []
        """(kind, why) of what could not be written; to be taken out by who writes incidents."""
        self._in_trouble = False
        self._writer: SummaryWriter | None = None
        if not world.is_main:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open(start, unmeasured)

    def _open(self, start: int, unmeasured: bool = False) -> None:
        commit_history(self.folder / METRICS_FILE, start, unmeasured)
        # the import takes seconds, and only the main process needs it
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(
            str(self.folder),  # so that a curve's name is <study>/<run>
            purge_step=start + 1 if start else None,
            flush_secs=10,
        )
        self._laid_out = False
        # it would raise, from a thread, what the disk says
        events = self._writer._get_file_writer().event_writer
        events.flush()
        events._async_writer._writer._writer = GrowingFile(Path(events._file_name), self._hear)
        self._metrics = GrowingFile(self.folder / METRICS_FILE, self._hear)

    def _hear(self, trouble: str) -> None:
        """Say once that the disk is full or away, whichever of the files found out."""
        if not self._in_trouble:
            _log.warning(trouble)
            self.incidents.append(("unwritten", trouble))
        self._in_trouble = True

    def rewind(self, step: int) -> None:
        """The steps after `step` are about to happen again: what was said of them goes."""
        if self._writer is None:
            return
        self._metrics.close()
        self._writer.close()
        self._open(step)

    def due(self, step: int) -> bool:
        """True on the steps whose scalars are wanted."""
        return step % self.every == 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, and a point on each curve; a NaN is null and no point.

        Names may have a group, "val/mpjpe"; those without stand under "train" in TensorBoard.
        """
        if self._writer is None:
            return
        if not self._laid_out and any(name.startswith("val/") for name in values):
            self._writer.add_custom_scalars(layout_of(values))
            self._laid_out = True
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        for name, value in values.items():
            line[name] = float(value) if math.isfinite(value) else None
            if math.isfinite(value):
                self._writer.add_scalar(name if "/" in name else f"train/{name}", value, step)
        self._metrics.line(line)

    def panels(self, step: int, images: Mapping[str, Tensor]) -> None:
        """Pictures (3, H, W) in 0..1, to TensorBoard and to panels/step_000100_<name>.png."""
        if self._writer is None:
            return
        for name, image in images.items():
            pixels = to_pixels(image)
            self._writer.add_image(name, pixels, step, dataformats="HWC")
            file_name = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
            self._keep(self.folder / "panels" / f"step_{step:06d}_{file_name}.png", pixels)

    def _keep(self, path: Path, pixels: np.ndarray) -> None:
        """A picture; without it where the disk takes none."""
        try:
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            self._hear(f"{path} could not be written ({error.strerror}); training goes on")

    def text(self, name: str, text: str) -> None:
        """A text page in TensorBoard, such as the recipe."""
        if self._writer is not None:
            self._writer.add_text(name, f"```\n{text}\n```")

    def settings(self, values: Mapping[str, Any]) -> None:
        """A row of TensorBoard's HPARAMS table: dotted keys and plain values; its figures are the
        last points of this run's curves."""
        if self._writer is not None:
            _, begun, _ = _hparams({name: _plain(value) for name, value in values.items()})
            self._writer._get_file_writer().add_summary(begun)

    def done(self) -> None:
        """The run of `settings` has ended well."""
        if self._writer is not None:
            _, _, ended = _hparams({})
            self._writer._get_file_writer().add_summary(ended)

    def flush(self) -> None:
        """Everything said so far is on the disk, before a checkpoint that it belongs to; OSError
        where metrics.jsonl cannot be written."""
        if self._writer is not None:
            self._writer.flush()
            self._metrics.sync()
            self._in_trouble = False

    def close(self) -> None:
        """Close the files; safe to call twice."""
        if self._writer is not None:
            self._metrics.close()
            self._writer.close()
            self._writer = None

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _hparams(values: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Summaries of an experiment, of a run's begin and of its end.

    Without the first TensorBoard makes the table of all runs that it finds, as it should: of a
    first one it would take the one run's columns for all.
    """
    from torch.utils.tensorboard.summary import hparams

    return hparams(values, {})


def _plain(value: Any) -> float | str:
    """Numbers stay numbers; all else is text, `true` too, which would become 1."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return value if isinstance(value, str) else json.dumps(value, default=str)


def layout_of(held_out: Iterable[str]) -> dict[str, dict[str, list[Any]]]:
    """`LAYOUT` without the charts of held-out figures that a run with these names never fills.

    TensorBoard takes the first layout that a run gives, so it is given at the first evaluation.
    """
    names = list(held_out)
    charts = {
        title: chart
        for title, chart in LAYOUT["held out"].items()
        if any(re.fullmatch(tag, name) for tag in chart[1] for name in names)
    }
    return LAYOUT | {"held out": charts}


def commit_history(path: Path, start: int, unmeasured: bool = False) -> None:
    """Drop the lines after step `start`, those of what was measured at it where `unmeasured`, and
    one torn by a kill; all or nothing."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if _stays(_row_of(line), start, unmeasured)]
    if len(kept) == len(lines):
        return
    with whole_file(path) as draft:
        draft.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        sync(draft)
    _log.info("%s: %d lines after step %d dropped", path, len(lines) - len(kept), start)


def _stays(row: dict[str, Any] | None, start: int, unmeasured: bool) -> bool:
    if row is None or row["step"] > start:
        return False
    measured = any(name.startswith(_MEASURED) for name in row)
    return not (unmeasured and row["step"] == start and measured)


def _row_of(line: str) -> dict[str, Any] | None:
    """A line of metrics.jsonl, its step a number; None if it is not whole."""
    try:
        row = parsed_json(line)
        return {**row, "step": int(row["step"])}
    except (ValueError, KeyError, TypeError):
        return None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, a torn last one left out; null is NaN."""
    rows = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        row = _row_of(text)
        if row is not None:
            rows.append({k: math.nan if v is None else v for k, v in row.items()})
    return rows


def to_pixels(image: Tensor) -> np.ndarray:
    """(3, H, W) in 0..1 -> (H, W, 3) uint8; what lies outside is cut off, NaN is black."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"a panel must be (3, H, W), found {tuple(image.shape)}")
    values = image.detach().float().nan_to_num(0.0).clamp(0, 1).mul(255).round()
    return values.byte().permute(1, 2, 0).cpu().contiguous().numpy()
