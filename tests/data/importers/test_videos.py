"""Videos without annotation: people found, followed and paired; what is broken is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpse_dist.config import build
from hpse_dist.data.collection import CollectionConfig, write_collection
from hpse_dist.data.importers import videos
from hpse_dist.data.importers.foreground import ForegroundConfig
from hpse_dist.data.importers.moving_people import ShotMotion, ShotSamples
from hpse_dist.data.importers.video_files import frame_times
from hpse_dist.data.importers.video_quality import QualityConfig, fault, whole_side
from hpse_dist.data.importers.videos import VideosConfig
from hpse_dist.data.pairs import PairsConfig, mine
from hpse_dist.geometry.boxes import iou
from hpse_dist.prepare import prepare
from hpse_dist.recipe import DataRecipe
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers.made_videos import write_video
from tests.data.importers.walkers import BLUE, dissolve, draw, noisy, pan, room, walk
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

REAL = Path(__file__).parents[4] / "shared" / "real" / "video"
RATE = 20.0


def read(config: VideosConfig) -> tuple[list[FrameRecord], list[Reject]]:
    found = list(videos.frames(config))
    good = [r for r in found if isinstance(r, FrameRecord)]
    return good, [r for r in found if isinstance(r, Reject)]


def reasons(rejects: Iterable[Reject]) -> str:
    return "\n".join(f"{one.source}: {one.reason}" for one in rejects)


def boxes_file(path: Path, rows: Iterable[tuple[object, ...]], at: str = "frame") -> Path:
    lines = [f"video,{at},x0,y0,x1,y1,track", *[",".join(map(str, row)) for row in rows]]
    path.write_text("\n".join(lines))
    return path


def given(boxes: np.ndarray, every: int, name: str = "", video: str = "walk.avi") -> list:
    return [(video, n, *boxes[n].round(1).tolist(), name) for n in range(0, len(boxes), every)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Two people walk before a still camera, beside each other's ways; (frames, 2, 4) boxes."""
    root, rng = tmp_path_factory.mktemp("two"), np.random.default_rng(0)
    background, pictures, boxes = room(7), [], []
    for n in range(60):
        image = background.copy()
        swing = 0.3 + 0.4 * np.sin(0.4 * n)
        red = draw(image, 40 + 1.6 * n, height=130, swing=swing)
        blue = draw(image, 280 - 1.6 * n, height=130, swing=-swing, shirt=BLUE, feet=200)
        if n == 0:
            background = background.copy()
        boxes.append([red, blue])
        pictures.append(noisy(image, rng))
    (root / "holiday").mkdir()
    write_video(root / "holiday" / "two.avi", pictures, RATE)
    return root, np.array(boxes)


