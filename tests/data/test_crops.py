"""Crops: what is drawn at a place in the picture is found at the label's place in the crop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from hpse_dist.data.crops import (
    PERSON_CELLS,
    CollectionConfig,
    Pictures,
    Square,
    StoredFrame,
    Unusable,
    crop_square,
    fit_intrinsics,
    nearest,
    prepare_frame,
    resample,
)
from hpse_dist.records import FrameRecord
from tests.data import made_rig

CONFIG = CollectionConfig(crop_px=128, min_side_px=40)


def prepare(record: FrameRecord, config: CollectionConfig = CONFIG) -> StoredFrame:
    return prepare_frame(record, config, Pictures())


def test_whole_picture_at_its_own_size_is_untouched():
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    place = crop_square((0, 0, 128, 128), 1.0)
    assert place == Square(0, 0, 128)
    assert np.array_equal(resample(image, place, 128, Image.Resampling.BICUBIC), image)


@pytest.mark.parametrize("side", [20.0, 50.5, 90.0])
def test_a_crops_edge_is_filtered_with_what_lies_beyond_it(side: float):
    """As Pillow cuts the same square out of the whole picture."""
    image = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
    box = (31.5, 40.25, 31.5 + side, 40.25 + side)
    bicubic = Image.Resampling.BICUBIC
    wanted = np.asarray(Image.fromarray(image).resize((32, 32), bicubic, box=box))
    found = resample(image, Square(31.5, 40.25, side), 32, bicubic)
    assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("side", [40.0, 97.3, 300.0])
def test_a_disc_lands_where_the_joint_says(side: float):
    """Centroid of a drawn disc in the crop = joint's 0..1 place x px, to a tenth of a pixel."""
    y, x = np.mgrid[:400, :300] + 0.5
    joint = np.array([140.25, 201.75])
    disc = (np.hypot(x - joint[0], y - joint[1]) < side / 10)[..., None]
    image = np.where(disc, 255, 0).astype(np.uint8) * np.ones(3, np.uint8)
    box = (100.0, 190.0 - side / 3, 100.0 + side, 190.0 + side / 3)
    labels = {"joints2d": np.array([[*joint, 1.0], [np.nan, np.nan, 0.0]])}
    record = FrameRecord(image, box, "s", "q", "c", 0.0, "here", labels=labels)
    stored = prepare(record, dataclasses.replace(CONFIG, min_side_px=1)).row
    weight = stored["image"][..., 0].astype(float)
    centre = np.array([(weight * axis).sum() for axis in np.mgrid[:128, :128][::-1] + 0.5])
    assert np.allclose(centre / weight.sum(), stored["joints2d"][0, :2] * 128, atol=0.1)
    assert stored["joints2d"][1].tolist() == [0, 0, 0]


def test_intrinsics_project_into_the_crop():
    record = made_rig.frame(0, 0, 0.3, 2)
    row = prepare(record).row
    points = record.labels["joints3d"][:, :3] @ row["intrinsics"].T
    assert np.allclose(points[:, :2] / points[:, 2:], row["joints2d"][:, :2], atol=1e-5)
    assert fit_intrinsics(np.eye(3), Square(3, 4, 10))[2].tolist() == [0, 0, 1]


def test_the_table_says_where_the_crop_was():
    record = made_rig.frame(0, 0, 0.3, 2)
    wide = np.pad(record.image, ((0, 0), (0, 24), (0, 0)))
    record = dataclasses.replace(
        record, image=wide, box=(40.0, 20.0, 80.0, 140.0), mask=None, labels={}
    )
    about = prepare(record).about
    side = CONFIG.box_scale * 120
    assert about["crop"] == [60 - side / 2, 80 - side / 2, side]
    assert (about["height"], about["width"]) == (160, 184)


def test_maps_keep_the_nearest_pixel_and_are_zero_outside():
    parts = np.arange(1, 17, dtype=np.uint8).reshape(4, 4)
    assert np.array_equal(nearest(parts, Square(0, 0, 4), 4), parts)
    assert np.array_equal(nearest(parts, Square(0, 0, 4), 2), parts[1::2, 1::2])
    shifted = nearest(parts, Square(-2, 2, 4), 4)
    assert np.array_equal(shifted[:2, 2:], parts[2:, :2])
    assert not shifted[2:].any() and not shifted[:, :2].any()


