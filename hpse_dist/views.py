"""Random views of one picture, for objectives that compare two looks at the same thing.

Works on the loader's normalised pictures, on their device, with draws keyed by (seed, stream,
epoch, sample id): a view does not depend on the batch or the rank it is made in. Coordinates are
0..1 over a picture's side; pixel i of n covers [i/n, (i+1)/n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.constants import constant
from hpse_dist.draws import uniform
from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD
from hpse_dist.precision import in_full_precision

_GREY = (0.299, 0.587, 0.114)  # luma weights of ITU-R BT.601
_BLUR_PX = 224  # the side that the blur's pixels are meant for, as in the papers


@dataclass(frozen=True)
class ViewConfig:
    """One random view; the defaults are those of MoCo v2 (Chen et al., 2020)."""

    scale: tuple[float, float] = (0.2, 1.0)
    """Area of the window over the picture's, drawn uniformly; above 1 the border is mean colour."""
    aspect: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of the window, drawn uniformly in its logarithm."""
    flip: float = 0.5
    """Probability of left and right exchanged."""
    rotation_deg: float = 0.0
    """Largest turn about the window's middle, either way."""
    translation: float = 0.0
    """Largest shift of the window along x and y, over the picture's side, on top of its draw."""
    centred: bool = False
    """The window is in the picture's middle (but for `translation`), not anywhere inside it."""
    colour: float = 0.8
    """Probability of the four changes of colour below."""
    brightness: float = 0.4
    """Factor drawn from 1 - x to 1 + x."""
    contrast: float = 0.4
    """Factor drawn from 1 - x to 1 + x, about the view's mean grey."""
    saturation: float = 0.4
    """Factor drawn from 1 - x to 1 + x, about each pixel's grey."""
    hue: float = 0.1
    """Largest turn of the hue, in turns, either way (in the YIQ plane)."""
    grey: float = 0.2
    """Probability of no colour at all."""
    blur: float = 0.5
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Its sigma in pixels of a view of 224, in proportion for others."""
    solarise: float = 0.0
    """Probability that pixels above one half are inverted."""
    px: int | None = None
    """Side of the view in pixels; null for the picture's."""

    def __post_init__(self) -> None:
        for name in ("flip", "colour", "grey", "blur", "solarise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability, found {getattr(self, name)}")
        for name in ("scale", "aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two rising positive numbers, found {low}, {high}")
        if self.px is not None and self.px < 1:
            raise ValueError(f"px must be positive or null, found {self.px}")


@dataclass(frozen=True)
class Views:
    """One view of each picture of a batch."""

    image: Tensor
    """(B, 3, px, px) normalised."""
    to_view: Tensor
    """(B, 3, 3) homogeneous 0..1 coordinates, picture -> view."""
    from_view: Tensor
    """(B, 3, 3) its inverse."""
    flipped: Tensor
    """(B,) bool."""


@in_full_precision
def make_views(
    image: Tensor,
    sample_id: Tensor,
    epoch: int | Tensor,
    seed: int,
    stream: str,
    config: ViewConfig,
) -> Views:
    """A view of every picture: image (B, 3, H, H) normalised; `stream` tells views apart."""

    def draw(name: str, count: int) -> Tensor:
        return uniform(seed, f"{stream}.{name}", epoch, sample_id, count)

    from_view, flipped = _window(draw("window", 7), config)
    px = config.px or image.shape[-1]
    # bilinear sampling skips pixels beyond a factor of 2: shrink by a whole factor first
    factor = int(math.sqrt(config.scale[0]) * image.shape[-1] / px)
    smooth = F.avg_pool2d(image.float(), factor) if factor >= 2 else image.float()
    pixels = _cut(smooth, from_view, px)
    pixels = _recolour(_to_rgb(pixels), draw("colour", 9), config)
    mean, std = _statistics(pixels)
    inverse = torch.linalg.inv_ex(from_view).inverse  # without waiting for a check of errors
    return Views((pixels - mean) / std, inverse, from_view, flipped)


def _window(draw: Tensor, config: ViewConfig) -> tuple[Tensor, Tensor]:
    """View -> picture coordinates (B, 3, 3), and which are flipped (B,); draw (B, 7) in 0..1."""
    area = config.scale[0] + (config.scale[1] - config.scale[0]) * draw[:, 0]
    low, high = (math.log(value) for value in config.aspect)
    aspect = (low + (high - low) * draw[:, 1]).exp()
    # a window that is too long for the picture is cut to its side, so that none of it is border
    limit = max(1.0, math.sqrt(config.scale[1]))
    width, height = (area * aspect).sqrt().clamp(max=limit), (area / aspect).sqrt().clamp(max=limit)
    sides = torch.stack((width, height), 1)
    place = torch.full_like(sides, 0.5) if config.centred else draw[:, 2:4]
    centre = sides / 2 + place * (1 - sides) + config.translation * (2 * draw[:, 4:6] - 1)
    # one number serves the flip and the turn: its place within the flip's share is uniform again
    flipped, angle = _split_draw(draw[:, 6], config.flip)
    angle = (2 * angle - 1) * math.radians(config.rotation_deg)
    cos, sin = angle.cos(), angle.sin()
    x_axis = torch.stack((cos, sin), 1) * (width * torch.where(flipped, -1.0, 1.0))[:, None]
    y_axis = torch.stack((-sin, cos), 1) * height[:, None]
    matrix = torch.zeros(len(draw), 3, 3, device=draw.device)
    matrix[:, :2, 0], matrix[:, :2, 1] = x_axis, y_axis
    matrix[:, :2, 2] = centre - (x_axis + y_axis) / 2
    matrix[:, 2, 2] = 1.0
    return matrix, flipped


