"""SURREAL: synthetic people, rendered over photographs, in clips of a hundred frames.

    root/cmu/train/run0/01_01/01_01_c0001.mp4   ..._info.mat   ..._segm.mat      also val, test

The dataset's camera is a mirror: world to camera is a reflection, so that its pictures show mirror
images of the bodies in its files, whose left is seen on the right. Here left and right are those of
the person in the picture: joints and parts are exchanged, and pose and camera are mirrored. The
files lack SMPL's transl: with `body`, the folder of SMPL's models, it is found, without there are
no parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from hpse_dist.body.joints import SMPL24, left_right_order, part_of_joint
from hpse_dist.body.model import load_body
from hpse_dist.data.importers.matlab import read_mat
from hpse_dist.data.importers.official import Bad, numbers
from hpse_dist.data.importers.views3d import (
    Film,
    Moment,
    Sight,
    need,
    person_record,
    whole_positive,
)
from hpse_dist.records import FrameRecord, Provenance, Reject

RATE = 30.0  # taken as such: the dataset does not say it
SIZE = (320, 240)
MATRIX = np.array([[600.0, 0, 160], [0, 600, 120], [0, 0, 1]])  # 60 mm before a 32 mm sensor
MOST_PX = 2.0  # how far 3D joints may project from the 2D joints of the same file, whole pixels
SPLITS = ("train", "val", "test")
_REFLECTION = np.array([[0.0, 0, -1], [0, 1, 0], [-1, 0, 0]])  # world to camera, as it is rendered
_MIRROR = np.diag([-1.0, 1, 1])  # of SMPL's body
_OTHER_SIDE = np.array(left_right_order(SMPL24))
# a number of segm, 1 to 24 by SMPL's joints, as part of the person in the picture
_PARTS = np.array([0, *(part_of_joint(SMPL24[joint]) for joint in _OTHER_SIDE)], np.uint8)
_GET = "get SURREAL_v1.tar.gz from its site and set source.root to its folder data"


@dataclass(frozen=True)
class SurrealConfig:
    """Which of SURREAL's clips and frames."""

    root: Path
    """The folder that holds cmu."""
    splits: tuple[str, ...] = ("train", "val")
    """Parts to read; val is some of test, so take one of them."""
    runs: tuple[int, ...] = (0,)
    """0, 1 and 2: clips that overlap by 50, 30 and 70 percent of their frames."""
    every: int = 10
    """Every n-th frame."""
    parts: bool = True
    """Take mask and body parts from the _segm.mat files."""
    body: Path | None = None
    """Folder of SMPL_FEMALE and SMPL_MALE: SMPL's parameters become labels."""

    def __post_init__(self) -> None:
        whole_positive(every=self.every)
        if not self.splits or set(self.splits) - set(SPLITS):
            raise ValueError(f"splits must be among {', '.join(SPLITS)}, found {self.splits}")
        if {"val", "test"} <= set(self.splits):
            raise ValueError("splits: val is some of test, so take one of them")
        if not self.runs or set(self.runs) - {0, 1, 2}:
            raise ValueError(f"runs must be among 0, 1, 2, found {self.runs}")


Config = SurrealConfig


def frames(config: SurrealConfig) -> Iterator[FrameRecord | Reject]:
    """A record for each chosen frame, clip by clip."""
    pelvis = None if config.body is None else _RestPelvis(config.body)
    for split in config.splits:
        for run in config.runs:
            folder = need(config.root / "cmu" / split / f"run{run}", "SURREAL's folder", _GET)
            files = sorted(folder.glob("*/*_info.mat"))
            if not files:
                raise ValueError(f"{folder}: no <sequence>/<sequence>_c0001_info.mat in it; {_GET}")
            for file in files:
                try:
                    yield from _clip(file, config, split, f"run{run}", pelvis)
                except Bad as error:
                    yield Reject(f"{split}/run{run}/{file.name}", str(error))


def provenance(config: SurrealConfig) -> Provenance:
    """Licence and origin of SURREAL."""
    return Provenance(
        importer="surreal",
        licence="SURREAL licence: non-commercial scientific research, after registration",
        commercial=False,
        citation="Varol et al., Learning from Synthetic Humans, CVPR 2017",
        joint_set="smpl24",
        details={
            "left_right": "of the person in the picture, the dataset's exchanged",
            "body_model": "SMPL, female or male as the subject's name says" if config.body else "",
            "surface": "parts only, no coordinates",
        },
    )


