"""A protocol's figures of joints, per example: for files, and for tasks while they train."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hpse_dist.metrics.pose3d import auc3d, mpjpe, n_mpjpe, pa_mpjpe, pck3d
from hpse_dist.protocols.base import Protocol

Figures = dict[str, Tensor]
JOINT_FIGURES: dict[str, Callable[..., Tensor]] = {
    "mpjpe": mpjpe,
    "n_mpjpe": n_mpjpe,
    "pck_150": pck3d,
    "auc_150": auc3d,
}


def joint_figures(protocol: Protocol, mine: Tensor, true: Tensor, known: Tensor) -> Figures:
    """(B,) each: the protocol's figures of joints (B, J, 3) in its whole joint set, metres.

    known (B, J), above 0 where a joint is labelled; NaN where nothing can be judged.
    """
    protocol.check_joint_count(mine.shape[1], "prediction")
    protocol.check_joint_count(true.shape[1], "ground truth")
    judged, counted, figures = protocol.judged(), known > 0, {}
    if "pa_mpjpe" in protocol.figures:  # which needs no root
        figures["pa_mpjpe"] = pa_mpjpe(mine[:, judged], true[:, judged], counted[:, judged])
    if protocol.root:
        root = protocol.names().index(protocol.root)
        counted = counted & counted[:, root, None]
        mine, true = mine - mine[:, root, None], true - true[:, root, None]
    mine, true, counted = mine[:, judged], true[:, judged], counted[:, judged]
    for name, figure in JOINT_FIGURES.items():
        if name in (*protocol.figures, "mpjpe"):
            figures[name] = figure(mine, true, counted, None)
    return figures
