"""Views: their geometry is what they say, and does not depend on the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hpse_dist.views import ViewConfig, _blur, make_views

IDS = torch.arange(6) * 7 + 3
PLAIN = ViewConfig(colour=0.0, grey=0.0, blur=0.0)


def ramp(side: int = 48) -> Tensor:
    """Pictures whose first two channels are x and y, 0..1 but for the normalisation."""
    steps = (torch.arange(side) + 0.5) / side
    x = steps.expand(side, side)
    return torch.stack((x, x.T, torch.zeros_like(x))).expand(len(IDS), -1, -1, -1) * 0.5


def test_pixels_come_from_where_the_map_says() -> None:
    config = ViewConfig(
        scale=(0.2, 0.4), rotation_deg=20, flip=0.5, colour=0, grey=0, blur=0, px=24
    )
    views = make_views(ramp(), IDS, 3, 0, "one", config)
    steps = (torch.arange(24) + 0.5) / 24
    places = torch.stack((steps.expand(24, 24), steps[:, None].expand(24, 24), torch.ones(24, 24)))
    origin = torch.einsum("bij,jhw->bihw", views.from_view, places)[:, :2]
    inside = ((origin > 0.03) & (origin < 0.97)).all(1)
    error = (views.image[:, :2] / 0.5 - origin).abs().amax(1)
    assert inside.float().mean() > 0.5 and error[inside].max() < 1e-3
    identity = torch.eye(3).expand(len(IDS), 3, 3)
    torch.testing.assert_close(views.to_view @ views.from_view, identity, atol=1e-5, rtol=0)
    assert (torch.linalg.det(views.from_view) < 0).equal(views.flipped)
    assert 0 < views.flipped.sum() < len(IDS)


def test_windows_lie_inside_and_have_the_drawn_area() -> None:
    ids = torch.arange(500)
    image = torch.zeros(500, 3, 8, 8)
    views = make_views(image, ids, 0, 0, "one", PLAIN)
    corners = torch.tensor([[0.0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]])
    found = torch.einsum("bij,cj->bci", views.from_view, corners)
    assert found.min() > -1e-5 and found[..., :2].max() < 1 + 1e-5
    area = torch.linalg.det(views.from_view).abs()
    assert area.min() > 0.19 and area.max() <= 1.0 and 0.5 < area.mean() < 0.65
    assert 0.4 < views.flipped.float().mean() < 0.6


@pytest.mark.parametrize("config", [ViewConfig(), ViewConfig(rotation_deg=45, solarise=0.5, px=16)])
def test_a_view_does_not_depend_on_its_batch(config: ViewConfig) -> None:
    image = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = make_views(image, IDS, 1, 0, "one", config).image
    part = make_views(image[3:], IDS[3:], 1, 0, "one", config).image
    torch.testing.assert_close(part, whole[3:], atol=1e-5, rtol=0)
    for other in (
        make_views(image, IDS, 2, 0, "one", config),
        make_views(image, IDS, 1, 1, "one", config),
        make_views(image, IDS, 1, 0, "two", config),
    ):
        assert (other.image - whole).abs().amax((1, 2, 3)).min() > 0.01


def test_nothing_changes_where_nothing_may() -> None:
    image = torch.rand(6, 3, 32, 32)
    config = ViewConfig(
        scale=(1, 1), aspect=(1, 1), flip=0, colour=0, grey=0, blur=0, blur_sigma=(1, 1)
    )
    torch.testing.assert_close(make_views(image, IDS, 0, 0, "x", config).image, image)


def test_grey_has_one_channel_and_solarised_pixels_are_dark() -> None:
    image = torch.rand(6, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    grey = make_views(image, IDS, 0, 0, "x", ViewConfig(grey=1.0)).image * std + mean
    assert (grey.amax(1) - grey.amin(1)).max() < 1e-5
    dark = make_views(image, IDS, 0, 0, "x", ViewConfig(solarise=1.0)).image * std + mean
    assert dark.max() <= 0.5 + 1e-5


def test_blur_is_gaussian_and_keeps_brightness() -> None:
    point = torch.zeros(2, 3, 33, 33)
    point[:, :, 16, 16] = 1.0
    blurred = _blur(point, torch.tensor([1.5, 2.5]), 2.5)
    torch.testing.assert_close(blurred.sum((2, 3)), torch.ones(2, 3), atol=1e-4, rtol=0)
    steps = torch.arange(33) - 16.0
    for picture, sigma in zip(blurred[:, 0], (1.5, 2.5), strict=True):
        spread = (picture * steps**2).sum().sqrt().item()
        assert spread == pytest.approx(sigma, rel=0.03)


@pytest.mark.parametrize(
    ("name", "value"), [("flip", 1.5), ("scale", (0.0, 1.0)), ("aspect", (2.0, 1.0)), ("px", 0)]
)
def test_impossible_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        ViewConfig(**{name: value})  # type: ignore[arg-type]
