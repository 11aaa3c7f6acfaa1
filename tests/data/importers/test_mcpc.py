"""MCPC: people of a picture kept together, joints of four datasets in one set, relations drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.body.picture_joints import MCPC14
from hpse_dist.config import build
from hpse_dist.data.collection import CollectionConfig, write_collection
from hpse_dist.data.depth_order import DepthOrder
from hpse_dist.data.depth_sheet import depth_sheet
from hpse_dist.data.importers import mcpc, mpii
from hpse_dist.data.importers.mcpc import McpcConfig, common_joints
from hpse_dist.recipe import DataRecipe, with_located_roots
from hpse_dist.records import FrameRecord
from tests.data.importers import test_coco_style, test_pictures_2d
from tests.data.importers.annotated import (
    HEIGHT,
    WIDTH,
    parted,
    picture,
    places,
    triples,
    write_json,
)

REAL = Path(__file__).parents[4] / "shared" / "real"


@pytest.mark.parametrize("joint_set", ["coco17", "mpii16", "posetrack17", "crowdpose14"])
def test_joints_keep_their_places_in_the_common_set(joint_set: str) -> None:
    names = JOINT_SETS[joint_set]
    joints = np.column_stack([np.arange(len(names)), np.arange(len(names)), np.ones(len(names))])
    found = dict(zip(MCPC14, common_joints(joints, joint_set), strict=True))
    for name in MCPC14[:12]:
        assert names[int(found[name][0])] == name and found[name][2] == 1
    head = {name: names[int(found[name][0])] for name in ("neck", "head_top") if found[name][2]}
    assert (
        head
        == {
            "coco17": {},
            "mpii16": {"neck": "upper_neck", "head_top": "head_top"},
            "posetrack17": {"neck": "head_bottom", "head_top": "head_top"},
            "crowdpose14": {"neck": "neck", "head_top": "head"},
        }[joint_set]
    )


def write_crowdpose(root: Path) -> None:
    for number in (1, 2):
        picture(root / "images" / f"{number}.jpg")
    keypoints = triples(places(14), [2] * 14)
    one = {"bbox": [30, 20, 150, 160], "iscrowd": 0, "keypoints": keypoints}
    people = [
        {**one, "id": 1, "image_id": 1},
        {**one, "id": 2, "image_id": 1, "keypoints": [0] * 42},  # a reject amid its picture
        {**one, "id": 3, "image_id": 1, "bbox": [0, 0, 50, 40]},
        {**one, "id": 4, "image_id": 1, "bbox": [0, 0, 90, 90]},
        {**one, "id": 5, "image_id": 2},
    ]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": WIDTH, "height": HEIGHT} for n in (1, 2)]
    write_json(root / "json" / "crowdpose_val.json", {"images": images, "annotations": people})


def write_mpii(root: Path) -> None:
    structs = test_pictures_2d.structs
    points = [{"x": x, "y": y, "id": i, "is_visible": 1} for i, (x, y) in enumerate(places(16) + 1)]
    person = {
        **{"x1": 10, "y1": 12, "x2": 50, "y2": 60},
        "annopoints": structs([{"point": structs(points)}]),
    }
    row = {
        "image": structs([{"name": "a.jpg"}]),
        "annorect": structs([person, person]),
        "frame_sec": 4,
        "vididx": 3,
    }
    release = {"annolist": structs([row, row]), "img_train": np.array([[1, 0]])}
    root.mkdir()
    savemat(root / mpii.FILE, {"RELEASE": release})
    picture(root / "images" / "a.jpg")


def config(tmp_path: Path) -> McpcConfig:
    test_coco_style.write(tmp_path / "coco", [test_coco_style.person(i, 1) for i in (1, 2)])
    write_mpii(tmp_path / "mpii")
    write_crowdpose(tmp_path / "crowdpose")
    keys = {"splits": ["val"]}
    return build(
        McpcConfig,
        {
            "coco": {"root": str(tmp_path / "coco"), **keys},
            "mpii": {"root": str(tmp_path / "mpii")},
            "crowdpose": {"root": str(tmp_path / "crowdpose"), **keys},
            "max_people": 2,
        },
    )


def test_people_of_a_picture_stay_together_whatever_is_rejected(tmp_path: Path) -> None:
    frames, rejects = parted(mcpc.frames(config(tmp_path)))
    assert [frame.sequence.partition("/")[0] for frame in frames] == ["coco", "mpii", "crowdpose"]
    for frame in frames:
        assert frame.labels["people2d"].shape == (2, 14, 3)
        assert (frame.labels["people2d"][..., 2] > 0).any(1).all()
        assert frame.box == (0, 0, WIDTH, HEIGHT) and frame.mask is not None
        assert frame.mask.any() and not frame.mask.all()
    coco, crowd = frames[0].labels["people2d"], frames[2].labels["people2d"]
    assert not coco[:, 12:, 2].any() and crowd[:, 12:, 2].all()  # COCO has no neck and head
    assert rejects["crowdpose: val/1.jpg, person 2"] == "no joint is labelled"
    assert rejects["crowdpose: val/2.jpg"] == "1 labelled people, fewer than 2"


def test_its_collection_has_relations_and_every_parts_licence(tmp_path: Path) -> None:
    made = config(tmp_path)
    origin = mcpc.provenance(made)
    assert not origin.commercial and [p["name"] for p in origin.details["parts"]] == [
        *("coco", "mpii", "crowdpose")
    ]
    rule = CollectionConfig(crop_px=64, box_scale=1.0, val_ratio=0)
    collection = write_collection(tmp_path / "made", mcpc.frames(made), rule, origin)
    assert collection.num_frames == 3 and collection.manifest["joint_set"] == "mcpc14"
    people = torch.from_numpy(collection.read([0, 1, 2], ["people2d"])["people2d"])
    relations = DepthOrder("mcpc14")(people)
    assert relations["depth_confidence"].shape == relations["depth_order"].shape
    assert depth_sheet(collection) is not None


def test_roots_of_parts_are_located(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HPSE_ROOT", str(tmp_path))
    source = {"name": "mcpc", "coco": {"root": "data/coco"}, "mpii": {"root": "/else/mpii"}}
    recipe = build(DataRecipe, {"name": "a", "source": source})
    there = with_located_roots(recipe.source)
    assert there.coco.root == tmp_path / "data" / "coco" and there.mpii.root == Path("/else/mpii")
    with pytest.raises(ValueError, match="at least one of coco, mpii, posetrack18, crowdpose"):
        build(DataRecipe, {"name": "a", "source": {"name": "mcpc"}})


@pytest.mark.skipif(not REAL.is_dir(), reason="no real samples beside the checkout")
def test_nearer_people_of_real_pictures_are_before_farther_ones() -> None:
    source = {
        "coco": {
            "root": str(REAL / "coco"),
            "splits": ["val"],
            "annotations": "test_coco.json",
            "pictures": ".",
        }
    }
    frames, _ = parted(mcpc.frames(build(McpcConfig, source)))
    assert len(frames) == 3
    found: dict[str, FrameRecord] = {frame.source: frame for frame in frames}
    baseball = found["coco: val/000000196141.jpg"].labels["people2d"] / [640, 640, 1]
    order_of = DepthOrder("mcpc14")
    order, known = order_of.relations(order_of.apparent(torch.from_numpy(baseball)[None].float()))
    # largest first: batter, catcher, then the two who stand far away
    for near in (0, 1):
        for far in (2, 3):
            assert not known[0, near, far] or order[0, near, far] == -1
    assert known[0, 0, 2:4].all()