class _RestPelvis:
    """Where SMPL's pelvis is before it is turned and moved."""

    def __init__(self, folder: Path) -> None:
        self._bodies = {"female": load_body(folder, "female"), "male": load_body(folder, "male")}

    def __call__(self, gender: str, betas: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            rest = self._bodies[gender].rest_joints(torch.from_numpy(betas)[None].float())
        place: np.ndarray = rest[0, 0].numpy().astype(np.float64)
        return place


@dataclass(frozen=True, eq=False)
class _Clip:
    """One _info.mat: T frames."""

    pixels: np.ndarray
    """(T, 24, 2)."""
    joints: np.ndarray
    """(T, 24, 3) the dataset's world, metres."""
    poses: np.ndarray
    """(T, 72)."""
    betas: np.ndarray
    """(T, 10)."""
    gender: str
    turn: float
    """Radians about the vertical that the body stands turned by."""
    camera: np.ndarray
    """(3,) where the camera is."""


_NAMES = ("joints2D", "joints3D", "pose", "shape", "gender", "zrot", "camLoc")


def _read(file: Path) -> _Clip:
    found = read_mat(file, _NAMES)
    pose = np.asarray(found["pose"])
    if pose.ndim != 2 or pose.shape[0] != 72 or not pose.shape[1]:
        raise Bad(f"pose has shape {pose.shape}, not 72 x frames")
    count = pose.shape[1]
    shape = np.asarray(found["shape"])
    if shape.ndim != 2:
        raise Bad(f"shape has shape {shape.shape}, not scores x frames")
    gender, turn = (
        numbers(np.ravel(found[name])[:1], (1,), name)[0] for name in ("gender", "zrot")
    )
    return _Clip(
        pixels=_joints(found, "joints2D", 2, count),
        joints=_joints(found, "joints3D", 3, count),
        poses=numbers(pose.T, (count, 72), "pose"),
        betas=numbers(shape.T[:, :10], (count, 10), "shape"),
        gender="male" if gender == 1 else "female",
        turn=float(turn),
        camera=numbers(np.ravel(found["camLoc"]), (3,), "camLoc"),
    )


def _joints(found: dict[str, np.ndarray], name: str, width: int, count: int) -> np.ndarray:
    """(count, 24, width) of an array (width, 24, count), which is (width, 24) for one frame."""
    given = np.atleast_3d(found[name])
    return numbers(given.transpose(2, 1, 0), (count, 24, width), name)


def _clip(
    file: Path, config: SurrealConfig, split: str, run: str, pelvis: _RestPelvis | None
) -> Iterator[FrameRecord | Reject]:
    name = file.name.removesuffix("_info.mat")
    clip = _read(file)
    film = Film(need(file.with_name(f"{name}.mp4"), "SURREAL's video", _GET), SIZE)
    chosen = range(0, len(clip.poses), config.every)
    parts = _read_parts(file.with_name(f"{name}_segm.mat"), chosen) if config.parts else None
    sight = Sight(MATRIX, _REFLECTION @ _MIRROR, -_REFLECTION @ clip.camera)
    for place, (i, picture) in enumerate(zip(chosen, film.pictures(chosen), strict=True)):
        source = f"{split}/{run}/{name}, frame {i}"
        sequence = f"{run}/{name}"
        moment = Moment(f"{sequence}/{clip.gender}", sequence, "camera", i / RATE, source, split)
        if picture is None:
            yield Reject(source, "no picture of this frame: the video ends before the labels")
            continue
        # the mirror image of the dataset's world, in which the camera is one like others
        world = (clip.joints[i] @ _MIRROR)[_OTHER_SIDE]
        seen = sight.from_world(world)
        apart = np.abs(sight.project(seen) - clip.pixels[i][_OTHER_SIDE])
        if not (apart < MOST_PX).all():
            yield Reject(source, "the 3D joints do not project onto the 2D joints (info.mat)")
            continue
        extra = {} if pelvis is None else _body(clip, i, seen[0], pelvis)
        if parts is not None:
            extra["part_map"] = _PARTS[parts[place]]
        joints = np.column_stack([seen, np.ones(24)])
        record = person_record(moment, picture, joints, sight, middle=(0,), extra=extra)
        if parts is not None and isinstance(record, FrameRecord):
            record.mask = parts[place] > 0
        yield record


def _read_parts(file: Path, chosen: Sequence[int]) -> list[np.ndarray]:
    """(240, 320) uint8 of each chosen frame, 0 to 24."""
    need(file, "SURREAL's file of body parts", f"{_GET}, or set source.parts to false")
    names = tuple(f"segm_{i + 1}" for i in chosen)
    found = read_mat(file, names)
    maps = [numbers(found[name], (SIZE[1], SIZE[0]), name) for name in names]
    if any(each.min() < 0 or each.max() > 24 for each in maps):
        raise Bad("segm holds numbers beyond 0..24")
    return [each.astype(np.uint8) for each in maps]


def _body(clip: _Clip, i: int, pelvis: np.ndarray, rest: _RestPelvis) -> dict[str, np.ndarray]:
    """SMPL's parameters of the mirror image, for the camera.

    A joint turned by R is turned by S R S in the mirror S of the body, an axis-angle's y and z
    change their signs; the root is turned with the world and the camera, M R S.
    """
    pose = (clip.poses[i].reshape(24, 3) * [1, -1, -1])[_OTHER_SIDE]
    upright = cv2.Rodrigues(np.array([np.pi / 2, 0, 0]))[0]
    about = cv2.Rodrigues(np.array([0, 0, clip.turn]))[0]
    root = upright @ about @ cv2.Rodrigues(clip.poses[i, :3])[0]
    return {
        "global_orient": cv2.Rodrigues(_REFLECTION @ root @ _MIRROR)[0][:, 0],
        "body_pose": pose[1:].ravel(),
        "betas": clip.betas[i],
        "transl": pelvis - rest(clip.gender, clip.betas[i]),
    }
