"""What each block of an encoder knows of held-out people, and how alike the blocks of two are.

Joints are predicted from a block's tokens as the live probe does, by ridge regression that learnt
from training people. Blocks are compared by linear centred kernel alignment (CKA; Kornblith et al.,
ICML 2019) over the same frames, with the unbiased estimate of HSIC (Song et al., JMLR 2012): with
fewer frames than features the plain one calls any two alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpse_dist.data.collection import Collection
from hpse_dist.data.items import Source, has_items
from hpse_dist.data.loader import evaluation_batches
from hpse_dist.data.mixing import provided_by
from hpse_dist.live_probe import CELLS, FEWEST, FIT, LABELS, best_ridge, distances, known_joints
from hpse_dist.world import World

# blocks of a vision transformer; stages of ResNets, RegNets, other convolutional models and Swins
_BLOCK = re.compile(r"(model\.)?(blocks\.\d+|stages\.\d+|layers\.\d+|layer\d+|s\d+)")


@dataclass(frozen=True)
class Look:
    """One encoder's blocks, from the first to the last."""

    explained: tuple[float, ...]
    """Share of the mean pose's error that ridge regression from a block's tokens takes away,
    percent; () where there are no joints to learn from."""
    kernels: tuple[np.ndarray, ...]
    """(N, N) products of the held-out frames' standardised tokens."""


def look(encoder: Any, collection: Collection, split: str, frames: int, micro_batch: int) -> Look:
    """Look at an encoder on at most `frames` held-out frames, spread over the people.

    ValueError where the split has too few frames, or the encoder no blocks that can be told.
    """
    source = Source(collection, split=split)
    if not has_items(source, "frames"):
        raise ValueError(
            f"{collection.folder}: no frames of split {split}; name another by --split"
        )
    label = next((n for n in LABELS if n in provided_by([collection], pairs=False)), None)
    held = _read(encoder, source, label, frames, micro_batch)
    count = len(held[0]["tokens"])
    if count < FEWEST:
        raise ValueError(
            f"{collection.folder}: {count} frames of split {split}, fewer than the {FEWEST} that a "
            "comparison needs"
        )
    explained: list[float] = []
    learnt_from = replace(source, split="train")
    if label is not None and split != "train" and has_items(learnt_from, "frames"):
        learnt = _read(encoder, learnt_from, label, FIT * frames, micro_batch)
        explained = [_explained(*both) for both in zip(learnt, held, strict=True)]
    return Look(tuple(explained), tuple(_kernel(block["tokens"]) for block in held))


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    """The encoder's blocks, or stages, in order; ValueError where it has none by these names."""
    found = [module for name, module in encoder.named_modules() if _BLOCK.fullmatch(name)]
    if not found:
        raise ValueError(f"{type(encoder).__name__} has no blocks or stages that can be told apart")
    return found


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """CKA of two blocks, from their kernels (N, N) over the same frames: 1 equal but for rotation
    and scale, about 0 unrelated (a little below by chance)."""
    both, first, second = _hsic(one, other), _hsic(one, one), _hsic(other, other)
    return both / np.sqrt(first * second) if min(first, second) > 0 else float("nan")


def _hsic(one: np.ndarray, other: np.ndarray) -> float:
    """The unbiased estimate of the Hilbert-Schmidt independence criterion (Song et al. 2012)."""
    n = len(one)
    k, m = one.copy(), other.copy()
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(m, 0.0)
    rows = k.sum(0) @ m.sum(0)
    whole = k.sum() * m.sum() / ((n - 1) * (n - 2))
    return float(((k * m).sum() + whole - 2.0 * rows / (n - 2)) / (n * (n - 3)))


def _kernel(tokens: np.ndarray) -> np.ndarray:
    x = tokens - tokens.mean(0, dtype=np.float64)
    scale = np.sqrt((x**2).mean())
    return (x @ x.T) / (x.shape[1] * scale**2) if scale > 0 else np.zeros((len(x), len(x)))


def _explained(learnt: dict[str, np.ndarray], held: dict[str, np.ndarray]) -> float:
    learnt, held = (_with_joints(found) for found in (learnt, held))
    if min(len(learnt["subject"]), len(held["subject"])) < FEWEST:
        return float("nan")
    (error, of_mean), _ = distances(learnt, held, best_ridge(learnt))
    return float(100.0 * (1.0 - error / of_mean))


def _with_joints(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rows = found["rows"]
    return {name: value[rows] for name, value in found.items() if name != "rows"}


def _read(
    encoder: Any, source: Source, label: str | None, frames: int, micro_batch: int
) -> list[dict[str, np.ndarray]]:
    """For each block its pooled tokens (N, F) and, the same for all, what the probe needs."""
    blocks = blocks_of(encoder)
    device = next(encoder.parameters()).device
    parts: list[dict[str, np.ndarray]] = []
    tokens: list[list[np.ndarray]] = [[] for _ in blocks]
    batches = evaluation_batches(
        source,
        needs=("image", "sample_id", "subject", *([label] if label else [])),
        sampling="frames",
        world=World(),
        micro_batch=micro_batch,
        image_px=encoder.image_px,
        patch_px=encoder.patch_px,
        device=device,
        limit=frames,
    )
    for batch in batches:
        valid = batch["valid"].cpu().numpy()
        for place, made in zip(tokens, _outputs(encoder, blocks, batch["image"]), strict=True):
            place.append(made.cpu().numpy()[valid])
        about = {"subject": batch["subject"]}
        about |= known_joints(batch, label) if label else {}
        parts.append({name: value.cpu().numpy()[valid] for name, value in about.items()})
    shared = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return [{"tokens": np.concatenate(each), **shared} for each in tokens]


@torch.no_grad()
def _outputs(encoder: Any, blocks: Iterable[nn.Module], image: Tensor) -> list[Tensor]:
    """(B, F) of each block: its tokens in CELLS x CELLS cells."""
    grid, prefix = encoder.grid(image), getattr(encoder, "prefix", 0)
    made: list[Tensor] = []

    def keep(_: nn.Module, __: Any, tokens: Tensor) -> None:
        # at once: what follows may write over it
        if tokens.ndim == 3:
            tokens = tokens[:, prefix:].transpose(1, 2).unflatten(2, grid)
        elif getattr(encoder, "channels_last", False):
            tokens = tokens.permute(0, 3, 1, 2)
        made.append(F.adaptive_avg_pool2d(tokens.float(), CELLS).flatten(1))

    hooks = [block.register_forward_hook(keep) for block in blocks]
    try:
        encoder(image)
    finally:
        for hook in hooks:
            hook.remove()
    return made