def test_people_before_a_still_camera_are_found_without_boxes(
    two: tuple[Path, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    root, truth = two
    with caplog.at_level(logging.WARNING):
        found, rejects = read(VideosConfig(root=root))
    assert "1 videos, 1 shots, 2 people followed" in caplog.text
    tracks = sorted({record.track for record in found})
    assert tracks == ["holiday/two.avi/shot1/person1", "holiday/two.avi/shot1/person2"]
    assert len(found) >= 20, reasons(rejects)
    times = [record.time for record in found]
    assert times == sorted(times) and np.diff(sorted(set(times))).min() >= 0.199
    for track in tracks:
        of_track = [record for record in found if record.track == track]
        overlaps = []
        for record in of_track:
            n = round(record.time * RATE)
            assert record.image.shape == (240, 320, 3) and record.mask is not None
            assert record.mask.shape == (240, 320) and record.appearance is not None
            overlaps.append([float(iou(np.array(record.box), box)) for box in truth[n]])
        best = np.array(overlaps).argmax(axis=1)
        assert len(set(best.tolist())) == 1, "one person per track"
        assert np.median(np.max(overlaps, axis=1)) > 0.6
    assert found[0].sequence == "holiday/two.avi" and found[0].subject == ""


def test_boxes_of_a_file_and_its_names(tmp_path: Path) -> None:
    pictures, boxes = walk(60, 60, 200, swings=False)
    write_video(tmp_path / "walk.avi", pictures, RATE)
    boxes_file(tmp_path / "boxes.csv", given(boxes, 10, "anna"))
    found, rejects = read(VideosConfig(root=tmp_path, boxes=Path("boxes.csv")))
    assert not rejects, reasons(rejects)
    assert {record.track for record in found} == {"walk.avi/shot1/anna"}
    assert [round(record.time * RATE) for record in found] == list(range(0, 51, 4))
    for record in found:  # interpolated between every tenth
        assert iou(np.array(record.box), boxes[round(record.time * RATE)]) > 0.6
    lines = [
        json.dumps({"video": "walk.avi", "time": n / RATE, **dict(zip(KEYS, box, strict=True))})
        for n, box in enumerate(boxes.round(1).tolist())
    ]
    (tmp_path / "boxes.jsonl").write_text("\n".join(lines))
    config = VideosConfig(root=tmp_path, boxes=Path("boxes.jsonl"))
    (tmp_path / "boxes.csv").unlink()
    unnamed, rejects = read(config)
    assert not rejects and len(unnamed) == 15, reasons(rejects)
    assert {record.track for record in unnamed} == {"walk.avi/shot1/person1"}
    assert videos.provenance(config).details["boxes"] == "boxes.jsonl"


KEYS = ("x0", "y0", "x1", "y1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,frame,x0,y0,x1,y1\nother.avi,0,1,1,9,9", "no video 'other.avi'.*walk.avi"),
        ("video,frame,x0,y0,x1,y1\nwalk.avi,0,9,1,1,9", "line 2: a box needs x0 < x1"),
        ("video,frame,x0,y0,x1,y1\nwalk.avi,zero,1,1,9,9", "line 2: needs video, frame or time"),
        ("video,frame,x0,y0,x1,y1\nwalk.avi,0,1,1,nan,9", "line 2: a box needs"),
        ("name,frame\nwalk.avi,0", "the first line names the columns"),
        ("", "the first line names the columns"),
        ("video,frame,x0,y0,x1,y1\n", "no box in this file"),
    ],
)
def test_wrong_boxes_are_named_before_anything_is_read(
    tmp_path: Path, text: str, message: str
) -> None:
    write_video(tmp_path / "walk.avi", walk(5, 60, 70)[0], RATE)
    (tmp_path / "boxes.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read(VideosConfig(root=tmp_path, boxes=Path("boxes.csv")))
    (tmp_path / "boxes.jsonl").write_text("[1]")
    with pytest.raises(ValueError, match="line 1: not one JSON object"):
        read(VideosConfig(root=tmp_path, boxes=Path("boxes.jsonl")))
    with pytest.raises(ValueError, match="no such file of boxes"):
        read(VideosConfig(root=tmp_path, boxes=Path("none.csv")))


def test_boxes_beyond_the_video_and_videos_without_boxes(tmp_path: Path) -> None:
    pictures, boxes = walk(30, 60, 200)
    for name in ("walk.avi", "other.avi"):
        write_video(tmp_path / name, pictures, RATE)
    rows = [*given(boxes, 5, "anna"), ("walk.avi", 99, 1, 1, 90, 200, "anna")]
    boxes_file(tmp_path / "boxes.csv", rows)
    found, rejects = read(VideosConfig(root=tmp_path, boxes=Path("boxes.csv")))
    assert found and "walk.avi, frame 99: a box is given, but the video has 30 frames" in reasons(
        rejects
    )
    assert "other.avi: no box of this video is given" in reasons(rejects)


def test_broken_files_are_rejects_and_the_rest_is_used(tmp_path: Path) -> None:
    pictures, boxes = walk(40, 60, 200)
    write_video(tmp_path / "walk.avi", pictures, RATE)
    whole = (tmp_path / "walk.avi").read_bytes()
    write_video(tmp_path / "half.avi", pictures, RATE)
    (tmp_path / "half.avi").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "headless.mp4").write_bytes(whole[5000:9000])
    (tmp_path / "empty.mkv").write_bytes(b"")
    (tmp_path / "words.mov").write_text("no video")
    (tmp_path / "film.pdf").write_bytes(whole)
    (tmp_path / ".hidden.avi").write_text("")
    broken = bytearray(whole)
    broken[len(whole) // 2 : len(whole) // 2 + 3000] = bytes(3000)
    (tmp_path / "scratched.avi").write_bytes(broken)
    rows = [
        row
        for name in ("walk.avi", "half.avi", "scratched.avi")
        for row in given(boxes, 2, "anna", name)
    ]
    boxes_file(tmp_path / "boxes.csv", rows)
    found, rejects = read(VideosConfig(root=tmp_path, boxes=Path("boxes.csv")))
    text = reasons(rejects)
    assert {r.sequence for r in found} >= {"walk.avi", "half.avi"}
    assert "empty.mkv: the file is empty" in text
    assert "film.pdf: not a video by its extension .pdf" in text
    assert "words.mov: not a video that can be opened" in text
    assert "headless.mp4: " in text and ".hidden" not in text
    assert "half.avi: the video is cut off: " in text


def test_a_part_of_many_videos_says_how_many_it_does_not_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures, boxes = walk(10, 60, 120)
    names = [f"{number}.avi" for number in range(5)]
    for name in names:
        write_video(tmp_path / name, pictures, RATE)
    boxes_file(tmp_path / "boxes.csv", [row for n in names for row in given(boxes, 2, "a", n)])
    parts = videos.in_parts(VideosConfig(root=tmp_path, boxes=Path("boxes.csv")), 99)
    with caplog.at_level(logging.WARNING):
        list(parts.frames(0) or ())
    assert "0.avi, 1.avi, 2.avi and 2 more: 5 videos" in caplog.text


def test_parts_are_the_whole_in_any_order(tmp_path: Path) -> None:
    """A video each, or short ones together; the first knows nobody, and tells of the bad file."""
    pictures, boxes = walk(20, 60, 120)
    names = ("lonely.avi", "one.avi", "two.avi")
    for name in names:
        write_video(tmp_path / name, pictures, RATE)
    (tmp_path / "zero.mkv").write_bytes(b"")
    boxes_file(tmp_path / "boxes.csv", [row for n in names[1:] for row in given(boxes, 2, "a", n)])
    config = VideosConfig(root=tmp_path, boxes=Path("boxes.csv"))

    def told(records: Iterable[FrameRecord | Reject] | None) -> list[tuple[object, ...]]:
        assert records is not None
        return [(r.source, getattr(r, "track", ""), getattr(r, "box", "")) for r in records]

    whole = told(videos.frames(config))
    parts = videos.in_parts(config, 2)  # a second of video is five frames
    assert parts.count == 3 and parts.frames(3) is None
    found = {number: told(parts.frames(number)) for number in (2, 0, 1)}
    assert found[0] + found[1] + found[2] == whole and len(found[1]) > 1
    assert {source for source, *_ in found[0]} == {"zero.mkv", "lonely.avi"}
    assert videos.in_parts(config, 7).count == 2 and videos.in_parts(config, 99).count == 1


def test_a_collection_is_made_video_by_video(tmp_path: Path, plain_shards: None) -> None:  # noqa: F811
    pictures, boxes = walk(20, 60, 120)
    for name in ("lonely.avi", "one.avi", "two.avi"):
        write_video(tmp_path / name, pictures, RATE)
    rows = [row for n in ("one.avi", "two.avi") for row in given(boxes, 2, "a", n)]
    boxes_file(tmp_path / "boxes.csv", rows)
    config = VideosConfig(root=tmp_path, boxes=Path("boxes.csv"))
    rule = CollectionConfig(crop_px=32, label_px=16, frames_per_shard=2, min_side_px=20)
    made = prepare(DataRecipe("made", config, rule, pairs=None, out=tmp_path / "out"))
    frames = made.frames.to_pylist()
    assert len(made.shards) >= 2 and {row["sequence"] for row in frames} == {"one.avi", "two.avi"}
    assert "no box of this video is given" in made.rejects["reason"].to_pylist()
    assert made.verify() == []


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder; set `source"):
        read(VideosConfig(root=tmp_path / "none"))
    with pytest.raises(ValueError, match="no video that can be read"):
        read(VideosConfig(root=tmp_path))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match="not a video by its extension"):
        read(VideosConfig(root=tmp_path))


def test_a_camera_that_moves_is_refused_with_a_sentence(tmp_path: Path) -> None:
    pictures = pan(2, 40, 3)
    for n, image in enumerate(pictures):
        draw(image, 160 + n, swing=0.3 * np.sin(n))
    write_video(tmp_path / "pan.avi", pictures, RATE)
    found, rejects = read(VideosConfig(root=tmp_path))
    assert not found and "source.boxes) or the weights of a detector" in reasons(rejects)
    write_video(tmp_path / "pan.avi", [room(1)] * 40, RATE)
    found, rejects = read(VideosConfig(root=tmp_path))
    assert not found and "nothing moves before the still camera" in reasons(rejects)


def test_who_moves_against_the_scene_is_found_roughly(tmp_path: Path) -> None:
    pictures = pan(2, 60, 0.5)
    for n, image in enumerate(pictures):
        draw(image, 100 + 1.5 * n, swing=0.3 + 0.2 * np.sin(0.3 * n))
    write_video(tmp_path / "pan.avi", pictures, RATE)
    found, rejects = read(VideosConfig(root=tmp_path, hand_held=True))
    assert len(found) >= 6 and all(record.mask is None for record in found), reasons(rejects)
    for record in found:
        middle = (record.box[0] + record.box[2]) / 2
        assert abs(middle - 100 - 1.5 * record.time * RATE) < 40, "the box is not on the walker"


def test_tracks_end_with_their_shot(tmp_path: Path) -> None:
    first, boxes = walk(40, 60, 120, seed=1)
    second, _ = walk(40, 120, 180, seed=2)
    write_video(tmp_path / "walk.avi", dissolve(first, second, 8), RATE)
    rows = given(np.concatenate([boxes, boxes])[:72], 1)
    boxes_file(tmp_path / "boxes.csv", rows[:30])
    found, _ = read(VideosConfig(root=tmp_path, boxes=Path("boxes.csv")))
    assert {record.camera for record in found} == {"walk.avi/shot1"}, "no box in the second shot"
    boxes_file(tmp_path / "boxes.csv", rows)
    found, rejects = read(VideosConfig(root=tmp_path, boxes=Path("boxes.csv")))
    assert {record.camera for record in found} == {"walk.avi/shot1", "walk.avi/shot2"}
    assert "a dissolve, a fade or a shot too short" in reasons(rejects)
    assert all(record.track.startswith(record.camera) for record in found)


def test_who_stands_still_gives_no_pair_and_who_moves_does(tmp_path: Path) -> None:
    """Boxes that tremble around somebody still are not taken for another pose."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name, swings in (("still.avi", False), ("moving.avi", True)):
        pictures, boxes = walk(60, 150, 150, seed=3, swings=swings)
        write_video(tmp_path / "in" / name, pictures, RATE)
        trembling = boxes[:] + rng.normal(0, 2, boxes.shape)
        mode = "a" if name == "moving.avi" else "w"
        with (tmp_path / "in" / "boxes.csv").open(mode) as file:
            if mode == "w":
                file.write("video,frame,x0,y0,x1,y1,track\n")
            for row in given(trembling, 1, "anna", name):
                file.write(",".join(map(str, row)) + "\n")
    config = VideosConfig(root=tmp_path / "in", boxes=Path("boxes.csv"), split="train")
    collection = write_collection(
        tmp_path / "made",
        videos.frames(config),
        CollectionConfig(crop_px=64),
        videos.provenance(config),
    )
    assert set(collection.frames["pose_kind"].to_pylist()) == {"appearance"}
    pairs = mine(collection.frames, PairsConfig())
    sequences = np.array(collection.frames["sequence"].to_pylist())
    of_pairs = set(sequences[pairs["a"].to_numpy()].tolist())
    assert of_pairs == {"moving.avi"} and pairs.num_rows > 20
    assert set(pairs["kind"].to_pylist()) == {1}


def test_people_not_worth_keeping() -> None:
    image = room(1)
    box = draw(image, 160, swing=0.3)
    config = QualityConfig()

    def said(picture: np.ndarray, box: np.ndarray, whole: float | None = None) -> str:
        return fault(picture, box, whole, config) or "kept"

    assert said(image, box) == "kept"
    assert "tiny: 70 px, below 100" in said(image, np.array([10.0, 10, 40, 80]))
    assert "cut by the picture's border: 50%" in said(image, np.array([-50.0, 50, 50, 200]))
    low = np.array([100.0, 130, 160, 240])
    assert "border" in said(image, low, whole=190.0) and said(image, low) == "kept"
    assert "too dark" in said((image * 0.05).astype(np.uint8), box)
    assert "too bright" in said(np.full_like(image, 250), box)
    assert "no contrast" in said(np.full_like(image, 128), box)
    assert "blurred" in said(cv2.GaussianBlur(image, (0, 0), 5), box)
    boxes = np.array([[50.0, 50, 90, 200], [50, 50, 90, 210], [50, 150, 90, 240]])
    assert whole_side(boxes, 320, 240) == 155 and whole_side(boxes[2:], 320, 240) is None


def test_stillness_is_measured_and_samples_are_bounded() -> None:
    config = ForegroundConfig(background_frames=10)
    still, turning, samples = ShotMotion(), ShotMotion(), ShotSamples(config)
    walker, turned = walk(30, 60, 250)[0], pan(1, 30, 1.5)
    for before_still, before_moving in zip(walker, turned, strict=True):
        still.add(before_still)
        turning.add(before_moving)
        samples.add(before_still)
    assert still.still() and not turning.still()
    assert 5 <= len(samples.pictures) <= 11 and len(samples.motion) == len(samples.pictures)


def test_time_stamps_that_say_nothing_give_way_to_the_rate() -> None:
    assert np.allclose(frame_times([1.0, 1.5, 2.5], 10), [0, 0.5, 1.5])
    assert np.allclose(frame_times([0.0, 0.0, 0.0], 10), [0, 0.1, 0.2])
    assert np.allclose(frame_times([0.0, 9e9], 10), [0, 0.1]) and len(frame_times([], 10)) == 0


def test_a_recipe_is_checked() -> None:
    for wrong in ({"step_s": 0}, {"detector_score": 0}, {"split": "some"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            build(VideosConfig, {"root": "x", **wrong})
    with pytest.raises(ValueError, match="brightness"):
        build(VideosConfig, {"root": "x", "quality": {"brightness": [9, 3]}})


@pytest.mark.skipif(not REAL.is_dir(), reason="no ../shared/real beside the checkout")
def test_a_real_video_of_dancers(tmp_path: Path) -> None:
    """Two of its people by a few boxes drawn by hand; without boxes the moving camera is named."""
    rows = [
        ("people.avi", 100, 640, 120, 800, 505, "denim"),
        ("people.avi", 125, 660, 180, 850, 575, "denim"),
        ("people.avi", 150, 615, 135, 760, 575, "denim"),
        ("people.avi", 100, 500, 125, 590, 390, "photographer"),
        ("people.avi", 125, 555, 205, 640, 460, "photographer"),
        ("people.avi", 150, 500, 165, 575, 425, "photographer"),
    ]
    file = boxes_file(tmp_path / "boxes.csv", rows)
    found, rejects = read(VideosConfig(root=REAL, boxes=file))
    assert len(found) == 12 and not rejects, reasons(rejects)
    assert {round(r.time, 2) for r in found} == {2.0, 2.2, 2.4, 2.6, 2.8, 3.0}
