"""From a config to a stream of labelled crops, on one process or several.

The unit of work is one sequence of one subject: every draw comes from its own numbers, so content
and order are the same whatever the number of processes. A process that dies ends the stream with
an error; nothing waits for it.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import numpy as np
import torch

from hpse_dist.body.model import Body, load_body
from hpse_dist.draws import generator
from hpse_dist.records import FrameRecord, Provenance, Reject
from hpse_dist.synth.actions import DEEP
from hpse_dist.synth.appearance import Look, draw_look
from hpse_dist.synth.gaits import Manner
from hpse_dist.synth.motion import Motion, draw_manner, draw_motion
from hpse_dist.synth.people import PosedPerson, crop_intrinsics, labels, pose_person
from hpse_dist.synth.picture import Picture, render
from hpse_dist.synth.render import Moment, Stage
from hpse_dist.synth.scene import Camera, draw_scene
from hpse_dist.synth.surface import BodySurface

_LEAST_VISIBLE = 0.25  # share of the person; less behind a table or plant is a reject


Records = list[FrameRecord | Reject]


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
    jobs = [
        (subject, sequence)
        for subject in range(config.num_subjects)
        for sequence in range(config.sequences_per_subject)
    ]
    return in_order(Studio, config, jobs, processes)


def in_order(
    studio_of: Callable[[Any], Any], config: Any, jobs: list[tuple[int, int]], processes: int
) -> Iterator[FrameRecord | Reject]:
    """`studio_of(config).sequence(*job)` of every job, in order, on so many processes (0: all)."""
    if processes < 0:
        raise ValueError(f"processes must be 0 (all cores) or more, found {processes}")
    processes = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    studio = studio_of(config)  # makes the free body once, before several processes ask for it
    if processes == 1:
        for job in jobs:
            yield from studio.sequence(*job)
        return
    with _Crew(studio_of, config, processes) as crew:
        for records in crew.in_order(jobs):
            yield from records


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


# --- several processes --------------------------------------------------------------------------


class _Crew:
    """Processes that render sequences; results come in the order of the jobs."""

    def __init__(self, studio_of: Callable[[Any], Any], config: Any, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._links: dict[Connection, BaseProcess] = {}
        for number in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_work,
                args=(studio_of, config, theirs),
                name=f"synth-{number}",
                daemon=True,
            )
            process.start()
            theirs.close()  # so that a dead process reads as end of file here
            self._links[ours] = process

    def __enter__(self) -> _Crew:
        return self

    def __exit__(self, *error: object) -> None:
        for link, process in self._links.items():
            link.close()
            process.terminate()
        for process in self._links.values():
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()

    def in_order(self, jobs: list[tuple[int, int]]) -> Iterator[Records]:
        """One list of records per job, in order; RuntimeError if a process dies or fails."""
        done: dict[int, Records] = {}
        doing: dict[Connection, int] = {}
        idle = list(self._links)
        given = wanted = 0
        while wanted < len(jobs):
            # run ahead of the consumer by two jobs per process, no further
            while idle and given < min(len(jobs), wanted + 2 * len(self._links)):
                link = idle.pop()
                self._send(link, jobs[given])
                doing[link] = given
                given += 1
            if wanted in done:
                yield done.pop(wanted)
                wanted += 1
                continue
            for ready in wait(list(doing)):
                assert isinstance(ready, Connection)
                number = doing.pop(ready)
                done[number] = self._receive(ready, jobs[number])
                idle.append(ready)

    def _send(self, link: Connection, job: tuple[int, int]) -> None:
        try:
            link.send(job)
        except OSError:
            raise self._died(link, job) from None

    def _receive(self, link: Connection, job: tuple[int, int]) -> Records:
        try:
            answer: Any = link.recv()
        except (EOFError, OSError):
            raise self._died(link, job) from None
        if isinstance(answer, str):
            raise RuntimeError(f"rendering subject {job[0]}, sequence {job[1]} failed:\n{answer}")
        records: Records = answer
        return records

    def _died(self, link: Connection, job: tuple[int, int]) -> RuntimeError:
        process = self._links[link]
        process.join(5)
        return RuntimeError(
            f"a rendering process died (exit code {process.exitcode}) at subject {job[0]}, "
            f"sequence {job[1]}; if memory is short, use fewer processes or a smaller crop_px"
        )


def _work(studio_of: Callable[[Any], Any], config: Any, link: Connection) -> None:
    """A process of the crew: jobs in, lists of records out, until the other end closes."""
    torch.set_num_threads(1)  # the processes share the cores already
    cv2.setNumThreads(1)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        studio: Any = None
        while True:
            job = link.recv()
            try:
                studio = studio or studio_of(config)
                answer: object = list(studio.sequence(*job))
            except Exception:  # told to the parent, which raises it
                answer = traceback.format_exc()
            link.send(answer)
