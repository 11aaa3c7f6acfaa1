"""Leeds Sports Pose and its extension: one person a picture, 14 joints.

lsp: joints.mat (3, 14, 2000), images/im0001.jpg ...      the first 1000 train, the others test
lspet: joints.mat (14, 3, 10000), images/im00001.jpg ...  all train
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hpse_dist.body.picture_joints import LSP14
from hpse_dist.data.importers import matlab, official
from hpse_dist.data.importers.official import Bad
from hpse_dist.records import FrameRecord, Provenance, Reject

_ORIGIN = (
    "get lsp_dataset_original.zip or lspet_dataset.zip of Leeds Sports Pose (Sam Johnson) and give "
    "the folder that holds joints.mat and images/ as source.root"
)
_TRAIN = 1000  # pictures of lsp


@dataclass(frozen=True)
class LspConfig:
    """Sports people, 14 joints each, in sports pictures."""

    root: Path
    """The folder that holds joints.mat and images."""
    version: Literal["lsp", "lspet"] = "lsp"
    """lsp: 2000 pictures with hidden joints marked; lspet: 10,000 with what is in sight."""
    occluded_confidence: float = 0.5
    """lsp: confidence of a joint that something hides; one in sight has 1."""
    box_margin: float = 0.15
    """How much wider a box is than the joints in it, share of their longer side."""

    def __post_init__(self) -> None:
        official.check_shared_keys(self)


Config = LspConfig


def frames(config: LspConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each picture."""
    path = official.required(config.root / "joints.mat", _ORIGIN)
    folder = official.required(config.root / "images", _ORIGIN)
    digits = 4 if config.version == "lsp" else 5
    for index, joints in enumerate(_joints(path, config)):
        name = f"im{index + 1:0{digits}d}.jpg"
        try:
            yield FrameRecord(
                image=official.picture_at(folder, name),
                box=official.box_of_joints(official.any_joint(joints), config.box_margin),
                subject="",
                sequence=name,
                camera="",
                time=0.0,
                source=name,
                labels={"joints2d": joints},
                split="test" if config.version == "lsp" and index >= _TRAIN else "train",
            )
        except Bad as reason:
            yield Reject(name, str(reason))


def provenance(config: LspConfig) -> Provenance:
    """No licence comes with the dataset."""
    extended = "Learning Effective Human Pose Estimation from Inaccurate Annotation, CVPR 2011"
    first = "Clustered Pose and Nonlinear Appearance Models, BMVC 2010"
    return Provenance(
        importer="lsp",
        licence="none stated, pictures from Flickr under their licences: research only",
        commercial=False,
        citation=f"Johnson and Everingham, {first if config.version == 'lsp' else extended}",
        joint_set="lsp14",
        details={"version": config.version},
    )


def _joints(path: Path, config: LspConfig) -> np.ndarray:
    """(N, 14, 3). lsp's flag is 1 where something hides the joint, lspet's where it is in sight."""
    try:
        stored = matlab.read_mat(path, ("joints",))["joints"]
        if config.version == "lsp":
            numbers = matlab.array(stored, (3, len(LSP14), None), "joints").transpose(2, 1, 0)
            sure = np.where(numbers[..., 2] > 0, config.occluded_confidence, 1.0)
        else:
            numbers = matlab.array(stored, (len(LSP14), 3, None), "joints").transpose(2, 0, 1)
            sure = (numbers[..., 2] > 0).astype(float)
    except Bad as reason:
        raise ValueError(
            f"{path}: {reason}; is source.version {config.version} what it is?"
        ) from None
    return matlab.joints(numbers[..., 0], numbers[..., 1], sure)
