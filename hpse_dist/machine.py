"""The sections `machine` of recipes: where and how fast, and nothing that changes a result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpse_dist.live_probe import LiveProbeConfig


@dataclass(frozen=True)
class PrepareMachine:
    """Where and how fast a collection is made: nothing here changes what it holds."""

    workers: int = 1
    """1: this process, without Ray; more: so many Ray workers, each making parts of its own."""
    max_failures: int = 3
    """How often a part is begun again after its worker has died, before all is given up."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, found {self.workers}")
        if self.max_failures < 0:
            raise ValueError(f"max_failures must be at least 0, found {self.max_failures}")


@dataclass(frozen=True)
class Machine:
    """Where and how fast: nothing here changes what a run computes, with one exception.

    So all of it may change when a run goes on: other workers, another engine, another ZeRO stage.
    The exception are encoders with batch norms (timm's ResNets and the like, `conv`): their
    statistics are of the workers x micro_batch samples that are seen together, so for runs that are
    to be compared keep that product.
    """

    workers: int = 1
    """Trainers, one process and one device each."""
    min_workers: int | None = None
    """With how few trainers a run still goes on when machines are lost; null for no fewer."""
    micro_batch: int = 32
    """Samples per trainer, forward and backward; accumulation follows from global_batch. With all
    workers' the batch of an encoder's batch norms."""
    engine: Literal["plain", "ddp", "zero", "auto"] = "zero"
    """plain: one trainer; ddp: replicated; zero: DeepSpeed; auto: what a plan (pretrain --plan) has
    measured to be the quickest, and its zero_stage, micro_batch, recompute, compile and
    loader_threads, and resident as loader where inline's data is waited for; without a plan for
    this recipe, these trainers and this kind of machine it is measured first."""
    zero_stage: int = 2
    """What DeepSpeed shards: 0 nothing, 1 optimizer state, 2 gradients too, 3 parameters too."""
    offload: Literal["nothing", "optimizer", "parameters"] = "nothing"
    """What lies in the machine's memory in place of the GPU's, for a model that is too large; each
    step is slower. optimizer: AdamW's state, and its work (ZeRO stages 1 to 3); parameters: these
    too, outside their layer's turn (stage 3). Gradients go with the optimizer."""
    recompute: bool = False
    """Make the activations of transformer blocks again in the backward pass, in place of keeping
    them: less memory, up to a third more time, the same numbers. The blocks of encoder, decoder and
    heads, not those of timm's models."""
    compile: bool = False
    """Compile these blocks by torch.compile, at the first training step: minutes on a CPU, less the
    next time on the same machine. Evaluations, panels and the probe use them as written. A loss
    differs by rounding. Meant for GPUs: on CPUs a step was no quicker (EPYC, torch 2.10)."""
    plan_seconds: float = 60.0
    """How long a plan measures, about."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU when there is one."""
    loader: Literal["inline", "workers", "resident"] = "inline"
    """Where training data is decoded: inline, by threads of each trainer; workers, by Ray data
    workers, on CPUs of the same machine or of others; resident, once before the first step, and
    held in the machine's memory from then on. The batches are the same."""
    loader_threads: int = 1
    """Decoding threads per trainer, not of workers."""
    data_workers: int = 1
    """Ray data workers per trainer where loader is workers, one decoding process each."""
    decode_limit_s: float = 90.0
    """A decoding thread, or data worker, that is at one micro-batch for longer is named and
    replaced."""
    bad_records: float = 0.01
    """Share of the training records that may be undecodable, and replaced by others, before the run
    stops."""
    checkpoint_every: int = 500
    """Optimizer steps between checkpoints."""
    keep_checkpoints: int = 2
    """How many finished checkpoints stay on disk."""
    log_every: int = 10
    """Optimizer steps between lines of the log."""
    panels_every: int = 500
    """Optimizer steps between pictures in the log."""
    probe: LiveProbeConfig | None = None
    """A frozen look at the encoder while it learns, logged as probe/...; null looks never."""
    max_failures: int = 3
    """Restarts of failed workers before the run is given up."""
    hang_limit_s: float = 90.0
    """A worker that does not answer for longer hangs: it is named, and all are started again."""
    download: bool = False
    """Whether source=timm:<name> may fetch weights; without, they must be in timm's cache."""
    stage_folder: Path | None = None
    """Where collections at a URL are copied to on each machine; null: $HPSE_CACHE/stage."""
    stage_gb: float = 50.0
    """Most disk that those copies take up, GB, shared out among all that decode on the machine; the
    longest unused go first."""
    out: Path = Path("runs")
    """Folder in which the run's folder is made."""

    def __post_init__(self) -> None:
        if self.max_failures < 0:
            raise ValueError(f"max_failures must be at least 0, found {self.max_failures}")
        if self.stage_gb <= 0:
            raise ValueError(f"stage_gb must be above 0, found {self.stage_gb:g}")
        counts = ("workers", "micro_batch", "loader_threads", "data_workers", "checkpoint_every")
        for name in (*counts, "log_every", "panels_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.min_workers is not None and self.min_workers < 1:
            raise ValueError(f"min_workers must be at least 1 or null, found {self.min_workers}")
        if not self.plan_seconds > 0:
            raise ValueError(f"plan_seconds must be above 0, found {self.plan_seconds:g}")
        for name in ("decode_limit_s", "hang_limit_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, found {getattr(self, name):g}")
        if not 0 <= self.bad_records <= 1:
            raise ValueError(f"bad_records must be in 0..1, found {self.bad_records:g}")
        if self.engine == "plain" and self.workers > 1:
            raise ValueError("engine plain has one worker; for more choose ddp or zero")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage must be 0, 1, 2 or 3, found {self.zero_stage}")
        if self.compile and self.engine == "zero" and self.zero_stage == 3:
            raise ValueError(
                "compile does not go with ZeRO stage 3, which gathers and lets go of parameters in "
                "the midst of a block; set compile to false, or zero_stage to 0, 1 or 2"
            )
        self._check_offload()

    def _check_offload(self) -> None:
        if self.offload == "nothing":
            return
        if self.engine != "zero":
            raise ValueError(
                f"offload {self.offload} is for engine zero alone, found {self.engine}: set engine "
                "to zero, or offload to nothing"
            )
        least, allowed = (3, "3") if self.offload == "parameters" else (1, "1, 2 or 3")
        if self.zero_stage < least:
            raise ValueError(
                f"offload {self.offload} needs zero_stage {allowed}, found {self.zero_stage}: set "
                "that, or offload to nothing"
            )

    def crew_size(self) -> int:
        """Ray data workers of each trainer; 0 where trainers decode themselves."""
        return self.data_workers if self.loader == "workers" else 0

    def simplest(self, world_size: int) -> str:
        """The engine, and in place of `auto` the one that needs no measuring."""
        if self.engine != "auto":
            return self.engine
        return "plain" if world_size == 1 else "ddp"
