"""The puppet: parts and background share every cell, the nearer limb wins, gradients arrive."""

from __future__ import annotations

import pytest
import torch

from hpse_dist.models.puppet import Puppet, layered

PX = 32


def cross(depth_of_second: float) -> tuple[Puppet, torch.Tensor, torch.Tensor]:
    """Two limbs across one another: an upright one and a level one."""
    puppet = Puppet(
        torch.tensor([0, 2]),
        torch.tensor([1, 3]),
        torch.tensor([0.1, 0.1]),
        torch.zeros(2),
        torch.tensor([1, 2]),
        softness=0.3,
    )
    places = torch.tensor([[[0.5, 0.2], [0.5, 0.8], [0.2, 0.5], [0.8, 0.5]]])
    depth = torch.tensor([[0.0, 0.0, depth_of_second, depth_of_second]])
    return puppet, places, depth


def test_background_and_parts_sum_to_one() -> None:
    rng = torch.Generator().manual_seed(0)
    parts = layered(torch.rand(4, 5, 6, 6, generator=rng), torch.randn(4, 5, generator=rng))
    torch.testing.assert_close(parts.sum(1), torch.ones(4, 6, 6))
    assert parts.min() >= 0.0


@pytest.mark.parametrize(("depth", "front"), [(0.3, 1), (-0.3, 2)])
def test_the_nearer_limb_wins(depth: float, front: int) -> None:
    puppet, places, depths = cross(depth)
    middle = puppet(places, depths, torch.ones(1), PX)[0, :, PX // 2, PX // 2]
    assert middle.argmax() == front and middle[front] > 0.95


def test_a_limb_is_where_its_joints_are_and_as_thick_as_it_should() -> None:
    puppet, places, depths = cross(0.3)
    scale = torch.tensor([0.5])  # half a crop side to a unit: radius 0.05
    upright = puppet(places, depths, scale, 100)[0, 1]
    rows, columns = torch.nonzero(upright > 0.5, as_tuple=True)
    assert abs(columns.float().mean() + 0.5 - 50) < 0.6
    assert (columns.max() - columns.min() + 1 - 10).abs() <= 1  # twice the radius
    assert (rows.min() + 0.5 - (20 - 5)).abs() <= 1.5 and (rows.max() + 0.5 - 85).abs() <= 1.5
    thick = puppet(places, depths, scale, 100, torch.tensor([[2.0, 1.0]]))[0, 1]
    assert 1.7 < (thick > 0.5).sum() / (upright > 0.5).sum() < 2.3


def test_a_limb_reaches_beyond_its_end() -> None:
    puppet, places, depths = cross(0.3)
    puppet.beyond = torch.tensor([0.2, 0.0])
    rows = torch.nonzero(puppet(places, depths, torch.tensor([0.2]), 100)[0, 1] > 0.5)[:, 0]
    assert (rows.max() + 0.5 - (80 + 12 + 2)).abs() <= 1.5


def test_gradients_pull_a_limb_to_its_target() -> None:
    puppet, places, depths = cross(0.3)
    goal = puppet(places, depths, torch.ones(1), PX).detach()
    moved = (places + torch.tensor([0.06, 0.0])).requires_grad_()
    before = (puppet(moved, depths, torch.ones(1), PX) - goal).square().mean()
    before.backward()
    assert moved.grad is not None and moved.grad[0, :2, 0].min() > 0  # both ends: to the left
    with torch.no_grad():
        nearer = moved - 0.03 * moved.grad / moved.grad.abs().max()
    after = (puppet(nearer, depths, torch.ones(1), PX) - goal).square().mean()
    assert after < before


def test_every_part_needs_a_limb() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="every part"):
        Puppet(torch.tensor([0]), torch.tensor([1]), one, one, torch.tensor([2]))
