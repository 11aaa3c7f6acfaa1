"""DensePose-COCO's layout: parts where the masks say, left and right of the person kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from hpse_dist.body.joints import PART_NAMES
from hpse_dist.data.crops import CollectionConfig, Pictures, prepare_frame
from hpse_dist.data.importers import densepose_coco
from tests.data.importers.annotated import HEIGHT, WIDTH, parted, picture, places, triples
from tests.data.importers.annotated import write_json as write

BOX = (30.0, 20.0, 128.0, 160.0)  # x, y, width, height


def packed(rows: slice, columns: slice) -> dict[str, Any]:
    """COCO's packed run lengths of a rectangle in a mask of 256 x 256, by COCO's own tool."""
    mask = np.zeros((256, 256), np.uint8, order="F")
    mask[rows, columns] = 1
    found = coco_mask.encode(mask)
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def person(number: int, image: int, **changes: Any) -> dict[str, Any]:
    masks: list[Any] = [[] for _ in range(14)]
    masks[0] = packed(slice(64, 192), slice(64, 192))  # torso
    masks[2] = packed(slice(128, 160), slice(192, 256))  # left hand: the picture's right
    masks[13] = packed(slice(0, 64), slice(96, 160))  # head
    return {
        "id": number,
        "image_id": image,
        "iscrowd": 0,
        "bbox": list(BOX),
        "keypoints": triples(places(17, number), [2] * 17),
        "dp_masks": masks,
        "dp_I": [1.0],
        "dp_U": [0.5],
        "dp_V": [0.5],
        "dp_x": [100.0],
        "dp_y": [100.0],
        **changes,
    }


def made(root: Path, people: list[Any], split: str = "minival") -> Path:
    name = f"COCO_{'train' if split == 'train' else 'val'}2014_000000000001.jpg"
    images = [{"id": 1, "file_name": name, "width": WIDTH, "height": HEIGHT}]
    about = {"images": images, "annotations": people}
    write(root / f"annotations/densepose_coco_2014_{split}.json", about)
    picture(root / ("train2014" if split == "train" else "val2014") / name)
    return root


def read(root: Path, **changes: Any) -> tuple[list[Any], dict[str, str]]:
    config = densepose_coco.Config(root, **{"splits": ("minival",), **changes})
    return parted(densepose_coco.frames(config))


def test_parts_lie_where_they_were_marked(tmp_path: Path) -> None:
    (frame,), rejects = read(made(tmp_path, [person(7, 1)]))
    parts = frame.labels["part_map"]
    names = {PART_NAMES[number] for number in np.unique(parts)}
    assert names == {"background", "torso", "left_hand", "head"} and not rejects
    hand = np.argwhere(parts == PART_NAMES.index("left_hand"))
    # 256 steps are 128 px across and 160 px down
    assert hand.min(axis=0).tolist() == [20 + 80, 30 + 96]
    assert hand.max(axis=0).tolist() == [20 + 99, 30 + 127]
    assert (frame.mask == (parts > 0)).all() and frame.split == "val"
    assert frame.labels["joints2d"].shape == (17, 3)
    row = prepare_frame(frame, CollectionConfig(crop_px=32), Pictures()).row
    assert row["part_map"].any() and "uv_map" not in row
    assert read(tmp_path, masks=False)[0][0].mask is None


def test_masks_reach_out_of_the_picture_and_train_is_train(tmp_path: Path) -> None:
    wide = person(7, 1, bbox=[-40.0, 100.0, 400.0, 256.0])
    (frame,), _ = read(made(tmp_path, [wide], "train"), splits=("train",))
    assert frame.labels["part_map"].shape == (HEIGHT, WIDTH) and frame.split == "train"
    assert frame.labels["part_map"][HEIGHT - 1, 120] == PART_NAMES.index("torso")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"dp_masks": [[]] * 13}, "no list of 14 masks"),
        ({"dp_masks": [[]] * 14}, "all of dp_masks is empty"),
        ({"dp_masks": [{"size": [9, 9], "counts": [81]}] + [[]] * 13}, "torso is no mask of 256"),
        ({"dp_masks": [{"size": [256, 256], "counts": "0"}] + [[]] * 13}, "do not add up"),
        ({"dp_masks": [7] * 14}, "torso is no mask"),
        ({"keypoints": [0] * 51}, "no joint is labelled"),
    ],
)
def test_a_broken_person_is_a_reject_with_its_reason(
    tmp_path: Path, broken: dict[str, Any], reason: str
) -> None:
    bare = person(9, 1)
    del bare["dp_masks"]
    frames, rejects = read(made(tmp_path, [person(7, 1, **broken), person(8, 1), bare]))
    assert len(frames) == 1 and len(rejects) == 2
    said = list(rejects.values())
    assert reason in said[0] and "not marked (no dp_masks)" in said[1]


def test_what_is_missing_is_named_with_its_origin(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"densepose_coco_2014_train\.json is missing; .*get_Dens"):
        list(densepose_coco.frames(densepose_coco.Config(tmp_path)))
    (made(tmp_path, [person(7, 1)]) / "val2014").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"val2014 is missing; .*cocodataset"):
        read(tmp_path)
