"""Crops and colours on the device, for a whole micro-batch at once.

Every draw is keyed by (seed, stream, epoch, sample id), so an image looks the same whatever the
batch it is in. Each image gets one affine map from the stored crop to the training crop. It turns
the camera about its optical axis (in the picture: K Rz K^-1, about the principal point wherever
that is), then cuts a window; labels go through the same map, so a projected 3D joint stays on its
2D joint exactly.

Coordinates are 0..1 over the crop's side; pixel i of n covers [i/n, (i+1)/n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.constants import constant, constant_like
from hpse_dist.draws import uniform
from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD, Batch
from hpse_dist.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle

_GREY = (0.299, 0.587, 0.114)  # luma weights of ITU-R BT.601
_PERSON_SAMPLES = 4  # per patch and direction, to estimate the share that the person covers


@dataclass(frozen=True)
class AugmentConfig:
    """Random crops and colours; the two images of a pair are treated independently, but for
    `flip`."""

    crop_scale: tuple[float, float] = (0.875, 0.875)
    """Side of the window over the side of the stored crop, drawn uniformly: 0.875 is 224 of 256.
    A window of as many pixels as the encoder wants is cut out without resampling; above 1 the
    border is the mean colour."""
    translation: float = 1.0
    """How far the window moves from the middle, over the room it has inside the stored crop."""
    rotation_deg: float = 0.0
    """Largest turn of the camera about its optical axis, either way."""
    flip: float = 0.0
    """Probability that the scene is seen in a mirror, left and right exchanged in every label; both
    pictures of a pair or none. Classes (`label`) stay: leave it 0 where they have a side."""
    brightness: float = 0.4
    """Factor drawn from 1 - x to 1 + x."""
    contrast: float = 0.4
    """Factor drawn from 1 - x to 1 + x, about the crop's mean grey."""
    saturation: float = 0.4
    """Factor drawn from 1 - x to 1 + x, about each pixel's grey."""

    def __post_init__(self) -> None:
        if not 0.1 <= self.crop_scale[0] <= self.crop_scale[1] <= 4:
            raise ValueError(
                f"crop_scale must be two rising numbers in 0.1..4, found {list(self.crop_scale)}"
            )
        if not 0 <= self.rotation_deg <= 180:
            raise ValueError(f"rotation_deg must be in 0..180, found {self.rotation_deg}")
        for name in ("translation", "flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, found {getattr(self, name)}")


def augment(
    raw: Batch, config: AugmentConfig, *, seed: int, train: bool, image_px: int, patch_px: int
) -> Batch:
    """Stored rows -> fields.

    raw: `image` and perhaps `image_ref` (B, H, H, 3) uint8, `sample_id` and `epoch` (B,), labels
    as they are stored. Returns image (B, 3, n, n) normalised, person (B, n/p, n/p) and every other
    entry, made consistent with `image`. `train=False`: the whole picture as it is.
    """
    draws = _Draws(raw, config, seed, train)
    window, turn = draws.window("image", raw.get("intrinsics"), image_px)
    result = {k: _loosened(v) for k, v in raw.items() if k not in ("image", "image_ref")}
    result["image"] = draws.picture("image", window, image_px)
    if "image_ref" in raw:
        other, _ = draws.window("image_ref", None, image_px)
        result["image_ref"] = draws.picture("image_ref", other, image_px)
    _move_maps(result, window, image_px, patch_px)
    _move_points(result, window, turn)
    return result


def _loosened(stored: Tensor) -> Tensor:
    """A label in the batch's type: float32, int64 or bool."""
    if stored.dtype == torch.bool:
        return stored
    return stored.to(torch.float32 if stored.is_floating_point() else torch.int64)


@dataclass(frozen=True)
class _Window:
    """Where the training crop lies in the stored one."""

    to_crop: Tensor
    """(B, 3, 3) float64, homogeneous 0..1 coordinates, stored -> training."""
    cut: Tensor
    """(B, 3, 3) its part after the turn: scale and shift, so that K' = cut K."""
    back: Tensor
    """(B, 2, 3) training -> stored, as coordinates of grid_sample: -1..1."""
    corner_px: Tensor | None
    """(B, 2) whole pixels x, y where the window is a plain cut of the stored picture."""


