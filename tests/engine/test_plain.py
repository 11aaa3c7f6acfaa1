"""The plain engine: DeepSpeed's semantics on one process, and its guard."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hpse_dist.engine import Engine, Refusal, build_engine
from hpse_dist.fields import Batch
from hpse_dist.optim import OptimConfig
from hpse_dist.world import World
from tests.engine.toys import CPU, TinyLoader, TinyObjective, make_batch, make_engine


def run(engine: Engine, loader: TinyLoader, updates: int, lr: float = 3e-3) -> dict[str, Tensor]:
    batches = iter(loader)
    for _ in range(updates):
        update(engine, batches, lr)
    return engine.full_state_dict()


def update(engine: Engine, batches: Iterator[Batch], lr: float = 3e-3) -> Refusal | None:
    engine.set_lr(lr)
    refusals = []
    for _ in range(engine.accumulation):
        scalars = engine(next(batches))
        engine.backward(scalars["loss"])
        refusals.append(engine.step())
    return refusals[-1]


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def test_weights_move_at_the_boundary_only() -> None:
    engine = make_engine("plain", accumulation=2)
    before = engine.full_state_dict()
    batch = make_batch(torch.arange(4))
    for micro_step in range(4):
        engine.backward(engine(batch)["loss"])
        engine.step()
        moved = distance(before, engine.full_state_dict() | {"seen": before["seen"]}) > 0
        assert moved == (micro_step >= 1)
    assert engine.updates == 2


def test_accumulation_is_the_large_batch() -> None:
    whole = make_engine("plain", accumulation=1, micro_batch=16)
    parts = make_engine("plain", accumulation=4, micro_batch=4)
    a = run(whole, TinyLoader(World(), 16, 16), 5)
    b = run(parts, TinyLoader(World(), 16, 4), 5)
    assert distance(a, b) < 1e-6
    assert whole.stats()["grad_norm"] == pytest.approx(parts.stats()["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_it_is_adamw_with_clipping(clip: float) -> None:
    """Against torch's own pieces, written out."""
    engine = make_engine("plain", accumulation=1, clip=clip)
    module = TinyObjective()
    vectors = [p for p in module.parameters() if p.ndim <= 1]
    matrices = [p for p in module.parameters() if p.ndim > 1]
    adam = torch.optim.AdamW(
        [{"params": vectors, "weight_decay": 0.0}, {"params": matrices, "weight_decay": 0.05}],
        lr=3e-3,
        betas=(0.9, 0.95),
    )
    loader = TinyLoader(World(), 4, 4)
    batches = iter(loader)
    for _ in range(3):
        adam.zero_grad()
        module(next(batches))["loss"].backward()
        module.spare.grad = torch.zeros(3)
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        adam.step()
    assert distance(run(engine, TinyLoader(World(), 4, 4), 3), module.state_dict()) < 1e-7


def test_ddp_alone_is_plain() -> None:
    for clip in (0.0, 0.3):
        plain, ddp = (make_engine(kind, clip=clip) for kind in ("plain", "ddp"))
        a, b = (run(engine, TinyLoader(World()), 4) for engine in (plain, ddp))
        assert distance(a, b) == 0.0
        assert plain.stats() == ddp.stats()
        ddp.close()


def test_groups_keep_their_own_rate() -> None:
    module = TinyObjective()
    module.lr_scale = lambda name: 0.0 if name.startswith("encoder") else 1.0  # type: ignore
    engine = build_engine(
        "plain",
        module,
        OptimConfig(),
        world=World(),
        device=CPU,
        accumulation=1,
        micro_batch=4,
    )
    before = engine.full_state_dict()
    after = run(engine, TinyLoader(World(), 4, 4), 2)
    assert torch.equal(before["encoder.patch_embed.weight"], after["encoder.patch_embed.weight"])
    assert not torch.equal(before["head.weight"], after["head.weight"])


@pytest.mark.parametrize("kind", ["plain", "ddp"])
@pytest.mark.parametrize(("poison", "said"), [("loss", "the loss"), ("gradient", "the gradient")])
def test_what_is_not_finite_never_reaches_the_weights(kind: str, poison: str, said: str) -> None:
    engine = make_engine(kind)
    loader = TinyLoader(World())
    run(engine, loader, 2)
    before = engine.full_state_dict()
    loader.poison[33] = poison  # first micro-batch of update 3: 32..35
    refusal = update(engine, iter(loader))
    assert refusal is not None
    assert f"step 3: {said} is NaN or infinite" in str(refusal)
    # a bad loss is known by its micro-batch; a bad gradient only by its update
    assert refusal.samples == tuple(range(32, 36 if poison == "loss" else 48))
    after = engine.full_state_dict() | {"seen": before["seen"]}
    assert distance(before, after) == 0.0
    assert engine.updates == 3


