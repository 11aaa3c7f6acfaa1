"""Whole recipes: what a prepare, pre-train or fine-tune command reads from one YAML; a study's is
in `study_recipe`.

In every recipe the section `machine` decides only where and how fast a run goes; everything else
decides its result, and only that enters the recipe's hash.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from hpse_dist import synth
from hpse_dist.body.free_body import cache_folder
from hpse_dist.config import Choice, check_name, digest
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection, CollectionConfig
from hpse_dist.data.curriculum import CurriculumConfig
from hpse_dist.data.depth_order import DepthOrderConfig
from hpse_dist.data.importers import IMPORTERS
from hpse_dist.data.pairs import PairsConfig
from hpse_dist.data.remote import open_collection
from hpse_dist.data.stage import Stage, url_of
from hpse_dist.data.unpack import UnpackConfig
from hpse_dist.guard import GuardConfig
from hpse_dist.machine import Machine, PrepareMachine
from hpse_dist.models.encoder import EncoderConfig
from hpse_dist.objectives import OBJECTIVES
from hpse_dist.optim import OptimConfig
from hpse_dist.source import BLIND
from hpse_dist.synth import clips, groups, hands
from hpse_dist.tasks import TASKS, protocol_of

FRAME_SOURCES: dict[str, Any] = {
    **IMPORTERS,
    "synthetic": synth,
    "synthetic_motions": clips,
    "synthetic_groups": groups,
    "synthetic_hands": hands,
}
_SOURCE_CONFIGS = {name: source.Config for name, source in FRAME_SOURCES.items()}
_TASK_CONFIGS = {name: kind.Config for name, kind in TASKS.items()}
_OBJECTIVE_CONFIGS = {name: kind.Config for name, kind in OBJECTIVES.items()} | _TASK_CONFIGS


def located(path: Path | str) -> Path:
    """A recipe's path, absolute: relative ones start at $HPSE_ROOT, else the cwd; URLs stay.

    A job's working directory is a temporary copy of the code, so a submitted job sets HPSE_ROOT to
    the folder that holds its collections and runs.
    """
    if url_of(path) is not None:
        return Path(path)
    return (Path(os.environ.get("HPSE_ROOT", ".")) / Path(path).expanduser()).resolve()


def with_located_roots(source: Any) -> Any:
    """A source's config with its folders, its own and those of its parts, as absolute paths."""
    changes: dict[str, Any] = {}
    for one in fields(source):
        value = getattr(source, one.name)
        if one.name in ("root", "motions") and value is not None:
            changes[one.name] = located(value)
        elif is_dataclass(value):
            changes[one.name] = with_located_roots(value)
    return replace(source, **changes)


@dataclass(frozen=True)
class DataRecipe:
    """From pictures to one collection."""

    name: str
    """Name of the collection."""
    source: Annotated[Any, Choice(_SOURCE_CONFIGS)]
    """Where frames come from: an importer or `synthetic`, with its own keys."""
    collection: CollectionConfig = field(default_factory=CollectionConfig)
    """How frames are cropped and stored."""
    pairs: PairsConfig | None = field(default_factory=PairsConfig)
    """Which frames go together; null stores frames without pairs."""
    out: Path = Path("collections")
    """Folder in which the collection's folder is made."""
    unpack: UnpackConfig = field(default_factory=UnpackConfig)
    """Downloaded archives that are unpacked before; decides nothing but where files are."""
    machine: PrepareMachine = field(default_factory=PrepareMachine)
    """Below the line: where and how fast."""

    def __post_init__(self) -> None:
        check_name(self.name)

    def source_name(self) -> str:
        """The table's name of the frames' source."""
        return next(k for k, v in _SOURCE_CONFIGS.items() if v is type(self.source))

    def folder(self) -> Path:
        return located(self.out) / self.name

    def mark(self) -> str:
        """sha256 of what decides the frames; pairs are mined of frames that are there."""
        return digest(self, ignore=("name", "out", "pairs", "unpack", "machine"))


@dataclass(frozen=True)
class CollectionUse:
    """One collection in a run's mix."""

    path: Path
    """The collection's folder, or a URL of it, such as s3://bucket/demo."""
    weight: float = 1.0
    """How often each sample comes in one epoch; 0.5 takes a rotating half."""
    kinds: tuple[str, ...] = ("view", "pose")
    """Which pairs are used where pairs are."""
    curriculum: CurriculumConfig | None = None
    """Easy pairs first; null takes all of them all the time."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight must be above 0, found {self.weight}")
        if not self.kinds or set(self.kinds) - {"view", "pose"}:
            raise ValueError(f"kinds must be view, pose or both, found {list(self.kinds)}")


@dataclass(frozen=True)
class HeldOut:
    """Frames that figures are measured on and nothing learns from."""

    path: Path
    """The collection's folder, or a URL of it; one that is trained on too, or another."""
    split: Literal["val", "test"] = "val"
    """Its frames of this split: many public benchmarks are of split test alone."""

    def __str__(self) -> str:
        return f"{self.path.name}, split {self.split}"

    def tag(self) -> str:
        """Their name where a name of a file or of a scalar is asked for."""
        return f"{self.path.name}_{self.split}"

    def by(self, protocol: str) -> str:
        """How tables call a protocol's figures on these frames."""
        return f"{protocol} on {self}"


