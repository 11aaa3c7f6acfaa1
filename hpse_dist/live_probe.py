"""A look at the encoder while it is pre-trained: joints from its tokens by ridge regression.

What the encoder makes of training people's pictures, pooled to 4 x 4 cells, is regressed on their
joints in closed form, and the joints of held-out people are predicted. Nothing is trained and
nothing is drawn at random, so training goes on as if nobody had looked.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch.nn.functional as F

from hpse_dist.data.items import Source, has_items
from hpse_dist.data.loader import evaluation_batches
from hpse_dist.data.mixing import provided_by
from hpse_dist.engine import Engine
from hpse_dist.fields import Batch

CELLS = 4  # tokens are pooled to CELLS x CELLS: where a joint is must still be told
LABELS = ("joints2d", "joints3d")  # the first that the collection has; 3D turns with the camera
FIT = 2  # times as many frames of training people
FEWEST = 8  # frames on either side
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # penalties, see `regressed`
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveProbeConfig:
    """How often and on how much the encoder is looked at while it learns."""

    every: int = 200
    """Optimizer steps between two looks."""
    frames: int = 400
    """At most this many held-out frames with joints, spread over the people; twice as many of
    training people."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.frames < 2 * FEWEST:
            raise ValueError(
                f"every must be at least 1 and frames at least {2 * FEWEST}, found {self.every} "
                f"and {self.frames}"
            )


class LiveProbe:
    """The probe of one run; every rank has one and looks at its share of the frames."""

    def __init__(
        self, config: LiveProbeConfig, sources: Iterable[Source], image_px: int, micro_batch: int
    ) -> None:
        """`sources`: held-out parts of the run's collections; the first with joints is used."""
        self.config, self.image_px, self.micro_batch = config, image_px, micro_batch
        self.source, self.label = _labelled(sources)
        self._said = False

    def due(self, step: int) -> bool:
        return step % self.config.every == 0

    def look(self, engine: Engine) -> dict[str, float]:
        """Figures of the encoder as it is; {} where there is nothing to measure with, which is said
        once. Collective.

        error_mm (joints3d, relative to the root) or error_percent of the crop's side (joints2d),
        each a mean over joints; explained: how much of the error of the mean pose that takes away,
        in percent.
        """
        if self.source is None:
            self._say("no held-out frame has joints2d or joints3d")
            return {}
        learnt = self._found(engine, replace(self.source, split="train"), FIT * self.config.frames)
        test = self._found(engine, self.source, self.config.frames)
        if min(len(learnt["subject"]), len(test["subject"])) < FEWEST:
            self._say(f"fewer than {FEWEST} frames with joints to learn from, or held out")
            return {}
        unit = "error_mm" if self.label == "joints3d" else "error_percent"
        sums, count = distances(learnt, test, best_ridge(learnt))
        error, of_mean = (float(sum_) / count for sum_ in sums)
        scale = 1000.0 if self.label == "joints3d" else 100.0
        return {unit: scale * error, "explained": 100.0 * (1.0 - error / of_mean)}

    def _found(self, engine: Engine, source: Source, frames: int) -> dict[str, np.ndarray]:
        """What the encoder makes of a source's frames, of all ranks, see `_read`."""
        mine: list[dict[str, np.ndarray]] = []
        with engine.evaluating() as module:
            for batch in self._batches(engine, source, frames, module.encoder.patch_px):
                mine.append(_read(module.encoder, batch, self.label))
        parts = [part for rank in engine.gather(mine) for part in rank]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _batches(
        self, engine: Engine, source: Source, frames: int, patch_px: int
    ) -> Iterable[Batch]:
        return evaluation_batches(
            source,
            needs=("image", "sample_id", "subject", self.label),
            sampling="frames",
            world=engine.world,
            micro_batch=self.micro_batch,
            image_px=self.image_px,
            patch_px=patch_px,
            device=engine.device,
            limit=frames,
        )

    def _say(self, why: str) -> None:
        if not self._said:
            log.warning("the live probe (machine.probe) has nothing to measure with: %s", why)
        self._said = True


def _labelled(sources: Iterable[Source]) -> tuple[Source | None, str]:
    for source in sources:
        provides = provided_by([source.collection], pairs=False)
        label = next((name for name in LABELS if name in provides), None)
        train = replace(source, split="train")
        if label is not None and has_items(source, "frames") and has_items(train, "frames"):
            return source, label
    return None, ""


