"""AGORA: textured scans of people in rendered scenes, the training set at 1280 x 720.

    root/training_labels/all_npz_12_training/agora-bfh.npz   .../agora-body.npz
    root/training_images/images/ag_trainset_*_1280x720.png

The labels are those that BEDLAM's authors publish with AGORA's pictures (agora_images.tar), of
SMPL-X in the camera's frame. AGORA's own are pickled tables of pandas, which cannot be read without
running what the file says: they are not read here; agora_evaluation's
dataframe_agora_smplx_release.py turns them into a file of this form, agora.npz, once its shapes are
of one length: children's have 11 numbers, adults' 10, which np.savez does not take together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpse_dist.data.importers.bedlam_labels import JOINT_SET, Model, records
from hpse_dist.data.importers.official import Bad
from hpse_dist.data.importers.views3d import need
from hpse_dist.records import FrameRecord, Provenance, Reject

_GET = (
    "get all_npz_12_training.zip and agora_images.tar with fetch_training_data.sh of BEDLAM's code "
    "and unpack them in source.root, as training_labels and training_images"
)


@dataclass(frozen=True)
class AgoraConfig:
    """Which of AGORA's labels."""

    root: Path
    """The folder that holds training_labels and training_images."""
    labels: tuple[str, ...] = tuple(
        f"training_labels/all_npz_12_training/agora-{part}.npz" for part in ("bfh", "body")
    )
    """Files of labels, under root."""
    pictures: str = "training_images/images"
    """Folder of the pictures, under root."""
    model: Model = "smplx"
    """Whose parameters the labels are."""

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueError("labels must name at least one file")


Config = AgoraConfig


def frames(config: AgoraConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person; nobody is known by name, and a picture is a sequence of its own."""
    folder = need(config.root / config.pictures, "AGORA's folder of pictures", _GET)
    for name in config.labels:
        path = need(config.root / name, "AGORA's file of labels", _GET)
        try:
            yield from records(path, folder, config.model, "agora", rate=0.0, every=1)
        except Bad as error:
            yield Reject(path.name, str(error))


def provenance(config: AgoraConfig) -> Provenance:
    """Licence and origin of AGORA."""
    return Provenance(
        importer="agora",
        licence="AGORA licence: non-commercial scientific research, after registration",
        commercial=False,
        citation="Patel et al., AGORA: Avatars in Geography Optimized for Regression Analysis, "
        "CVPR 2021",
        joint_set=JOINT_SET[config.model],
        details={
            "body_model": config.model,
            "joints3d": "solved from each shape's parameters and projected joints, where it is "
            "seen often enough",
            "splits": "by picture: the labels do not name people",
        },
    )