def collection_of(use: CollectionUse | HeldOut, machine: Machine) -> Collection:
    """A collection of a run; ValueError where there is none."""
    folder = machine.stage_folder or cache_folder() / "stage"
    return open_collection(located(use.path), Stage(located(folder), int(1e9 * machine.stage_gb)))


@dataclass(frozen=True)
class TrainingRecipe:
    """What pre-training and fine-tuning share."""

    name: str
    """Name of the run and of its folder."""
    collections: tuple[CollectionUse, ...]
    """The data, mixed by weight."""
    held_out: HeldOut | None = None
    """What figures are measured on; null takes split val of the first collection that has one."""
    global_batch: int = 256
    """Samples per optimizer step over all trainers."""
    steps: int = 100_000
    """Optimizer steps."""
    seed: int = 0
    """Start of weights, order of samples and every random draw."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The encoder. A source brings its own, and of these keys only image_px and drop_path then
    count: the size of the pictures and how training goes."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Crops and colours."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and learning-rate schedule."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """bf16 keeps fp32 master weights; fp32 is never TF32."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What is skipped, and when a run goes back, where training goes wrong."""
    evaluate_every: int = 1000
    """Optimizer steps between evaluations on held-out subjects; the last step always is one."""
    evaluate_limit: int | None = None
    """At most this many held-out samples; null takes all."""
    evaluation_batch: int = 64
    """Held-out samples seen together by one trainer: figures that compare samples with one another,
    as retrieval and the reference gain, are among so many, whatever the machine."""
    machine: Machine = field(default_factory=Machine)
    """Below the line: where and how fast."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.collections:
            raise ValueError("collections must name at least one collection")
        counts = ("steps", "global_batch", "evaluate_every", "evaluate_limit", "evaluation_batch")
        for key in counts:
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, found {value}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be between 0 and {2**63 - 1}, found {self.seed}")
        if self.optim.warmup_steps >= self.steps:
            raise ValueError(
                f"optim.warmup_steps must be fewer than the run's steps, {self.steps}; found "
                f"{self.optim.warmup_steps}: the learning rate would never reach its peak"
            )
        self.accumulation()

    def accumulation(self, workers: int | None = None) -> int:
        """Micro-batches per optimizer step and trainer, for as many trainers as there are."""
        workers = workers or self.machine.workers
        per_micro_step = workers * self.machine.micro_batch
        if self.global_batch % per_micro_step:
            raise ValueError(
                f"global_batch {self.global_batch} must be divisible by machine.workers x "
                f"machine.micro_batch = {workers} x {self.machine.micro_batch} = "
                f"{per_micro_step}"
            )
        return self.global_batch // per_micro_step

    def fewer_workers(self) -> tuple[int, ...]:
        """With how many trainers instead the run may go on, most first: from machine.min_workers
        on, those whose micro-batches fill the global batch."""
        machine = self.machine
        least = machine.workers if machine.min_workers is None else machine.min_workers
        return tuple(
            count
            for count in range(machine.workers - 1, least - 1, -1)
            if self.global_batch % (count * machine.micro_batch) == 0
        )

    def judged_and_learnt(self) -> tuple[CollectionUse | HeldOut, ...]:
        """Every collection that the run reads."""
        return (*self.collections, *self.judged())

    def judged(self) -> tuple[HeldOut, ...]:
        """What it names to be measured on."""
        return (self.held_out,) if self.held_out else ()

    def folder(self) -> Path:
        return located(self.machine.out) / self.name

    def hash(self) -> str:
        """sha256 of everything that decides the result."""
        # as before there were these keys
        unused = [key for key in ("held_out", "tests") if not getattr(self, key, None)]
        return digest(self, ignore=("machine", *unused))


@dataclass(frozen=True)
class PretrainRecipe(TrainingRecipe):
    """From collections to a source."""

    objective: Annotated[Any, Choice(_OBJECTIVE_CONFIGS)] = field(
        default_factory=lambda: _OBJECTIVE_CONFIGS["completion"]()
    )
    """The pre-training objective and its own keys; any task serves as one, on labelled data."""
    source: str = "random"
    """What the encoder starts from: a run's folder, a file of ours or of other people's,
    timm:<name>, or `random`."""
    source_decoder: bool = False
    """Take completion's decoder from the source too: an earlier run's, or CroCo's."""
    depth_order: DepthOrderConfig | None = None
    """How relations of depth are made of joints; null for the defaults, where they are needed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source == BLIND:
            raise ValueError(
                "source blind sees no picture, so there is nothing to pre-train; it is a source of "
                "fine-tuning, and of studies"
            )
        kind = OBJECTIVES.get(self.objective_name())
        sharded = self.machine.engine == "zero" and self.machine.zero_stage == 3
        if kind is not None and sharded and not kind.shardable:
            raise ValueError(
                f"objective {self.objective_name()} keeps a moving average of its weights, which "
                "ZeRO stage 3 would cut into pieces; set machine.zero_stage to 0, 1 or 2"
            )
        splits = self.accumulation() > 1 or bool(self.fewer_workers())
        if kind is not None and not kind.splits and splits:
            raise ValueError(
                f"objective {self.objective_name()} compares the samples of a step with one "
                "another, so they must be in one micro-batch: machine.workers x "
                f"machine.micro_batch must be global_batch, {self.global_batch}, and "
                "machine.min_workers null"
            )

    def objective_name(self) -> str:
        return next(k for k, v in _OBJECTIVE_CONFIGS.items() if v is type(self.objective))


@dataclass(frozen=True)
class FinetuneRecipe(TrainingRecipe):
    """From a source to a task model and its metrics."""

    task: Annotated[Any, Choice(_TASK_CONFIGS)] = field(
        default_factory=lambda: _TASK_CONFIGS["body_mesh"]()
    )
    """The downstream task and its own keys."""
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(crop_scale=(0.8, 1.2)))
    """Crops and colours. Held-out pictures are the whole stored crops, so crop_scale is about 1:
    people are as large in training as in evaluation."""
    source: str = "random"
    """A pre-training run's folder, a file of ours or other people's, timm:<name>, `random`, or
    `blind`: a random one that sees no picture, so that what the labels alone are worth is known."""
    source_name: str = ""
    """How tables call the source; empty takes it from `source`."""
    source_decoder: bool = False
    """Take completion's decoder from the source too, for tasks that keep it; random has a random
    one."""
    label_fraction: float = 1.0
    """Share of each collection's frames used, and their labels with them: frames of all subjects,
    the same for every source, seed and task, a smaller share's within a larger's; always at least
    one. Pairs are used where their first frame, whose labels they have, is among them."""
    encoder_frozen: bool = False
    """Probe the source: its tokens are computed once and kept in the cache ($HPSE_CACHE), and the
    task's head alone learns. Pictures are seen whole, as in evaluation; `augment` is not used."""
    tests: tuple[HeldOut, ...] = ()
    """What the finished model is measured on too, whole: each gets tables of its own in reports."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.label_fraction <= 1:
            raise ValueError(f"label_fraction must be in (0, 1], found {self.label_fraction}")
        self.protocol()
        names = [str(one) for one in self.tests]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"tests names {' and '.join(sorted(twice))} twice")
        if self.encoder_frozen:
            self._check_probe()

    def _check_probe(self) -> None:
        """What a frozen encoder cannot be asked for."""
        if "image_ref" in self.task.needs:
            raise ValueError(
                f"task {self.task_name()} looks at two pictures together, so there are no tokens "
                "of one to keep; set encoder_frozen to false"
            )
        if self.machine.loader != "inline":
            raise ValueError(
                "encoder_frozen decodes every picture once, before training, so machine.loader "
                f"{self.machine.loader} has nothing to do; set it to inline"
            )
        if self.optim.layer_decay is not None and self.optim.layer_decay < 1:
            raise ValueError(
                "encoder_frozen leaves optim.layer_decay no layers to slow down; set one of them "
                "to its default"
            )

    def judged(self) -> tuple[HeldOut, ...]:
        return (*super().judged(), *self.tests)

    def task_name(self) -> str:
        return next(k for k, v in _TASK_CONFIGS.items() if v is type(self.task))

    def protocol(self) -> str:
        """Name of the protocol that the task's figures are of; empty where it has none."""
        return protocol_of(self.task)


def component(recipe: TrainingRecipe) -> tuple[str, tuple[str, ...]]:
    """Name of the recipe's objective or task, and the fields it needs."""
    if isinstance(recipe, PretrainRecipe):
        return recipe.objective_name(), recipe.objective.needs
    assert isinstance(recipe, FinetuneRecipe)
    return recipe.task_name(), recipe.task.needs
