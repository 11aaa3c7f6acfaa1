"""Part-guided synthesis: what is drawn, what teaches and what does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hpse_dist.body.joints import PART_NAMES
from hpse_dist.body.kinematics import place_limbs, trunk_frame
from hpse_dist.fields import Batch
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.objectives.dolls import SHADES, Dolls
from hpse_dist.objectives.part_synthesis import (
    PartSynthesis,
    PartSynthesisConfig,
    part_error,
    pyramid_error,
)
from hpse_dist.objectives.puppet_pictures import puppet_pictures
from hpse_dist.objectives.unpaired import Posed, Unpaired
from hpse_dist.source import Source, encoder_of, named_by_timm
from hpse_dist.synth.poses import pose_file
from tests.fabricate import fabricate, gradients

SMALL = PartSynthesisConfig(poses="limits", map_px=16, dim=8, head_dim=32, warmup=0.5)
IDS = torch.arange(64)
FRONT = torch.diag(torch.tensor([1.0, -1.0, -1.0]))[None]  # facing the camera
BACK = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))[None]


def built(**changes: object) -> PartSynthesis:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    return PartSynthesis(replace(SMALL, **changes), encoder, seed=3)  # type: ignore[arg-type]


def at_rest(unpaired: Unpaired, turn: Tensor) -> Posed:
    scale, pelvis = torch.tensor([0.45]), torch.tensor([[0.5, 0.5]])
    return unpaired.seen(unpaired.rest[None], turn, scale, pelvis, torch.zeros(1))


def drawn_doll(
    dolls: Dolls,
    posed: Posed,
    skirt: float = 0.0,
    hidden: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
    thing: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * 4,
) -> Tensor:
    count = len(posed.scale)
    scene = (
        torch.tensor([[thing]]).expand(count, 1, 4, 2),
        torch.tensor([hidden]).expand(count, 4),
    )
    return dolls.draw(
        posed,
        torch.ones(count, len(dolls.names)),
        torch.full((count,), skirt),
        torch.zeros(count, 2),
        scene,
        128,
    )


def limbs_of(seen: Tensor) -> Tensor:
    """Numbers of limbs from 0, -1 for the background."""
    return torch.div(seen.long() - 1, SHADES, rounding_mode="floor")


@pytest.fixture(scope="module")
def unpaired() -> Unpaired:
    return Unpaired("limits", "free", (0.7, 0.9), 0.05)


def test_drawn_poses_are_whole_and_in_the_picture(unpaired: Unpaired) -> None:
    posed = unpaired.draw(0, 1, IDS)
    torch.testing.assert_close(
        place_limbs(posed.local, unpaired.lengths) @ posed.turn.mT, posed.joints
    )
    vectors = posed.local @ posed.turn.mT
    torch.testing.assert_close(trunk_frame(vectors), posed.turn, rtol=0, atol=1e-4)
    assert torch.equal(posed.joints2d, posed.project(posed.joints))
    size = (posed.joints2d.amax(1) - posed.joints2d.amin(1)).amax(1)
    margin = 0.2 * posed.scale  # the flesh on both sides
    assert (size + margin).min() > 0.69 and (size + margin).max() < 0.91
    middle = (posed.joints2d.amax(1) + posed.joints2d.amin(1)) / 2
    assert (middle - 0.5).abs().max() < 0.051
    fronts = posed.turn[:, 2, 2]  # the chest's direction along the camera's axis
    assert (fronts > 0.5).any() and (fronts < -0.5).any()


def test_draws_are_keyed_by_seed_sample_and_epoch(unpaired: Unpaired) -> None:
    one = unpaired.draw(0, 1, IDS).joints
    assert torch.equal(unpaired.draw(0, 1, IDS[5:9]).joints, one[5:9])
    for other in (
        unpaired.draw(1, 1, IDS),
        unpaired.draw(0, 2, IDS),
        unpaired.draw(0, 1, IDS + 64),
    ):
        assert not torch.equal(other.joints, one)


def test_limits_alone_give_poses_within_the_limits(unpaired: Unpaired) -> None:
    assert unpaired.excess(unpaired.draw(0, 0, IDS)).max() < 1e-3


def test_what_is_nearer_to_a_near_camera_looks_larger(unpaired: Unpaired) -> None:
    camera = (torch.tensor([0.4]), torch.tensor([[0.5, 0.5]]))
    places = torch.tensor([[[0.5, 0.0, -0.5], [0.5, 0.0, 0.0], [0.5, 0.0, 0.5]]])
    for closeness, sizes in ((0.0, [0.2, 0.2, 0.2]), (0.4, [0.25, 0.2, 1 / 6])):
        posed = unpaired.seen(unpaired.rest[None], FRONT, *camera, torch.tensor([closeness]))
        torch.testing.assert_close(posed.project(places)[0, :, 0] - 0.5, torch.tensor(sizes))
        torch.testing.assert_close(posed.project(posed.joints), posed.joints2d)


def test_a_face_is_seen_from_the_front_only(unpaired: Unpaired) -> None:
    dolls = Dolls(unpaired)
    face = dolls.names.index("face")
    shares, drawn = [], []
    for turn in (FRONT, BACK):
        posed = at_rest(unpaired, turn)
        parts = unpaired.parts(posed, 64)
        assert parts.shape == (1, len(PART_NAMES) + 1, 64, 64)
        shares.append(float(parts[:, -1].sum()))
        drawn.append(int((limbs_of(drawn_doll(dolls, posed)) == face).sum()))
    assert shares[0] > 4 * shares[1]
    assert drawn[0] > 30 and drawn[1] < 0.25 * drawn[0]


def test_a_doll_covers_what_the_puppet_covers(unpaired: Unpaired) -> None:
    posed = unpaired.draw(0, 0, IDS[:16])
    posed = replace(posed, closeness=torch.zeros(16))
    posed = replace(posed, joints2d=posed.project(posed.joints))
    puppet = unpaired.parts(posed, 128)[:, 0] < 0.5
    doll = drawn_doll(Dolls(unpaired), posed) > 0
    overlap = (puppet & doll).sum((1, 2)) / (puppet | doll).sum((1, 2))
    assert overlap.min() > 0.6 and overlap.mean() > 0.8


def test_a_doll_is_where_its_joints_are(unpaired: Unpaired) -> None:
    """Counted from the picture's corner: seen in a mirror it is the picture's mirror image."""
    posed = unpaired.draw(0, 0, IDS)
    dolls, order = Dolls(unpaired), torch.tensor(unpaired.mirror)
    opposite = replace(
        posed,
        joints=(posed.joints * torch.tensor([-1.0, 1.0, 1.0]))[:, order],
        joints2d=(posed.joints2d * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0]))[:, order],
    )
    mine, mirrored = drawn_doll(dolls, posed) > 0, drawn_doll(dolls, opposite) > 0
    apart = [(mine != mirrored.flip(-1).roll(shift, -1)).sum() for shift in (0, -1, 1)]
    assert apart[0] < 0.5 * apart[1] and apart[0] < 0.5 * apart[2]


def test_near_limbs_hide_far_ones_and_each_has_its_shades(unpaired: Unpaired) -> None:
    dolls = Dolls(unpaired)
    turn = torch.tensor([[[0.0, 0.0, 1.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])  # left is far
    seen = drawn_doll(dolls, at_rest(unpaired, turn))
    count = {
        side: int((limbs_of(seen) == dolls.names.index(f"{side}_upper_leg")).sum())
        for side in ("left", "right")
    }
    assert count["right"] > 200 and count["left"] < 0.1 * count["right"]
    assert set(((seen[seen > 0] - 1) % SHADES).tolist()) == set(range(SHADES))


def test_skirts_things_behind_and_covers(unpaired: Unpaired) -> None:
    dolls, posed = Dolls(unpaired), at_rest(unpaired, FRONT)
    skirt = dolls.names.index("skirt")
    for length, rows in ((0.0, 0), (0.6, 15), (1.2, 28)):
        seen = limbs_of(drawn_doll(dolls, posed, skirt=length)) == skirt
        assert int(seen.any(2).sum()) >= rows and bool(seen.any()) == (rows > 0)
    whole = drawn_doll(dolls, posed)
    wall = ((-0.5, -0.5), (1.5, -0.5), (1.5, 1.5), (-0.5, 1.5))  # behind all, of the next number
    behind = drawn_doll(dolls, posed, thing=wall)
    person = whole > 0
    assert torch.equal(behind[person], whole[person])
    assert behind[~person].unique().tolist() == [1 + len(dolls.names) * SHADES]
    covered = drawn_doll(dolls, posed, hidden=(0.0, 0.5, 1.0, 2.0))
    assert torch.equal(covered[:, :64], whole[:, :64]) and not covered[:, 64:].any()
    assert whole[:, 64:].any()


def test_surroundings_come_from_the_sides_and_hold_no_pose(unpaired: Unpaired) -> None:
    """What stands in the middle of the picture that lends its surroundings is not seen."""
    around = fabricate(("image",), batch=8, image_px=64)["image"]
    other = around.clone()
    other[..., 26:38] = 0.0
    posed, dolls = unpaired.draw(0, 0, IDS[:8]), Dolls(unpaired)
    epoch = torch.zeros(8).long()
    one, two = (puppet_pictures(dolls, posed, a, 0, epoch, IDS[:8]) for a in (around, other))
    torch.testing.assert_close(one, two)
    assert (one[1:] - one[:1]).abs().amax((1, 2, 3)).min() > 0.5


def test_pictures_are_keyed_by_sample(unpaired: Unpaired) -> None:
    """The same picture for a sample whatever else is in its batch: exact over ranks."""
    around = fabricate(("image",), batch=8, image_px=32)["image"]
    posed, dolls, epoch = unpaired.draw(0, 0, IDS[:8]), Dolls(unpaired), torch.zeros(8).long()
    whole = puppet_pictures(dolls, posed, around, 0, epoch, IDS[:8])
    some = slice(3, 5)
    alone = puppet_pictures(dolls, posed.rows(some), around[some], 0, epoch[some], IDS[some])
    assert torch.equal(alone, whole[some])


def test_labels_teach_only_the_share_that_they_should() -> None:
    needs = (*SMALL.needs, "joints3d")
    batch = fabricate(needs)
    other = {**batch, "joints3d": batch["joints3d"] + torch.randn_like(batch["joints3d"])}
    other["joints3d"][..., 3] = batch["joints3d"][..., 3]
    for fraction, same in ((0.0, True), (1.0, False)):
        objective = built(label_fraction=fraction)
        losses = [objective(b)["loss"].item() for b in (batch, other)]
        assert (losses[0] == losses[1]) == same


def test_unlabelled_data_needs_no_joints() -> None:
    objective = built(scored=False)
    assert "joints3d" not in objective.needs
    batch = fabricate(objective.needs)
    assert objective(batch)["loss"].isfinite()
    assert set(objective.metrics(batch)) == {"picture_error", "pa_mpjpe_made"}
    assert objective.panels(batch)


def test_half_precision_is_for_networks() -> None:
    objective = built(warmup=0.0)
    batch = fabricate(objective.needs)
    exact = objective(batch)
    with torch.autocast("cpu", torch.bfloat16):
        posed = objective.unpaired.draw(0, 0, IDS)
        half = objective(batch)
    assert torch.equal(posed.joints2d, objective.unpaired.draw(0, 0, IDS).joints2d)
    half["loss"].backward()
    torch.testing.assert_close(half["loss"], exact["loss"], rtol=0.03, atol=0)


def synthesis_gradient(objective: PartSynthesis, batch: Batch) -> Tensor | None:
    """Gradient of the synthesised pictures' error alone in the pose head."""
    weights = {k: 0.0 for k in vars(SMALL) if k.endswith("_weight")}
    object.__setattr__(
        objective,
        "config",
        replace(objective.config, **weights | {"limb_weight": 1e-9, "picture_weight": 1.0}),
    )
    return gradients(objective, [batch])["to_limbs.weight"].abs().max()


