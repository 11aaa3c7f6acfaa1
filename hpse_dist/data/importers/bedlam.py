"""BEDLAM: clothed synthetic people in rendered scenes, filmed by one camera each.

    root/training_labels/all_npz_12_training/<scene>.npz
    root/training_images/<scene>/png/seq_000000/seq_000000_0000.png

The folders are those of BEDLAM's own training code. The published labels are of SMPL-X, whose shape
and hands are not SMPL's: they give joints and no body's parameters. Labels of SMPL as BEDLAM's
df_full_body_smpl.py makes them (`source.model=smpl`) give both; those of bedlam-labels-smpl.zip
have other 2D joints than SMPL's and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpse_dist.data.importers.bedlam_labels import JOINT_SET, Model, records
from hpse_dist.data.importers.official import Bad
from hpse_dist.data.importers.views3d import need, whole_positive
from hpse_dist.records import FrameRecord, Provenance, Reject

RATE = 30.0  # a picture's number counts these, in the scenes of 6 pictures a second too
_GET = (
    "get all_npz_12_training.zip and the scenes' pictures with fetch_training_data.sh of BEDLAM's "
    "code and unpack them in source.root, as training_labels and training_images"
)


@dataclass(frozen=True)
class BedlamConfig:
    """Which of BEDLAM's scenes and frames."""

    root: Path
    """The folder that holds training_labels and training_images."""
    labels: str = "training_labels/all_npz_12_training"
    """Folder of the labels, under root."""
    pictures: str = "training_images"
    """Folder of the scenes' pictures, under root."""
    scenes: tuple[str, ...] = ()
    """Names of scenes; empty takes those that have both labels and pictures."""
    model: Model = "smplx"
    """Whose parameters the labels are."""
    every: int = 1
    """Every n-th number of the pictures, of which most scenes have every 5th."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)


Config = BedlamConfig


def frames(config: BedlamConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each person and picture, scene by scene, person by person."""
    labels = need(config.root / config.labels, "BEDLAM's folder of labels", _GET)
    pictures = need(config.root / config.pictures, "BEDLAM's folder of pictures", _GET)
    there = sorted(path.stem for path in labels.glob("*.npz") if (pictures / path.stem).is_dir())
    if not config.scenes and not there:
        raise ValueError(f"{labels}: no <scene>.npz of a scene in {pictures}; {_GET}")
    for scene in config.scenes or there:
        path = need(labels / f"{scene}.npz", "BEDLAM's labels of this scene", _GET)
        folder = need(pictures / scene / "png", "BEDLAM's pictures of this scene", _GET)
        try:
            yield from records(path, folder, config.model, scene, RATE, config.every)
        except Bad as error:
            yield Reject(f"{scene}.npz", str(error))


def provenance(config: BedlamConfig) -> Provenance:
    """Licence and origin of BEDLAM."""
    return Provenance(
        importer="bedlam",
        licence="BEDLAM licence: non-commercial scientific research, after registration",
        commercial=False,
        citation="Black et al., BEDLAM: A Synthetic Dataset of Bodies Exhibiting Detailed Lifelike "
        "Animated Motion, CVPR 2023",
        joint_set=JOINT_SET[config.model],
        details={
            "body_model": config.model,
            "joints3d": "solved from each shape's parameters and projected joints",
        },
    )
