"""Networks run in bf16; what is measured, labelled or compared with its likes does not."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hpse_dist.geometry.camera import project
from hpse_dist.precision import in_full_precision
from tests.fabricate import tiny_body_file, tiny_hand_folder
from tests.test_waiting import OBJECTIVES, TASKS, made

_COARSE = {"info_nce"}  # says why
_PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "dot", "mv", "convolution"}


class HalfProducts(TorchDispatchMode):
    """Notes where code of this project, not a layer that it calls, multiplies in bf16."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        tensors = [v for v in tree_leaves((args, kwargs or {})) if isinstance(v, Tensor)]
        name = func._schema.name.removeprefix("aten::")
        if name in _PRODUCTS and any(tensor.dtype == torch.bfloat16 for tensor in tensors):
            stack = traceback.extract_stack()
            ours = max(i for i, f in enumerate(stack) if "/hpse_dist/" in f.filename)
            layers = any("/nn/modules/" in frame.filename for frame in stack[ours:])
            network = layers or "/models/" in stack[ours].filename
            if not network and stack[ours].name not in _COARSE:
                self.found.add(f"{stack[ours].filename}:{stack[ours].lineno}")
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def body_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_body_file(tiny_hand_folder(tmp_path_factory.mktemp("body")))


@pytest.mark.parametrize("name", [*OBJECTIVES, *TASKS])
def test_only_networks_run_in_half_precision(name: str, body_file: Path) -> None:
    """In losses, figures, predictions and what they are compared with."""
    module, batch = made(name, body_file)
    with HalfProducts() as products, torch.autocast("cpu", torch.bfloat16):
        module(batch)
        module.after_step(0.5)
        with torch.no_grad():
            module.metrics(batch)
            for what in ("predict", "truth"):
                if name in TASKS:
                    getattr(module, what)(batch)
    assert not products.found


def test_a_point_is_projected_as_exactly_in_a_network_of_half_precision() -> None:
    points = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(1)) + 1
    camera = torch.tensor([[1.2, 0.0, 0.47], [0.0, 1.3, 0.51], [0.0, 0.0, 1.0]]).expand(2, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = project(points, camera)
    assert torch.equal(found, project(points, camera))


def test_in_full_precision() -> None:
    """Whatever comes in bf16 is multiplied in fp32; autocast is on again behind it."""
    product = in_full_precision(torch.matmul)
    a, b = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = product(a.bfloat16(), b)
        assert torch.matmul(a, b).dtype == torch.bfloat16
    assert torch.equal(found, a.bfloat16().float() @ b)
    assert product(a.double(), b.double()).dtype == torch.float64
