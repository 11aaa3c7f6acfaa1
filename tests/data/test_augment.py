from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from hpse_dist.data.augment import AugmentConfig, augment
from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD, Batch
from hpse_dist.geometry.rotations import axis_angle_to_matrix
from hpse_dist.recipe import FinetuneRecipe

WILD = AugmentConfig(crop_scale=(0.5, 1.4), rotation_deg=60)
COLOURLESS = dataclasses.replace(WILD, brightness=0, contrast=0, saturation=0)


def batch(size: int = 6, px: int = 64) -> Batch:
    """Rows as a loader hands them over: points before a camera whose axis is not in the middle."""
    random = torch.Generator().manual_seed(0)
    joints = torch.rand(size, 24, 3, generator=random) - 0.5 + torch.tensor([0.1, -0.2, 3.0])
    camera = torch.tensor([[2.1, 0.0, 0.32], [0.0, 1.9, 0.71], [0.0, 0.0, 1.0]])
    cameras = camera.repeat(size, 1, 1) + torch.rand(size, 1, 1, generator=random) * torch.tensor(
        [[0.3, 0.0, 0.4], [0.0, 0.3, 0.4], [0.0, 0.0, 0.0]]
    )
    one = torch.ones(size, 24, 1)
    return {
        "image": torch.randint(0, 256, (size, px, px, 3), dtype=torch.uint8, generator=random),
        "sample_id": torch.arange(size) * 17,
        "epoch": torch.zeros(size, dtype=torch.int64),
        "intrinsics": cameras,
        "joints3d": torch.cat([joints, one], -1),
        "joints2d": torch.cat([projected(joints, cameras), one], -1),
    }


def projected(points: Tensor, intrinsics: Tensor) -> Tensor:
    """(B, N, 3), (B, 3, 3) -> (B, N, 2): the pinhole, written out."""
    image = points @ intrinsics.mT
    return image[..., :2] / image[..., 2:]


def run(
    raw: Batch, config: AugmentConfig, train: bool = True, px: int = 48, seed: int = 1
) -> Batch:
    return augment(raw, config, seed=seed, train=train, image_px=px, patch_px=8)


