"""A training step on a GPU mixes no devices and waits for nothing: seen without one, on torch's
fake tensors, which have a device and no numbers."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpse_dist import objectives, tasks
from hpse_dist.body.joints import JOINT_SETS, PART_NAMES, left_right_order
from hpse_dist.body.model import load_body, load_hand
from hpse_dist.data.augment import AugmentConfig, augment
from hpse_dist.data.depth_order import DepthOrder
from hpse_dist.data.mirror import Mirror, chosen, mirrored
from hpse_dist.engine import Engine
from hpse_dist.fields import Batch
from hpse_dist.models import attention
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives.dino import Dino
from hpse_dist.objectives.part_synthesis import PartSynthesis
from hpse_dist.planning.memory import without_numbers
from hpse_dist.world import World
from tests.fabricate import fabricate, tiny_body_file, tiny_hand_folder
from tests.objectives.test_contract import SMALL as OBJECTIVES
from tests.tasks.test_contract import SMALL as TASKS

# Operators of which a GPU's results are read, or checked, on the host.
_READ = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal"}
_READ |= {"_linalg_check_errors", "_linalg_svd", "_linalg_eigh", "linalg_lstsq", "multinomial"}

_KEPT = {"constant", "_table", "_build_horn_map"}  # make what is kept for good; the last is roma's


class Waits(TorchDispatchMode):
    """Notes where the process would wait for a GPU; what is kept for good may wait once."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._pinned: list[torch.UntypedStorage] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        kinds = {value.device.type for value in tensors}
        if name == "_to_copy" and kwargs.get("device") is not None:
            kinds |= {torch.device(kwargs["device"]).type}
        reads = name in _READ or _copies(name, args, kinds)
        if "cuda" in kinds and reads and not self._goes_on(name, args):
            self._note(name)
        result = func(*args, **kwargs)
        if kwargs.get("pin_memory"):
            self._pinned.append(result.untyped_storage())
        return result

    def _goes_on(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether a copy into page-locked memory is left to itself, to be waited for later."""
        if name != "copy_" or args[2:] != (True,):
            return False
        return args[0].untyped_storage()._cdata in {storage._cdata for storage in self._pinned}

    def _note(self, name: str) -> None:
        stack = traceback.extract_stack()
        if any(f.name in _KEPT for f in stack):
            return
        frames = [f for f in stack if "/hpse_dist/" in f.filename]
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        self.found.add(name + where)


def _copies(name: str, args: tuple[Any, ...], kinds: set[str]) -> bool:
    """Whether an operator copies between devices, or must count the True of an index."""
    if name in ("_to_copy", "copy_"):
        return len(kinds) > 1
    if name not in ("index", "index_put_", "_index_put_impl_"):
        return False
    indices = [index for index in args[1] if isinstance(index, Tensor)]
    return any(index.dtype == torch.bool or index.device.type == "cpu" for index in indices)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within, `device="cuda"` is there, for forward passes."""
    monkeypatch.setattr(attention, "kernel_for", lambda *_: "sdpa")
    # else autocast is off where there is no GPU
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def moved(module: nn.Module) -> None:
    """A module to the GPU, late in a run."""
    without_numbers(module, "cuda")
    if isinstance(module, Dino | PartSynthesis):
        module._progress.move(module.progress, 0.5)


def on_gpu(batch: Batch) -> Batch:
    return {name: torch.empty_like(value, device="cuda") for name, value in batch.items()}


@pytest.fixture(scope="module")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_body_file(tiny_hand_folder(tmp_path_factory.mktemp("body")))


TRANSFORMER = EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2, drop_path=0.1)
OTHERS = {  # they look at whole pictures, and so are not for objectives that hide patches
    "conv": EncoderConfig("conv", 32, 8),
    "resnet": EncoderConfig("timm", 32, 8, timm="resnet18", output_stride=8),
    "timm vit": EncoderConfig("timm", 32, 16, timm="vit_tiny_patch16_224"),
}


def made(
    name: str, body_file: Path, config: EncoderConfig = TRANSFORMER
) -> tuple[objectives.Objective, Batch]:
    """A small module and a batch for it, on the CPU."""
    encoder = build_encoder(config)
    if name in OBJECTIVES:
        module = objectives.build(OBJECTIVES[name], encoder, 3)
        return module, fabricate(module.needs, body=load_body(body_file))
    module = tasks.build(TASKS[name](body_file), encoder, 3)
    if "hand_pose" in module.needs:
        return module, fabricate(module.needs, hand=load_hand(body_file.parent, "right"))
    return module, fabricate(module.needs, body=load_body(body_file))


def on_fake_gpu(
    name: str,
    body_file: Path,
    request: pytest.FixtureRequest,
    config: EncoderConfig = TRANSFORMER,
) -> tuple[objectives.Objective, Batch]:
    """The same there."""
    module, batch = made(name, body_file, config)
    request.getfixturevalue("fake")
    moved(module)
    return module, on_gpu(batch)


