"""Self-distillation: a student guesses, from a crop, what its slow teacher says of a larger one.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (ICCV 2021). The
teacher sees two large views, the student those and several small ones; the teacher's outputs are
centred and sharpened, which together keep them from collapsing.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.collectives import sum_over_ranks
from hpse_dist.fields import Batch
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.projection import PrototypeHead, follow, frozen_copy, pooled
from hpse_dist.objectives.base import PANEL_ROWS
from hpse_dist.objectives.instances import InstanceConfig, Instances, columns_sheet
from hpse_dist.objectives.progress import Progress
from hpse_dist.precision import in_full_precision
from hpse_dist.views import ViewConfig, make_views

_LOCAL_SIDE = 96 / 224  # small views over large ones, as in the paper


def _large(**changes: float) -> ViewConfig:
    config = ViewConfig(scale=(0.4, 1.0), saturation=0.2, blur=1.0)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DinoConfig(InstanceConfig):
    """The paper's recipe for vision transformers."""

    view: ViewConfig = field(default_factory=_large)
    """The first large view, and both of the retrieval metric."""
    second: ViewConfig = field(default_factory=lambda: _large(blur=0.1, solarise=0.2))
    """The second large view."""
    local: ViewConfig = field(default_factory=lambda: _large(blur=0.5, scale=(0.05, 0.4)))  # type: ignore[arg-type]
    """The small views; their side is 3/7 of the picture's in whole patches if `px` is null."""
    num_local: int = 8
    """Small views of each picture."""
    prototypes: int = 65536
    """Outputs of the head."""
    hidden: int = 2048
    """Channels of the head's hidden layers."""
    bottleneck: int = 256
    """Channels of its last embedding."""
    student_temperature: float = 0.1
    """Divides the student's outputs."""
    teacher_temperature: tuple[float, float] = (0.04, 0.07)
    """Of the teacher, at the start and after its warm-up: below the student's sharpens."""
    temperature_warmup: float = 0.3
    """Share of the run in which it rises, linearly."""
    teacher_momentum: float = 0.996
    """At the start; rises to 1 along half a cosine."""
    centre_momentum: float = 0.9
    """Of the running mean of the teacher's outputs."""
    freeze_last: float = 0.01
    """Share of the run in which the prototypes stay as they are (weight decay shrinks them, which
    changes nothing: they are normalised)."""

    def __post_init__(self) -> None:
        if min(self.prototypes, self.hidden, self.bottleneck) < 1 or self.num_local < 0:
            raise ValueError(
                "prototypes, hidden, bottleneck must be positive, num_local not below 0"
            )
        if min(self.student_temperature, *self.teacher_temperature) <= 0:
            raise ValueError("temperatures must be positive")
        for name in ("temperature_warmup", "teacher_momentum", "centre_momentum", "freeze_last"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, found {getattr(self, name)}")


class Dino(Instances):
    """Student and teacher, each an encoder and a head, and the centre."""

    Config = DinoConfig
    config: DinoConfig
    centre: Tensor
    progress: Tensor

    def __init__(self, config: DinoConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.head = PrototypeHead(encoder.dim, config.hidden, config.bottleneck, config.prototypes)
        self.teacher_encoder = frozen_copy(encoder)
        self.teacher_head = frozen_copy(self.head)
        self.register_buffer("centre", torch.zeros(config.prototypes))
        self.register_buffer("progress", torch.zeros(()))
        self._progress = Progress()
        self._kept: list[tuple[Tensor, int]] = []  # sums of teacher outputs and their number

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: the cross-entropy of student and teacher over pairs of different views, a mean
        over samples; `teacher_entropy` in nats."""
        config, progress = self.config, self._progress.of(self.progress)
        large = self._large_views(batch, batch["epoch"])
        with torch.no_grad():
            outputs = self.teacher_head(pooled(self.teacher_encoder(torch.cat(large)))).float()
            temperature = teacher_temperature(config, progress)
            targets = sharpened(outputs, self.centre, temperature).unflatten(0, (2, -1))
        if self.training:
            self._kept.append((outputs.sum(0), len(outputs)))
        frozen = progress < config.freeze_last
        student = self.head(pooled(self.encoder(torch.cat(large))), frozen).unflatten(0, (2, -1))
        if config.num_local:
            small = torch.cat(self._small_views(batch, batch["epoch"]))
            local = self.head(pooled(self.encoder(small)), frozen)
            student = torch.cat((student, local.unflatten(0, (config.num_local, -1))))
        loss = distillation(student.float() / config.student_temperature, targets)
        entropy = -(targets * targets.clamp(min=1e-12).log()).sum(-1).mean()
        return {"loss": loss.mean(), "teacher_entropy": entropy}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Teacher and centre follow; the schedules move on."""
        momentum = teacher_momentum(self.config, self._progress.of(self.progress))
        follow(self.teacher_encoder, self.encoder, momentum)
        follow(self.teacher_head, self.head, momentum)
        if self._kept:
            total = sum_over_ranks(torch.stack([part for part, _ in self._kept]).sum(0))
            count = sum_over_ranks(total.new_full((), sum(n for _, n in self._kept)))
            self.centre.lerp_(total / count, 1 - self.config.centre_momentum)
            self._kept.clear()
        self._progress.move(self.progress, progress)

    def after_refusal(self) -> None:
        """The centre does not see this step's outputs."""
        self._kept.clear()

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """A picture, what the teacher sees of it, and some of the student's small views."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        one, two = self._large_views(batch, 0)
        columns = {"picture": batch["image"], "first large": one, "second large": two}
        small = self._small_views(batch, 0)[:3]
        columns |= {f"small {i + 1}": view for i, view in enumerate(small)}
        return {"views": columns_sheet(columns)}

    def _large_views(self, batch: Batch, epoch: int | Tensor) -> list[Tensor]:
        image, ids = batch["image"], batch["sample_id"]
        configs = {"first": self.config.view, "second": self.config.second}
        return [make_views(image, ids, epoch, self.seed, n, c).image for n, c in configs.items()]

    def _small_views(self, batch: Batch, epoch: int | Tensor) -> list[Tensor]:
        image, ids, config = batch["image"], batch["sample_id"], self.config.local
        if config.px is None:
            patch = self.encoder.patch_px
            side = max(1, round(image.shape[-1] * _LOCAL_SIDE / patch)) * patch
            config = dataclasses.replace(config, px=side)
        names = [f"local{i}" for i in range(self.config.num_local)]
        return [make_views(image, ids, epoch, self.seed, n, config).image for n in names]


def teacher_temperature(config: DinoConfig, progress: float) -> float:
    """Linear from the first to the second value over the warm-up, then constant."""
    first, last = config.teacher_temperature
    share = min(1.0, progress / config.temperature_warmup) if config.temperature_warmup else 1.0
    return first + (last - first) * share


def teacher_momentum(config: DinoConfig, progress: float) -> float:
    """From `teacher_momentum` to 1 along half a cosine."""
    return 1 - (1 - config.teacher_momentum) * (math.cos(math.pi * progress) + 1) / 2


def sharpened(outputs: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """The teacher's distribution: outputs (..., K), centre (K,) -> (..., K)."""
    return F.softmax((outputs - centre) / temperature, dim=-1)


@in_full_precision
def distillation(student: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over pairs of a teacher's view and another view of the student.

    student (V, B, K) logits, whose first T views are the teacher's; targets (T, B, K) -> (B,).
    """
    logs = F.log_softmax(student, dim=-1)
    cross = -torch.einsum("tbk,vbk->tvb", targets, logs)
    teachers, views = cross.shape[:2]
    same = torch.eye(teachers, views, device=cross.device, dtype=torch.bool)
    return cross.masked_fill(same[..., None], 0.0).sum((0, 1)) / (teachers * (views - 1))