def test_pictures_teach_the_pose_after_the_warm_up_only() -> None:
    objective = built()
    batch = fabricate(objective.needs)
    before = synthesis_gradient(objective, batch)
    objective.after_step(0.6)
    after = synthesis_gradient(objective, batch)
    assert before is not None and after is not None and after > 100 * before


def test_the_mean_pose_is_the_measure() -> None:
    objective = built()
    batch = fabricate(objective.needs)
    figures = {k: float(v.nanmean()) for k, v in objective.metrics(batch).items()}
    gain = objective.summary(figures)["pose_gain"]
    assert gain == pytest.approx(100 * (1 - figures["pa_mpjpe"] / figures["pa_mpjpe_mean"]))
    assert objective.summary({"picture_error": 1.0}) == {}


def test_the_mean_pose_is_nearer_to_the_poses_than_any_of_them(tmp_path: Path) -> None:
    from hpse_dist.metrics.pose3d import pa_mpjpe

    unpaired = Unpaired(str(pose_file(tmp_path, num_motions=8)), "free", (0.7, 0.9), 0.05)
    joints = place_limbs(unpaired.poses, unpaired.lengths)
    known = torch.ones(joints.shape[:2], dtype=torch.bool)
    error = pa_mpjpe(unpaired.mean_joints.expand_as(joints), joints, known).mean()
    for number in range(0, len(joints), 7):
        assert error < pa_mpjpe(joints[number].expand_as(joints), joints, known).mean()


