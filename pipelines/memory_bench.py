"""`bench memory`: the bytes that a recipe was said to need beside those that it took.

Every engine makes two updates in processes of its own. What a process holds is counted tensor by
tensor, each storage once, when the last backward pass has ended; the most at one moment is what
torch's allocator says: on CUDA its own peak, on a CPU by the profiler's record of every allocation.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpse_dist.config import build, load, to_dict
from hpse_dist.fields import Batch
from hpse_dist.objectives.completion import Completion, CompletionConfig
from hpse_dist.planning.memory import Need, need, readable
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.starting import engine_of, module_of, set_up_process
from hpse_dist.world import World
from pipelines import progress_bar
from pipelines.step_bench import made_batch

PRESETS = ("vit_t", "vit_s", "vit_b", "vit_l", "vit_h")
Way = dict[str, Any]
"""Settings of the section `machine`."""
ENGINES: dict[str, Way] = {
    "ddp": {"engine": "ddp"},
    **{f"zero {stage}": {"engine": "zero", "zero_stage": stage} for stage in range(4)},
    **{
        f"zero {stage} {what} away": {"engine": "zero", "zero_stage": stage, "offload": what}
        for stage, what in ((1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters"))
    },
}


def add_arguments(parts: Any) -> None:
    """The command's part `memory`."""
    part: argparse.ArgumentParser = parts.add_parser(
        "memory", help="bytes that a recipe was said to need beside those that it took"
    )
    part.add_argument("recipe", type=Path, nargs="?", default=Path("configs/pretrain/demo.yaml"))
    part.add_argument("overrides", nargs="*", metavar="key=value")
    part.add_argument("--workers", type=int, default=2)
    part.add_argument("--engines", default=",".join(ENGINES), help="separated by commas")
    part.add_argument(
        "--presets", action="store_true", help="only predict, for every size of encoder"
    )
    part.add_argument("--json", type=Path, help="write the figures here too")


def main(options: argparse.Namespace) -> None:
    """Print the table of `bench memory`."""
    recipe = load(PretrainRecipe, options.recipe, options.overrides)
    if not isinstance(recipe.objective, CompletionConfig):
        raise ValueError(
            "bench memory makes batches for the objective completion: give such a recipe"
        )
    unknown = set(options.engines.split(",")) - set(ENGINES)
    if unknown:
        raise ValueError(f"--engines must be of {', '.join(ENGINES)}; found {', '.join(unknown)}")
    engines = {name: ENGINES[name] for name in options.engines.split(",")}
    found = _presets(recipe, options.workers, engines) if options.presets else {}
    ratios = {}
    if not options.presets:
        both = bench_memory(recipe, options.workers, engines)
        for name, (said, took) in both.items():
            found |= {f"{name}, predicted": said, f"{name}, measured": took}
            ratios[name] = took.peak / said.peak
    print(f"MiB of each of {options.workers} processes, micro-batch {recipe.machine.micro_batch}")
    print(readable(found))
    for name, ratio in ratios.items():
        print(f"{name}: measured peak is {ratio:.4f} of the predicted one")
    if options.json:
        figures = {name: asdict(one) for name, one in found.items()}
        options.json.write_text(json.dumps({"bytes": figures, "ratio": ratios}, indent=1))
        print(f"done: {options.json}")


def _presets(recipe: PretrainRecipe, workers: int, engines: dict[str, Way]) -> dict[str, Need]:
    """Every size of encoder, predicted."""
    found = {}
    for preset in PRESETS:
        sizes: dict[str, Any] = {"name": preset, "dim": None, "depth": None, "heads": None}
        sized = replace(recipe, encoder=replace(recipe.encoder, **sizes))
        for name, way in engines.items():
            for recompute in (False, True):
                this = _with(sized, workers, way, recompute)
                found[f"{preset}, {name}{', recompute' * recompute}"] = predicted(this, workers)
    return found


def bench_memory(
    recipe: PretrainRecipe, workers: int, engines: dict[str, Way]
) -> dict[str, tuple[Need, Need]]:
    """By engine: what was predicted and what the first of `workers` processes took."""
    found = {}
    with progress_bar(2 * len(engines), "bench") as bar:
        for name, way in engines.items():
            for recompute in (False, True):
                this = _with(recipe, workers, way, recompute)
                both = predicted(this, workers), measured(this, workers)
                found[name + ", recompute" * recompute] = both
                bar.update()
    return found


def _with(recipe: PretrainRecipe, workers: int, way: Way, recompute: bool) -> PretrainRecipe:
    settings: Way = {"workers": workers, "offload": "nothing"} | way
    machine = replace(recipe.machine, **settings, recompute=recompute, compile=False)
    return replace(recipe, machine=machine)


