"""Annotation with wrong types, numbers beyond bounds, names that lead out: rejects or a sentence.

Every annotation file of every importer's fixture is changed at many places, one at a time. Whatever
is put there, records come out that can be stored or refused with a reason, or one ValueError.
"""

from __future__ import annotations

import copy
import inspect
import json
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpse_dist.data.crops import CollectionConfig, Pictures, Unusable, prepare_frame
from hpse_dist.data.importers import IMPORTERS
from hpse_dist.records import Reject
from tests.data.importers import (
    test_aist,
    test_coco_style,
    test_freihand,
    test_hagrid,
    test_human36m,
    test_interhand,
    test_panoptic,
    test_posetrack18,
)
from tests.data.importers.annotated import HEIGHT, WIDTH, picture, places, triples, write_json

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
HOSTILE: list[Any] = [
    *(None, True, -1, 0, 2**63, 10**19, 10**400, 1e300, -1e300, float("nan"), float("inf")),
    *("", "x", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "²", "9" * 400, "a" * 5000),
    *([], {}, [[]], {"x": []}, [None], ["x"] * 51, [1e300] * 4, [0] * 51, DEEP),
]


def coco(root: Path) -> None:
    outline = [[20, 20, 200, 20, 200, 180, 20, 180]]
    people = [test_coco_style.person(1, 1, segmentation=outline), test_coco_style.person(2, 1)]
    test_coco_style.write(root, people)


def ai_challenger(root: Path) -> None:
    folder = root / "ai_challenger_keypoint_train_20170909"
    picture(folder / "keypoint_train_images_20170902" / "ab.jpg")
    keypoints = triples(places(14), [1, 2, 3] + [1] * 11)
    people = {"human1": [30, 20, 180, 180]}
    about = {
        "image_id": "ab",
        "human_annotations": people,
        "keypoint_annotations": {"human1": keypoints},
    }
    write_json(folder / "keypoint_train_annotations_20170909.json", [about, about])


def crowdpose(root: Path) -> None:
    picture(root / "images" / "1.jpg")
    one = {"id": 5, "image_id": 1, "bbox": [30, 20, 150, 160], "iscrowd": 0}
    people = [{**one, "keypoints": triples(places(14), [2, 1, 0] + [2] * 11)}]
    images = [{"id": 1, "file_name": "1.jpg", "width": WIDTH, "height": HEIGHT}]
    write_json(root / "json" / "crowdpose_val.json", {"images": images, "annotations": people})


def posetrack18(root: Path) -> None:
    people = [test_posetrack18.person(frame, 3) for frame in (0, 1)]
    test_posetrack18.write(root, people, [0, 1])


def fixture(module: Any) -> Callable[[Path], object]:
    return inspect.unwrap(module.root)


WRITERS: dict[str, tuple[Callable[[Path], object], dict[str, Any]]] = {
    "coco": (coco, {"splits": ("val",)}),
    "ai_challenger": (ai_challenger, {"splits": ("train",)}),
    "crowdpose": (crowdpose, {"splits": ("val",)}),
    "posetrack18": (posetrack18, {"splits": ("train",)}),
    "freihand": (fixture(test_freihand), {"backgrounds": ("gs",)}),
    "hagrid": (fixture(test_hagrid), {}),
    "interhand": (fixture(test_interhand), {}),
    "human36m": (fixture(test_human36m), {"subjects": (9,), "cameras": (1, 2), "every": 2}),
    "panoptic": (fixture(test_panoptic), {"every": 2, "cameras": test_panoptic.CAMERAS}),
    "aist": (fixture(test_aist), {}),
}


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places in a JSON value; of a long list of numbers only the first two."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from spots(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 2)):
            yield from spots(value[index], (*path, index))


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    content = copy.deepcopy(content)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return content


@pytest.mark.parametrize("name", WRITERS)
def test_hostile_values_are_rejects_or_a_sentence(tmp_path: Path, name: str) -> None:
    write, keys = WRITERS[name]
    made = write(tmp_path)
    root = made if isinstance(made, Path) else tmp_path
    config = IMPORTERS[name].Config(root=root, **keys)
    untouched = sum(not isinstance(r, Reject) for r in IMPORTERS[name].frames(config))
    assert untouched, "the fixture is not read at all"
    rng = random.Random(name)
    paths = sorted(root.rglob("*.json"))
    for path in paths:
        content = json.loads(path.read_text())
        everywhere = [(spot, value) for spot in spots(content) for value in HOSTILE]
        for spot, value in rng.sample(everywhere, 60 // len(paths)):
            path.write_text(json.dumps(changed(content, spot, value)))
            try:
                read(name, config)
            except ValueError as error:
                assert str(error) and "\n" not in str(error)
            except Exception as error:  # say what did it
                raise AssertionError(f"{path.name} {spot} = {str(value)[:60]}") from error
        path.write_text(json.dumps(content))


def read(name: str, config: Any) -> None:
    """Whatever comes out can be stored, or is refused with a reason."""
    pictures, rule = Pictures(), CollectionConfig(crop_px=16, min_side_px=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for record in IMPORTERS[name].frames(config):
            if isinstance(record, Reject):
                assert record.reason and record.source.encode() and record.reason.encode()
                continue
            try:
                stored = prepare_frame(record, rule, pictures)
            except Unusable as reason:
                assert str(reason).encode()
            else:
                texts = [v for v in stored.about.values() if isinstance(v, str)]
                assert all(text.encode() is not None for text in texts)
