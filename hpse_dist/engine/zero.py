"""DeepSpeed ZeRO, stages 0 to 3: the only file that imports deepspeed.

What DeepSpeed decides by default and we do not want is written out in `deepspeed_config` and
`_import`. Two things it lets through are closed here: at stage 0 in fp32 a NaN gradient would
reach the weights, and its checkpoints are read without `weights_only`.

bf16 is DeepSpeed's `torch_autocast`, with parameters, gradients and their exchange in fp32: the
same arithmetic as the plain and ddp engines. Its `bf16` section would cast parameters, and with
them every label that meets them, to 8 bits of precision.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from hpse_dist.engine.base import Engine, Precision, join
from hpse_dist.fields import Batch
from hpse_dist.world import World

TAG = "zero"
ABOUT_FILE = "zero.json"
# DeepSpeed's own 5e8 elements reserve 2 GB before the first step; our models are far smaller
BUCKET_ELEMENTS = 50_000_000


def deepspeed_config(
    *,
    micro_batch: int,
    accumulation: int,
    world_size: int,
    stage: int,
    clip: float,
    precision: Precision,
) -> dict[str, Any]:
    """DeepSpeed's settings as plain values; nothing that matters is left to its defaults."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "train_batch_size": micro_batch * accumulation * world_size,
        "gradient_clipping": clip,  # the default is 1.0 since 0.19.3
        "steps_per_print": None,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
        },
    }
    if precision == "bf16":
        config["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],  # none: gradients are exchanged in fp32
        }
    return config


def _import(device: torch.device, world: World) -> ModuleType:
    """deepspeed, on the right device type and without a compiler.

    Importing takes seconds and reads the environment, so it happens when an engine is made.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", str(world.local_rank))
    import deepspeed
    import deepspeed.ops

    chosen = deepspeed.accelerator.get_accelerator().device_name()
    if chosen != device.type:
        raise ValueError(
            f"DeepSpeed runs on {chosen} in this process, the run wants {device.type}: unset "
            "DS_ACCELERATOR, and do not mix devices in one process"
        )
    if device.type == "cpu":
        # its shared-memory op would be compiled at the first use; gloo does the same work
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


class ZeroEngine(Engine):
    """A DeepSpeed engine behind the protocol; parameters stay fp32, cut up from stage 3 on."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        world: World,
        device: torch.device,
        accumulation: int,
        micro_batch: int,
        clip: float,
        precision: Precision,
        stage: int,
    ) -> None:
        super().__init__(world=world, device=device, accumulation=accumulation, precision=precision)
        if stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage must be 0, 1, 2 or 3, found {stage}")
        join(world, device)
        self._deepspeed = _import(device, world)
        self.stage = stage
        self.module = module
        self._engine, *_ = self._deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            config=deepspeed_config(
                micro_batch=micro_batch,
                accumulation=accumulation,
                world_size=world.size,
                stage=stage,
                clip=clip,
                precision=precision,
            ),
        )
        self._files = _Files(self._engine.checkpoint_engine)
        self._engine.checkpoint_engine = self._files
        # It would copy its conversion scripts into every checkpoint, and fail there alone
        # when the disk is full, while the other ranks wait.
        self._engine._copy_recovery_script = lambda path: None

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._engine.optimizer.param_groups

    def _forward(self, batch: Batch) -> dict[str, Tensor]:
        return self._engine(batch)

    def backward(self, loss: Tensor) -> None:
        self._engine.backward(loss)

    def _step(self, boundary: bool) -> None:
        if boundary and self.stage == 0:
            # Gradients are averaged already, and nothing in DeepSpeed looks at them.
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            self._check_norm(nn.utils.get_total_norm(gradients).item())
        self._engine.step()
        if boundary and self.stage > 0:
            norm = float(self._engine.get_global_grad_norm())
            # it has left the weights alone if it found the norm wanting
            self._check_norm(norm if self._engine.was_step_applied() else math.inf)

    @contextlib.contextmanager
    def _whole_weights(self) -> Iterator[None]:
        with self._gathered():
            yield

    def _gathered(self) -> contextlib.AbstractContextManager[None]:
        """From stage 3 on, every parameter whole on every rank while inside; collective."""
        parameters = list(self.module.parameters())
        return self._deepspeed.zero.GatheredParameters(parameters, enabled=self.stage == 3)

    # -- state: every rank its own shards, in DeepSpeed's own format

    def save(self, folder: Path) -> None:
        about = {"stage": self.stage, "world_size": self.world.size, "updates": self.updates}
        if self.world.is_main:
            with self._files.remembering():
                (folder / ABOUT_FILE).write_text(json.dumps(about), encoding="utf-8")
        # without this entry DeepSpeed's own conversion to another number of ranks refuses
        state = {"universal_checkpoint_info": {"universal_checkpoint_version": 0.2}}
        self._engine.save_checkpoint(str(folder), tag=TAG, client_state=state, save_latest=False)
        self._files.raise_first()

    def load(self, folder: Path) -> None:
        path = folder / ABOUT_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder}: not a checkpoint of the zero engine; resume with the engine it was "
                "made with, or start another run folder"
            )
        about = json.loads(path.read_text(encoding="utf-8"))
        for key, here in (("stage", self.stage), ("world_size", self.world.size)):
            cut_up = key == "stage" or self.stage > 0  # stage 0 fits any number of ranks
            if cut_up and about[key] != here:
                raise ValueError(
                    f"{folder}: saved by ZeRO with {key} {about[key]}, this run has {here}; "
                    "resume with the same ZeRO stage and number of workers, or start another run "
                    "folder"
                )
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=TAG)
        assert loaded is not None, f"{folder}: DeepSpeed read nothing"
        self.updates = int(about["updates"])

    def full_state_dict(self) -> dict[str, Tensor]:
        with self._gathered():
            if not self.world.is_main:
                return {}
            state = self.module.state_dict()
            return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def close(self) -> None:
        self._engine.destroy()


class _Files:
    """DeepSpeed's file writer and reader, with two habits changed.

    A write that fails is remembered and told after the call: DeepSpeed waits at barriers between
    its files, so a rank that raised at once would leave the others waiting. And nothing but
    tensors, numbers and three harmless classes of its own is unpickled.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._failures: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failures.append(error.strerror or str(error))
        except RuntimeError as error:
            if "inline_container" not in str(error):
                raise
            # torch's writer does not tell why it could not write all
            self._failures.append("a file was cut short: the disk is full, or a quota reached")

    def raise_first(self) -> None:
        failures, self._failures = self._failures, []
        if failures:
            raise OSError(failures[0])

    def save(self, state_dict: dict[str, Any], path: str) -> None:
        with self.remembering():
            torch.save(state_dict, path)

    def load(self, path: str, map_location: Any = None) -> Any:
        from deepspeed.runtime.fp16.loss_scaler import LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            try:
                return torch.load(path, map_location=map_location, weights_only=True)
            except pickle.UnpicklingError as error:
                found = re.search(r"GLOBAL (\S+)", str(error))
                what = found.group(1) if found else "something that is not known to be harmless"
                raise ValueError(
                    f"{path}: refused, it holds {what} beside weights; it was not written by "
                    "this program, or by another version of DeepSpeed"
                ) from None