def predicted(recipe: PretrainRecipe, workers: int) -> Need:
    """Without making the model."""
    cuda = recipe.machine.device != "cpu" and torch.cuda.is_available()
    return need(recipe, workers, example(recipe), "cuda" if cuda else "cpu")


def example(recipe: PretrainRecipe) -> Batch:
    """One pair of the recipe's size, without content."""
    px, grid = recipe.encoder.image_px, recipe.encoder.grid()
    whole = {"sample_id", "epoch", "subject", "pair_kind"}
    shapes = {"image": (3, px, px), "image_ref": (3, px, px), "person": grid}
    return {
        name: torch.zeros((1, *shapes.get(name, ())), dtype=torch.int64 if name in whole else None)
        for name in recipe.objective.needs
    }


def measured(recipe: PretrainRecipe, workers: int) -> Need:
    """What the first of `workers` processes took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="hpse_bench_") as folder:
        path = Path(folder) / "held.json"
        torch.multiprocessing.spawn(
            _work, (to_dict(recipe), workers, port, str(path)), nprocs=workers
        )
        return Need(**json.loads(path.read_text()))


def _work(rank: int, values: dict[str, Any], workers: int, port: int, path: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    recipe, world = build(PretrainRecipe, values), World(rank, workers, rank, workers)
    found = _measure(recipe, world, set_up_process(recipe, world))
    if world.is_main:
        Path(path).write_text(json.dumps(asdict(found)))
    if world.size > 1:
        dist.barrier()
    os._exit(0)  # gloo's threads sometimes abort when the interpreter ends


def _measure(recipe: PretrainRecipe, world: World, device: torch.device) -> Need:
    """Two updates; bytes of the second, without what this process held before."""
    others = _storages(_everything(device))
    module, machine = module_of(recipe)[0], recipe.machine
    assert isinstance(module, Completion)
    engine = engine_of(recipe, module, world, device)
    made = made_batch(module, machine.micro_batch, device)
    batch = {name: made[name] for name in example(recipe) if name in made}
    batch["subject"] = made["sample_id"].clone()
    del made
    for _ in range(engine.accumulation):
        engine.backward(engine(batch)["loss"])
        engine.step()
    mine = [one for key, one in _storages(_everything(device)).items() if key not in others]
    before, peak = sum(storage.nbytes() for storage in mine), Peak(device)
    held, kept = {}, 0
    with peak:
        for number in range(engine.accumulation):
            known = {id(x.untyped_storage()) for parts in engine.held().values() for x in parts}
            saved = Saved(known | {id(x.untyped_storage()) for x in batch.values()})
            with saved.hooks:
                loss = engine(batch)["loss"]
                engine.backward(loss)
                del loss  # its graph holds on to buffers
            kept = max(kept, saved.bytes)
            if number == engine.accumulation - 1:
                held = {name: _distinct(tensors) for name, tensors in engine.held().items()}
            engine.step()
    taken = _distinct(batch.values())
    engine.close()
    most = before + peak.most - (held["away"] if device.type == "cpu" else 0)
    return Need(**held, exchange=0, batch=taken, activations=kept, peak=most)


class Saved:
    """Bytes of what autograd keeps for the backward pass, each storage once."""

    def __init__(self, known: set[int]) -> None:
        """`known`: storages that are there anyway, weights above all."""
        self._known, self.bytes = known, 0
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if id(storage) not in self._known:
            self._known.add(id(storage))
            self.bytes += storage.nbytes()
        return tensor


class Peak:
    """The most that torch's allocator gave out inside it, over what was given before.

    Entered once: what other threads give back between two entries would count as still there.
    """

    def __init__(self, device: torch.device) -> None:
        self.most, self._device = 0, device
        self._before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0

    def __enter__(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._profile = torch.profiler.profile(activities=activities, profile_memory=True)
            self._profile.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._device.type == "cuda":
            self.most = torch.cuda.max_memory_allocated(self._device) - self._before
            return
        self._profile.__exit__(*error)
        recorded: Any = self._profile.profiler
        events = recorded.kineto_results.events()
        now = 0
        for event in sorted(events, key=lambda one: one.start_ns()):
            if event.name() == "[memory]":
                now += event.nbytes()
                self.most = max(self.most, now)


def _everything(device: torch.device) -> list[Tensor]:
    """Every tensor of this process on devices of this type."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # by type: isinstance would ask weak proxies, of which some point at nothing any more
        found = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
    return [x for x in found if x.device.type == device.type]


def _storages(tensors: Iterable[Tensor]) -> dict[int, Any]:
    """Each storage of the tensors once, by what tells it from others as long as it is held."""
    return {id(x.untyped_storage()): x.untyped_storage() for x in tensors if not x.is_meta}


def _distinct(tensors: Iterable[Tensor]) -> int:
    return sum(storage.nbytes() for storage in _storages(tensors).values())
