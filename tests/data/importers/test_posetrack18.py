"""PoseTrack18's official layout: people over time, and the pairs that come of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpse_dist.data.collection import CollectionConfig, write_collection
from hpse_dist.data.importers import posetrack18
from hpse_dist.data.pairs import PairsConfig, write_pairs
from tests.data.importers.annotated import (
    HEIGHT,
    WIDTH,
    parted,
    picture,
    places,
    triples,
    write_json,
)

VIDEO = "000042_mpii_train"
SURE = [1, 1, 1, 0, 0] + [1] * 12


def person(frame: int, track: Any, **changes: Any) -> dict[str, Any]:
    return {
        "id": 100 * frame,
        "image_id": 10000420000 + frame,
        "track_id": track,
        "bbox": [30.0, 20.0, 150.0, 160.0],
        "keypoints": triples(places(17, frame), SURE),
        "scores": [],
        "category_id": 1,
        **changes,
    }


def write(root: Path, people: list[dict[str, Any]], frames: list[int]) -> None:
    images = []
    for frame in frames:
        name = f"images/train/{VIDEO}/{frame:06d}.jpg"
        picture(root / name, 5 * frame)
        number = 10000420000 + frame
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
    images.append({"id": 1, "file_name": f"images/train/{VIDEO}/000099.jpg"})  # nobody in it
    content = {"images": images, "annotations": people, "categories": []}
    write_json(root / "annotations" / "train" / f"{VIDEO}.json", content)


def config(root: Path) -> posetrack18.Config:
    return posetrack18.Config(root, splits=("train",))


def test_people_are_followed_in_the_order_of_time(tmp_path: Path) -> None:
    people = [person(f, t) for t in (0, 1) for f in (10, 0, 5)]
    write(tmp_path, people, [10, 0, 5])
    frames, rejects = parted(posetrack18.frames(config(tmp_path)))
    assert not rejects
    assert [(f.time, f.track) for f in frames] == [
        (second, f"{VIDEO}/{track}") for second in (0.0, 0.2, 0.4) for track in (0, 1)
    ]
    assert {f.sequence for f in frames} == {f"train/{VIDEO}"} and frames[0].subject == ""
    joints = frames[2].labels["joints2d"]
    assert joints[:, 2].tolist() == SURE
    assert np.allclose(joints[5:, :2], places(17, 5)[5:] + 0.5)
    assert frames[2].box == (30.0, 20.0, 180.0, 180.0)


def test_cross_pose_pairs_come_out(tmp_path: Path) -> None:
    write(tmp_path, [person(f, t) for t in (0, 1) for f in (0, 10, 20)], [0, 10, 20])
    where = config(tmp_path)
    collection = write_collection(
        tmp_path / "made",
        posetrack18.frames(where),
        CollectionConfig(crop_px=32),
        posetrack18.provenance(where),
    )
    pairs = write_pairs(collection, PairsConfig(pose_distance=(0.0, 9.0))).pairs
    assert pairs.num_rows and set(pairs["kind"].to_pylist()) == {1}
    tracks = collection.frames["track"].to_pylist()
    for a, b in zip(pairs["a"].to_pylist(), pairs["b"].to_pylist(), strict=True):
        assert tracks[a] == tracks[b]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"track_id": "x"}, "track_id is 'x'"),
        ({"keypoints": [0] * 51}, "no joint is labelled"),
        ({"bbox": [1, 2, 3]}, "bbox has 3 numbers"),
    ],
)
def test_a_broken_person_is_a_reject(tmp_path: Path, broken: Any, reason: str) -> None:
    write(tmp_path, [person(0, 0, **broken), person(0, 1)], [0])
    frames, rejects = parted(posetrack18.frames(config(tmp_path)))
    assert len(frames) == 1 and [reason in said for said in rejects.values()] == [True]


def test_without_a_box_the_joints_give_one(tmp_path: Path) -> None:
    boxless = {key: value for key, value in person(0, 0).items() if key != "bbox"}
    write(tmp_path, [boxless], [0])
    ((frame,), _) = parted(posetrack18.frames(config(tmp_path)))
    xy = frame.labels["joints2d"][[0, 1, 2, *range(5, 17)], :2]
    assert (xy > frame.box[:2]).all() and (xy < frame.box[2:]).all()


def test_broken_files_and_missing_folders(tmp_path: Path) -> None:
    write(tmp_path, [person(0, 0)], [0])
    (tmp_path / "annotations" / "train" / "000001_bad.json").write_text('{"images": 3')
    frames, rejects = parted(posetrack18.frames(config(tmp_path)))
    assert len(frames) == 1 and "no whole JSON file" in rejects["000001_bad.json"]
    with pytest.raises(ValueError, match=r"annotations/val is missing; get PoseTrack18's"):
        list(posetrack18.frames(posetrack18.Config(tmp_path)))
