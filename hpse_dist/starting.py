"""What training starts from: the process, and the module with its source's weights."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn

from hpse_dist import objectives, tasks
from hpse_dist.compiling import compile_blocks
from hpse_dist.engine import Engine, build_engine, join
from hpse_dist.models.blind import blindfold
from hpse_dist.models.blocks import recompute_blocks
from hpse_dist.models.encoder import Encoder, build_encoder
from hpse_dist.models.frozen import FrozenEncoder
from hpse_dist.models.start import start_weights
from hpse_dist.objectives.base import Objective
from hpse_dist.recipe import FinetuneRecipe, PretrainRecipe, TrainingRecipe, located
from hpse_dist.safety import read_weights_only
from hpse_dist.source import BLIND, RANDOM, TIMM, WORDS, Source, encoder_of, fill, open_source
from hpse_dist.synth.poses import pose_file
from hpse_dist.tasks.base import Task
from hpse_dist.world import World


def set_up_process(recipe: TrainingRecipe, world: World) -> torch.device:
    """Threads, seeds, loading, the device and the group of this process, once."""
    read_weights_only()
    torch.manual_seed(recipe.seed)  # the start weights: equal on every rank, whatever the world
    device = _device(recipe, world)
    if world.size > 1:
        join(world, device)
    return device


def _device(recipe: TrainingRecipe, world: World) -> torch.device:
    wanted = recipe.machine.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("machine.device is cuda, but torch sees no GPU here; use auto or cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        share = (os.cpu_count() or 1) // world.local_size
        torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", share))))
        return torch.device("cpu")
    torch.cuda.set_device(world.local_rank)
    # Networks are quick in bf16. With TF32's ten bits what is in fp32, cameras, crops, meshes and
    # metrics, would be up to a millimetre off, and otherwise so than on a CPU.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", world.local_rank)


def engine_of(
    recipe: TrainingRecipe, module: nn.Module, world: World, device: torch.device
) -> Engine:
    """What trains a module as a recipe says, for as many trainers as there are: fewer than it asks
    for, after a loss."""
    machine = recipe.machine
    if machine.compile:
        compile_blocks(module, device)
    return build_engine(
        machine.simplest(world.size),
        module,
        recipe.optim,
        world=world,
        device=device,
        accumulation=recipe.accumulation(world.size),
        micro_batch=machine.micro_batch,
        precision=recipe.precision,
        zero_stage=machine.zero_stage,
        offload=machine.offload,
    )


def module_of(recipe: TrainingRecipe) -> tuple[Objective, dict[str, Any]]:
    """The objective or task as training starts from it, and what a report says of it."""
    module, facts = _objective(recipe) if isinstance(recipe, PretrainRecipe) else _task(recipe)
    recompute_blocks(module, recipe.machine.recompute)
    return module, facts


def _task(recipe: TrainingRecipe) -> tuple[Task, dict[str, Any]]:
    assert isinstance(recipe, FinetuneRecipe)
    module, card = task_model(recipe)
    return module, {
        "kind": "finetune",
        "task": recipe.task_name(),
        "protocol": recipe.protocol(),
        "source": recipe.source_name or card.get("name", recipe.source),
        "source_card": card,
        "blind": recipe.source == BLIND,
        "label_fraction": recipe.label_fraction,
        "encoder_frozen": recipe.encoder_frozen,
    }


def _objective(recipe: PretrainRecipe) -> tuple[Objective, dict[str, Any]]:
    encoder, source = _source(recipe)
    kind = objectives if recipe.objective_name() in objectives.OBJECTIVES else tasks
    module = kind.build(_with_poses(recipe.objective), encoder, recipe.seed)
    if recipe.source_decoder:
        _take_decoder(module, source)
    return module, {
        "kind": "pretrain",
        "objective": recipe.objective_name(),
        "source": recipe.name,
        "started_from": source.card if source else {"name": RANDOM},
    }


def task_model(recipe: FinetuneRecipe) -> tuple[Task, dict[str, Any]]:
    """The task on top of its source as training starts from it, and the source's card."""
    encoder, source = _source(recipe)
    if recipe.source == BLIND:
        blindfold(encoder)
    if recipe.encoder_frozen:
        encoder = cast(Encoder, FrozenEncoder(encoder))
    with start_weights(recipe.seed, "task"):  # the same head on top of every source
        module = tasks.build(recipe.task, encoder, recipe.seed)
    if recipe.source_decoder and source is not None:  # random's decoder is random too
        _take_decoder(module, source)
    return module, source.card if source else {"name": recipe.source}


def _source(recipe: PretrainRecipe | FinetuneRecipe) -> tuple[Encoder, Source | None]:
    """The encoder that training starts from, and its source; None if that is a mere word."""
    if recipe.source in WORDS:
        return build_encoder(recipe.encoder), None
    place = recipe.source if recipe.source.startswith(TIMM) else str(located(recipe.source))
    image_px = recipe.encoder.image_px
    source = open_source(place, image_px, download=recipe.machine.download)
    return encoder_of(source, image_px, recipe.encoder), source


def _with_poses(objective: Any) -> Any:
    """The objective's config with its unpaired poses, where it has any, as a path."""
    poses = getattr(objective, "poses", None)
    if poses is None or poses == "limits":
        return objective
    path = pose_file() if poses == "synthetic" else located(poses)
    return replace(objective, poses=str(path))


def _take_decoder(module: Objective, source: Source | None) -> None:
    """Completion, or a task that keeps its decoder, goes on from the source's."""
    decoder = getattr(module, "decoder", None)
    if decoder is None or source is None or not source.decoder:
        lacks = "what is trained has no decoder" if decoder is None else "the source has no decoder"
        raise ValueError(f"source_decoder: {lacks}; set source_decoder to false")
    fill(decoder, source.decoder, f"decoder of source {source.name} (see the recipe's decoder)")