def pixels(fields: Batch, name: str = "image") -> Tensor:
    """Normalised -> 0..255."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGE_MEAN, IMAGE_STD))
    return (fields[name] * std + mean) * 255


def test_projected_3d_joints_stay_on_the_2d_joints() -> None:
    raw = batch()
    fields = run(raw, WILD)
    moved = projected(fields["joints3d"][..., :3], fields["intrinsics"])
    assert (moved - fields["joints2d"][..., :2]).abs().max() < 2e-6
    assert (fields["joints2d"] - raw["joints2d"])[..., :2].abs().mean() > 0.05
    assert torch.equal(fields["joints2d"][..., 2], raw["joints2d"][..., 2])
    # the camera was turned, not tilted: depths are as before, distances too
    assert torch.allclose(fields["joints3d"][..., 2], raw["joints3d"][..., 2])
    assert fields["intrinsics"][:, 1, 0].abs().max() == 0, "K stays upright"


def test_several_people_move_as_one_person_does() -> None:
    raw = batch()
    people = {"people2d": raw["joints2d"], "people3d": raw["joints3d"]}
    several = {k: torch.stack([v, v.flip(1)], 1) for k, v in people.items()}
    fields = run({**raw, **several}, WILD)
    for name, alone in (("people2d", "joints2d"), ("people3d", "joints3d")):
        torch.testing.assert_close(fields[name][:, 0], fields[alone])
        torch.testing.assert_close(fields[name][:, 1], fields[alone].flip(1))


def test_the_picture_moves_with_its_joints() -> None:
    raw = batch(px=128)
    raw["image"].zero_()
    raw["joints2d"][:, 0, :2] = torch.tensor([0.55, 0.45])
    raw["image"][:, 54:61, 67:74] = 255  # 7 x 7 pixels around (0.55, 0.45)
    fields = run(raw, COLOURLESS, px=96)
    bright = pixels(fields).mean(1) - 100
    bright = bright.clamp(min=0) * (bright > 60)
    steps = (torch.arange(96) + 0.5) / 96
    total = bright.sum((1, 2))
    x = (bright.sum(1) * steps).sum(1) / total
    y = (bright.sum(2) * steps).sum(1) / total
    found = torch.stack([x, y], 1)
    inside = ((fields["joints2d"][:, 0, :2] - 0.5).abs() < 0.45).all(1)
    assert inside.sum() >= 4
    assert (found - fields["joints2d"][:, 0, :2])[inside].abs().max() < 0.6 / 96


def test_a_turned_body_is_the_body_turned() -> None:
    raw = batch()
    generator = torch.Generator().manual_seed(5)
    pelvis = torch.tensor([0.02, -0.25, 0.04])  # of the rest shape
    orient = torch.randn(6, 3, generator=generator)
    raw["transl"] = raw["joints3d"][:, 0, :3] - pelvis
    raw["global_orient"] = orient
    rest = torch.randn(50, 3, generator=generator)  # vertices as smplx would pose them
    fields = run(raw, WILD)

    def vertices(f: Batch) -> Tensor:
        rotation = axis_angle_to_matrix(f["global_orient"])
        return (rest - pelvis) @ rotation.mT + pelvis + f["transl"][:, None]

    before, after = vertices(raw), vertices(fields)
    on_picture = torch.cat([projected(before, raw["intrinsics"]), torch.ones(6, 50, 1)], -1)
    moved = run({**raw, "joints2d": on_picture}, WILD)["joints2d"][..., :2]
    assert (projected(after, fields["intrinsics"]) - moved).abs().max() < 1e-4
    assert torch.allclose(before[..., 2], after[..., 2], atol=1e-5)
    raw["joints3d"][2, 0, 3] = 0  # without its pelvis a body is not turned
    still = run(raw, WILD)
    assert torch.equal(still["transl"][2], raw["transl"][2])
    assert torch.allclose(still["global_orient"][2], orient[2], atol=1e-5)
    assert not torch.allclose(still["global_orient"][1], orient[1], atol=1e-2)


def test_maps_and_person_go_along() -> None:
    raw = batch(px=64)
    middle = (torch.arange(64) + 0.5) / 64
    on_the_left = (middle < 0.5)[None, :].repeat(64, 1)
    raw["part_map"] = (on_the_left * 3).to(torch.uint8).repeat(6, 1, 1)
    raw["uv_map"] = (
        torch.stack(torch.meshgrid(middle, middle, indexing="xy")).half().repeat(6, 1, 1, 1)
    )
    raw["person"] = (on_the_left[::2, ::2] * 255).to(torch.uint8).repeat(6, 1, 1)
    fields = run(raw, COLOURLESS)
    assert fields["part_map"].shape == (6, 48, 48)
    assert fields["part_map"].dtype == torch.int64
    assert set(fields["part_map"].unique().tolist()) == {0, 3}
    part = fields["uv_map"]
    assert ((fields["part_map"] == 3) == ((part[:, 0] < 0.5) & (part[:, 0] > 0))).all()
    # a pixel of uv_map says where in the stored crop it comes from: the joints' map agrees
    points = fields["joints2d"][..., :2]
    row, joint = ((points > 0) & (points < 1)).all(-1).nonzero().T
    x, y = (points[row, joint] * 48).long().T
    assert len(row) > 20
    came_from = raw["joints2d"][row, joint, :2]
    inside = ((came_from > 0) & (came_from < 1)).all(-1)
    assert (part[row, :, y, x] - came_from)[inside].abs().max() < 1.5 / 48
    share = fields["person"]
    assert share.shape == (6, 6, 6)
    assert share.min() >= 0
    assert share.max() <= 1
    patches = (fields["part_map"] == 3).float().view(6, 6, 8, 6, 8).mean((2, 4))
    assert (share - patches).abs().mean() < 0.04


def test_the_papers_crop_is_cut_pixel_for_pixel() -> None:
    raw = batch(px=64)
    raw["image_ref"] = raw["image"].flip(0)
    config = AugmentConfig((0.75, 0.75), brightness=0, contrast=0, saturation=0)
    fields = run(raw, config)
    corners = []
    for name in ("image", "image_ref"):
        got = pixels(fields, name).round().to(torch.uint8)
        for i in range(6):
            windows = raw[name][i].unfold(0, 48, 1).unfold(1, 48, 1)  # (17, 17, 3, 48, 48)
            hit = (windows == got[i]).flatten(2).all(-1).nonzero()
            assert len(hit) == 1
            corners.append(hit[0])
    y, x = torch.stack(corners)[:6].T
    moved = raw["joints2d"][..., :2] * 64 - torch.stack([x, y], -1)[:, None]
    assert torch.allclose(fields["joints2d"][..., :2], moved / 48, atol=1e-5)
    first, second = torch.stack(corners).split(6)
    assert not torch.equal(first, second), "the two images of a pair are cropped independently"
    assert AugmentConfig().crop_scale[0] * 256 == 224, "the paper's crop"


def test_an_image_does_not_depend_on_its_batch() -> None:
    raw = batch()
    raw["image_ref"] = raw["image"].flip(1)
    together = run(raw, WILD)
    for rows in (slice(2, 3), slice(3, 6)):
        alone = run({name: value[rows] for name, value in raw.items()}, WILD)
        for name, value in alone.items():
            assert torch.allclose(value.double(), together[name][rows].double(), atol=1e-5), name
    other_epoch = run({**raw, "epoch": raw["epoch"] + 1}, WILD)
    assert not torch.allclose(other_epoch["image"], together["image"], atol=0.1)
    assert not torch.allclose(run(raw, WILD, seed=2)["image"], together["image"], atol=0.1)


def test_evaluation_draws_nothing() -> None:
    raw = batch(px=64)
    whole = AugmentConfig(crop_scale=(1.0, 1.0), rotation_deg=30)
    fields = run(raw, whole, train=False, px=64)
    expected = raw["image"].permute(0, 3, 1, 2).float()
    assert (pixels(fields) - expected).abs().max() < 1e-3
    for name in ("joints2d", "joints3d", "intrinsics"):
        assert torch.allclose(fields[name], raw[name], atol=1e-6)
    small = run(raw, whole, train=False, px=32)  # a factor of 2: means of 2 x 2
    means = expected.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    assert (pixels(small) - means).abs().max() < 1e-3
    later = run({**raw, "epoch": raw["epoch"] + 5}, WILD, train=False)
    assert torch.equal(later["image"], run(raw, WILD, train=False)["image"])
    of_the_same_size = run(raw, WILD, train=False, px=64)
    assert torch.equal(of_the_same_size["image"], fields["image"])


def test_people_are_as_large_in_fine_tuning_as_in_evaluation() -> None:
    """On average; a network finds people less well who are smaller than all it was taught with."""
    (given,) = (f for f in dataclasses.fields(FinetuneRecipe) if f.name == "augment")
    config = given.default_factory()  # type: ignore[misc]
    raw = batch(64)
    sizes = [run(raw, config, train)["joints2d"][..., :2].std(1) for train in (True, False)]
    assert abs((sizes[0] / sizes[1]).log().mean()) < 0.05


def test_shrinking_does_not_alias() -> None:
    raw = batch(px=128)
    checker = (torch.arange(128)[:, None] + torch.arange(128)) % 2 * 255
    raw["image"] = checker.to(torch.uint8)[None, :, :, None].repeat(6, 1, 1, 3)
    config = AugmentConfig(crop_scale=(1.0, 1.0), brightness=0, contrast=0, saturation=0)
    assert pixels(run(raw, config, px=32)).std() < 2


def test_colours() -> None:
    raw = batch()
    plain = pixels(run(raw, COLOURLESS))
    brighter = pixels(run(raw, dataclasses.replace(COLOURLESS, brightness=0.4)))
    factor = brighter.mean((1, 2, 3)) / plain.mean((1, 2, 3))
    assert factor.std() > 0.05
    assert factor.min() > 0.58
    assert factor.max() < 1.42
    grey = pixels(run(raw, dataclasses.replace(COLOURLESS, saturation=1.0)))
    spread = (grey.amax(1) - grey.amin(1)).mean((1, 2)) / (plain.amax(1) - plain.amin(1)).mean(
        (1, 2)
    )
    assert spread.min() < 0.6
    flat = pixels(run(raw, dataclasses.replace(COLOURLESS, contrast=1.0)))
    assert (flat.std((1, 2, 3)) / plain.std((1, 2, 3))).min() < 0.7
    assert flat.min() > -0.01
    assert flat.max() < 255.01


def test_rows_without_a_camera_keep_none() -> None:
    raw = batch()
    raw["intrinsics"][3] = 0
    fields = run(raw, WILD)
    assert not fields["intrinsics"][3].any()
    assert torch.isfinite(fields["joints2d"]).all()
    del raw["intrinsics"], raw["joints3d"]
    assert torch.isfinite(run(raw, WILD)["joints2d"]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"crop_scale": (1.0, 0.5)},
        {"crop_scale": (0.0, 0.5)},
        {"rotation_deg": -1.0},
        {"translation": 2.0},
        {"flip": 1.5},
        {"brightness": -0.1},
    ],
)
def test_impossible_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentConfig(**wrong)
