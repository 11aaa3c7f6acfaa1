"""Instance objectives beside slow, plain transcriptions of their papers' formulas."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.config import build as build_config
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives import OBJECTIVES, build
from hpse_dist.objectives.base import Objective
from hpse_dist.objectives.densecl import Densecl, matches
from hpse_dist.objectives.dino import (
    Dino,
    DinoConfig,
    distillation,
    sharpened,
    teacher_momentum,
    teacher_temperature,
)
from hpse_dist.objectives.instances import Kept, Queue, info_nce, retrieval
from hpse_dist.objectives.moco import Moco
from hpse_dist.objectives.peclr import nt_xent, taken_back
from hpse_dist.recipe import PretrainRecipe
from hpse_dist.run import pretrain
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.fabricate import fabricate, rows
from tests.interrupted import interrupted
from tests.objectives.test_contract import SMALL

NAMES = ("densecl", "dino", "moco", "peclr")


def small(name: str, seed: int = 3) -> Any:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2))
    return build(SMALL[name], encoder, seed=seed)


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_info_nce_is_its_formula() -> None:
    query, positive, negatives = unit(3, 5), unit(3, 5, seed=1), unit(7, 5, seed=2)
    found = info_nce(query, positive, negatives, 0.2)
    for i in range(3):
        own = math.exp(float(query[i] @ positive[i]) / 0.2)
        others = sum(math.exp(float(query[i] @ negative) / 0.2) for negative in negatives)
        assert found[i].item() == pytest.approx(-math.log(own / (own + others)), rel=1e-4)


@pytest.mark.parametrize("counts", [(4, 4, 4), (3, 5, 9), (25, 2)])
def test_queue_holds_the_last_keys(counts: tuple[int, ...]) -> None:
    queue = Queue(10, 2, seed=0)
    plain = [tuple(key.tolist()) for key in queue.keys]
    for i, count in enumerate(counts):
        keys = unit(count, 2, seed=i + 5)
        queue.put(keys)
        plain = (plain + [tuple(key.tolist()) for key in keys])[-10:]
    assert sorted(tuple(key.tolist()) for key in queue.keys) == sorted(plain)
    before = sorted([*plain[1:], (5.0, 5.0)])
    queue.put(torch.full((1, 2), 5.0))  # the oldest key is the next to go
    assert sorted(tuple(key.tolist()) for key in queue.keys) == before


def test_moco_queue_and_momentum() -> None:
    moco: Moco = small("moco")
    batch = fabricate(moco.needs)
    with torch.no_grad():
        for parameter in (*moco.encoder.parameters(), *moco.head.parameters()):
            parameter += 0.1  # as an update would
    before = {n: p.clone() for n, p in moco.key_encoder.named_parameters()}
    queue = moco.queue.keys.clone()
    view = moco.view(batch, "second").image
    with torch.no_grad():
        key = F.normalize(moco.key_head(moco.key_encoder(view).mean(1)), dim=-1)
    moco(batch)
    assert torch.equal(moco.queue.keys, queue), "forward leaves the queue alone"
    moco.after_step(0.5)
    theirs = dict(moco.encoder.named_parameters())
    for name, parameter in moco.key_encoder.named_parameters():
        expected = 0.999 * before[name] + 0.001 * theirs[name]
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(moco.queue.keys[:8], key)
    assert torch.equal(moco.queue.keys[8:], queue[8:])


def test_kept_rows_come_in_the_order_of_their_ids() -> None:
    kept = Kept()
    for ids, epochs in (([5, 2], [0, 1]), ([2, 9], [0, 0])):
        values = torch.tensor(ids) * 10.0 + torch.tensor(epochs)
        kept.add({"sample_id": torch.tensor(ids), "epoch": torch.tensor(epochs)}, values)
    assert kept.take()[0].tolist() == [20.0, 21.0, 50.0, 90.0]
    assert kept.take() == []


def test_densecl_matches_by_cosine_and_its_loss_is_the_papers() -> None:
    densecl: Densecl = small("densecl")
    batch = fabricate(densecl.needs)
    one, two = densecl.view(batch, "first").image, densecl.view(batch, "second").image
    with torch.no_grad():
        a, b = densecl.encoder(one), densecl.key_encoder(two)
        r, t = densecl.dense_head(a), densecl.key_dense_head(b)
        total, found = 0.0, matches(a, b)
        for i in range(8):
            for s in range(16):
                cosines = [float(F.cosine_similarity(a[i, s], b[i, j], dim=0)) for j in range(16)]
                best = cosines.index(max(cosines))
                assert found[i, s] == best
                query, positive = F.normalize(r[i, s], dim=0), F.normalize(t[i, best], dim=0)
                own = math.exp(float(query @ positive) / 0.2)
                others = sum(math.exp(float(query @ k) / 0.2) for k in densecl.dense_queue.keys)
                total -= math.log(own / (own + others)) / (8 * 16)
        scalars = densecl(batch)
    assert scalars["loss_dense"].item() == pytest.approx(total, rel=1e-4)
    mean = (scalars["loss_dense"] + scalars["loss_global"]) / 2
    assert scalars["loss"].item() == pytest.approx(mean.item())
    densecl.after_step(0.1)
    expected = F.normalize(t.mean(1), dim=-1)
    torch.testing.assert_close(densecl.dense_queue.keys[:8], expected)


def test_dino_loss_is_its_formula() -> None:
    student, outputs = torch.randn(5, 3, 6), torch.randn(2, 3, 6)
    centre = torch.randn(6)
    targets = sharpened(outputs, centre, 0.5)
    found = distillation(student / 0.1, targets)
    for row in range(3):
        terms = []
        for t in range(2):
            weight = [math.exp(float(outputs[t, row, k] - centre[k]) / 0.5) for k in range(6)]
            for v in range(5):
                if v == t:
                    continue
                guess = [math.exp(float(student[v, row, k]) / 0.1) for k in range(6)]
                terms.append(
                    -sum(
                        weight[k] / sum(weight) * math.log(guess[k] / sum(guess)) for k in range(6)
                    )
                )
        assert len(terms) == 8
        assert found[row].item() == pytest.approx(sum(terms) / 8, rel=1e-3)


def test_dino_centre_and_teacher() -> None:
    dino: Dino = small("dino")
    batch = fabricate(dino.needs)
    with torch.no_grad():
        large = [view for view in dino._large_views(batch, batch["epoch"])]
        outputs = [dino.teacher_head(dino.teacher_encoder(view).mean(1)) for view in large]
        for parameter in dino.encoder.parameters():
            parameter += 0.1
    before = dino.teacher_encoder.norm.bias.clone()
    for start in (0, 4):
        dino(rows(batch, start, start + 4))
    dino.after_step(0.25)
    rows_seen = [row for output in outputs for row in output]
    mean = sum(rows_seen) / len(rows_seen)
    torch.testing.assert_close(dino.centre, 0.1 * mean, rtol=1e-4, atol=1e-6)
    expected = 0.996 * before + 0.004 * dino.encoder.norm.bias
    torch.testing.assert_close(dino.teacher_encoder.norm.bias, expected)
    assert dino.progress == 0.25


def test_dino_schedules_and_frozen_prototypes() -> None:
    config = DinoConfig()
    assert [round(teacher_temperature(config, p), 4) for p in (0, 0.15, 0.3, 1)] == [
        0.04, 0.055, 0.07, 0.07
    ]  # fmt: skip
    assert teacher_momentum(config, 0) == pytest.approx(0.996)
    assert teacher_momentum(config, 0.5) == pytest.approx(0.998)
    assert teacher_momentum(config, 1) == pytest.approx(1)
    dino: Dino = small("dino")
    dino.config = build_config(DinoConfig, {"num_local": 2, "freeze_last": 0.5})
    batch = fabricate(dino.needs)
    dino(batch)["loss"].backward()
    assert dino.head.prototypes.grad is None and dino.head.mlp[0].weight.grad is not None
    dino.after_step(0.5)
    dino(batch)["loss"].backward()
    assert dino.head.prototypes.grad.abs().max() > 0


def test_nt_xent_is_its_formula() -> None:
    z, ids = unit(4, 2, 5), torch.arange(4)
    found = nt_xent(z, z, ids, ids, 0.5)
    flat = z.reshape(8, 5)
    for i in range(8):
        partner = i ^ 1
        logits = [math.exp(float(flat[i] @ flat[k]) / 0.5) for k in range(8)]
        expected = -math.log(logits[partner] / (sum(logits) - logits[i]))
        assert found[i // 2, i % 2].item() == pytest.approx(expected, rel=1e-4)


def test_an_equivariant_projection_is_taken_back_to_one_and_the_same() -> None:
    """Points that move as the picture does agree once both views are undone, if L is as said."""
    from hpse_dist.views import make_views

    peclr = small("peclr")
    ids = torch.arange(5)
    picture = torch.zeros(5, 3, 8, 8)
    points = torch.rand(5, 12, 2, generator=torch.Generator().manual_seed(0))
    backs = []
    for name in ("one", "two"):
        views = make_views(picture, ids, 0, 0, name, peclr.config.view)
        placed = torch.cat((points, torch.ones(5, 12, 1)), 2) @ views.to_view.mT
        # as points about the view's middle, in a unit of their own extent
        seen = placed[..., :2] - 0.5
        extent = seen.flatten(1).amax(1) - seen.flatten(1).amin(1)
        back = taken_back(seen.flatten(1), views.from_view)
        middle = (views.from_view[:, :2, :2].sum(2) / 2 + views.from_view[:, :2, 2]) - 0.5
        # exact where the extent is the view's side: the rest of the shift is put right here
        back = back.unflatten(1, (-1, 2)) + ((1 - extent)[:, None] * middle)[:, None]
        backs.append(back)
    torch.testing.assert_close(backs[0], backs[1], atol=1e-4, rtol=0)
    torch.testing.assert_close(backs[0], points - 0.5, atol=1e-4, rtol=0)


def test_retrieval_counts_valid_pictures_only() -> None:
    key = unit(4, 6)
    query = key[[0, 1, 3, 3]]
    valid = torch.tensor([True, True, True, False])
    found = retrieval(query, key, valid)
    assert found["retrieval_top1"][:3].tolist() == [1.0, 1.0, 0.0]
    assert found["retrieval_chance"].tolist() == pytest.approx([1 / 3] * 4)


@pytest.mark.parametrize("name", NAMES)
def test_buffers_make_a_resume_exact(name: str, tmp_path: Path) -> None:
    """Killed after a checkpoint and begun again: the same weights, queues, centres to the bit."""
    collection = made_collection()

    def recipe(folder: str) -> PretrainRecipe:
        values = {
            "name": name,
            "collections": [{"path": str(collection.folder)}],
            "encoder": {
                "name": "custom", "image_px": 32, "patch_px": 8, "dim": 32, "depth": 1, "heads": 2
            },
            "objective": {"name": name, **CHANGES[name]},
            "global_batch": 8,
            "steps": 5,
            "precision": "fp32",
            "optim": {"lr": 1e-3, "warmup_steps": 1},
            "machine": {
                "micro_batch": 8 if name == "peclr" else 4,
                "engine": "plain", "checkpoint_every": 2, "log_every": 1,
                "device": "cpu", "out": str(tmp_path / folder),
            },
        }  # fmt: skip
        return build_config(PretrainRecipe, values)

    whole, broken = recipe("whole"), recipe("broken")
    pretrain(whole, World(), whole.folder())

    with interrupted(after=3):
        pretrain(broken, World(), broken.folder())
    pretrain(broken, World(), broken.folder())
    files = [
        sorted(r.folder().glob("checkpoints/step_*5/state-00000.safetensors"))[-1].read_bytes()
        for r in (whole, broken)
    ]
    assert files[0] == files[1]


CHANGES: dict[str, dict[str, Any]] = {
    "moco": {"dim": 16, "hidden": 32, "queue": 20},
    "densecl": {"dim": 16, "hidden": 32, "queue": 20},
    "dino": {"num_local": 1, "prototypes": 16, "hidden": 16, "bottleneck": 8},
    "peclr": {"dim": 16, "hidden": 32},
}


def test_momentum_copies_do_not_train_and_refuse_sharding() -> None:
    for name in NAMES:
        objective: Objective = small(name)
        copies = {n for n, p in objective.named_parameters() if not p.requires_grad}
        assert bool(copies) == (not OBJECTIVES[name].shardable) == (name != "peclr")
        twin = copy.deepcopy(objective)
        assert twin.state_dict().keys() == objective.state_dict().keys()


@pytest.mark.parametrize("name", NAMES)
def test_convolutional_encoders_serve_too(name: str) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("timm", 64, timm="resnet10t"))
    objective = build(SMALL[name], encoder, seed=3)
    batch = fabricate(objective.needs, image_px=64)
    objective(batch)["loss"].backward()
    learning = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learning)
    objective.after_step(0.5)
    objective.eval()
    assert objective.metrics(batch)["retrieval_top1"].shape == (8,)
    assert objective.panels(batch)


@pytest.mark.parametrize("name", ["densecl", "moco"])
def test_a_key_depends_on_its_own_picture_alone(name: str) -> None:
    """Statistics of a batch would tell which keys were made beside a query (MoCo, section 3.3)."""
    torch.manual_seed(0)
    moco: Moco = build(SMALL[name], build_encoder(EncoderConfig("conv", 32, 8, dim=32)), seed=3)
    moco.train()
    batch = fabricate(moco.needs)
    for _ in range(3):
        moco(batch)
        moco.after_step(0.5)
    norm, copied = (
        next(part for part in encoder.modules() if isinstance(part, torch.nn.BatchNorm2d))
        for encoder in (moco.encoder, moco.key_encoder)
    )
    assert torch.equal(norm.num_batches_tracked, torch.tensor(3))
    # of 0.9 + 0.1 v, 0.81 + 0.19 v and 0.729 + 0.271 v the mean: views differ little in v
    variance = (norm.running_var - 0.729) / 0.271
    expected = 0.813 + 0.187 * variance
    torch.testing.assert_close(copied.running_var, expected, rtol=1e-2, atol=1e-2)

    def keys(part: dict[str, Tensor]) -> Tensor:
        moco(part)
        kept = moco._kept.take()[0]
        moco.after_refusal()
        return kept

    alone = keys(rows(batch, 0, 1))
    order = batch["sample_id"].argsort().tolist()
    torch.testing.assert_close(alone[0], keys(batch)[order.index(0)], rtol=1e-4, atol=1e-5)
