"""Importers: one module per dataset layout, and the table recipes choose from.

An importer knows nothing of crops, shards or pairs: it yields a `FrameRecord` for each person it
finds and a `Reject` for each it leaves out. Three edits add one: its module, a line in the table,
a YAML under configs/data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from hpse_dist.data.importers import (
    agora,
    ai_challenger,
    aist,
    bedlam,
    coco,
    coco_wholebody,
    crowdpose,
    densepose_coco,
    emdb,
    freihand,
    gun71,
    hagrid,
    ho3d,
    human36m,
    humbi,
    image_folder,
    interhand,
    jhmdb,
    labelled,
    lsp,
    mcpc,
    mpi_inf_3dhp,
    mpii,
    muco,
    mupots,
    panoptic,
    penn_action,
    posetrack18,
    rig,
    surreal,
    threedpw,
    videos,
)
from hpse_dist.records import FrameRecord, Provenance, Reject


class FrameSource(Protocol):
    """What a source of frames offers, as a module does.

    Where reading a record is the costly part (videos, rendering), a source may also offer
    `in_parts(config, size, processes) -> data.parts.Parts`: its records in parts of about `size`,
    each for any worker to make. Without it the stream is cut into stretches, which every worker
    reads over, and of which it crops and writes its own.
    """

    @property
    def Config(self) -> type:
        """Frozen dataclass of its keys in a recipe."""

    def frames(self, config: Any) -> Iterator[FrameRecord | Reject]:
        """Records in the order of time, a moment's together; ValueError for what a user did."""

    def provenance(self, config: Any) -> Provenance:
        """Licence and origin of those frames."""


IMPORTERS: dict[str, FrameSource] = {
    "image_folder": image_folder,
    "rig": rig,
    "videos": videos,
    "labelled": labelled,
    # people in 3D
    "threedpw": threedpw,
    "mpi_inf_3dhp": mpi_inf_3dhp,
    "panoptic": panoptic,
    "human36m": human36m,
    "aist": aist,
    "mupots": mupots,
    "emdb": emdb,
    "bedlam": bedlam,
    "agora": agora,
    "surreal": surreal,
    "humbi": humbi,
    "muco": muco,
    # hands
    "ho3d": ho3d,
    "hagrid": hagrid,
    "gun71": gun71,
    "freihand": freihand,
    "interhand": interhand,
    # pictures with 2D annotation
    "coco": coco,
    "coco_wholebody": coco_wholebody,
    "densepose_coco": densepose_coco,
    "posetrack18": posetrack18,
    "crowdpose": crowdpose,
    "mcpc": mcpc,
    "ai_challenger": ai_challenger,
    "mpii": mpii,
    "lsp": lsp,
    "penn_action": penn_action,
    "jhmdb": jhmdb,
}