def test_errors_of_pictures_and_parts() -> None:
    rng = torch.Generator().manual_seed(0)
    picture = torch.rand(2, 3, 16, 16, generator=rng)
    assert pyramid_error(picture, picture).max() == 0
    flat = torch.full((1, 3, 16, 16), 0.25)
    torch.testing.assert_close(pyramid_error(flat, flat + 0.5), torch.tensor([0.5]))
    parts = torch.zeros(1, 3, 4, 4)
    parts[:, 1, :2] = 1.0  # the rest is unsure of everything
    logits = 20 * parts
    assert part_error(logits, parts) < 1e-6
    assert part_error(-logits, parts) > 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 12}, "multiple of 8"),
        ({"warmup": 1.5}, "0..1"),
        ({"extent": (0.9, 0.5)}, "rising"),
        ({"made": 0}, "at least 1"),
        ({"distance": (0.5, 4.0)}, "rising numbers from 1.5"),
        ({"limb_weight": 0.0, "joints_weight": 0.0}, "limb_weight or joints_weight"),
    ],
)
def test_impossible_values(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)  # type: ignore[arg-type]


def test_maps_must_fit_the_picture() -> None:
    with pytest.raises(ValueError, match="power of two"):
        built(map_px=12)


@pytest.mark.parametrize("kind", ["custom", "conv", "timm"])
def test_pictures_of_another_size_than_the_sources(kind: str) -> None:
    """The recipe says how large pictures are, whatever the source was trained on."""
    if kind == "timm":
        config = EncoderConfig("timm", timm="resnet18")
    else:
        config = EncoderConfig(kind, 96, 8, dim=32, depth=1, heads=2)  # type: ignore[arg-type]
    encoder = build_encoder(config)
    source = Source("other", config, named_by_timm(encoder).state_dict(), {})
    model = PartSynthesis(SMALL, encoder_of(source, 64), seed=3)
    assert model.encoder.config == config  # its positions have the size that they had
    image = torch.randn(1, 3, 64, 64)
    pose = model.eval().pose(image)[1]
    assert model.paint(image, pose, pose).shape == image.shape
    with pytest.raises(ValueError, match="the picture's side, 96, over"):
        PartSynthesis(SMALL, encoder_of(source, 96), seed=3)


def test_poses_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no folder"):
        built(poses=str(tmp_path / "amass"))
    np.savez(tmp_path / "other.npz", betas=np.zeros(3))
    with pytest.raises(ValueError, match="holds no poses"):
        built(poses=str(tmp_path / "other.npz"))
