"""What a machine can do, found out by doing it in small: `python -m pipelines.doctor` shows it.

A check returns what it saw, in a sentence, and raises where something does not work.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from hpse_dist.config import build
from hpse_dist.data.collection import CollectionConfig, write_collection
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.log import METRICS_FILE, read_metrics
from hpse_dist.models.attention import attend, kernel_for
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.records import FrameRecord, Provenance
from hpse_dist.run import pretrain
from hpse_dist.world import World

PICTURES = "pictures"  # the folder of the collection that the check of that name leaves
STEPS = 2
_PERSON_PX, _PICTURE_PX = 48, 64
_EACH = 4  # pictures of one trainer in one step


def machine(scratch: Path) -> str:
    """Cores, memory, room, GPUs; ValueError where there is a GPU that torch does not see."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    if not gpus and any(Path("/dev").glob("nvidia[0-9]*")):
        raise ValueError(
            f"this machine has a GPU that torch {torch.__version__}, built for CUDA "
            f"{torch.version.cuda}, does not see: update its driver, or install the torch that "
            "fits it; until then all is done on the CPU"
        )
    named = ", ".join(f"{gpu.name} of {_gb(gpu.total_memory)}" for gpu in gpus)
    return (
        f"{len(os.sched_getaffinity(0))} cores, {_gb(psutil.virtual_memory().available)} of memory "
        f"free, {_gb(shutil.disk_usage(scratch).free)} of disk free under {scratch.parent}, "
        f"{_gb(shutil.disk_usage('/dev/shm').free)} of shared memory; "
        f"{named or 'no GPU: all is done on the CPU'}"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.0f} GB"


def attention(scratch: Path) -> str:
    """Which kernel it takes here, and how far that is from the formula written out."""
    device, dtype = torch.device("cpu"), torch.float32
    if torch.cuda.is_available():
        device, dtype = torch.device("cuda"), torch.bfloat16
    lengths = ([49, 196], [196, 49])
    q, k, v = (torch.randn(1, 245, 4, 64, device=device, dtype=dtype) for _ in range(3))
    parts = zip(q.split(lengths[0], 1), k.split(lengths[1], 1), v.split(lengths[1], 1), strict=True)
    expected = torch.cat([_written_out(*part) for part in parts], dim=1)
    error = (attend(q, k, v, lengths).float() - expected).abs().max().item()
    kernel = kernel_for(device, dtype, 64)
    said = f"{kernel} on {device.type}, within {error:.0e} of the formula written out"
    if not error < (1e-5 if dtype == torch.float32 else 2e-2):
        raise ValueError(f"{said}: that is too far")
    if device.type == "cuda" and kernel != "xformers":
        said += "; xformers has no kernel that fits this GPU and this torch"
    return said


def _written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v in fp32: (1, N, H, D), (1, M, H, D) twice -> (1, N, H, D)."""
    q, k, v = (x.float().transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(dim=-1)
    return (weights @ v).transpose(1, 2)


def pictures(scratch: Path, trainers: int = 1) -> str:
    """A collection of noise with pairs, written, published, read back and decoded by FFCV."""
    provenance = Provenance("checkup", "CC0-1.0", True, "", None)
    config = CollectionConfig(crop_px=_PICTURE_PX, min_side_px=8)
    records = _records(2 * _EACH * trainers)
    made = write_pairs(
        write_collection(scratch / PICTURES, records, config, provenance), PairsConfig()
    )
    if problems := made.verify():
        raise ValueError(problems[0])
    return f"{made.num_frames} written, hashed and read back by FFCV, {made.pairs.num_rows} pairs"


def _records(moments: int) -> Iterator[FrameRecord]:
    """Somebody to train on and somebody held out, walking before one camera: coarse noise."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for moment in range(moments):
            coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            edge = (_PICTURE_PX - _PERSON_PX) / 2
            yield FrameRecord(
                image=np.kron(coarse, np.ones((8, 8, 1), np.uint8)),
                box=(edge, edge, _PICTURE_PX - edge, _PICTURE_PX - edge),
                subject=split,
                sequence=split,
                camera="one",
                time=moment / 2,
                source=f"{split} {moment}",
                split=split,
            )


def recipe(scratch: Path, name: str, trainers: int, **machine: object) -> PretrainRecipe:
    """Two steps of completion, small, on the pictures of that check."""
    small = {"name": "custom", "dim": 32, "depth": 2, "heads": 2}
    return build(
        PretrainRecipe,
        {
            "name": name,
            "collections": [{"path": str(scratch / PICTURES)}],
            "encoder": {**small, "image_px": 32, "patch_px": 8},
            "objective": {"name": "completion", "decoder": small},
            "global_batch": _EACH * trainers,
            "steps": STEPS,
            "evaluate_every": STEPS,
            "precision": "bf16" if torch.cuda.is_available() else "fp32",
            "machine": {
                "workers": 1,
                "micro_batch": _EACH,
                "log_every": 1,
                "out": str(scratch),
                **machine,
            },
        },
    )


def losses(folder: Path) -> list[float]:
    """The loss of each step of a run."""
    return [row["loss"] for row in read_metrics(folder / METRICS_FILE) if "loss" in row]


def trained(recipe: PretrainRecipe, run: Callable[[PretrainRecipe], object]) -> str:
    """Carry a recipe out and compare its losses with those of the run named `plain`, if there is
    one; ValueError where they differ by more than rounding."""
    run(recipe)
    mine, plain = losses(recipe.folder()), recipe.folder().with_name("plain")
    said = f"{STEPS} steps of completion, loss {mine[-1]:.4f}"
    if recipe.folder() == plain or not (plain / METRICS_FILE).is_file():
        return said
    rounding = 1e-4 if recipe.precision == "fp32" else 2e-2
    if not np.allclose(mine, losses(plain), rtol=rounding):
        raise ValueError(f"{said}, where plain torch has {losses(plain)[-1]:.4f}")
    return f"{said}, as plain torch"


def here(recipe: PretrainRecipe) -> None:
    """Run a recipe of one trainer in this process."""
    pretrain(recipe, World(), recipe.folder())
