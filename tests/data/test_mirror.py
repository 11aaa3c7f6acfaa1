"""Left and right exchanged, in the picture and in every label alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from hpse_dist.body.joints import PART_NAMES, SMPL24, left_right_order
from hpse_dist.body.model import Body, load_body
from hpse_dist.body.symmetry import free_body_uv_mirror
from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.items import Source
from hpse_dist.data.loader import Loader
from hpse_dist.data.mirror import Mirror, chosen, mirror_of, mirrored
from hpse_dist.fields import Batch
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.data.test_augment import WILD, batch, projected, run

ORDER = list(left_right_order(SMPL24))
PARTS = torch.tensor(left_right_order(PART_NAMES))
MIRROR = Mirror(torch.tensor(ORDER), PARTS)
SIGN = torch.tensor([-1.0, 1.0, 1.0])


def all_of(raw: Batch, mirror: Mirror = MIRROR) -> Batch:
    return mirrored(raw, torch.ones(len(raw["sample_id"]), dtype=torch.bool), mirror)


def test_projected_3d_joints_stay_on_the_2d_joints() -> None:
    raw = batch()
    raw["intrinsics"][:, 0, 1] = 0.13  # with skew too
    raw["joints2d"][..., :2] = projected(raw["joints3d"][..., :3], raw["intrinsics"])
    for fields in (all_of(raw), run(all_of(raw), WILD)):
        moved = projected(fields["joints3d"][..., :3], fields["intrinsics"])
        assert (moved - fields["joints2d"][..., :2]).abs().max() < 3e-6
    flipped = all_of(raw)
    knee, twin = SMPL24.index("left_knee"), SMPL24.index("right_knee")
    assert torch.equal(flipped["joints2d"][:, twin, 0], 1 - raw["joints2d"][:, knee, 0])
    assert torch.equal(flipped["joints3d"][:, twin, :3], raw["joints3d"][:, knee, :3] * SIGN)
    again = all_of(flipped)
    for name, value in raw.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=0)


def test_the_picture_is_reversed_with_its_joints_maps_and_person() -> None:
    raw = batch(px=32)
    raw["joints2d"][:, 0, :2] = torch.tensor([5.5, 9.5]) / 32
    raw["image"].zero_()[:, 9, 5] = 255
    raw["image_ref"] = raw["image"].clone()
    raw["part_map"] = torch.zeros(6, 32, 32, dtype=torch.uint8)
    raw["part_map"][:, 9, 5] = PART_NAMES.index("left_hand")
    raw["person"] = raw["part_map"] * 20
    flipped = all_of(raw)
    x, y = (flipped["joints2d"][0, 0, :2] * 32).long().tolist()
    for name in ("image", "image_ref", "part_map", "person"):
        assert flipped[name].dtype == raw[name].dtype
        found = flipped[name].flatten(3).amax(3) if name[:5] == "image" else flipped[name]
        assert found[0].nonzero().tolist() == [[y, x]], name
    assert (flipped["part_map"][:, y, x] == PART_NAMES.index("right_hand")).all()


def test_a_body_seen_in_a_mirror_is_the_body_of_the_mirrored_numbers() -> None:
    body, random = load_body("free"), torch.Generator().manual_seed(2)
    twin = twins(body)
    numbers = {
        "global_orient": torch.randn(4, 3, generator=random),
        "body_pose": 0.4 * torch.randn(4, 69, generator=random),
        "betas": torch.randn(4, 10, generator=random),
        "transl": torch.randn(4, 3, generator=random) + torch.tensor([0.3, 0.0, 4.0]),
    }
    true = body(*numbers.values())
    pelvis = torch.cat((true.joints[:, :1], torch.ones(4, 1, 1)), 2)
    raw = {"sample_id": torch.arange(4), "joints3d": pelvis.expand(4, 24, 4), **numbers}
    for given in (raw, {k: v for k, v in raw.items() if k != "joints3d"}):
        flipped = all_of(given)
        found = body(*(flipped[name] for name in numbers))
        assert (found.joints[:, ORDER] - true.joints * SIGN).norm(dim=-1).max() < 1e-3
        apart = (found.vertices[:, twin] - true.vertices * SIGN).norm(dim=-1)
        assert apart.mean() < 1e-4 and apart.max() < 0.01, "metres; the mesh is not quite even"


def twins(body: Body) -> np.ndarray:
    vertices = body.v_template.numpy()
    return cKDTree(vertices).query(vertices * [-1.0, 1.0, 1.0])[1]


def test_surface_coordinates_go_to_the_opposite_place() -> None:
    body = load_body("free")
    twin, table = torch.from_numpy(twins(body)), free_body_uv_mirror()
    face = body.faces[::7]
    known = {tuple(sorted(f)): n for n, f in enumerate(body.faces.tolist())}
    there = torch.tensor([known.get(tuple(sorted(f)), -1) for f in twin[face].tolist()])
    here, there = torch.arange(0, len(body.faces), 7)[there >= 0], there[there >= 0]
    uv, opposite = body.corner_uv[here].mean(1), body.corner_uv[there].mean(1)
    raw = {"sample_id": torch.zeros(1), "uv_map": uv.T[None, :, None].half()}  # a row of pixels
    raw["uv_map"][..., 0] = 0  # background
    found = all_of(raw, dataclasses.replace(MIRROR, uv=table))["uv_map"][0, :, 0].T.float().flip(0)
    assert not found[0].any()
    half = {"sample_id": torch.zeros(2), "uv_map": raw["uv_map"].repeat(2, 1, 1, 1)}
    half["uv_map"][1] = 0  # a background of one picture alone
    both = all_of(half, dataclasses.replace(MIRROR, uv=table))["uv_map"]
    assert torch.equal(both[0, :, 0].T.float().flip(0), found) and not both[1].any()
    apart = (found - opposite).norm(dim=1)[1:]
    assert apart.median() < 0.002 and apart.max() < 0.01, "dense pose calls 0.05 right"
    assert (uv - opposite).norm(dim=1).median() > 0.1, "else there was nothing to do"


def test_rows_without_labels_stay_without() -> None:
    raw = batch()
    raw["intrinsics"][3] = 0
    raw["transl"] = raw["joints3d"][:, 0, :3] - torch.tensor([0.01, -0.2, 0.0])
    raw["joints3d"][2, :, 3] = 0
    flipped = all_of(raw)
    assert not flipped["intrinsics"][3].any()
    assert torch.equal(flipped["transl"][2], raw["transl"][2] * SIGN)
    assert flipped["joints3d"][0, 0, 0] - flipped["transl"][0, 0] == pytest.approx(0.01, abs=1e-6)


def test_relations_of_depth_name_the_same_points() -> None:
    raw = batch()
    people = torch.stack([raw["joints3d"], raw["joints3d"] + 1], 1)
    pairs = torch.randint(0, 48, (6, 10, 2), generator=torch.Generator().manual_seed(1))
    flipped = all_of({**raw, "people3d": people, "depth_pairs": pairs})

    def depth(of: Tensor, which: Tensor) -> Tensor:
        return of[..., 2].flatten(1).gather(1, which.flatten(1))

    assert torch.equal(depth(flipped["people3d"], flipped["depth_pairs"]), depth(people, pairs))
    assert not torch.equal(flipped["depth_pairs"], pairs)


def loader(needs: list[str], flip: float, sampling: Any = "frames", seed: int = 3) -> Loader:
    config = AugmentConfig((1.0, 1.0), 0, 0, flip, 0, 0, 0)
    return Loader(
        [Source(made_collection("raw"))], needs=needs, sampling=sampling, world=World(), seed=seed,
        global_batch=16, micro_batch=16, augment=config, image_px=64, patch_px=8,
    )  # fmt: skip


def first(made: Loader) -> Batch:
    found = next(iter(made))
    made.close()
    return found


def test_a_loader_mirrors_rows_whole_and_by_their_sample() -> None:
    needs = ["image", "sample_id", "joints2d", "joints3d", "intrinsics", "transl", "part_map"]
    needs += ["person", "global_orient", "body_pose", "depth_pairs"]
    still, some = (first(loader(needs, flip)) for flip in (0.0, 0.5))
    which = (some["image"] != still["image"]).flatten(1).any(1)
    assert 2 < which.sum() < 14
    assert torch.equal(some["image"][which], still["image"][which].flip(-1))
    for name in needs:
        assert torch.equal(some[name][~which], still[name][~which]), name
        if name not in ("sample_id", "person", "depth_pairs"):  # alike in made people
            assert not torch.equal(some[name][which], still[name][which]), name
    moved = projected(some["joints3d"][..., :3], some["intrinsics"])
    assert (moved - some["joints2d"][..., :2]).abs().max() < 1e-5
    everything = first(loader(needs, 1.0))
    assert torch.equal(everything["image"], still["image"].flip(-1))
    ids = torch.arange(1000)
    share = chosen({"sample_id": ids, "epoch": ids * 0}, 0.3, 0).float().mean()
    assert share.item() == pytest.approx(0.3, abs=0.05)


def test_both_pictures_of_a_pair_or_none() -> None:
    needs = ["image", "image_ref", "person"]
    still, some = (first(loader(needs, flip, "pairs")) for flip in (0.0, 0.5))
    which = [(some[n] != still[n]).flatten(1).any(1) for n in ("image", "image_ref")]
    assert torch.equal(*which) and 2 < which[0].sum() < 14
    assert torch.equal(some["image_ref"][which[0]], still["image_ref"][which[0]].flip(-1))


@pytest.mark.parametrize(
    ("manifest", "needs", "words"),
    [
        ({"joint_set": "own19"}, ["joints2d"], "to tell left from right, and these .* own19"),
        ({"details": {"body": "files/SMPL.pkl"}}, ["uv_map"], "of the body files/SMPL.pkl, whose"),
        ({}, ["image", "hand_side"], "not known what the field hand_side becomes"),
        ({}, ["image", "hand_pose", "has_hand"], "hand_pose, has_hand are parameters of MANO's"),
    ],
)
def test_what_cannot_be_mirrored_is_said(manifest: dict, needs: list[str], words: str) -> None:
    class Made:
        folder = "collections/made"
        fields = dict.fromkeys(["joints2d", "uv_map"])

    made = Made()
    made.manifest = {"joint_set": "smpl24", "details": {"body": "free"}, **manifest}  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=words):
        mirror_of([made], needs)  # type: ignore[list-item]
    wrong = batch()
    wrong["joints2d"] = wrong["joints2d"][:, :5]
    with pytest.raises(ValueError, match="joints2d has 5 joints and its joint set 24"):
        all_of(wrong)
