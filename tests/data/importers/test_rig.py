"""The rig importer: boxes that sit on the person, and everything a real rig gets wrong."""

from __future__ import annotations

import json
import logging
import re
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hpse_dist.config import ConfigError, build
from hpse_dist.data.importers import rig
from hpse_dist.data.importers.foreground import ForegroundConfig
from hpse_dist.data.importers.rig import RigConfig
from hpse_dist.data.importers.rig_boxes import undistorted_box
from hpse_dist.data.importers.rig_cameras import Camera, black_bars, fit_to_picture
from hpse_dist.data.importers.rig_videos import open_video
from hpse_dist.geometry.boxes import iou
from hpse_dist.geometry.camera import distort
from hpse_dist.records import FrameRecord, Reject
from tests.data.importers import made_videos as made

REAL = Path(__file__).parents[4] / "shared" / "real" / "rig"
SMALL = ForegroundConfig(background_frames=20, voxel_m=0.05)
# x0, y0, x1, y1 drawn by hand on the real rig's pictures, shrunk to 270 x 480
BY_HAND = {
    "frame 27": [
        (51, 107, 183, 294),
        (88, 108, 182, 283),
        (81, 122, 177, 309),
        (38, 119, 210, 312),
    ],
    "frame 48": [(15, 94, 200, 294), (41, 99, 186, 282), (58, 101, 181, 307), (43, 101, 255, 312)],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.make_rig(tmp_path_factory.mktemp("rigs") / "walk")


@pytest.fixture(scope="module")
def records(folder: Path) -> list[FrameRecord]:
    config = RigConfig(root=folder, foreground=SMALL)
    found = list(rig.frames(config))
    assert not [r for r in found if isinstance(r, Reject)]
    return [r for r in found if isinstance(r, FrameRecord)]


def split(found: list[FrameRecord | Reject]) -> tuple[list[FrameRecord], list[Reject]]:
    good = [r for r in found if isinstance(r, FrameRecord)]
    return good, [r for r in found if isinstance(r, Reject)]


def copy_rig(folder: Path, to: Path) -> Path:
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def write_boxes(root: Path, instants: int = made.FRAMES) -> Path:
    lines = ["camera,frame,x0,y0,x1,y1"]
    for n in range(instants):
        for i in range(3):
            box = ",".join(f"{v:.3f}" for v in made.true_box(i, n / made.RATE))
            lines.append(f"cam{i + 1},{n},{box}")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")
    return Path("boxes.csv")


def test_boxes_sit_on_the_person_in_all_views(records: list[FrameRecord]) -> None:
    assert len(records) == 3 * made.FRAMES
    good = 0
    for n in range(made.FRAMES):
        moment = records[3 * n : 3 * n + 3]
        overlaps = [
            float(iou(np.array(r.box), made.true_box(i, n / made.RATE)))
            for i, r in enumerate(moment)
        ]
        good += min(overlaps) > 0.6
    assert good >= 0.95 * made.FRAMES


def test_masks_and_centres_are_the_persons(records: list[FrameRecord]) -> None:
    for record in records[30:90:7]:
        camera = int(record.camera[3]) - 1
        assert isinstance(record.image, np.ndarray) and record.mask is not None
        assert record.mask.shape == record.image.shape[:2] and record.mask.dtype == bool
        alone = made.picture(camera, record.time).astype(int) - made.room(camera)
        truth = np.abs(alone).max(axis=2) > 0
        shared = (record.mask & truth).sum() / (record.mask | truth).sum()
        assert shared > 0.75
        assert record.centre is not None
        assert np.linalg.norm((record.centre - made.spot(record.time))[:2]) < 0.12
        assert 0.7 < record.centre[2] < 1.2


def test_records_come_moment_by_moment_with_their_cameras(records: list[FrameRecord]) -> None:
    assert [r.camera for r in records[:6]] == ["cam1", "cam2", "cam3"] * 2
    assert records[3].time == records[5].time == pytest.approx(1 / made.RATE)
    first = records[0]
    assert (first.subject, first.sequence, first.split) == ("person", "walk", "train")
    assert first.source == "cam1.avi, frame 0"
    rotation, translation = made.pose(0)
    assert first.intrinsics is not None and first.rotation is not None
    # a record's pixels count from the picture's corner, OpenCV's from the first one's middle
    np.testing.assert_allclose(first.intrinsics[:2, 2], made.MATRIX[:2, 2] + 0.5)
    np.testing.assert_allclose(first.intrinsics[:, :2], made.MATRIX[:, :2])
    np.testing.assert_allclose(first.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(first.translation, translation, atol=1e-6)
    # red, green, blue: the trunk is green in BGR (40, 160, 60) and the legs are red as RGB's last
    trunk = made.balls(0, 0.0)[0][2].round().astype(int)
    assert isinstance(first.image, np.ndarray)
    assert np.abs(first.image[trunk[1], trunk[0]].astype(int) - [60, 160, 40]).max() < 30


def test_stride_and_limit(folder: Path) -> None:
    config = RigConfig(root=folder, foreground=SMALL, stride=7, max_instants=3)
    times = sorted({r.time for r in rig.frames(config) if isinstance(r, FrameRecord)})
    assert times == pytest.approx([0, 7 / made.RATE, 14 / made.RATE])


def test_different_frame_rates_give_common_instants(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = made.make_rig(tmp_path / "rates", frames=20, rates=(20.0, 30.0, 50.0))
    config = RigConfig(root=root, foreground=SMALL)
    with caplog.at_level(logging.WARNING):
        found, _ = split(list(rig.frames(config)))
    assert {r.time for r in found} <= {n / 20 for n in range(20)}
    for record in found:
        frame = int(record.source.rsplit(" ", 1)[1])
        rate = {"cam1": 20, "cam2": 30, "cam3": 50}[record.camera]
        assert abs(frame / rate - record.time) <= 0.5 / rate + 1e-9
    assert "frame rates differ (cam1 20, cam2 30, cam3 50 per s)" in caplog.text
    assert rig.provenance(config).details["instants_with_all_cameras"] == 20


def test_lost_frames_become_rejects(folder: Path, tmp_path: Path) -> None:
    root = copy_rig(folder, tmp_path / "cut")
    video = (root / "cam2.avi").read_bytes()
    (root / "cam2.avi").write_bytes(video[: len(video) * 6 // 10])
    config = RigConfig(root=root, boxes=write_boxes(root))
    with pytest.raises(ValueError, match=r"cam2.avi: truncated, .*source.accept_truncated=true"):
        list(rig.frames(config))
    config = replace(config, accept_truncated=True)
    good, lost = split(list(rig.frames(config)))
    assert len(good) + len(lost) == 3 * made.FRAMES
    assert 15 * 3 < len(good) < 30 * 3 and len(good) % 3 == 0
    cut = [r for r in lost if r.reason == "cannot be decoded"]
    assert len(cut) == len(lost) / 3 and all(r.source.startswith("cam2.avi") for r in cut)
    notes = rig.provenance(config).details["notes"]
    assert any("cam2.avi: the header promises 40 frames" in note for note in notes)


def test_a_shorter_video_ends_the_clip_and_is_noted(folder: Path, tmp_path: Path) -> None:
    root = copy_rig(folder, tmp_path / "short")
    made.write_video(root / "cam3.avi", [made.picture(2, n / made.RATE) for n in range(25)])
    good, lost = split(list(rig.frames(RigConfig(root=root, boxes=write_boxes(root)))))
    assert len(good) == 75 and not lost
    notes = rig.provenance(RigConfig(root=root, boxes=Path("boxes.csv"))).details["notes"]
    assert any("cam3.avi ends after 1.25 s" in note for note in notes)


def test_given_boxes_are_taken_and_missing_ones_rejected(folder: Path, tmp_path: Path) -> None:
    root = copy_rig(folder, tmp_path / "boxed")
    rows = [
        {
            "camera": f"cam{i + 1}",
            "frame": 3,
            **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True)),
        }
        for i in range(2)
        for box in [made.true_box(i, 3 / made.RATE).tolist()]
    ]
    (root / "boxes.json").write_text(json.dumps(rows))
    config = RigConfig(root=root, boxes=Path("boxes.json"), stride=3, max_instants=2)
    good, lost = split(list(rig.frames(config)))
    assert [r.source for r in good] == ["cam1.avi, frame 3", "cam2.avi, frame 3"]
    assert len(lost) == 4 and {r.reason for r in lost} == {"no box of this frame is given"}
    np.testing.assert_allclose(good[0].box, made.true_box(0, 3 / made.RATE))
    assert good[0].centre is not None
    assert np.linalg.norm(good[0].centre - made.spot(3 / made.RATE) - [0, 0, 0.9]) < 0.15


def test_boxes_whose_middles_are_one_point_meet_there(folder: Path, tmp_path: Path) -> None:
    """Boxes count from the picture's corner: their middles meet in the point, and a record's camera
    shows it there again."""
    root = copy_rig(folder, tmp_path / "meeting")
    point, lines = made.spot(0) + np.array([0, 0, 0.9]), ["camera,frame,x0,y0,x1,y1"]
    for i in range(3):
        rotation, translation = made.pose(i)
        x, y, z = made.MATRIX @ (rotation @ point + translation)
        x, y = x / z + 0.5, y / z + 0.5
        lines.append(f"cam{i + 1},0,{x - 25},{y - 50},{x + 25},{y + 50}")
    (root / "boxes.csv").write_text("\n".join(lines))
    config = RigConfig(root=root, boxes=Path("boxes.csv"), max_instants=1)
    good, _ = split(list(rig.frames(config)))
    assert len(good) == 3
    for record in good:
        assert record.centre is not None and record.rotation is not None
        assert np.linalg.norm(record.centre - point) < 1e-4
        x, y, z = record.intrinsics @ (record.rotation @ record.centre + record.translation)
        middle = (np.array(record.box[:2]) + record.box[2:]) / 2
        np.testing.assert_allclose([x / z, y / z], middle, atol=0.02)


def test_a_given_box_outside_the_picture_says_nothing_of_the_person(
    folder: Path, tmp_path: Path
) -> None:
    root = copy_rig(folder, tmp_path / "beside")
    lines = (root / write_boxes(root, 1)).read_text().splitlines()
    lines[3] = "cam3,0,5000,5000,5100,5200"
    (root / "boxes.csv").write_text("\n".join(lines))
    config = RigConfig(root=root, boxes=Path("boxes.csv"), max_instants=1)
    good, lost = split(list(rig.frames(config)))
    assert [r.camera for r in good] == ["cam1", "cam2"]
    assert [str(r.reason) for r in lost] == ["the given box is outside the picture"]
    assert good[0].centre is not None
    assert np.linalg.norm(good[0].centre - made.spot(0) - [0, 0, 0.9]) < 0.15


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("camera,frame,x0,y0,x1,y1\ncam9,0,1,1,5,5\n", "unknown camera 'cam9'"),
        ("camera,frame,x0,y0,x1,y1\ncam1,0,5,1,1,5\n", "x0 < x1"),
        ("camera,frame,x0,y0,x1\ncam1,0,5,1,1\n", "needs camera, frame"),
        ("camera,frame,x0,y0,x1,y1\n", "no box"),
    ],
)
def test_bad_boxes_are_named(folder: Path, tmp_path: Path, text: str, words: str) -> None:
    root = copy_rig(folder, tmp_path / "bad")
    (root / "boxes.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        list(rig.frames(RigConfig(root=root, boxes=Path("boxes.csv"))))


def bad_calibration(edit: str) -> str:
    text = made.calibration()
    edits = {
        "without a camera": made.calibration(cameras=2),
        "without any camera": made.calibration(cameras=0),
        "not TOML": text + "\n[cam",
        "no matrix": text.replace("matrix", "matrik", 1),
        "short rotation": text.replace("rotation = [", "rotation = [1.0, ", 1),
        "words": text.replace("translation = [", 'translation = ["far", ', 1),
        "far away": re.sub(r"translation = \[[^,]+", "translation = [1e300", text, count=1),
        "two of a name": text.replace('"cam2"', '"cam1"'),
    }
    return edits[edit]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("without a camera", "the video cam3.avi names none"),
        ("without any camera", "no camera in it"),
        ("not TOML", "cannot be read as TOML"),
        ("no matrix", "'matrix' is missing"),
        ("short rotation", "'rotation' needs 3 or 3 x 3"),
        ("words", "'translation' needs 3 finite"),
        ("far away", "'translation' holds a number beyond all bounds"),
        ("two of a name", "two cameras are named 'cam1'"),
    ],
)
def test_a_bad_calibration_is_named(folder: Path, tmp_path: Path, edit: str, words: str) -> None:
    root = copy_rig(folder, tmp_path / "bad")
    (root / "calibration.toml").write_text(bad_calibration(edit))
    for call in (rig.provenance, lambda config: list(rig.frames(config))):
        with pytest.raises(ValueError, match=words) as caught:
            call(RigConfig(root=root))
        assert "calibration.toml" in str(caught.value) and "\n" not in str(caught.value)