def test_part_map_and_person_grid_agree_with_the_crop():
    record = made_rig.frame(1, 0, 0.0, 1)
    row = prepare(record).row
    covered = row["part_map"].reshape(PERSON_CELLS, 2, PERSON_CELLS, 2) > 0
    share = covered.mean(axis=(1, 3))
    assert np.abs(row["person"] / 255 - share).mean() < 0.03
    inside = row["part_map"] > 0
    assert np.allclose(row["uv_map"][0][inside], row["part_map"][inside] / 25, atol=1e-3)


def test_without_a_mask_the_person_is_the_ellipse_in_the_box():
    image = np.zeros((200, 200, 3), np.uint8)
    record = FrameRecord(image, (50, 0, 100, 200), "s", "q", "c", 0.0, "here")
    person = prepare(record, dataclasses.replace(CONFIG, box_scale=1.0)).row["person"] / 255
    assert np.isclose(person.mean(), np.pi / 4 * 50 / 200, atol=0.01)
    assert person[16, 16] == 1 and person[0, 0] == 0
    at_edge = dataclasses.replace(record, box=(-25, 0, 25, 200))
    half = prepare(at_edge, dataclasses.replace(CONFIG, box_scale=1.0)).row["person"] / 255
    assert np.isclose(half.mean(), person.mean() / 2, atol=0.01)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"box": (10, 10, 30, 45)}, "the box is 35 px, below min_side_px"),
        ({"box": (80, 10, 60, 150)}, "the box is empty"),
        ({"box": (10, 80, 150, 80)}, "the box is empty"),
        ({"box": (150, 10, 250, 90)}, "10% of the box lie inside"),
        ({"box": (200, 200, 300, 300)}, "0% of the box lie inside"),
        ({"box": (np.nan, 10, 60, 150)}, "box holds NaN"),
        ({"labels": {"joints2d": np.full((24, 3), np.nan)}}, "joints2d holds NaN"),
        ({"labels": {"joints3d": np.ones((24, 3))}}, "joints3d has shape"),
        ({"labels": {"betas": np.ones(10)}}, "must come with betas"),
        ({"labels": {"kneecaps": np.ones(10)}}, "kneecaps is not a label"),
        ({"mask": np.ones((3, 3), bool)}, "mask has shape"),
        ({"translation": None}, "rotation and translation"),
        ({"rotation": np.full((3, 3), np.inf)}, "rotation holds NaN or infinity"),
        ({"image": np.zeros((160, 160), np.uint8)}, "not uint8"),
    ],
)
def test_a_bad_record_is_unusable_with_a_reason(change: dict, reason: str):
    with pytest.raises(Unusable, match=reason):
        prepare(dataclasses.replace(made_rig.frame(0, 0, 0.0, 0), **change))


def test_picture_files(tmp_path):
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, 15:] = 200
    turned = Image.fromarray(image).getexif()
    turned[274] = 6  # to be shown a quarter turn clockwise
    Image.fromarray(image).save(tmp_path / "a.png", exif=turned)
    read = Pictures().read(tmp_path / "a.png")
    assert read.shape == (30, 20, 3) and read[25, 10, 0] == 200 and read[5, 10, 0] == 0
    Image.fromarray(255 - image).save(tmp_path / "b.png")
    pictures = Pictures()
    for name, shape in (("a.png", (30, 20, 3)), ("b.png", (20, 30, 3)), ("a.png", (30, 20, 3))):
        assert pictures.read(tmp_path / name).shape == shape
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:80])
    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("cut.png", "text.jpg", "absent.jpg"):
        with pytest.raises(Unusable, match=r"the picture (cannot be read|is missing)"):
            Pictures().read(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_px": 4},
        {"box_scale": 0},
        {"jpeg_quality": 0},
        {"labels": ("knees",)},
        {"val_ratio": 1},
    ],
)
def test_impossible_configs(change: dict):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        CollectionConfig(**change)
