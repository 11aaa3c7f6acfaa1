"""Relations of depth: right where they speak, silent where they cannot know."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hpse_dist.body.joints import SMPL24
from hpse_dist.data.depth_order import DepthOrder, DepthOrderConfig
from tests.data.people import project, stand, stick_person

J = len(SMPL24)
AT = {name: number for number, name in enumerate(SMPL24)}
ORDER = DepthOrder("smpl24")


def relations(people: Tensor, order: DepthOrder = ORDER) -> tuple[Tensor, Tensor]:
    """Order (P, P) and known (P, P) of one picture's people."""
    found, known = order.relations(order.apparent(people))
    return found[0], known[0]


def crowd(pictures: int, people: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Many pictures of people of varied stature who bend at random: people2d, people3d."""
    rng = torch.Generator().manual_seed(seed)
    body = stick_person() * (1.7 + 0.1 * torch.randn(pictures, people, 1, 1, generator=rng))
    angle = 0.25 * torch.randn(pictures, people, 1, generator=rng)
    cos, sin = angle.cos(), angle.sin()  # a lean towards the camera or away: foreshortening
    y, z = body[..., 1], body[..., 2]
    body = torch.stack([body[..., 0], cos * y - sin * z, sin * y + cos * z], -1)
    depth = 3 + 6 * torch.rand(pictures, people, 1, generator=rng)
    side = (torch.rand(pictures, people, 1, generator=rng) - 0.5) * depth
    floor = torch.full_like(depth, 1.5)
    metres = body + torch.cat([side, floor, depth], -1)[..., None, :]
    return project(metres, 0.8), torch.cat([metres, torch.ones_like(metres[..., :1])], -1)


def test_a_nearer_person_is_nearer_and_one_at_the_same_depth_level() -> None:
    people, _ = stand([3.0, 6.0, 6.1])
    order, known = relations(people)
    assert known[~torch.eye(3, dtype=torch.bool)].all() and not known.diagonal().any()
    assert order.tolist() == [[0, -1, -1], [1, 0, 0], [1, 0, 0]]
    about = ORDER.apparent(people)
    torch.testing.assert_close(about.stature[0, 0], torch.tensor(0.8 * 1.7 / 3), rtol=0.02, atol=0)
    assert about.ahead.tolist() == [[1, 1, 1]]


def test_between_level_and_margin_nothing_is_said() -> None:
    margin = DepthOrderConfig().margin
    for ratio, speaks in ((1 + 0.4 * margin, True), (1 + 0.8 * margin, False), (1.3, True)):
        # a tilted camera makes the floor say nothing
        people, _ = stand([4.0, 4.0 * ratio], camera_height=0.6)
        known = relations(people, DepthOrder("smpl24", DepthOrderConfig(ground=False)))[1]
        assert bool(known[0, 1]) == speaks, ratio


def test_relations_are_antisymmetric_to_the_bit() -> None:
    people, _ = crowd(64, 4)
    order, known = ORDER.relations(ORDER.apparent(people))
    assert torch.equal(order, -order.mT) and torch.equal(known, known.mT)
    # and so are pairs of joints, when the people change places
    swapped = people[:, [1, 0]]
    one, two = ORDER(people[:, :2]), ORDER(swapped)
    between = one["depth_pairs"][0, :, 0] // J != one["depth_pairs"][0, :, 1] // J
    for name, sign in (("depth_order", -1), ("depth_confidence", 1)):
        assert torch.equal(two[name][:, between], sign * one[name][:, between])


@pytest.mark.parametrize("focal", [0.5, 1.6])
def test_the_lens_and_the_size_of_the_picture_do_not_matter(focal: float) -> None:
    _, metres = crowd(64, 3)
    # sizes and the picture's border are not looked at here
    config = DepthOrderConfig(min_stature=0.0, min_distance=0.0)
    order, small = DepthOrder("smpl24", config), 0.1  # so far from the border that nobody leaves
    one, other = (project(metres[..., :3].double(), f * small) for f in (0.8, focal))
    first, second = order(one), order(other)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    assert (first["depth_confidence"] > 0).float().mean() > 0.1
    scaled = torch.cat([0.5 * one[..., :2] + 0.2, one[..., 2:]], -1)
    for name, value in order(scaled).items():
        assert torch.equal(value, first[name]), name


def test_precision_is_high_and_rises_with_the_ratio_of_depths() -> None:
    people, metres = crowd(400, 4)
    order, known = ORDER.relations(ORDER.apparent(people))
    depth = metres[:, :, AT["pelvis"], 2]
    apart = (depth[:, :, None] / depth[:, None]).log()
    right, told = order == apart.sign(), known & (order != 0)
    assert right[told].float().mean() > 0.95
    free = DepthOrder("smpl24", DepthOrderConfig(margin=0.02, keypoint_margin=0.5, ground=False))
    order, known = free.relations(free.apparent(people))
    told, right = known & (order != 0), order == apart.sign()
    shares = [
        right[told & (apart.abs() >= math.log(low)) & (apart.abs() < math.log(high))].float().mean()
        for low, high in ((1.0, 1.1), (1.1, 1.3), (1.3, 5.0))
    ]
    assert shares[0] < shares[1] < shares[2] and shares[0] < 0.85 and shares[2] > 0.97


def test_a_child_before_an_adult_is_ignored_since_feet_contradict() -> None:
    people, _ = stand([3.5, 4.2], statures=[1.05, 1.75])
    blind = DepthOrder("smpl24", DepthOrderConfig(ground=False))
    order, known = relations(people, blind)
    assert known[0, 1] and order[0, 1] == 1  # by size alone the child would be farther
    assert not relations(people)[1].any()
    behind, _ = stand([6.0, 4.2], statures=[1.05, 1.75])  # here size is right by chance
    order, known = relations(behind)
    assert known[0, 1] and order[0, 1] == 1


def test_truncated_tiny_and_mistaken_people_have_no_relations() -> None:
    people, _ = stand([3.0, 6.0])
    truncated = people.clone()
    legs = [AT[f"{side}_{name}"] for side in ("left", "right") for name in ("hip", "knee", "ankle")]
    truncated[0, 0, [*legs, AT["left_wrist"]], 2] = 0
    assert not relations(truncated)[1].any()
    outside = people.clone()
    outside[0, 0, :, 0] += 1.0  # sure, but not in the picture
    assert not relations(outside)[1].any()
    tiny, _ = stand([3.0, 14.5])
    assert not relations(tiny)[1].any()
    huge, _ = stand([1.75, 9.0])
    config = DepthOrderConfig(min_visible=0.0, min_bones=1, min_stature=0.0)
    assert relations(huge, DepthOrder("smpl24", replace(config, max_ratio=6.0)))[1].any()
    assert not relations(huge, DepthOrder("smpl24", config))[1].any()


def test_a_seated_person_keeps_their_size() -> None:
    """Sitting hides nothing from the longest bones: shins and trunk stay what they are."""
    people, metres = stand([4.0, 4.1])
    seated = metres[0, 0, :, :3].clone()
    drop = torch.tensor([0.0, 0.224 * 1.7, 0.0])
    upper = [n for n, name in enumerate(SMPL24) if name.split("_")[-1] not in
             ("knee", "ankle", "foot")]  # fmt: skip
    seated[upper] += drop
    seated[upper, 2] += 0.224 * 1.7  # behind the knees
    people[0, 0] = project(seated, 0.8)
    order, known = relations(people)
    assert known[0, 1] and order[0, 1] == 0
    fields = ORDER(people)
    inside = {
        tuple(pair): (float(r), float(c))
        for pair, r, c in zip(*(v[0].tolist() for v in fields.values()), strict=True)
        if pair[0] // J == pair[1] // J == 0
    }
    for side in ("left", "right"):  # thighs point at the camera: knees are nearer than hips
        assert inside[AT[f"{side}_knee"], AT[f"{side}_hip"]] == (-1.0, 0.25)


def test_inside_relations_turn_with_the_person_and_are_low_in_confidence() -> None:
    body = 1.7 * stick_person() + torch.tensor([0.0, 1.5, 4.0])
    body[AT["left_wrist"]] = body[AT["left_elbow"]] + torch.tensor([0.0, 0.1, -0.2])
    front = project(body, 0.8)[None, None]
    mirrored = body.clone()
    mirrored[:, 0] *= -1  # left is left in the picture: a back
    mirrored[:, 2] = 8.0 - body[:, 2]
    for people, order in ((front, -1.0), (project(mirrored, 0.8)[None, None], 1.0)):
        fields = ORDER(people)
        assert fields["depth_pairs"].shape == (1, 7, 2)
        pair = torch.tensor([AT["left_wrist"], AT["left_elbow"]])
        at = (fields["depth_pairs"][0] == pair).all(-1)
        assert fields["depth_order"][0, at] == order
        assert fields["depth_confidence"][0, at] == DepthOrderConfig().inside_confidence
    nothing = DepthOrder("smpl24", DepthOrderConfig(inside_confidence=0.0))
    assert nothing(front.expand(1, 2, J, 3))["depth_pairs"].shape[1] == J


def test_pairs_of_joints_widen_with_the_gap() -> None:
    for depths, joints in (([4.0, 5.4], "trunk"), ([3.0, 6.0], "all")):
        people, metres = stand(depths, sideways=[-0.6, 0.8])
        shift = torch.tensor([[5]])
        fields = ORDER(people, shift)
        pairs, sure = fields["depth_pairs"][0], fields["depth_confidence"][0] == 1.0
        between = pairs[:, 0] // J != pairs[:, 1] // J
        assert (fields["depth_order"][0, sure & between] == -1).all()
        first, second = (pairs[sure & between] % J).T
        if joints == "all":
            assert sure[between].all() and torch.equal(second, (first + 5) % J)
        else:
            assert torch.equal(first, second) and 0 < len(first) < J
            assert AT["pelvis"] in first and AT["left_wrist"] not in first
        z = metres[0, ..., 2].flatten()
        assert (z[pairs[sure & between, 0]] < z[pairs[sure & between, 1]]).all()


def test_joints_that_coincide_in_the_picture_are_left_out() -> None:
    people, _ = stand([3.0, 6.0], sideways=[0.0, 0.0])
    people[0, 1, AT["pelvis"], :2] = people[0, 0, AT["pelvis"], :2] + 0.005
    fields = ORDER(people)
    pairs = fields["depth_pairs"][0]
    at = (pairs == torch.tensor([AT["pelvis"], J + AT["pelvis"]])).all(-1)
    assert fields["depth_confidence"][0, at] == 0


def test_padding_rows_have_no_relations() -> None:
    people, _ = stand([3.0, 6.0])
    padded = torch.cat([people, torch.zeros(1, 2, J, 3)], 1)
    fields = ORDER(padded)
    known = fields["depth_pairs"][0][fields["depth_confidence"][0] > 0]
    assert len(known) and (known // J < 2).all()


def test_other_joint_sets() -> None:
    assert DepthOrder("coco17").num_joints == 17
    with pytest.raises(ValueError, match=r"smpl24,.* coco17.*; found the joint set 'mano21'"):
        DepthOrder("mano21")


@pytest.mark.parametrize(
    "wrong", [{"margin": 0.0}, {"margin": 0.6}, {"min_bones": 0}, {"max_ratio": 1.0}, {"facing": 2}]
)
def test_impossible_configs_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DepthOrderConfig(**wrong)
