"""Every importer's official layout, as its own tests write it, with one broken record and the name
of a file that it cannot do without."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.data.importers import (
    made_videos,
    test_aist,
    test_bedlam,
    test_coco_style,
    test_densepose_coco,
    test_emdb,
    test_freihand,
    test_gun71,
    test_hagrid,
    test_ho3d,
    test_human36m,
    test_humbi,
    test_image_folder,
    test_interhand,
    test_labelled,
    test_mcpc,
    test_mpi_inf_3dhp,
    test_muco,
    test_mupots,
    test_panoptic,
    test_pictures_2d,
    test_posetrack18,
    test_rig,
    test_surreal,
    test_threedpw,
    test_videos,
    walkers,
)
from tests.data.importers.annotated import picture, places, triples, write_json

PICTURES = (".jpg", ".jpeg", ".png")


def damage(root: Path) -> None:
    """The first picture is none any more."""
    found = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in PICTURES]
    unread = ("mask", "evaluation")
    read = [path for path in found if not any(part in unread for part in path.parts)]
    read[0].write_bytes(b"no picture")


@dataclass(frozen=True)
class Layout:
    """How a fixture is written, broken and read."""

    write: Callable[[Path], Path | None]
    """Writes the layout under a folder and returns its root, where that is another one."""
    missing: str
    """A file or folder under root, as `Path.glob` finds it, whose absence is an error."""
    keys: dict[str, Any] = field(default_factory=dict)
    """Of the recipe's source, without root."""
    damage: Callable[[Path], None] = damage
    """Breaks one record of several."""
    reason: str = "the picture cannot be read"
    """What the broken record's reject says, as a regular expression."""


def of(module: Any) -> Callable[[Path], Path | None]:
    """The layout that a test module's fixture `root` writes."""
    return inspect.unwrap(module.root)


def coco(root: Path, name: str = "person_keypoints_val2017") -> None:
    more = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}
    parts = {key: triples(places(count), [1.0] * count) for key, count in more.items()}
    people = [test_coco_style.person(i, i, **parts) for i in (1, 2)]
    test_coco_style.write(root, people, name)


def whole_bodies(root: Path) -> None:
    coco(root, "coco_wholebody_val_v1.0")


def densepose(root: Path) -> None:
    bad = test_densepose_coco.person(2, 1, dp_masks=[])
    test_densepose_coco.made(root, [test_densepose_coco.person(1, 1), bad])


def posetrack18(root: Path) -> None:
    people = [test_posetrack18.person(frame, 3) for frame in (0, 1)]
    test_posetrack18.write(root, people, [0, 1])


def ai_challenger(root: Path) -> None:
    folder = root / "ai_challenger_keypoint_train_20170909"
    about = []
    for name in ("ab", "cd"):
        picture(folder / "keypoint_train_images_20170902" / f"{name}.jpg")
        keypoints = {"human1": triples(places(14), [1] * 14)}
        box = {"human1": [30, 20, 180, 180]}
        about.append(
            {"image_id": name, "human_annotations": box, "keypoint_annotations": keypoints}
        )
    write_json(folder / "keypoint_train_annotations_20170909.json", about)


def crowdpose(root: Path) -> None:
    test_mcpc.write_crowdpose(root)


def mpii(root: Path) -> None:
    test_pictures_2d.write_mpii(root)


def lsp(root: Path) -> None:
    test_pictures_2d.write_lsp(root, "lsp")  # of two people, but with one picture


def penn_action(root: Path) -> None:
    test_pictures_2d.write_penn_action(root)


def jhmdb(root: Path) -> None:
    test_pictures_2d.write_jhmdb(root)
    test_pictures_2d.write_jhmdb_splits(root)


def mcpc(root: Path) -> None:
    test_coco_style.write(root / "coco", [test_coco_style.person(i, 1) for i in (1, 2)])
    test_mcpc.write_crowdpose(root / "crowdpose")


def rig(root: Path) -> Path:
    made_videos.make_rig(root / "walk", frames=12)
    test_rig.write_boxes(root / "walk", instants=12)
    return root / "walk"


def lose_a_box(root: Path) -> None:
    lines = (root / "boxes.csv").read_text().splitlines()
    (root / "boxes.csv").write_text("\n".join(lines[:-1]) + "\n")


def lose_a_video(root: Path) -> None:
    sorted((root / "videos").iterdir())[-1].unlink()


def videos(root: Path) -> None:
    pictures, boxes = walkers.walk(40, 60, 200)
    made_videos.write_video(root / "walk.avi", pictures, test_videos.RATE)
    (root / "words.mov").write_text("no video")
    test_videos.boxes_file(root / "boxes.csv", test_videos.given(boxes, 2, "anna"))


def surreal(root: Path) -> None:
    test_surreal.write(root, test_surreal.clip())


def a_clip_without_camera(root: Path) -> None:
    clip = test_surreal.clip()
    del clip["camLoc"]
    test_surreal.write(root, clip, "01_01_c0002")


