"""Groups of synthetic people: whole pictures of several people at different depths.

The unit of work is one group: people of their own who stand about, in one scene, seen by a few
cameras at a few moments. A picture's labels are everybody's joints in the picture and, for
measuring only, in the camera's frame. All bodies are cast as one mesh, so they hide and shade one
another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from hpse_dist.body.model import load_body
from hpse_dist.draws import generator
from hpse_dist.records import FrameRecord, Provenance, Reject
from hpse_dist.synth import produce
from hpse_dist.synth.actions import ACTIONS, DEEP
from hpse_dist.synth.appearance import draw_look
from hpse_dist.synth.crew import Sequences, in_order
from hpse_dist.synth.mesh import Topology
from hpse_dist.synth.motion import draw_manner, draw_motion
from hpse_dist.synth.people import PosedPerson, crop_intrinsics, pose_person
from hpse_dist.synth.picture import render
from hpse_dist.synth.produce import SyntheticConfig
from hpse_dist.synth.render import Moment, Person, Stage
from hpse_dist.synth.scene import Camera, draw_scene
from hpse_dist.synth.surface import BodySurface

HIDDEN = 0.25  # confidence of a joint behind another person or a thing: a place that was guessed
_SEATED = tuple(name for name, action in ACTIONS.items() if action.seat)
_LEAST_JOINTS = 6  # a picture needs two people with so many joints in sight
_APART_M = 0.7  # least distance between two people


@dataclass(frozen=True)
class GroupsConfig:
    """Rendered groups: how many people, how far apart, seen by how many cameras."""

    num_groups: int = 400
    """Groups; each has people, a place and cameras of its own."""
    people: tuple[int, int] = (2, 5)
    """Least and greatest number of people in a group."""
    max_people: int = 5
    """Rows of `people2d`: those that a picture does not fill have confidence 0."""
    moments_per_group: int = 2
    """Instants that are rendered."""
    moment_gap_s: float = 0.8
    """Seconds between instants."""
    cameras: tuple[int, int] = (3, 4)
    """Least and greatest number of cameras around a group."""
    spread: tuple[float, float] = (1.0, 4.0)
    """Radius in metres of the place where people stand, drawn for each group."""
    framing: tuple[float, float] = (0.85, 1.25)
    """Side of a picture relative to the larger side of the whole group's box; below 1 people at
    the edge are cut off."""
    child_ratio: float = 0.06
    """Share of people who are 0.55 to 0.8 times as tall: what apparent size alone gets wrong."""
    picture_px: int = 160
    """Side of the square pictures in pixels."""
    supersample: int = 2
    """Rays per pixel and axis on people and at edges."""
    heldout: float = 0.15
    """Share of the groups whose pictures are the split `val`: the last ones."""
    body: str = "free"
    """The free body, or a file or folder of SMPL, SMPL-H or SMPL-X."""
    seed: int = 0
    """Start of every random draw."""

    def __post_init__(self) -> None:
        for name in ("num_groups", "moments_per_group", "supersample"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if not 2 <= self.people[0] <= self.people[1] <= self.max_people <= 32:
            raise ValueError(
                "people must be two numbers, 2 <= least <= greatest <= max_people <= 32, found "
                f"{list(self.people)} and max_people {self.max_people}"
            )
        if not 1 <= self.cameras[0] <= self.cameras[1] <= 16:
            raise ValueError(
                "cameras must be two numbers, 1 <= least <= greatest <= 16, found "
                f"{list(self.cameras)}"
            )
        if not 0.8 <= self.spread[0] <= self.spread[1] <= 8:
            raise ValueError(
                f"spread must be two rising numbers in 0.8..8, found {list(self.spread)}"
            )
        if not 0.5 <= self.framing[0] <= self.framing[1] <= 3:
            raise ValueError(
                f"framing must be two rising numbers in 0.5..3, found {list(self.framing)}"
            )
        if not 32 <= self.picture_px <= 1024:
            raise ValueError(f"picture_px must be 32..1024, found {self.picture_px}")
        if not 0 <= self.child_ratio <= 1:
            raise ValueError(f"child_ratio must be in 0..1, found {self.child_ratio}")
        if not 0.0 <= self.heldout < 1.0:
            raise ValueError(f"heldout must be at least 0 and below 1, found {self.heldout}")

    def split(self, group: int) -> str:
        """train or val of a group's number."""
        held = round(self.num_groups * self.heldout)
        return "val" if group >= self.num_groups - held else "train"


