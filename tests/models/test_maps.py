"""Maps: gaussians and the places read back from them."""

from __future__ import annotations

import torch

from hpse_dist.models.maps import gaussian_maps, heatmap_errors, peaks


def test_a_gaussians_place_comes_back_to_a_hundredth_of_a_cell() -> None:
    torch.manual_seed(0)
    places = 0.1 + 0.8 * torch.rand(4, 24, 2)
    maps = gaussian_maps(places[:, None], torch.ones(4, 1, 24), (16, 20), 2.0)
    found, height = peaks(maps)
    cells = (found - places).abs() * torch.tensor([20.0, 16.0])
    assert cells.max() < 0.01
    assert (height > 0.85).all()


def test_a_gaussians_place_comes_back_from_cells_at_the_border_too() -> None:
    across = torch.linspace(0.0, 1.0, 101)[:, None]
    for places in (torch.cat((across, 0 * across), 1), torch.cat((1 + 0 * across, across), 1)):
        maps = gaussian_maps(places[None, None], torch.ones(1, 1, 101), (16, 20), 2.0)
        cells = (peaks(maps)[0][0] - places).abs() * torch.tensor([20.0, 16.0])
        assert cells.max() < 0.01


def test_a_flat_map_and_a_peak_at_the_border_are_no_trouble() -> None:
    maps = torch.zeros(1, 2, 8, 8)
    maps[0, 1, 0, 7] = 1.0
    found, height = peaks(maps)
    assert found.isfinite().all() and height.tolist() == [[0.0, 1.0]]
    torch.testing.assert_close(found[0, 1], torch.tensor([7.5, 0.5]) / 8, atol=0.07, rtol=0)


def test_empty_maps_have_an_error_of_one_and_unknown_joints_none() -> None:
    joints = torch.full((2, 5, 3), 0.5)
    joints[..., 2] = torch.tensor([[1.0, 1.0, 0.0, 0.0, 1.0], [0.0] * 5])
    errors = heatmap_errors(torch.zeros(2, 5, 32, 32), joints, 2.0)
    torch.testing.assert_close(errors, torch.tensor([1.0, 0.0]), atol=0.01, rtol=0)
    maps = gaussian_maps(joints[:, None, :, :2], joints[:, None, :, 2] > 0, (32, 32), 2.0)
    maps[:, 2:4] = 3.0  # nobody asks there
    torch.testing.assert_close(heatmap_errors(maps, joints, 2.0), torch.zeros(2))