class _Draws:
    """A batch and its random numbers."""

    def __init__(self, raw: Batch, config: AugmentConfig, seed: int, train: bool) -> None:
        self.raw, self.config, self.seed, self.train = raw, config, seed, train
        self.device = raw["sample_id"].device

    def _draw(self, stream: str, count: int) -> Tensor:
        """(B, count) in [-1, 1), or zeros in evaluation: the middle of every range."""
        ids = self.raw["sample_id"]
        if not self.train:
            return torch.zeros(len(ids), count, device=self.device)
        return 2 * uniform(self.seed, f"augment.{stream}", self.raw["epoch"], ids, count) - 1

    def window(self, image: str, intrinsics: Tensor | None, px: int) -> tuple[_Window, Tensor]:
        """The map of one image, and the turn (B, 3, 3) of its camera."""
        stored_px = self.raw[image].shape[1]
        draw = self._draw(f"{image}.window", 4).double()
        scale = self._scale(draw[:, 0])
        turn = self._turn(draw[:, 3])
        turned, turned_back = self._in_picture(turn, intrinsics)
        middle = _apply(turned, constant_like(turned, (((0.5, 0.5, 1.0),),)))[:, 0]
        room = (1 - scale).abs()[:, None] / 2
        corner = middle[:, :2] + self.config.translation * room * draw[:, 1:3] - scale[:, None] / 2
        corner_px = None
        if self._cuts(stored_px, px):
            corner_px = (corner * stored_px).round().clamp(0, stored_px - px)
            corner = corner_px / stored_px
            corner_px = corner_px.long()
        cut = _scale_and_shift(1 / scale, -corner / scale[:, None])
        uncut = _scale_and_shift(scale, corner)
        back = 2 * _product(turned_back, uncut)[:, :2] - constant_like(uncut, (0.0, 0.0, 1.0))
        return _Window(_product(cut, turned), cut, back, corner_px), turn

    def _in_picture(self, turn: Tensor, intrinsics: Tensor | None) -> tuple[Tensor, Tensor]:
        """What a turn of the camera does to picture coordinates, (B, 3, 3), and its inverse."""
        if not self.train or self.config.rotation_deg == 0:
            return turn, turn  # none, exactly
        camera = _camera_or_middle(intrinsics, len(turn), self.device)
        inverse = torch.linalg.inv_ex(camera).inverse
        turned = _product(_product(camera, turn), inverse)
        return turned, _product(_product(camera, turn.mT), inverse)

    def _cuts(self, stored_px: int, px: int) -> bool:
        """Whether the window is upright and has exactly as many pixels as the training crop."""
        low, high = self._scales()
        turned = self.train and self.config.rotation_deg > 0
        return low == high <= 1 and low * stored_px == px and not turned

    def _scale(self, draw: Tensor) -> Tensor:
        low, high = self._scales()
        return low + (high - low) * (draw + 1) / 2

    def _scales(self) -> tuple[float, float]:
        return self.config.crop_scale if self.train else (1.0, 1.0)

    def _turn(self, draw: Tensor) -> Tensor:
        """(B, 3, 3) rotation about the camera's z axis."""
        angle = draw * math.radians(self.config.rotation_deg)
        placed = "transl" in self.raw or "hand_transl" in self.raw
        if placed and self.config.rotation_deg > 0:
            # turning a body or hand about the camera needs its root: rows without it stay upright
            angle = angle * (self.raw["joints3d"][:, 0, 3] > 0)
        turn = torch.zeros(len(angle), 3, 3, dtype=torch.float64, device=self.device)
        turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
        turn[:, 1, 0], turn[:, 0, 1] = angle.sin(), -angle.sin()
        turn[:, 2, 2] = 1
        return turn

    def picture(self, image: str, window: _Window, px: int) -> Tensor:
        """(B, 3, px, px) normalised."""
        stored = self.raw[image]
        if window.corner_px is not None:
            pixels = _cut_out(stored, window.corner_px, px)
        else:
            pixels = _resample(stored, window, px, self._scales()[0])
        mean, std = _channels(IMAGE_MEAN, self.device), _channels(IMAGE_STD, self.device)
        config = self.config
        if self.train and (config.brightness or config.contrast or config.saturation):
            draw = self._draw(f"{image}.colour", 3)
            strength = constant_like(draw, (config.brightness, config.contrast, config.saturation))
            pixels = _recolour(pixels, 1 + strength * draw)
        return pixels.div_(255 * std).sub_(mean / std)


# Products written out: a batched matrix product may round differently in batches of another size.


def _product(first: Tensor, second: Tensor) -> Tensor:
    """(B, n, 3) @ (B, 3, m)."""
    return (first[:, :, :, None] * second[:, None]).sum(2)


def _apply(matrix: Tensor, points: Tensor) -> Tensor:
    """(B, n, 3) and points (B or 1, N, 3) -> (B, N, n)."""
    return (matrix[:, None] * points[:, :, None]).sum(3)


def _scale_and_shift(scale: Tensor, shift: Tensor) -> Tensor:
    """(B,), (B, 2) -> (B, 3, 3)."""
    matrix = torch.zeros(len(scale), 3, 3, dtype=scale.dtype, device=scale.device)
    matrix[:, 0, 0] = matrix[:, 1, 1] = scale
    matrix[:, :2, 2] = shift
    matrix[:, 2, 2] = 1
    return matrix


def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return constant(values, device).view(1, 3, 1, 1)


def _camera_or_middle(intrinsics: Tensor | None, count: int, device: torch.device) -> Tensor:
    """(B, 3, 3) float64 camera matrices; where there is none, one that looks at the middle."""
    middle = constant(((1.0, 0.0, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 1.0)), device, torch.float64)
    middle = middle.expand(count, 3, 3)
    if intrinsics is None:
        return middle
    known = (intrinsics[:, 0, 0] > 0)[:, None, None]
    return torch.where(known, intrinsics.double(), middle)


