"""Compiled blocks compute what they computed before, or a sentence says why they cannot be."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hpse_dist.compiling import compile_blocks
from hpse_dist.fields import Batch
from hpse_dist.models.blocks import recompute_blocks
from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives.completion import Completion, CompletionConfig
from tests.fabricate import fabricate

CPU = torch.device("cpu")
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


def completion(positions: str = "rotary") -> Completion:
    torch.manual_seed(0)
    sizes = EncoderConfig("custom", 32, 8, dim=16, depth=1, heads=2, positions=positions)  # type: ignore[arg-type]
    decoder = DecoderConfig("custom", dim=16, depth=2, heads=2)
    return Completion(CompletionConfig(decoder=decoder), build_encoder(sizes), seed=0)


def step(model: Completion, batch: Batch) -> list[Tensor]:
    """The loss, then the gradients."""
    model.zero_grad()
    loss = model(batch)["loss"]
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def graphs() -> int:
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of the test's own, and a compiler that remembers nothing."""
    import torch._dynamo
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    torch._dynamo.reset()
    monkeypatch.setenv("HPSE_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # torch's import does so
    return tmp_path


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler here (g++, or CXX)")
@pytest.mark.filterwarnings("ignore")  # torch's compiler is no code of ours
def test_a_compiled_step_is_the_same_step(cache: Path) -> None:
    """The encoder's block alone, without positions to turn: every loop takes 3 s to compile."""
    model = completion("sincos")
    batch = fabricate(model.needs)
    whole = step(model, batch)
    compile_blocks(model.encoder, CPU)
    for one, other in zip(step(model, batch), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    folder = cache / "compiled"
    assert any(folder.rglob("*.so")) and not folder.stat().st_mode & 0o077


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler here (g++, or CXX)")
@pytest.mark.filterwarnings("ignore")
def test_every_block_is_one_graph_in_training_and_as_written_in_evaluation(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As graphs whose operations torch runs one by one: loops take a minute to compile."""
    as_graph = functools.partialmethod(nn.Module.compile, backend="aot_eager")
    monkeypatch.setattr(nn.Module, "compile", as_graph)
    model = completion()
    batch, names = fabricate(model.needs), list(model.state_dict())
    whole = step(model, batch)
    figures, before = model.eval().metrics(batch), graphs()
    compile_blocks(model.train(), CPU)
    assert list(model.state_dict()) == names
    for again in (False, True):
        recompute_blocks(model, again)
        for one, other in zip(step(model, batch), whole, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert graphs() - before == 3, "the encoder's, the decoder's and the decoder's last"
    fewer = model.eval().metrics({name: value[:3] for name, value in batch.items()})
    assert torch.equal(fewer["hidden_loss"], figures["hidden_loss"][:3])
    assert graphs() - before == 3


def test_no_compiler_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch._inductor.config as settings

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(settings.cpp, "cxx", ("no-such-compiler",))
    said = r"cannot compile for cpu here, for want of a C\+\+ compiler .*machine.compile false$"
    with pytest.raises(ValueError, match=said):
        compile_blocks(completion(), CPU)


def test_a_model_without_blocks_stays_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compile_blocks(nn.Linear(2, 2), CPU)
    assert "machine.compile has nothing to do: Linear" in caplog.text