def _read(encoder: Any, batch: Batch, label: str) -> dict[str, np.ndarray]:
    """A batch's frames of known people and joints: pooled tokens (B, F), targets (B, J, D), which
    joints are known (B, J), and subjects."""
    tokens = encoder(batch["image"]).float().transpose(1, 2)
    grid = encoder.grid(batch["image"])
    pooled = F.adaptive_avg_pool2d(tokens.unflatten(2, grid), CELLS).flatten(1)
    joints = known_joints(batch, label)
    rows = batch["valid"] & joints.pop("rows")
    found = {"tokens": pooled, **joints, "subject": batch["subject"]}
    return {name: value[rows].cpu().numpy() for name, value in found.items()}


def known_joints(batch: Batch, label: str) -> Batch:
    """`places` (B, J, D), of 3D joints from the first, which are `known` (B, J), and `rows` (B,)
    that can be used."""
    joints = batch[label]
    known = joints[..., -1] > 0
    places, rows = joints[..., :-1], known.any(1)
    if label == "joints3d":
        places, rows = places - places[:, :1], rows & known[:, 0]
    return {"places": places, "known": known, "rows": rows}


def halves(subject: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows of two sides of about equal size that share no subject; None where that cannot be."""
    names, counts = np.unique(subject, return_counts=True)
    sizes, side = [0, 0], {}
    for number in np.argsort(-counts, kind="stable"):
        lighter = int(sizes[1] < sizes[0])
        side[int(names[number])] = lighter
        sizes[lighter] += int(counts[number])
    if min(sizes) < FEWEST:
        return None
    of_row = np.array([side[int(name)] for name in subject])
    return np.flatnonzero(of_row == 0), np.flatnonzero(of_row == 1)


def distances(
    fit: dict[str, np.ndarray], test: dict[str, np.ndarray], ridge: float
) -> tuple[np.ndarray, int]:
    """Distances of predicted joints from true ones, summed, of ridge regression and of the mean
    pose of those it was fitted to; and how many joints that is."""
    known = fit["known"]
    places: np.ndarray = fit["places"].astype(np.float64)
    mean = (places * known[..., None]).sum(0) / known.sum(0).clip(1)[:, None]
    away = np.where(known[..., None], places - mean, 0.0)  # the unknown pull nowhere
    true, seen = test["places"], test["known"]
    guess = mean + regressed(
        fit["tokens"], away.reshape(len(places), -1), test["tokens"], ridge
    ).reshape(len(true), *mean.shape)
    guesses = (guess, np.broadcast_to(mean, true.shape))
    sums = [np.linalg.norm(one - true, axis=-1)[seen].sum() for one in guesses]
    return np.array(sums), int(seen.sum())


def crossed(
    found: dict[str, np.ndarray], sides: tuple[np.ndarray, np.ndarray], ridge: float
) -> tuple[float, float]:
    """Mean distances, as of `distances`, where each side is predicted from the other."""
    one, other = ({name: value[side] for name, value in found.items()} for side in sides)
    there, back = distances(one, other, ridge), distances(other, one, ridge)
    error, of_mean = (there[0] + back[0]) / max(there[1] + back[1], 1)
    return float(error), float(of_mean)


def best_ridge(found: dict[str, np.ndarray]) -> float:
    """The best of RIDGES for halves of the people: a fixed one would suit one encoder and not the
    next."""
    inner = halves(found["subject"])
    if inner is None:
        return RIDGES[-2]
    return min(RIDGES, key=lambda ridge: crossed(found, inner, ridge)[0])


def regressed(x: np.ndarray, y: np.ndarray, new: np.ndarray, ridge: float) -> np.ndarray:
    """Ridge regression of y (N, D) on x (N, F), for new (M, F) -> (M, D), in its dual form: N is a
    few hundred, F may be thousands. `ridge` is a share of the mean square of a standardised row."""
    mean, std = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64) + 1e-6
    x, new = (x - mean) / std, (new - mean) / std
    kernel = x @ x.T
    kernel[np.diag_indices(len(x))] += ridge * np.trace(kernel) / len(x)
    return new @ (x.T @ np.linalg.solve(kernel, y - y.mean(0))) + y.mean(0)
