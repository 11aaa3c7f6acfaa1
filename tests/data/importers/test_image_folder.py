"""Pictures in folders of classes: what becomes a frame, a class, a reject."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.importers import image_folder
from hpse_dist.data.importers.image_folder import ImageFolderConfig
from hpse_dist.data.loader import Source, evaluation_batches
from hpse_dist.records import FrameRecord, Reject
from hpse_dist.world import World


def picture(path: Path, width: int, height: int, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """ImageNet's layout: two classes, one of them in train only, and a damaged picture."""
    root = tmp_path / "pictures"
    for i in range(3):
        picture(root / "train" / "cat" / f"{i}.JPEG", 60, 40, 40 * i)
        picture(root / "train" / "dog" / f"{i}.png", 40, 50, 200)
    picture(root / "val" / "dog" / "9.jpg", 64, 64, 90)
    (root / "val" / "dog" / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    (root / "val" / "dog" / "notes.txt").write_text("not a picture")
    return root


def config(root: Path, **changes: object) -> ImageFolderConfig:
    return ImageFolderConfig(root, licence="own", **changes)  # type: ignore[arg-type]


def test_folders_become_classes_splits_and_rejects(root: Path) -> None:
    records = list(image_folder.frames(config(root)))
    frames = [record for record in records if isinstance(record, FrameRecord)]
    found = {(f.subject, int(f.labels["label"]), f.split) for f in frames}
    assert ("train/cat/0.JPEG", 0, "train") in found and ("val/dog/9.jpg", 1, "val") in found
    assert len(frames) == 7
    rejects = [record for record in records if isinstance(record, Reject)]
    assert [reject.source for reject in rejects] == ["val/dog/bad.jpg"]
    assert image_folder.provenance(config(root)).details == {"classes": ["cat", "dog"]}


def test_the_middle_square_or_all_of_it(root: Path) -> None:
    boxes = {
        square: next(iter(image_folder.frames(config(root, square=square)))).box  # type: ignore[union-attr]
        for square in ("middle", "whole")
    }
    assert boxes == {"middle": (10.0, 0.0, 50.0, 40.0), "whole": (0.0, 0.0, 60.0, 40.0)}


def test_without_splits_the_collection_chooses(root: Path) -> None:
    records = list(image_folder.frames(config(root / "train")))
    assert all(isinstance(r, FrameRecord) and r.split is None for r in records)


@pytest.mark.parametrize(
    ("folder", "message"), [("nowhere", "is no folder"), ("pictures/train/cat", "no folders of")]
)
def test_a_wrong_root_is_said(root: Path, folder: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_folder.provenance(config(root.parent / folder))


def test_a_collection_keeps_the_classes(root: Path, tmp_path: Path) -> None:
    written = CollectionConfig(crop_px=32, box_scale=1.0, min_side_px=16)
    settings = config(root)
    write_collection(
        tmp_path / "collection",
        image_folder.frames(settings),
        written,
        image_folder.provenance(settings),
    )
    collection = Collection.open(tmp_path / "collection")
    assert "label" in collection.label_fields and collection.num_frames == 7
    assert collection.manifest["licence"] == "own"
    batches = evaluation_batches(
        Source(collection, 1.0, "train"),
        needs=("image", "label", "valid"),
        sampling="frames",
        world=World(),
        micro_batch=6,
        image_px=32,
        patch_px=8,
        device=torch.device("cpu"),
    )
    batch = next(iter(batches))
    assert batch["label"].dtype == torch.int64
    dogs_are_bright = batch["image"].mean((1, 2, 3)) > 0.5
    assert batch["label"].tolist() == dogs_are_bright.long().tolist() and dogs_are_bright.sum() == 3