def test_bad_folders_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        rig.provenance(RigConfig(root=tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: no video in this folder"):
        rig.provenance(RigConfig(root=tmp_path / "empty"))
    root = copy_rig(folder, tmp_path / "none")
    (root / "calibration.toml").unlink()
    with pytest.raises(ValueError, match="no such calibration file"):
        rig.provenance(RigConfig(root=root))
    root = copy_rig(folder, tmp_path / "double")
    (root / "cam1_again.avi").write_bytes((root / "cam1.avi").read_bytes())
    with pytest.raises(ValueError, match="both of camera cam1"):
        rig.provenance(RigConfig(root=root))
    with pytest.raises(ValueError, match="one video is too few"):
        rig.provenance(RigConfig(root=folder, videos="cam1.avi"))


def test_a_video_cut_off_before_its_index_is_named(folder: Path, tmp_path: Path) -> None:
    root = copy_rig(folder, tmp_path / "cut")
    (root / "cam2.avi").unlink()
    whole = made.write_video(root / "cam2.mp4", [made.picture(1, n / 20) for n in range(10)])
    whole.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cam2\.mp4: no frame of this video can be decoded"):
        list(rig.frames(RigConfig(root=root)))


def test_a_camera_that_moves_and_a_scene_that_does_not(folder: Path, tmp_path: Path) -> None:
    root = copy_rig(folder, tmp_path / "shaken")
    shaken = [np.roll(made.picture(0, 0), 23 * n, axis=1) for n in range(made.FRAMES)]
    made.write_video(root / "cam1.avi", shaken)
    with pytest.raises(ValueError, match=r"cam1\.avi: most of the picture moves"):
        list(rig.frames(RigConfig(root=root, foreground=SMALL)))
    for i in range(3):
        made.write_video(root / f"cam{i + 1}.avi", [made.picture(i, 0)] * 10)
    with pytest.raises(ValueError, match="no motion that the cameras agree on"):
        list(rig.frames(RigConfig(root=root, foreground=SMALL)))


@pytest.mark.parametrize(("unit_m", "away"), [(1000.0, "[34],..."), (0.001, "0")])
def test_a_calibration_in_another_unit_is_named(folder: Path, unit_m: float, away: str) -> None:
    few = replace(SMALL, background_frames=5)
    config = RigConfig(root=folder, unit_m=unit_m, foreground=few)
    with pytest.raises(ValueError, match=rf"in another unit \(.* {away}\.\d\d m from .*unit_m"):
        list(rig.frames(config))


def test_configs_refuse_the_impossible() -> None:
    with pytest.raises(ConfigError, match="stride"):
        build(RigConfig, {"root": "x", "stride": 0})
    with pytest.raises(ConfigError, match="voxel_m"):
        build(RigConfig, {"root": "x", "foreground": {"voxel_m": 0}})
    with pytest.raises(ConfigError, match="allowed is one of: auto"):
        build(RigConfig, {"root": "x", "size_mismatch": "guess"})


def one_camera(distortions: np.ndarray, fisheye: bool = False) -> Camera:
    rotation, translation = made.pose(0)
    return Camera("a", made.SIZE, made.MATRIX, distortions, rotation, translation, fisheye)


def test_lens_distortion_is_taken_out() -> None:
    points = np.array([[30.0, 45], [150, 38], [90, 120], [23, 210], [158, 195]])
    for camera in (
        one_camera(np.array([-0.35, 0.1, 0.002, -0.001])),
        one_camera(np.array([0.1, -0.05, 0.0, 0.0]), fisheye=True),
    ):
        if camera.fisheye:
            rays = (points - made.MATRIX[:2, 2]) / made.MATRIX[0, 0]
            seen = cv2.fisheye.distortPoints(rays[:, None], camera.matrix, camera.distortions)[:, 0]
        else:
            seen = distort(points, camera.matrix, camera.distortions)
        assert camera.largest_shift > 2 and camera.straight(0.25) is camera
        np.testing.assert_allclose(camera.undistort_points(seen), points, atol=1e-3)
        image = np.zeros((240, 180, 3), np.uint8)
        for x, y in seen:
            cv2.circle(image, (round(x * 16), round(y * 16)), 32, (255, 255, 255), -1, 16, 4)
        straight = camera.undistort(image)[..., 0]
        for point in points:
            corner = np.maximum(point.astype(int) - 6, 0)
            window = straight[corner[1] : corner[1] + 13, corner[0] : corner[0] + 13].astype(float)
            rows, columns = np.indices(window.shape)
            middle = [(window * columns).sum(), (window * rows).sum()] / window.sum() + corner
            assert np.linalg.norm(middle - point) < 0.5
    box = undistorted_box((10.0, 10, 170, 230), one_camera(np.array([-0.35, 0.1, 0, 0])))
    assert box == (0, 0, 180, 240)  # barrel distortion drew the corners inwards
    assert one_camera(np.array([1e-5, 0, 0, 0])).straight(0.25).largest_shift == 0


def test_pictures_of_another_size_keep_points_where_they_are_seen() -> None:
    camera = one_camera(np.zeros(4))
    point = np.array([0.2, -0.1, 1.0, 1.0])

    def pixel(of: Camera) -> np.ndarray:
        x = of.projection @ point
        return x[:2] / x[2] + 0.5  # from the picture's corner

    at = pixel(camera)
    half, words = fit_to_picture(camera, (90, 120), (0, 0, 0, 0), "auto")
    np.testing.assert_allclose(pixel(half), at / 2)
    assert "scaled to fit" in words
    # 0.9 of the size is 162 x 216, in a picture of 162 x 240 with 12 black rows above and below
    boxed, words = fit_to_picture(camera, (162, 240), (0, 0, 12, 12), "auto")
    np.testing.assert_allclose(pixel(boxed), at * 0.9 + [0, 12])
    assert "black bars of 0.0 px at the sides and 12.0 px" in words
    cut, words = fit_to_picture(camera, (172, 240), (0, 0, 0, 0), "auto")
    np.testing.assert_allclose(pixel(cut), at - [4, 0])
    assert "size_mismatch" in words
    with pytest.raises(ValueError, match="set `size_mismatch`"):
        fit_to_picture(camera, (300, 240), (0, 0, 0, 0), "auto")
    same, words = fit_to_picture(camera, made.SIZE, (0, 0, 0, 0), "auto")
    assert same is camera and words == ""


def test_black_bars_are_found() -> None:
    image = np.full((100, 80, 3), 120, np.uint8)
    image[:7], image[-5:], image[:, :2] = 2, 9, 0
    assert black_bars(image) == (2, 0, 7, 5)
    assert black_bars(np.zeros((10, 10, 3), np.uint8)) == (0, 0, 0, 0)


def test_a_letterboxed_video_is_noted_and_still_fits(folder: Path, tmp_path: Path) -> None:
    root = copy_rig(folder, tmp_path / "boxed")
    pictures = []
    for n in range(made.FRAMES):
        small = cv2.resize(made.picture(1, n / made.RATE), (162, 216), interpolation=3)
        pictures.append(cv2.copyMakeBorder(small, 12, 12, 0, 0, cv2.BORDER_CONSTANT))
    made.write_video(root / "cam2.avi", pictures)
    config = RigConfig(root=root, foreground=SMALL, stride=5)
    good, _ = split(list(rig.frames(config)))
    for record in (r for r in good if r.camera == "cam2"):
        truth = made.true_box(1, record.time) * 0.9 + [0, 12, 0, 12]
        assert iou(np.array(record.box), truth) > 0.6
    assert any("cam2.avi: picture 162 x 240" in n for n in rig.provenance(config).details["notes"])


def test_rotation_marks_are_followed_only_towards_the_calibration(tmp_path: Path) -> None:
    image = np.zeros((80, 120, 3), np.uint8)
    image[:20, :20] = 255
    path = made.write_video(tmp_path / "cam1.mp4", [image] * 3)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    matrix = at + 4 + (4 * 5 if data[at] == 0 else 4 * 8) + 16
    assert struct.unpack(">9i", data[matrix : matrix + 36])[0] == 1 << 16
    quarter = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = struct.pack(">9i", *quarter)
    path.write_bytes(data)
    upright = open_video(path, (80, 120))
    assert upright.turned and upright.size == (80, 120)
    assert next(upright.pictures([0]))[5, 75].min() > 200  # its mark turns it clockwise
    lying = open_video(path, (120, 80))
    assert not lying.turned and lying.size == (120, 80)
    assert next(lying.pictures([0]))[5, 5].min() > 200


def test_the_real_rig(caplog: pytest.LogCaptureFixture) -> None:
    if not REAL.is_dir():
        pytest.skip(f"the real samples are not there: {REAL}")
    quick = ForegroundConfig(work_px=240, background_frames=25, voxel_m=0.05)
    config = RigConfig(root=REAL, stride=3, max_instants=17, foreground=quick)
    centres, compared = [], 0
    for record in rig.frames(config):
        assert isinstance(record, FrameRecord) and isinstance(record.image, np.ndarray)
        assert record.centre is not None
        camera, frame = int(record.camera[-1]) - 1, record.source.split(", ")[1]
        if camera == 0:
            centres.append(record.centre)
        if frame in BY_HAND:
            scale = np.array([record.image.shape[1] / 270, 4] * 2)
            by_hand = np.array(BY_HAND[frame][camera]) * scale
            assert iou(np.array(record.box), by_hand) > 0.6, record.source
            compared += 1
    assert len(centres) == 17 and compared == 8
    assert np.abs(np.diff(centres, axis=0)).max() < 0.15  # nobody jumps in a twentieth of a second
    notes = [line for line in caplog.messages if "taken as scaled evenly by 0.9926" in line]
    assert len(notes) == 2


def test_two_cameras_are_enough(folder: Path) -> None:
    config = RigConfig(root=folder, videos="cam[12].avi", foreground=SMALL, stride=5)
    good, lost = split(list(rig.frames(config)))
    assert len(good) == 16 and not lost
    for record in good:
        truth = made.true_box(int(record.camera[3]) - 1, record.time)
        assert iou(np.array(record.box), truth) > 0.5
    notes = rig.provenance(config).details["notes"]
    assert notes == ["calibrated cameras without a video: cam3"]


def test_a_camera_that_never_sees_the_person_has_rejects(folder: Path, tmp_path: Path) -> None:
    root = copy_rig(folder, tmp_path / "blind")
    rotation, translation = made.pose(2)
    away = np.diag([-1.0, 1, -1]) @ rotation
    turn = cv2.Rodrigues(away)[0].ravel().tolist()
    text = made.calibration()
    head, last = text.split("[cam3]")
    last = last.replace(str(cv2.Rodrigues(rotation)[0].ravel().tolist()), str(turn))
    last = last.replace(str(translation.tolist()), str((away @ -made.EYES[2]).tolist()))
    (root / "calibration.toml").write_text(f"{head}[cam3]{last}")
    made.write_video(root / "cam3.avi", [made.room(2)] * made.FRAMES)
    good, lost = split(list(rig.frames(RigConfig(root=root, foreground=SMALL, stride=10))))
    assert len(good) == 8 and {r.camera for r in good} == {"cam1", "cam2"}
    assert len(lost) == 4 and {r.reason for r in lost} == {
        "the moving person is outside this camera's picture"
    }
