"""Pinhole cameras. Camera frame: x right, y down, z forward.

Functions over batches work on tensors; those over one rig's calibration on numpy arrays.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from hpse_dist.constants import constant, constant_like
from hpse_dist.geometry.rotations import smallest_rotation
from hpse_dist.precision import in_full_precision


@in_full_precision
def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """points (B, N, 3) in the camera frame, intrinsics (B, 3, 3) -> (B, N, 2).

    In the unit of the intrinsics: pixels, or 0..1 of the crop in a batch. Depth must not be 0; a
    point behind the camera gets the place of its mirror image, so look at the depth first.
    """
    rays = points @ intrinsics.transpose(-1, -2)
    return rays[..., :2] / rays[..., 2:]


def rotation_to_ray(intrinsics: Tensor) -> Tensor:
    """The smallest rotation that takes the optical axis to the ray through the crop's centre.

    intrinsics (B, 3, 3) for 0..1 coordinates -> (B, 3, 3).
    """
    centre = constant_like(intrinsics, (0.5, 0.5, 1.0)).expand(len(intrinsics), 3)
    ray = torch.linalg.solve_ex(intrinsics, centre)[0]  # without waiting for a check of errors
    axis = constant_like(ray, (0.0, 0.0, 1.0)).expand_as(ray)
    return smallest_rotation(axis, ray / ray.norm(dim=-1, keepdim=True))


def place_on_ray(camera: Tensor, scale: float, intrinsics: Tensor, ray: Tensor) -> Tensor:
    """Where weak-perspective numbers put a root: camera (B, 3) -> (B, 3) metres, camera frame.

    The first is the logarithm of the scale over `scale` (half crop sides per metre), the others
    metres across the ray; intrinsics (B, 3, 3) for 0..1 coordinates, ray of `rotation_to_ray`.
    """
    depth = 2.0 * intrinsics[:, 0, 0] / (scale * camera[:, 0].exp())
    return (ray @ torch.cat((camera[:, 1:], depth[:, None]), dim=1)[..., None])[..., 0]


def known_intrinsics(intrinsics: Tensor | None, focal: float, like: Tensor) -> Tensor:
    """(B, 3, 3) camera matrices for 0..1 coordinates; where there is none (zeros, or None for the
    whole batch) one of `focal` crop sides that looks at the middle. `like` (B, ...) has B, device.
    """
    default = constant(((focal, 0.0, 0.5), (0.0, focal, 0.5), (0.0, 0.0, 1.0)), like.device)
    default = default.expand(len(like), 3, 3)
    if intrinsics is None:
        return default
    return torch.where(intrinsics[:, :1, :1] > 0, intrinsics.float(), default)


def look_at(
    eye: np.ndarray, target: np.ndarray, up: np.ndarray | tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """World-to-camera rotation (3, 3) and translation (3,): at `eye`, looking at `target`.

    up: the world's direction that shall point up in the picture, not parallel to the view.
    """
    forward = _unit(np.asarray(target, dtype=np.float64) - eye)
    right = np.cross(forward, up)
    if np.linalg.norm(right) < 1e-9:
        raise ValueError("look_at needs an up direction that is not parallel to the view.")
    right = _unit(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return rotation, -rotation @ eye


def crop_intrinsics(
    intrinsics: np.ndarray, box: tuple[float, float, float, float], size: tuple[float, float]
) -> np.ndarray:
    """Intrinsics (3, 3) after cutting out box (x0, y0, x1, y1) and scaling it to (width, height).

    With size (1, 1) they are those of a batch, for 0..1 coordinates of the crop.
    """
    x0, y0, x1, y1 = box
    sx, sy = size[0] / (x1 - x0), size[1] / (y1 - y0)
    return np.array([[sx, 0, -sx * x0], [0, sy, -sy * y0], [0, 0, 1]]) @ intrinsics


def distort(points: np.ndarray, intrinsics: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Pixels (N, 2) of the pinhole camera -> pixels of the lens's picture.

    coefficients: OpenCV's, 4, 5 or 8 of k1, k2, p1, p2, k3, k4, k5, k6.
    """
    rays = (points - intrinsics[:2, 2]) @ np.linalg.inv(intrinsics[:2, :2]).T
    rays = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    nowhere = np.zeros(3)
    seen, _ = cv2.projectPoints(rays, nowhere, nowhere, intrinsics, np.asarray(coefficients))
    return seen.reshape(-1, 2)


def undistort_points(
    points: np.ndarray, intrinsics: np.ndarray, coefficients: np.ndarray
) -> np.ndarray:
    """Inverse of `distort`: pixels (N, 2) of the lens's picture -> pixels of the pinhole camera."""
    # OpenCV stops after 5 rounds otherwise, pixels off near the corners of a wide lens.
    until = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 200, 1e-10)
    points = np.asarray(points, dtype=np.float64).reshape(-1, 1, 2)
    found = cv2.undistortPoints(
        points, intrinsics, np.asarray(coefficients), P=intrinsics, criteria=until
    )
    return found.reshape(-1, 2)


def triangulate(cameras: np.ndarray, points: np.ndarray) -> np.ndarray:
    """One point (3,) from its pixels (V, 2) in two or more views; cameras (V, 3, 4) are K [R | t].

    The pixels are undistorted. Linear least squares (DLT, Hartley and Zisserman 12.2) over rows of
    equal length.
    """
    if len(cameras) < 2:
        raise ValueError(f"triangulation needs at least two views, found {len(cameras)}.")
    rows = points[..., None] * cameras[:, 2:] - cameras[:, :2]
    rows = rows.reshape(-1, 4)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    solution = np.linalg.svd(rows)[2][-1]
    return solution[:3] / solution[3]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