Config = GroupsConfig


def provenance(config: GroupsConfig) -> Provenance:
    """As of single synthetic people."""
    alone = produce.provenance(SyntheticConfig(body=config.body, seed=config.seed))
    details = {"body": config.body, "seed": config.seed, "groups": config.num_groups}
    return replace(alone, importer="synthetic_groups", details=details)


def frames(config: GroupsConfig, processes: int = 0) -> Iterator[FrameRecord | Reject]:
    """All records, ordered by group, moment, camera; see `produce.frames`."""
    return in_order(GroupStudio, config, _jobs(config), processes)


def in_parts(config: GroupsConfig, size: int, processes: int = 0) -> Sequences:
    """The same records in parts of at most `size` frames; see `produce.in_parts`."""
    together = max(1, size // (config.moments_per_group * config.cameras[1]))
    return Sequences(GroupStudio, config, _jobs(config), together, processes)


def _jobs(config: GroupsConfig) -> list[tuple[int, int]]:
    return [(group, 0) for group in range(config.num_groups)]


class GroupStudio:
    """Everything one process needs to render groups."""

    def __init__(self, config: GroupsConfig) -> None:
        self.config = config
        self.body = load_body(config.body)
        self.surface = BodySurface(self.body)

    def sequence(self, group: int, _: int = 0) -> Iterator[FrameRecord | Reject]:
        """Records of one group, by moment, then camera."""
        config = self.config
        rng = generator(config.seed, "synth.group", group)
        posed = self.people(rng)
        cameras = int(rng.integers(config.cameras[0], config.cameras[1] + 1))
        path = np.concatenate([one.joints[:, 0, [0, 2]] for one in posed])
        scene = draw_scene(rng, num_cameras=cameras, path=path)
        stage, joined = Stage(scene, rng), _Joined(posed)
        for index in range(config.moments_per_group):
            moment = Moment(joined.person(index), stage, rng)
            for number, camera in enumerate(scene.cameras):
                yield self._record(rng, (group, index, number), joined, moment, camera)

    def people(self, rng: np.random.Generator) -> list[PosedPerson]:
        """The people of a group, each at a place of its own, through all moments."""
        config = self.config
        count = int(rng.integers(config.people[0], config.people[1] + 1))
        spots = draw_spots(rng, count, rng.uniform(*config.spread))
        times = np.arange(config.moments_per_group) * config.moment_gap_s
        return [self._person(rng, spot, times) for spot in spots]

    def _person(self, rng: np.random.Generator, spot: np.ndarray, times: np.ndarray) -> PosedPerson:
        look, manner = draw_look(rng, self.surface), draw_manner(rng)
        with torch.no_grad():
            rest = self.body.rest_joints(torch.from_numpy(look.betas)[None])[0].numpy()
        avoid = (*_SEATED, *(DEEP if look.skirted else ()))
        motion = draw_motion(rng, manner, rest, times, avoid=avoid)
        posed = pose_person(self.body, self.surface, look, motion)
        child = rng.random() < self.config.child_ratio
        scale = rng.uniform(0.55, 0.8) if child else 1.0
        return _moved(posed, scale, spot - motion.root.mean(0) * scale)

    def _record(
        self,
        rng: np.random.Generator,
        place: tuple[int, int, int],
        joined: _Joined,
        moment: Moment,
        camera: Camera,
    ) -> FrameRecord | Reject:
        config, (group, index, number) = self.config, place
        source = f"synthetic group {group}, moment {index}, camera {number}"
        size = config.picture_px
        scale = rng.uniform(*config.framing)
        intrinsics = crop_intrinsics(camera, moment.person.vertices, size, scale, rng)
        picture = render(moment, camera, intrinsics, size, rng, config.supersample)
        people2d, people3d = joined.labels(index, moment, camera, intrinsics, size)
        if ((people2d[..., 2] == 1).sum(1) >= _LEAST_JOINTS).sum() < 2:
            return Reject(source, "fewer than two people can be seen")
        rows = ((0, config.max_people - len(people2d)), (0, 0), (0, 0))
        return FrameRecord(
            image=picture.image,
            box=(0.0, 0.0, float(size), float(size)),
            subject=f"g{group:05d}",
            sequence=f"g{group:05d}",
            camera=f"cam{number}",
            time=index * config.moment_gap_s,
            source=source,
            track="0",
            intrinsics=intrinsics.astype(np.float64),
            rotation=camera.rotation,
            translation=camera.translation,
            mask=picture.mask,
            labels={"people2d": np.pad(people2d, rows), "people3d": np.pad(people3d, rows)},
            split=config.split(group),
        )


def draw_spots(rng: np.random.Generator, count: int, radius: float) -> np.ndarray:
    """Places (count, 2) on the floor within `radius` of the origin, at least 0.7 m apart."""
    spots: list[np.ndarray] = []
    for tried in itertools.count():
        turn, away = rng.uniform(0, 2 * np.pi), np.sqrt(rng.random())
        # a crowded place grows until everybody has found room
        spot = (radius + 0.02 * tried) * away * np.array([np.cos(turn), np.sin(turn)])
        if all(np.hypot(*(spot - other)) >= _APART_M for other in spots):
            spots.append(spot)
        if len(spots) == count:
            break
    return np.array(spots)


def _moved(posed: PosedPerson, scale: float, shift: np.ndarray) -> PosedPerson:
    """A person's size times `scale`, standing elsewhere; only joints and meshes are of use then."""
    step = np.array([shift[0], 0.0, shift[1]])
    return replace(
        posed,
        person=tuple(
            replace(one, vertices=(one.vertices * scale + step).astype(np.float32))
            for one in posed.person
        ),
        joints=posed.joints * scale + step,
    )


class _Joined:
    """Several people as one mesh."""

    def __init__(self, posed: list[PosedPerson]) -> None:
        self.posed = posed
        first = [one.person[0] for one in posed]
        counts = [len(person.vertices) for person in first]
        starts = np.cumsum([0, *counts[:-1]])
        faces = [p.topology.faces + start for p, start in zip(first, starts, strict=True)]
        self.topology = Topology(np.concatenate(faces), sum(counts))
        self.owner: np.ndarray = np.repeat(np.arange(len(first)), [len(f) for f in faces])
        """(F,) whose face it is."""
        self.paint = np.concatenate([person.paint for person in first])
        self.part = np.concatenate([person.part for person in first])
        self.corner_uv = np.concatenate([person.corner_uv for person in first])

    def person(self, index: int) -> Person:
        """Everybody at one moment."""
        return Person(
            vertices=np.concatenate([one.person[index].vertices for one in self.posed]),
            topology=self.topology,
            paint=self.paint,
            cells=self.posed[0].person[0].cells,
            part=self.part,
            corner_uv=self.corner_uv,
        )

    def labels(
        self, index: int, moment: Moment, camera: Camera, intrinsics: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """people2d (P, 24, 3) in pixels and people3d (P, 24, 4) in the camera's frame.

        Confidence in the picture: 1 in sight or behind one's own body only, HIDDEN behind another
        person or a thing, 0 outside the picture.
        """
        world = np.stack([one.joints[index] for one in self.posed])  # (P, 24, 3)
        seen = world @ camera.rotation.T + camera.translation
        image = seen @ intrinsics.T
        image = image[..., :2] / image[..., 2:]
        rays = (world - camera.eye).reshape(-1, 3)
        body = moment.caster.first(camera.eye, rays)  # tfar 1 is the joint
        thing = moment.stage.caster.first(camera.eye, rays)
        whose: np.ndarray = np.repeat(np.arange(len(world)), world.shape[1])
        other = (body["primID"] >= 0) & (body["tfar"] < 1)
        other &= self.owner[body["primID"].clip(0)] != whose
        hidden = other | ((thing["primID"] >= 0) & (thing["tfar"] < 1))
        inside = ((image >= 0) & (image < size)).all(-1) & (seen[..., 2] > 0)
        sure = inside * np.where(hidden.reshape(inside.shape), HIDDEN, 1.0)
        ones = np.ones((*world.shape[:2], 1))
        return (
            np.concatenate([image, sure[..., None]], -1).astype(np.float32),
            np.concatenate([seen, ones], -1).astype(np.float32),
        )
