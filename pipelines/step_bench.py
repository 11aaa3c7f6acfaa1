"""`bench completion`: this project's training step beside a plain eager one, the same numbers.

Model FLOPs are the multiplications and additions of the matrix products that a step needs, a
multiply-add as two: of linear layers and of attention's two products, three times the forward
pass's for forward and backward. They are the recipe's own, every decoder block over all patches;
ours runs the last block for the hidden patches only, and what it leaves out counts as done: both
steps are of one model. Their rate over that of a large matrix product on the same device, measured
in the same rounds, is the utilisation (MFU against what the device really gives).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hpse_dist import masking
from hpse_dist.config import load
from hpse_dist.fields import Batch
from hpse_dist.models.blocks import recompute_blocks
from hpse_dist.models.encoder import build_encoder
from hpse_dist.objectives.completion import Completion, CompletionConfig
from hpse_dist.optim import build_optimizer, parameter_groups
from hpse_dist.recipe import PretrainRecipe
from pipelines.figures import Figure, figures, in_turn
from pipelines.plain import PlainCompletion

OURS, PLAIN = "our step", "plain eager step"
_WARM = 2  # steps before the first that counts
PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}  # side of the large matrices


def model_flops(model: Completion) -> float:
    """Of one pair, forward and backward."""
    config = model.encoder.config
    rows, columns = config.grid()
    tokens, pixels = rows * columns, 3 * config.patch_px**2
    hidden = masking.num_hidden(tokens, model.config.mask_ratio, model.config.count_rule)
    visible = tokens - hidden
    dim, depth, _ = config.sizes()
    flops = 2.0 * (visible + tokens) * pixels * dim
    for count in (visible, tokens):  # 12 dim^2 weights in a block; scores and sums
        flops += depth * (24 * count * dim**2 + 4 * count**2 * dim)
    inner, depth, _ = model.config.decoder.sizes()
    flops += 2.0 * (visible + tokens) * dim * inner
    # self-attention, the queries and outputs of the other, its keys and values, and the MLP
    block = (8 + 4 + 4 + 16) * tokens * inner**2 + 2 * 4 * tokens**2 * inner
    return 3 * (flops + depth * block + 2.0 * hidden * inner * pixels)


def made_batch(model: Completion, pairs: int, device: torch.device) -> Batch:
    """Pictures of noise: a step takes as long whatever is on them."""
    side, grid = model.encoder.config.image_px, model.encoder.config.grid()
    draw = torch.Generator().manual_seed(0)
    shape = (pairs, 3, side, side)
    batch = {
        "image": torch.randn(shape, generator=draw),
        "image_ref": torch.randn(shape, generator=draw),
        "person": torch.rand((pairs, *grid), generator=draw),
        "sample_id": torch.arange(pairs),
        "epoch": torch.zeros(pairs, dtype=torch.int64),
        "pair_kind": torch.arange(pairs) % 2,
        "pair_weight": torch.full((pairs,), 2.0),
    }
    return {name: value.to(device) for name, value in batch.items()}


@dataclass
class Stepper:
    """A model, its optimizer and one batch."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Batch
    clip: float
    bf16: bool

    def step(self) -> None:
        device = self.batch["image"].device.type
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            out: Any = self.model(self.batch)
            loss: Tensor = out["loss"] if isinstance(out, dict) else out
        loss.backward()
        if self.clip > 0:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()


def steppers(recipe: PretrainRecipe, pairs: int, device: torch.device) -> dict[str, Stepper]:
    """Both, from the same weights; the plain one has torch's AdamW with its own defaults."""
    if not isinstance(recipe.objective, CompletionConfig):
        raise ValueError(
            "bench completion measures the objective completion and the recipe has another; give "
            "it one such as configs/pretrain/demo.yaml"
        )
    torch.manual_seed(0)
    ours = Completion(recipe.objective, build_encoder(recipe.encoder), recipe.seed).to(device)
    recompute_blocks(ours, recipe.machine.recompute)
    plain = PlainCompletion(ours).to(device)
    groups = [
        {"params": group["params"], "weight_decay": group["weight_decay"]}
        for group in parameter_groups(plain, recipe.optim)
    ]
    usual = torch.optim.AdamW(groups, lr=recipe.optim.lr, betas=recipe.optim.betas)
    batch, bf16 = made_batch(ours, pairs, device), recipe.precision == "bf16"
    clip = recipe.optim.clip
    return {
        OURS: Stepper(ours, build_optimizer(ours, recipe.optim), batch, clip, bf16),
        PLAIN: Stepper(plain, usual, batch, clip, bf16),
    }


def per_second(
    work: Callable[[], object], times: int, amount: float, device: torch.device
) -> float:
    """`amount` of each call over its time: by the processor's own on a CPU, which others share."""
    now = time.perf_counter if device.type == "cuda" else time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = now()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return amount * times / (now() - start)


def bench_completion(
    recipe: Path, overrides: list[str], *, steps: int, rounds: int
) -> list[Figure]:
    """Pairs/s of both, and the share of a large matrix product's rate that each reaches."""
    read = load(PretrainRecipe, recipe, overrides)
    name = read.machine.device
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(auto if name == "auto" else name)
    pairs = read.machine.micro_batch
    both = steppers(read, pairs, device)
    for one in both.values():
        for _ in range(_WARM):
            one.step()
    side = PRODUCT_SIDE[device.type]
    kind = torch.bfloat16 if read.precision == "bf16" else torch.float32
    left, right = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    product = partial(torch.mm, left, right, out=torch.empty_like(left))
    product()
    measures = {n: partial(per_second, s.step, steps, pairs, device) for n, s in both.items()}
    measures["product"] = partial(per_second, product, steps, 2e-9 * side**3, device)
    measured = in_turn(measures, rounds)
    ceiling = measured.pop("product")
    flops = model_flops(both[OURS].model) * 1e-9  # type: ignore[arg-type]
    lines = figures(measured, "pairs/s", PLAIN, {OURS: "at least 1.3"})
    rates = {f"matrix product, side {side}": ceiling}
    rates |= {f"{n}, model FLOPs": [flops * rate for rate in v] for n, v in measured.items()}
    return lines + figures(rates, "GFLOP/s", next(iter(rates)), {})


def add_arguments(parts: Any) -> None:
    """The command's part `completion`."""
    part: argparse.ArgumentParser = parts.add_parser(
        "completion", help="a training step beside a plain eager one, and its share of the peak"
    )
    part.add_argument("recipe", type=Path, nargs="?", default=Path("configs/pretrain/demo.yaml"))
    part.add_argument("overrides", nargs="*", metavar="key=value")
    part.add_argument("--steps", type=int, default=3, help="of each measurement")
    part.add_argument("--rounds", type=int, default=7, help="repeats, candidates in turn")
    part.add_argument("--json", type=Path, help="write the figures here too")
