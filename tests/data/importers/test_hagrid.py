"""HaGRID's layout with pictures of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hpse_dist.data.importers import hagrid
from hpse_dist.data.importers.hagrid import HagridConfig
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers.made_hands import write_json


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two gestures; the second picture of a fist has another hand in it."""
    root = tmp_path / "hagrid"
    for gesture, names in (("fist", ("aa", "bb")), ("call", ("cc",))):
        entries: dict[str, Any] = {}
        for name in names:
            picture = np.zeros((108, 192, 3), np.uint8)
            picture[27:54, 48:96] = 255  # the hand
            (root / gesture).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(root / gesture / f"{name}.jpg")
            entries[name] = {
                "bboxes": [[0.25, 0.25, 0.25, 0.25]],
                "labels": [gesture],
                "user_id": f"person of {name}",
                "leading_hand": "right",
            }
        if gesture == "fist":
            entries["bb"]["bboxes"].insert(0, [0.0, 0.5, 0.1, 0.2])
            entries["bb"]["labels"].insert(0, "no_gesture")
        write_json(root / "annotations" / "train" / f"{gesture}.json", entries)
    return root


def read(config: HagridConfig) -> tuple[list[FrameRecord], list[Reject]]:
    found = list(hagrid.frames(config))
    return (
        [one for one in found if isinstance(one, FrameRecord)],
        [one for one in found if isinstance(one, Reject)],
    )


def test_hands_have_boxes_classes_and_people(root: Path) -> None:
    records, rejects = read(HagridConfig(root))
    assert not rejects
    found = [(record.subject, int(record.labels["label"])) for record in records]
    assert found == [("person of cc", 0), ("person of aa", 1), ("person of bb", 1)]
    for record in records:
        assert isinstance(record.image, Path) and record.split == "train"
        x0, y0, x1, y1 = (round(v) for v in record.box)
        with Image.open(record.image) as file:
            picture = np.asarray(file)[..., 0] > 128
        assert picture[y0:y1, x0:x1].mean() > 0.95 and picture.sum() < 1.1 * (x1 - x0) * (y1 - y0)
    assert hagrid.provenance(HagridConfig(root)).details["classes"] == ["call", "fist"]


def test_the_other_hand_can_be_a_class(root: Path) -> None:
    records, _ = read(HagridConfig(root, no_gesture=True))
    assert sorted(int(record.labels["label"]) for record in records) == [0, 1, 1, 2]
    assert len({record.track for record in records if record.sequence == "bb"}) == 2


def test_two_hands_that_show_one_gesture_are_one_frame(root: Path) -> None:
    hands = [[0.0, 0.5, 0.1, 0.2], [0.25, 0.25, 0.25, 0.25], [0.9, 0.0, 0.1, 0.1]]
    entry = {"bboxes": hands, "labels": ["call", "call", "fist"], "user_id": "u"}
    entry |= {"united_bbox": [[0.0, 0.25, 0.5, 0.45], None], "united_label": ["call", None]}
    write_json(root / "annotations/train/call.json", {"cc": entry})
    records, rejects = read(HagridConfig(root))
    assert not rejects and [int(record.labels["label"]) for record in records] == [0, 0, 1, 1]
    assert records[0].box == pytest.approx((0, 27, 96, 75.6))
    assert records[1].box == pytest.approx((48, 27, 96, 54)), "null: the hand at its place"
    entry |= {"united_bbox": None, "united_label": None}
    write_json(root / "annotations/train/call.json", {"cc": entry})
    records, rejects = read(HagridConfig(root))
    assert [record.sequence for record in records] == ["cc", "cc", "cc", "aa", "bb"]


def test_version_one_is_named_otherwise(root: Path) -> None:
    (root / "annotations/train").rename(root / "ann_train_val")
    for gesture in ("call", "fist"):
        (root / gesture).rename(root / f"train_val_{gesture}")
    config = HagridConfig(
        root, annotations="ann_train_val", images="train_val_{gesture}", split=None
    )
    records, rejects = read(config)
    assert len(records) == 3 and not rejects and records[0].split is None


def test_broken_records_are_rejects(root: Path) -> None:
    good = {"bboxes": [[0, 0, 1, 1]], "labels": ["call"], "user_id": "u"}
    entries = {
        "../../up": good,
        "cc": good | {"bboxes": [["a", 0, 1, 1]]},
        "gone": good,
        "short": good | {"labels": []},
        "nobody": good | {"user_id": None},
        "list": [],
        "both": good | {"united_bbox": [[0, 0, 1, 1]], "united_label": []},
        "none": good | {"united_bbox": [None, None], "united_label": ["call", "call"]},
    }
    write_json(root / "annotations/train/call.json", entries)
    fist = {"aa": good | {"labels": ["wave"]}}
    write_json(root / "annotations/train/fist.json", fist)
    records, rejects = read(HagridConfig(root))
    assert not records
    reasons = [reject.reason for reject in rejects]
    assert "leads out of" in reasons[0] and "its box holds what is not a number" in reasons[1]
    assert reasons[2] == "the picture is missing" and "one length" in reasons[3]
    assert reasons[4] == "user_id is missing" and reasons[5] == "its annotation is no object"
    assert reasons[6] == "united_bbox and united_label are not two lists of one length"
    assert reasons[7] == "united_bbox is null for a hand that bboxes does not have"
    assert reasons[8] == "'wave' is none of the classes"


def test_a_missing_file_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"annotations/test holds no <gesture>\.json: .*hagrid"):
        read(HagridConfig(root, annotations="annotations/test"))
    with pytest.raises(ValueError, match=r"ok is missing"):
        read(HagridConfig(root, gestures=("ok",)))
    (root / "ok").mkdir()
    with pytest.raises(ValueError, match=r"ok\.json is missing"):
        read(HagridConfig(root, gestures=("ok",)))