@pytest.mark.parametrize("name", [*OBJECTIVES, *TASKS])
def test_a_step_waits_for_nothing(
    name: str, body_file: Path, request: pytest.FixtureRequest
) -> None:
    """The forward pass in bf16, and what the module does after the step."""
    module, batch = on_fake_gpu(name, body_file, request)
    with Waits() as waits, torch.autocast("cuda", torch.bfloat16):
        loss = module(batch)["loss"]
        module.after_step(0.5)
    assert loss.device.type == "cuda"
    assert not waits.found


@pytest.mark.parametrize("name", ["dino", "moco", "part_synthesis", "body_mesh", "dense_pose"])
@pytest.mark.parametrize("encoder", OTHERS)
def test_a_step_of_other_encoders_waits_for_nothing(
    name: str,
    encoder: str,
    body_file: Path,
    request: pytest.FixtureRequest,
) -> None:
    """In fp32."""
    module, batch = on_fake_gpu(name, body_file, request, OTHERS[encoder])
    with Waits() as waits:
        module(batch)
    assert not waits.found


@pytest.mark.parametrize("name", [*OBJECTIVES, *TASKS])
def test_an_evaluation_stays_on_its_device(
    name: str, body_file: Path, request: pytest.FixtureRequest
) -> None:
    """Figures, predictions and what they are compared with."""
    module, batch = on_fake_gpu(name, body_file, request)
    module.eval()
    found: list[Tensor] = []
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        found += module.metrics(batch).values()
        if isinstance(module, tasks.Task):
            found += (*module.predict(batch).values(), *module.truth(batch).values())
    assert {value.device.type for value in found} == {"cuda"}


STORED: dict[str, Callable[[int], Tensor]] = {
    "image": lambda n: torch.zeros(n, 40, 40, 3, dtype=torch.uint8),
    "image_ref": lambda n: torch.zeros(n, 40, 40, 3, dtype=torch.uint8),
    "person": lambda n: torch.zeros(n, 32, 32, dtype=torch.uint8),
    "part_map": lambda n: torch.zeros(n, 16, 16, dtype=torch.uint8),
    "uv_map": lambda n: torch.zeros(n, 2, 16, 16, dtype=torch.float16),
    "sample_id": lambda n: torch.arange(n),
    "epoch": lambda n: torch.zeros(n, dtype=torch.int64),
    "joints2d": lambda n: torch.zeros(n, 24, 3),
    "joints3d": lambda n: torch.zeros(n, 24, 4),
    "people2d": lambda n: torch.zeros(n, 3, 24, 3),
    "intrinsics": lambda n: torch.zeros(n, 3, 3),
    "global_orient": lambda n: torch.zeros(n, 3),
    "body_pose": lambda n: torch.zeros(n, 69),
    "transl": lambda n: torch.zeros(n, 3),
}


@pytest.mark.parametrize("turn", [0.0, 20.0])
def test_finishing_a_batch_waits_for_nothing(turn: float, fake: None) -> None:
    """Mirrored, cut out or turned, in other colours, with relations of depth."""
    orders = (left_right_order(JOINT_SETS["smpl24"]), left_right_order(PART_NAMES))
    tables = [torch.tensor(order) for order in orders]
    mirror = Mirror(*tables, torch.zeros(16, 16, 2)).on(torch.device("cuda"))
    relations = DepthOrder("smpl24")
    raw = on_gpu({name: make(4) for name, make in STORED.items()})
    config = AugmentConfig(crop_scale=(0.8, 0.8), rotation_deg=turn, flip=0.5)
    with Waits() as waits:
        raw = mirrored(raw, chosen(raw, 0.5, 1), mirror)
        fields = augment(raw, config, seed=1, train=True, image_px=32, patch_px=8)
        fields |= relations(raw["people2d"], torch.zeros_like(raw["sample_id"])[:, None])
    assert {value.device.type for value in fields.values()} == {"cuda"}
    assert not waits.found


def test_asking_the_ranks_waits_only_for_the_answer(
    fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step asks whether one was told to stop."""
    done: list[str] = []

    class Event:
        def record(self) -> None:
            done.append("recorded")

        def synchronize(self) -> None:
            done.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor, op: done.append(tensor.device.type))
    engine = SimpleNamespace(world=World(0, 2, 0, 2), device=torch.device("cuda"))
    with Waits() as waits:
        answer = Engine.ask_ranks(engine, lambda: True)  # type: ignore[arg-type]
    assert not waits.found and done == ["cuda", "recorded"]
    with contextlib.suppress(RuntimeError):  # there are no numbers in a fake tensor
        answer()
    assert done[2:] == ["waited"]


def test_what_waits_is_found(fake: None) -> None:
    """Each of these stops a real GPU."""
    there = torch.empty(3, device="cuda")
    waiting: list[Callable[[], object]] = [
        lambda: torch.tensor([1.0, 2.0], device="cuda"),
        lambda: there[[0, 1]],
        lambda: there.cpu(),
        lambda: torch.empty(3).copy_(there, non_blocking=True),
        lambda: there[there > 0],
    ]
    for wait in waiting:
        with Waits() as waits, contextlib.suppress(DynamicOutputShapeException):
            wait()
        assert waits.found