def _cut_out(stored: Tensor, corner_px: Tensor, px: int) -> Tensor:
    """(B, H, H, 3) uint8 and corners (B, 2) -> (B, 3, px, px) float 0..255, pixel for pixel."""
    # a view (B, places, places, px, px, 3), whose rows of px x 3 bytes are copied whole
    windows = stored.unfold(1, px, 1).unfold(2, px, 1).movedim(3, -1)
    batch = torch.arange(len(stored), device=stored.device)
    cut = windows[batch, corner_px[:, 1], corner_px[:, 0]]
    return cut.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def _resample(stored: Tensor, window: _Window, px: int, least_scale: float) -> Tensor:
    """(B, H, H, 3) uint8 -> (B, 3, px, px) float 0..255, bilinear; the mean colour outside."""
    mean = 255 * _channels(IMAGE_MEAN, stored.device)
    pixels = stored.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    # bilinear sampling skips pixels beyond a factor of 2: shrink by a whole factor first
    factor = int(least_scale * stored.shape[1] / px)
    if factor >= 2:
        smaller = stored.shape[1] // factor
        pixels = F.interpolate(pixels, size=(smaller, smaller), mode="area")
    grid = _grid(window, px)
    return F.grid_sample(pixels.sub_(mean), grid, align_corners=False).add_(mean)


def _grid(window: _Window, side: int) -> Tensor:
    """Where each of side x side training pixels lies in the stored crop: (B, side, side, 2)."""
    back = window.back.to(torch.float32)[..., None, None]  # (B, 2, 3, 1, 1)
    steps = (torch.arange(side, device=back.device) + 0.5) / side
    along_rows = back[:, :, 0] * steps + back[:, :, 2]
    return (along_rows + back[:, :, 1] * steps[:, None]).movedim(1, -1)


def _recolour(pixels: Tensor, factor: Tensor) -> Tensor:
    """Brightness, contrast, saturation in turn, in place: pixels (B, 3, n, n), factor (B, 3)."""
    brightness, contrast, saturation = factor[:, :, None, None, None].unbind(1)
    red, green, blue = pixels.split(1, 1)
    grey = (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])
    mean = grey.mean((2, 3), keepdim=True)
    # all three steps are linear in the pixel, its grey and the mean grey: one pass, in place
    scale = brightness * contrast
    grey.mul_((1 - saturation) * scale).add_((1 - contrast) * brightness * mean)
    return pixels.mul_(saturation * scale).add_(grey).clamp_(0, 255)


def _move_maps(result: Batch, window: _Window, image_px: int, patch_px: int) -> None:
    """person, part_map and uv_map of the training crop, in place of the stored ones."""
    if "person" in result:
        stored = result["person"][:, None].to(torch.float32) / 255
        grid = _grid(window, image_px // patch_px * _PERSON_SAMPLES)
        fine = F.grid_sample(stored, grid, align_corners=False)
        result["person"] = F.avg_pool2d(fine, _PERSON_SAMPLES)[:, 0].clamp(0, 1)
    if "part_map" in result or "uv_map" in result:
        grid = _grid(window, image_px)
    if "part_map" in result:
        parts = result["part_map"][:, None].to(torch.float32)
        parts = F.grid_sample(parts, grid, mode="nearest", align_corners=False)
        result["part_map"] = parts[:, 0].round().long()
    if "uv_map" in result:
        result["uv_map"] = F.grid_sample(
            result["uv_map"], grid, mode="nearest", align_corners=False
        )


def _move_points(result: Batch, window: _Window, turn: Tensor) -> None:
    """2D and 3D joints, body and camera of the training crop, in place of the stored ones."""
    if "intrinsics" in result:
        result["intrinsics"] = _product(window.cut, result["intrinsics"].double()).float()
        # an unknown camera is all zeros and stays so: cut @ 0 = 0
    for name in ("joints2d", "people2d"):
        if name in result:
            points = result[name].double()
            flat = F.pad(points[..., :2].flatten(1, -2), (0, 1), value=1.0)  # (B, all points, 3)
            moved = _apply(window.to_crop[:, :2], flat).view(*points.shape[:-1], 2)
            result[name] = torch.cat([moved, points[..., 2:]], -1).float()
    joints = result.get("joints3d")
    for name in ("transl", "hand_transl"):
        if name in result and joints is not None:
            # smplx turns about the root J0 of the shape: x = R (v - J0) + J0 + transl
            transl, root = result[name].double(), joints[:, 0, :3].double()
            result[name] = (_apply(turn, root[:, None])[:, 0] - (root - transl)).float()
    for name in ("joints3d", "people3d"):
        if name in result:
            points = result[name]
            moved = _apply(turn, points[..., :3].double().flatten(1, -2)).view_as(points[..., :3])
            result[name] = torch.cat([moved.float(), points[..., 3:]], -1)
    for name in ("global_orient", "hand_orient"):
        if name in result:
            matrix = _product(turn, axis_angle_to_matrix(result[name].double()))
            result[name] = matrix_to_axis_angle(matrix).float()
