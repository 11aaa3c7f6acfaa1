"""One of two processes that train a tiny objective with every engine; run by test_engines.py.

    python engine_worker.py RANK PORT FOLDER
    python engine_worker.py alone - FOLDER      DeepSpeed on one process that no one started

Writes FOLDER/facts-RANK.json and, from rank 0, FOLDER/weights.pt; judges nothing.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpse_dist.accounting import Clock
from hpse_dist.checkpoint import Checkpoints
from hpse_dist.engine import Engine, zero
from hpse_dist.guard import INCIDENTS_FILE, Guard, GuardConfig, read_incidents
from hpse_dist.log import RunLog, read_metrics
from hpse_dist.optim import OptimConfig, schedule
from hpse_dist.train import evaluate, train
from hpse_dist.world import World
from tests.engine.toys import TinyLoader, make_batch, make_engine
from tests.test_checkpoint import files_at_most

KINDS = {
    "ddp": ("ddp", 0, "nothing"),
    **{f"zero{stage}": ("zero", stage, "nothing") for stage in range(4)},
    "zero2-optimizer": ("zero", 2, "optimizer"),  # away, in the machine's memory
    "zero3-parameters": ("zero", 3, "parameters"),
}
OTHERS = {
    "zero1-optimizer": ("zero", 1, "optimizer"),
    "zero3-optimizer": ("zero", 3, "optimizer"),
    "plain": ("plain", 0, "nothing"),
}
STEPS = 10
RATE = functools.partial(schedule, steps=STEPS, config=OptimConfig(lr=3e-3, warmup_steps=2))


class Worker:
    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.facts: dict[str, Any] = {}
        self.weights: dict[str, dict[str, Tensor]] = {}

    def engine(self, name: str, **options: Any) -> Engine:
        kind, stage, offload = (KINDS | OTHERS)[name]
        world = World() if name == "plain" else self.world
        return make_engine(kind, world, stage=stage, offload=offload, **options)

    def run(
        self,
        name: str,
        label: str,
        *,
        until: int = STEPS,
        poison: str = "",
        now_and_then: bool = False,
        evaluating: bool = False,
        **options: Any,
    ) -> None:
        """Start the run `label` or go on with it; told to stop on the last rank alone."""
        engine = self.engine(name, **options)
        loader = TinyLoader(engine.world)
        loader.now_and_then = now_and_then
        if poison:
            loader.poison[60] = poison  # update 4, the second process's half
        folder = self.folder / label
        guard = Guard(GuardConfig(), folder, engine.world)
        clock = Clock()
        also = {"guard": guard, "clock": clock}
        checkpoints = Checkpoints(folder / "checkpoints", STEPS, 2, "hash", also)
        start = reached = checkpoints.resume(engine, loader)

        def on_step(step: int) -> None:
            nonlocal reached
            reached = step
            if evaluating and step % 3 == 0:
                evaluate(engine, [make_batch(torch.arange(4))])
                with engine.evaluating() as module:
                    log.panels(step, module.panels(make_batch(torch.arange(4))))

        # several ranks are asked as the step begins
        asked_at = until if engine.world.size == 1 else until - 1

        def should_stop() -> bool:
            return reached == asked_at and engine.world.rank == engine.world.size - 1

        with RunLog(self.folder / label, engine.world, 1, start=start) as log:
            train(
                engine,
                loader,
                RATE,
                log,
                checkpoints,
                guard,
                clock,
                start=start,
                steps=STEPS,
                on_step=on_step,
                should_stop=should_stop,
            )
        self.facts[f"{label} reached"] = reached
        self.weights[label] = engine.full_state_dict()
        engine.close()

    def agree(self) -> None:
        for clip in (0.0, 0.3):
            for precision in ("fp32", "bf16"):
                for name in KINDS:
                    self.run(name, f"{name} {precision} {clip}", clip=clip, precision=precision)
                if self.world.is_main:
                    label = f"plain {precision} {clip}"
                    self.run("plain", label, clip=clip, precision=precision)

    def resume(self) -> None:
        for name in KINDS:
            for precision in ("fp32", "bf16"):
                label = f"{name} {precision} in parts"
                self.run(name, label, until=5, clip=0.3, precision=precision)
                self.run(name, label, seed=9, clip=0.3, precision=precision)

    def layers(self) -> None:
        """Layer-wise learning rates, and what one step of the smallest kind does to each layer."""
        for name in KINDS:
            self.run(name, f"{name} layers", layer_decay=0.5)
            self.run(name, f"{name} layers in parts", until=5, layer_decay=0.5)
            self.run(name, f"{name} layers in parts", seed=9, layer_decay=0.5)
        for name in (*KINDS, "plain"):
            engine = self.engine(name, layer_decay=0.5)
            engine.set_lr(1.0)
            self.facts[f"{name} rates"] = sorted(group["lr"] for group in engine._groups)
            engine.close()
        if self.world.is_main:
            self.run("plain", "plain layers", layer_decay=0.5)

    def freeze(self) -> None:
        """The encoder does not learn; it comes from the checkpoint all the same."""
        for name in ("zero3", "zero2-optimizer", "zero3-parameters"):
            self.run(name, f"{name} frozen", until=5, clip=0.3, frozen=True)
            self.run(name, f"{name} frozen", seed=9, clip=0.3, frozen=True)
        if self.world.is_main:
            self.run("plain", "plain frozen", clip=0.3, frozen=True)

    def guard(self) -> None:
        for name in KINDS:
            for precision in ("fp32", "bf16"):
                self.leave_out(name, f"{name} {precision} left out", 4, precision=precision)
                for poison in ("loss", "gradient"):
                    label = f"{name} {precision} bad {poison}"
                    self.run(name, label, poison=poison, precision=precision)
                    self.facts[label] = read_incidents(self.folder / label / INCIDENTS_FILE)

    def leave_out(self, name: str, label: str, left_out: int, **options: Any) -> None:
        """All steps but one, whose batch is never looked at."""
        engine = self.engine(name, **options)
        loader = TinyLoader(engine.world)
        batches = iter(loader)
        for step in range(1, STEPS + 1):
            if step == left_out:
                loader.cursor += loader.global_batch
                batches = iter(loader)
                continue
            engine.set_lr(RATE(step))
            for _ in range(engine.accumulation):
                engine.backward(engine(next(batches))["loss"])
                engine.step()
        self.weights[label] = engine.full_state_dict()
        engine.close()

    def measure_on_the_way(self) -> None:
        for name in KINDS:
            self.run(name, f"{name} evaluated", clip=0.3, evaluating=True)

    def touch(self) -> None:
        """A parameter that some micro-steps and some whole updates do not touch."""
        for name in KINDS | OTHERS:
            if name != "plain" or self.world.is_main:
                self.run(name, f"{name} touched", clip=0.3, now_and_then=True)

    def evaluate(self) -> None:
        """Ten examples: five batches of two over the ranks, the last one padding on rank 1."""
        for name in ("ddp", "zero3"):
            engine = self.engine(name)
            batches = []
            for first in range(2 * self.world.rank, 12, 4):
                ids = torch.arange(first, first + 2)
                batches.append(make_batch(ids) | {"valid": ids < 10})
            self.facts[f"{name} means"] = evaluate(engine, batches)
            engine.close()
        whole = [make_batch(torch.arange(10))]
        self.facts["plain means"] = evaluate(self.engine("plain"), whole)

    def change(self) -> None:
        """One run that goes on with another engine and stage each time, and with one process."""
        names = ("zero1", "zero3-parameters", "zero3", "ddp", "zero2-optimizer")
        for until, name in enumerate((*names, "zero2", "zero0", "zero3-optimizer"), start=2):
            self.run(name, "changed", until=until, clip=0.3)
        self.run("zero3", "changed", clip=0.3)
        for name in KINDS:
            self.run(name, f"{name} then plain", until=5, clip=0.3)
            if self.world.is_main:
                self.run("plain", f"{name} then plain", clip=0.3)

    def refuse(self) -> None:
        """A checkpoint that is not whole, and one of a model with other shapes."""
        folder = self.folder / "zero1 fp32 0.0" / "checkpoints" / "step_00000010"
        self.on_main(lambda: (folder / "state-00001.safetensors").rename(folder / "away"))
        for name in ("zero2", "zero3", "ddp"):
            engine = self.engine(name)
            self.facts[f"{name} half"] = failure(functools.partial(engine.load, folder))
            engine.close()
        self.on_main(lambda: (folder / "away").rename(folder / "state-00001.safetensors"))

    def on_main(self, work: Callable[[], Any]) -> None:
        torch.distributed.barrier()
        if self.world.is_main:
            work()
        torch.distributed.barrier()

    def full_disk(self) -> None:
        """The disk is full for one rank only; both must hear of it and go on."""
        for name in ("ddp", "zero0", "zero2", "zero3"):
            for unlucky in (0, 1):
                label = f"{name} full {unlucky}"
                engine, loader = self.engine(name), TinyLoader(self.world)
                checkpoints = Checkpoints(self.folder / label, 1, 2, "hash")
                checkpoints.save(engine, loader, 1)
                again = functools.partial(checkpoints.save, engine, loader, 2)
                with files_at_most(600 if self.world.rank == unlucky else 1 << 40):
                    self.facts[label] = failure(again)
                self.facts[f"{label} left"] = engine.from_main(
                    sorted(p.name for p in (self.folder / label).iterdir())
                )
                checkpoints.save(engine, loader, 3)
                engine.close()


def failure(work: Callable[[], Any]) -> str:
    try:
        work()
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def alone(folder: Path) -> None:
    worker = Worker(World(), folder)
    for name in ("zero0", "zero2", "zero3", "zero3-parameters"):
        worker.run(name, f"{name} alone", clip=0.3)
    torch.save(worker.weights, folder / "weights-alone.pt")


def together(rank: int, port: str, folder: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    worker = Worker(World(rank, 2, rank, 2), folder)
    worker.agree()
    worker.resume()
    worker.change()
    worker.layers()
    worker.freeze()
    worker.guard()
    worker.measure_on_the_way()
    worker.touch()
    worker.evaluate()
    worker.refuse()
    worker.full_disk()
    if rank == 0:
        torch.save(worker.weights, folder / "weights.pt")
        histories = {p.parent.name: read_metrics(p) for p in folder.glob("*/metrics.jsonl")}
        (folder / "histories.json").write_text(json.dumps(histories))
    (folder / f"facts-{rank}.json").write_text(json.dumps(worker.facts))


def cut_small_parameters_too() -> None:
    """Else stage 3 keeps parameters as tiny as ours whole."""
    settings = zero.deepspeed_config

    def changed(**options: Any) -> dict[str, Any]:
        config = settings(**options)
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    zero.deepspeed_config = changed


def main() -> None:
    rank, port, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    torch.set_num_threads(1)
    cut_small_parameters_too()
    if rank == "alone":
        alone(folder)
    else:
        together(int(rank), port, folder)
    if dist.is_initialized():
        dist.barrier()
    # Everything is written. Taking the interpreter down with several gloo groups alive sometimes
    # aborts in their threads ("terminate called without an active exception").
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