def agora(root: Path) -> None:
    content = test_bedlam.labels(people=1)
    content["imgname"] = content["imgname"].astype("<U40")
    for i, pixels in enumerate(content["gtkps"]):
        content["imgname"][i] = f"ag_trainset_{i}_1280x720.png"
        path = root / "training_images/images" / content["imgname"][i]
        test_bedlam.made.save(path, test_bedlam.made.picture(pixels[:22, :2]))
    (root / test_bedlam.LABELS).mkdir(parents=True)
    for part in ("bfh", "body"):
        test_bedlam.np.savez(root / test_bedlam.LABELS / f"agora-{part}.npz", **content)


def nothing(root: Path) -> None:
    """The layout has a broken record already."""


LAYOUTS: dict[str, Layout] = {
    "image_folder": Layout(of(test_image_folder), ".", {"licence": "own"}, nothing),
    "rig": Layout(rig, "calibration.toml", {"boxes": "boxes.csv"}, lose_a_box, "no box"),
    "videos": Layout(
        videos, "boxes.csv", {"boxes": "boxes.csv"}, nothing, "not a video that can be opened"
    ),
    "labelled": Layout(
        of(test_labelled),
        "people.jsonl",
        {"licence": "own", "joints": "coco17", "joints3d_in": "world"},
    ),
    "threedpw": Layout(of(test_threedpw), "sequenceFiles/validation", {"splits": ["validation"]}),
    "mpi_inf_3dhp": Layout(
        of(test_mpi_inf_3dhp),
        "S1/Seq2/annot.mat",
        {"subjects": [1], "sequences": [2], "cameras": list(test_mpi_inf_3dhp.CAMERAS), "every": 1},
    ),
    "panoptic": Layout(
        of(test_panoptic),
        "*/calibration_*.json",
        {"cameras": list(test_panoptic.CAMERAS), "every": 2},
        reason="no picture of this frame",
    ),
    "human36m": Layout(
        of(test_human36m),
        "annotations/Human36M_subject9_camera.json",
        {"subjects": [9], "cameras": [1, 2], "every": 2},
    ),
    "aist": Layout(
        of(test_aist), "annotations/cameras/mapping.txt", {"every": 2}, lose_a_video, "no video"
    ),
    "mupots": Layout(of(test_mupots), "TS1/annot.mat", {"clips": [1]}),
    "emdb": Layout(lambda root: test_emdb.write(root, test_emdb.sequence()), "P0/00_walk/images"),
    "bedlam": Layout(lambda root: test_bedlam.write(root, test_bedlam.labels()), "training_images"),
    "agora": Layout(agora, "training_labels/*/agora-body.npz"),
    "surreal": Layout(
        surreal,
        "cmu/train/run0/01_01/01_01_c0001.mp4",
        {"splits": ["train"], "every": 1},
        a_clip_without_camera,
        "lacks camLoc",
    ),
    "humbi": Layout(of(test_humbi), "subject_82/body/extrinsic.txt"),
    "muco": Layout(
        lambda root: test_muco.write(root, [test_muco.person(0, 0), test_muco.person(1, 1)]),
        "MuCo-3DHP.json",
    ),
    "ho3d": Layout(of(test_ho3d), "train.txt"),
    "hagrid": Layout(of(test_hagrid), "fist"),
    "gun71": Layout(of(test_gun71), "Subject3", damage=nothing),
    "freihand": Layout(of(test_freihand), "training_xyz.json"),
    "interhand": Layout(of(test_interhand), "annotations/train/InterHand2.6M_train_camera.json"),
    "mcpc": Layout(
        mcpc,
        "crowdpose/json/crowdpose_val.json",
        {name: {"splits": ["val"]} for name in ("coco", "crowdpose")},
    ),
    "coco": Layout(coco, "annotations/person_keypoints_val2017.json", {"splits": ["val"]}),
    "coco_wholebody": Layout(whole_bodies, "val2017", {"splits": ["val"]}),
    "densepose_coco": Layout(
        densepose, "val2014", {"splits": ["minival"]}, nothing, "no list of 14 masks"
    ),
    "posetrack18": Layout(posetrack18, "annotations/train", {"splits": ["train"]}),
    "crowdpose": Layout(crowdpose, "json/crowdpose_val.json", {"splits": ["val"]}),
    "ai_challenger": Layout(ai_challenger, "*/*.json", {"splits": ["train"]}),
    "mpii": Layout(mpii, "*.mat", damage=nothing, reason="leads out"),
    "lsp": Layout(lsp, "joints.mat", damage=nothing, reason="no picture 'im0002"),
    "penn_action": Layout(penn_action, "frames", damage=nothing, reason="cannot be read"),
    "jhmdb": Layout(jhmdb, "splits"),
}


def remove(root: Path, pattern: str) -> str:
    """Remove what is missing then, and return its name."""
    path = root if pattern == "." else next(root.glob(pattern))
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return path.name