def _split_draw(draw: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Whether a draw falls below `share`, and its place 0..1 within its side."""
    below = draw < share
    rest = (draw - share) / max(1 - share, 1e-6)
    return below, torch.where(below, draw / max(share, 1e-6), rest).clamp(0, 1)


def _cut(image: Tensor, from_view: Tensor, px: int) -> Tensor:
    """Bilinear; the mean colour outside."""
    back = (2 * from_view[:, :2] - constant((0.0, 0.0, 1.0), from_view.device))[..., None, None]
    steps = (torch.arange(px, device=image.device) + 0.5) / px
    grid = back[:, :, 0] * steps + back[:, :, 1] * steps[:, None] + back[:, :, 2]
    return F.grid_sample(image, grid.movedim(1, -1), align_corners=False)


def _statistics(like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (constant(values, like.device) for values in (IMAGE_MEAN, IMAGE_STD))
    return mean[:, None, None], std[:, None, None]


def _to_rgb(image: Tensor) -> Tensor:
    mean, std = _statistics(image)
    return (image * std + mean).clamp(0.0, 1.0)


def _recolour(pixels: Tensor, draw: Tensor, config: ViewConfig) -> Tensor:
    """Colours, grey, blur, solarisation: (B, 3, n, n) in 0..1, draw (B, 9) -> same shape.

    In this one order; the papers' code shuffles the first four.
    """
    draw = draw[:, :, None, None, None]
    changed = _jitter(pixels, draw[:, :4], config)
    pixels = torch.where(draw[:, 4] < config.colour, changed, pixels)
    pixels = torch.where(draw[:, 5] < config.grey, _luma(pixels).expand_as(pixels), pixels)
    if config.blur > 0:
        low, high = config.blur_sigma
        sigma = (low + (high - low) * draw[:, 7, 0, 0, 0]) * pixels.shape[-1] / _BLUR_PX
        blurred = _blur(pixels, sigma, high * pixels.shape[-1] / _BLUR_PX)
        pixels = torch.where(draw[:, 6] < config.blur, blurred, pixels)
    if config.solarise > 0:
        inverted = torch.where(pixels >= 0.5, 1.0 - pixels, pixels)
        pixels = torch.where(draw[:, 8] < config.solarise, inverted, pixels)
    return pixels


def _luma(pixels: Tensor) -> Tensor:
    """(B, 3, n, n) -> (B, 1, n, n)."""
    return (pixels * constant(_GREY, pixels.device)[:, None, None]).sum(1, keepdim=True)


def _jitter(pixels: Tensor, draw: Tensor, config: ViewConfig) -> Tensor:
    """Brightness, contrast, saturation and hue in turn: draw (B, 4, 1, 1, 1) in 0..1."""
    brightness, contrast, saturation, hue = (2 * draw - 1).unbind(1)
    pixels = (pixels * (1 + config.brightness * brightness)).clamp(0.0, 1.0)
    mean = _luma(pixels).mean((2, 3), keepdim=True)
    pixels = (mean + (pixels - mean) * (1 + config.contrast * contrast)).clamp(0.0, 1.0)
    grey = _luma(pixels)
    pixels = (grey + (pixels - grey) * (1 + config.saturation * saturation)).clamp(0.0, 1.0)
    if config.hue == 0:
        return pixels
    angle = 2 * math.pi * config.hue * hue[:, 0]  # (B, 1, 1)
    red, green, blue = pixels.unbind(1)
    y = _luma(pixels)[:, 0]
    i = 0.596 * red - 0.274 * green - 0.322 * blue
    q = 0.211 * red - 0.523 * green + 0.312 * blue
    i, q = i * angle.cos() - q * angle.sin(), i * angle.sin() + q * angle.cos()
    turned = (y + 0.956 * i + 0.621 * q, y - 0.272 * i - 0.647 * q, y - 1.106 * i + 1.703 * q)
    return torch.stack(turned, 1).clamp(0.0, 1.0)


def _blur(pixels: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur, each picture with its own sigma in pixels (B,), none above `largest`."""
    batch, channels, height, width = pixels.shape
    radius = min(max(1, math.ceil(3 * largest)), height - 1)
    steps = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
    kernel = (-0.5 * (steps / sigma.clamp(min=1e-3)[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(pixels.reshape(1, -1, height, width), (radius,) * 4, mode="reflect")
    groups = batch * channels
    flat = F.conv2d(flat, kernel[:, None, None], groups=groups)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=groups)
    return flat.view(batch, channels, height, width)