@pytest.mark.parametrize("kind", ["plain", "ddp"])
@pytest.mark.parametrize("poison", ["loss", "gradient"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_refused_update_is_a_skipped_one(kind: str, poison: str, precision: str) -> None:
    bad, other = make_engine(kind, precision=precision), make_engine(kind, precision=precision)
    loaders = TinyLoader(World()), TinyLoader(World())
    loaders[0].poison[33] = poison
    run(bad, loaders[0], 5)
    run(other, loaders[1], 2)
    loaders[1].cursor += 16
    assert distance(bad.full_state_dict() | other_seen(other), run(other, loaders[1], 2)) == 0.0


def other_seen(engine: Engine) -> dict[str, Tensor]:
    return {"seen": engine.full_state_dict()["seen"] + 32}


def test_an_infinite_loss_with_a_finite_gradient_is_refused() -> None:
    engine = make_engine("plain", accumulation=1)
    loss = engine(make_batch(torch.arange(4)))["loss"]
    engine._seen[0] = torch.tensor(False), torch.arange(4)
    engine.backward(loss + math.inf)
    refusal = engine.step()
    assert refusal is not None and refusal.what == "the loss"


def test_batch_norm_forgets_a_refused_update() -> None:
    module = TinyObjective()
    module.encoder.blocks[0] = nn.BatchNorm1d(16)
    optim = OptimConfig(warmup_steps=0)
    engine = build_engine(
        "plain", module, optim, world=World(), device=CPU, accumulation=2, micro_batch=4
    )
    loader = TinyLoader(World(), 8, 4)
    run(engine, loader, 1)
    before = engine.full_state_dict()
    loader.poison[9] = "loss"
    assert update(engine, iter(loader)) is not None
    after = engine.full_state_dict() | {"seen": before["seen"]}
    assert distance(before, after) == 0.0


def test_many_bad_samples_are_counted_not_listed() -> None:
    engine = make_engine("plain", accumulation=1)
    batch = make_batch(torch.arange(40))
    batch["image"][0] = math.inf
    engine.backward(engine(batch)["loss"])
    assert "14, 15 and 24 more" in str(engine.step())


def test_bf16_computes_in_bf16_and_keeps_fp32_weights() -> None:
    engine = make_engine("plain", precision="bf16", accumulation=1)
    seen: list[torch.dtype] = []
    engine.module.head.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    state = run(engine, TinyLoader(World(), 4, 4), 2)
    assert set(seen) == {torch.bfloat16}
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}
    fp32 = run(make_engine("plain", accumulation=1), TinyLoader(World(), 4, 4), 2)
    assert distance(state, fp32) > 0


def test_evaluating_leaves_everything_as_it_was() -> None:
    engine = make_engine("plain")
    engine.module.encoder.eval()  # frozen by its objective, say
    with engine.evaluating() as module:
        assert not module.training and not module.head.training
        assert not torch.is_grad_enabled()
    assert engine.module.training and engine.module.head.training
    assert not engine.module.encoder.training


def test_means_leave_out_what_does_not_apply() -> None:
    engine = make_engine("plain")
    means = engine.mean_over_ranks(
        {"loss": torch.tensor([1.0, 3.0]), "pose": torch.tensor([2.0, math.nan])}
    )
    assert means == {"loss": 2.0, "pose": 2.0}
    assert math.isnan(engine.mean_over_ranks({"pose": torch.tensor(math.nan)})["pose"])
    assert engine.mean_over_ranks({}) == {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("one", "other"), [("plain", "plain"), ("plain", "ddp"), ("ddp", "plain")])
def test_state_goes_on_exactly_in_either_engine(
    one: str, other: str, precision: str, tmp_path: Path
) -> None:
    straight = make_engine("plain", precision=precision)
    want = run(straight, TinyLoader(World()), 6)
    first, loader = make_engine(one, precision=precision), TinyLoader(World())
    run(first, loader, 3)
    first.snapshot().write(tmp_path)
    second = make_engine(other, precision=precision, seed=5)
    second.load(tmp_path)
    assert second.updates == 3
    assert distance(want, run(second, loader, 3)) == 0.0


def test_a_folder_without_a_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no training state .* older version"):
        make_engine("plain").load(tmp_path)


def test_impossible_engines_are_refused() -> None:
    with pytest.raises(ValueError, match="one of plain, ddp, zero"):
        make_engine("fsdp")
    with pytest.raises(ValueError, match="for one process"):
        make_engine("plain", World(0, 2, 0, 2))
    with pytest.raises(ValueError, match="accumulation must"):
        make_engine("plain", accumulation=0)
    with pytest.raises(ValueError, match="precision must"):
        make_engine("plain", precision="fp16")


def test_several_processes_need_to_find_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(ValueError, match="MASTER_ADDR and MASTER_PORT not set"):
        make_engine("ddp", World(0, 2, 0, 2))
