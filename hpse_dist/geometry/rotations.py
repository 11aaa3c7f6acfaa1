"""Rotations: axis-angle, 3x3 matrices and the 6D form in its two memory layouts; by roma.

roma is imported by who uses it: with it comes all of torch's compiler.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

SixDLayout = Literal["contiguous", "interleaved"]


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """(..., 3) radians -> (..., 3, 3); differentiable everywhere, the zero rotation included."""
    import roma

    return roma.rotvec_to_rotmat(axis_angle)


def matrix_to_axis_angle(matrix: Tensor) -> Tensor:
    """(..., 3, 3) -> (..., 3) radians of norm 0..pi, stable near both ends."""
    import roma

    return roma.rotmat_to_rotvec(matrix)


def six_d_to_matrix(six_d: Tensor, layout: SixDLayout = "contiguous") -> Tensor:
    """(..., 6) -> (..., 3, 3) by Gram-Schmidt on the first two columns (Zhou et al. 2019).

    contiguous: column one is numbers 0, 1, 2 (HMR2, Multi-HMR); interleaved: 0, 2, 4 (HMR, SPIN).
    The same six numbers are different rotations in the two: weights belong to one layout.
    """
    import roma

    _check_layout(layout)
    if layout == "contiguous":
        columns = six_d.unflatten(-1, (2, 3)).transpose(-1, -2)
    else:
        columns = six_d.unflatten(-1, (3, 2))
    # The clamp keeps an all-zero network output finite; it does not make it a rotation.
    return roma.special_gramschmidt(columns, epsilon=1e-8)


def matrix_to_six_d(matrix: Tensor, layout: SixDLayout = "contiguous") -> Tensor:
    """(..., 3, 3) -> (..., 6): the first two columns, in the order `six_d_to_matrix` reads them."""
    _check_layout(layout)
    columns = matrix[..., :, :2]
    if layout == "contiguous":
        columns = columns.transpose(-1, -2)
    return columns.flatten(-2)


def smallest_rotation(source: Tensor, target: Tensor) -> Tensor:
    """The rotation by the smallest angle that takes one unit vector to another: (B, 3) twice ->
    (B, 3, 3).

    Rodrigues' formula with v = source x target and cosine c: I + [v] + [v]^2 / (1 + c); 1 + c is
    bounded near opposite vectors, where there is no one such rotation.
    """
    x, y, z = torch.linalg.cross(source, target).unbind(-1)
    cosine = (source * target).sum(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))
    eye = torch.eye(3, dtype=source.dtype, device=source.device)
    return eye + skew + skew @ skew / (1.0 + cosine).clamp(min=1e-3)[:, None, None]


def _check_layout(layout: str) -> None:
    if layout not in ("contiguous", "interleaved"):
        raise ValueError(f"6D layout must be 'contiguous' or 'interleaved', found {layout!r}.")
