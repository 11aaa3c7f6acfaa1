"""From a config to a stream of labelled crops, on one process or several.

The unit of work is one sequence of one subject: every draw comes from its own numbers, so content
and order are the same whatever the number of processes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from hpse_dist.body.model import Body, load_body
from hpse_dist.draws import generator
from hpse_dist.records import FrameRecord, Provenance, Reject
from hpse_dist.synth.actions import DEEP
from hpse_dist.synth.appearance import Look, draw_look
from hpse_dist.synth.crew import Sequences, in_order
from hpse_dist.synth.gaits import Manner
from hpse_dist.synth.motion import Motion, draw_manner, draw_motion
from hpse_dist.synth.people import PosedPerson, crop_intrinsics, labels, pose_person
from hpse_dist.synth.picture import Picture, render
from hpse_dist.synth.render import Moment, Stage
from hpse_dist.synth.scene import Camera, draw_scene
from hpse_dist.synth.surface import BodySurface

_LEAST_VISIBLE = 0.25  # share of the person; less behind a table or plant is a reject


@dataclass(frozen=True)
class SyntheticConfig:
    """Rendered people: who, how long, seen by how many cameras."""

    num_subjects: int = 24
    """People; each has a body, clothes and a way of moving of their own."""
    sequences_per_subject: int = 2
    """Motions of each person, each in a scene of its own."""
    moments_per_sequence: int = 16
    """Instants of a sequence that are rendered."""
    moment_gap_s: float = 0.2
    """Seconds between instants."""
    cameras: tuple[int, int] = (2, 8)
    """Least and greatest number of calibrated cameras around a sequence."""
    crop_px: int = 128
    """Side of the square crops in pixels."""
    box_scale: float = 1.25
    """Side of a crop relative to the larger side of the person's box, about."""
    supersample: int = 2
    """Rays per pixel and axis on the person and at edges."""
    heldout: float = 0.15
    """Share of the subjects whose frames are the split `val`: the last ones."""
    body: str = "free"
    """The free body, or a file or folder of SMPL, SMPL-H or SMPL-X."""
    seed: int = 0
    """Start of every random draw."""

    def __post_init__(self) -> None:
        for name in (
            "num_subjects",
            "sequences_per_subject",
            "moments_per_sequence",
            "supersample",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        low, high = self.cameras
        if not 1 <= low <= high <= 16:
            raise ValueError(
                f"cameras must be two numbers, 1 <= least <= greatest <= 16, found {low}, {high}"
            )
        if not 32 <= self.crop_px <= 1024:
            raise ValueError(f"crop_px must be 32..1024, found {self.crop_px}")
        if not 0.02 <= self.moment_gap_s <= 5.0:
            raise ValueError(f"moment_gap_s must be 0.02..5 seconds, found {self.moment_gap_s}")
        if not 1.0 <= self.box_scale <= 3.0:
            raise ValueError(f"box_scale must be 1..3, found {self.box_scale}")
        if not 0.0 <= self.heldout < 1.0:
            raise ValueError(f"heldout must be at least 0 and below 1, found {self.heldout}")

    def split(self, subject: int) -> str:
        """train or val of a subject's number."""
        held = round(self.num_subjects * self.heldout)
        if self.heldout > 0 and self.num_subjects > 1:
            held = max(held, 1)
        return "val" if subject >= self.num_subjects - held else "train"


def provenance(config: SyntheticConfig) -> Provenance:
    """Made here; free to use with the free body, bound to the body file's licence otherwise."""
    free = config.body == "free"
    licence = (
        "made by this program from a CC0 body (anny)"
        if free
        else f"made by this program from the body file {config.body}: that file's licence applies"
    )
    return Provenance(
        importer="synthetic",
        licence=licence,
        commercial=free,
        citation="synthetic people of hpse_dist; free body from anny (Apache-2.0 code, CC0 assets)",
        joint_set="smpl24",
        details={"body": config.body, "seed": config.seed, "subjects": config.num_subjects},
    )


def frames(config: SyntheticConfig, processes: int = 0) -> Iterator[FrameRecord | Reject]:
    """All records, ordered by subject, sequence, moment, camera. processes 0: one per usable core.

    The order and every pixel depend on the config alone; labels do up to the last digit of float32,
    which matrix products leave to the alignment of memory. At most about two sequences per process
    are held in memory.
    """
    return in_order(Studio, config, jobs_of(config), processes)


def in_parts(config: SyntheticConfig, size: int, processes: int = 0) -> Sequences:
    """The same records in parts of at most `size` frames where a sequence is no longer."""
    longest = config.moments_per_sequence * config.cameras[1]
    return Sequences(Studio, config, jobs_of(config), max(1, size // longest), processes)


def jobs_of(config: SyntheticConfig) -> list[tuple[int, int]]:
    """(subject, sequence) of everything to render."""
    return [
        (subject, sequence)
        for subject in range(config.num_subjects)
        for sequence in range(config.sequences_per_subject)
    ]


class Studio:
    """Everything one process needs to render sequences of a config."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.config = config
        self.body: Body = load_body(config.body)
        self.surface = BodySurface(self.body)
        # a subject's sequences follow each other, so the last look is the one needed again
        self.subject = functools.lru_cache(maxsize=1)(self._subject)

    def _subject(self, subject: int) -> tuple[Look, Manner]:
        rng = generator(self.config.seed, "synth.subject", subject)
        return draw_look(rng, self.surface), draw_manner(rng)

    def sequence(self, subject: int, sequence: int) -> Iterator[FrameRecord | Reject]:
        """Records of one sequence, by moment, then camera."""
        config = self.config
        rng = generator(config.seed, "synth.sequence", subject, sequence)
        look, manner = self.subject(subject)
        with torch.no_grad():
            rest = self.body.rest_joints(torch.from_numpy(look.betas)[None])[0].numpy()
        times = np.arange(config.moments_per_sequence) * config.moment_gap_s
        motion = self.motion(rng, (subject, sequence), look, manner, rest, times)
        moved = self.moved(subject, sequence, look, len(times))
        posed = pose_person(self.body, self.surface, look, motion, moved)
        scene = draw_scene(
            rng,
            num_cameras=int(rng.integers(config.cameras[0], config.cameras[1] + 1)),
            path=motion.root,
            seat=_seat(posed, motion),
        )
        stage = Stage(scene, rng)
        for index in range(len(times)):
            moment = Moment(posed.person[index], stage, rng)
            for number, camera in enumerate(scene.cameras):
                place = (subject, sequence, index, number)
                yield from self.records(rng, place, posed, motion, moment, camera)

    def motion(
        self,
        rng: np.random.Generator,
        job: tuple[int, int],
        look: Look,
        manner: Manner,
        rest: np.ndarray,
        times: np.ndarray,
    ) -> Motion:
        """How this person moves in the sequence `job` (subject, sequence), at seconds (M,)."""
        return draw_motion(rng, manner, rest, times, avoid=DEEP if look.skirted else ())

    def moved(self, subject: int, sequence: int, look: Look, count: int) -> np.ndarray | None:
        """(M, V, 3) how far the body's vertices are from their places at rest; None: not at all."""
        return None

    def records(
        self,
        rng: np.random.Generator,
        place: tuple[int, int, int, int],
        posed: PosedPerson,
        motion: Motion,
        moment: Moment,
        camera: Camera,
    ) -> Iterator[FrameRecord | Reject]:
        """What one camera gives at one moment: here the person. place: subject, sequence, number
        of the moment, number of the camera."""
        size = self.config.crop_px
        vertices = posed.person[place[2]].vertices
        intrinsics = crop_intrinsics(camera, vertices, size, self.config.box_scale, rng)
        picture = render(moment, camera, intrinsics, size, rng, self.config.supersample)
        if picture.visible < _LEAST_VISIBLE:
            seen = f"{100 * picture.visible:.0f} % of the person can be seen"
            yield Reject(source_of(place), seen)
            return
        yield self.frame(place, posed, motion, camera, picture, intrinsics)

    def frame(
        self,
        place: tuple[int, int, int, int],
        posed: PosedPerson,
        motion: Motion,
        camera: Camera,
        picture: Picture,
        intrinsics: np.ndarray,
    ) -> FrameRecord:
        """A picture with everything that is known of it."""
        subject, sequence, index, number = place
        size = self.config.crop_px
        return FrameRecord(
            image=picture.image,
            box=(0.0, 0.0, float(size), float(size)),
            subject=f"s{subject:05d}",
            sequence=f"s{subject:05d}_{sequence:02d}_{motion.name}",
            camera=f"cam{number}",
            time=float(motion.times[index]),
            source=source_of(place),
            track="0",
            intrinsics=intrinsics.astype(np.float64),
            rotation=camera.rotation,
            translation=camera.translation,
            centre=posed.joints[index, 0].astype(np.float64),
            mask=picture.mask,
            labels={
                **labels(posed, index, camera, intrinsics, size),
                "part_map": picture.part_map,
                "uv_map": picture.uv_map,
            },
            split=self.config.split(subject),
        )


def source_of(place: tuple[int, int, int, int]) -> str:
    """Where a picture comes from, for messages."""
    subject, sequence, index, number = place
    return f"synthetic {subject}/{sequence}, moment {index}, camera {number}"


def _seat(posed: PosedPerson, motion: Motion) -> tuple[float, float, float] | None:
    """x, z and height of what a sitting person sits on: just under the lowest point of the hips."""
    if not motion.seat:
        return None
    hips = posed.joints[:, [1, 2]].mean(1)
    x, _, z = hips.mean(0)
    heights = []
    for person, hip in zip(posed.person, hips, strict=True):
        near = np.hypot(person.vertices[:, 0] - hip[0], person.vertices[:, 2] - hip[2]) < 0.12
        heights.append(person.vertices[near & (person.vertices[:, 1] > 0.2), 1].min())
    return float(x), float(z), max(float(np.min(heights)) - 0.005, 0.1)
