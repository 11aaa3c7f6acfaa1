"""Hands of synthetic people: crops around each hand, for the hand variant of completion.

The same people, motions, scenes and cameras as whole bodies have. A hand is a subject of its own:
pairs show one hand. What counts as the person, and is hidden first, is that hand. Fingers keep
the relaxed pose of the body, so hands differ by wrist, arm and viewpoint; or right hands make
gestures, and then their labels are those of MANO: 21 joints, its parameters, the gesture's number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hpse_dist.body.joints import PART_NAMES, SMPL24
from hpse_dist.draws import generator
from hpse_dist.records import FrameRecord, Provenance, Reject
from hpse_dist.synth import produce
from hpse_dist.synth.appearance import Look
from hpse_dist.synth.crew import Sequences, in_order
from hpse_dist.synth.fingers import GESTURES, Fingers, RightHand
from hpse_dist.synth.motion import Motion
from hpse_dist.synth.people import PosedPerson, crop_intrinsics
from hpse_dist.synth.picture import render
from hpse_dist.synth.produce import Studio, SyntheticConfig, jobs_of, source_of
from hpse_dist.synth.render import Moment
from hpse_dist.synth.scene import Camera

SIDES = ("left", "right")


@dataclass(frozen=True)
class HandsConfig(SyntheticConfig):
    """Rendered hands: whose, how long, seen by how many cameras."""

    box_scale: float = 1.6
    """Side of a crop relative to the larger side of the hand's box, about."""
    fingers: Literal["relaxed", "gestures"] = "relaxed"
    """relaxed: both hands, labels of the body. gestures: right hands, labels of the hand."""
    least_share: float = 0.06
    """A crop shows a hand if the hand covers at least this share of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.least_share < 1.0:
            raise ValueError(f"least_share must be between 0 and 1, found {self.least_share}")
        if self.fingers == "gestures" and self.body != "free":
            raise ValueError(
                "fingers gestures needs body free, whose hand has joints in its fingers"
            )


Config = HandsConfig


def provenance(config: HandsConfig) -> Provenance:
    """As of whole synthetic people."""
    made = replace(produce.provenance(config), importer="synthetic_hands")
    if config.fingers == "relaxed":
        return made
    return replace(made, joint_set="mano21", details=made.details | {"classes": list(GESTURES)})


def frames(config: HandsConfig, processes: int = 0) -> Iterator[FrameRecord | Reject]:
    """All records, ordered by person, sequence, moment, camera, hand. processes 0: all cores."""
    return in_order(HandStudio, config, jobs_of(config), processes)


def in_parts(config: HandsConfig, size: int, processes: int = 0) -> Sequences:
    """The same records in parts of at most `size` frames; see `produce.in_parts`."""
    longest = len(SIDES) * config.moments_per_sequence * config.cameras[1]
    return Sequences(HandStudio, config, jobs_of(config), max(1, size // longest), processes)


class HandStudio(Studio):
    """Two pictures from each camera at each moment: of the left and of the right hand."""

    config: HandsConfig

    def __init__(self, config: HandsConfig) -> None:
        super().__init__(config)
        self.hand = RightHand() if config.fingers == "gestures" else None
        self.fingers: Fingers | None = None

    def moved(self, subject: int, sequence: int, look: Look, count: int) -> np.ndarray | None:
        """The fingers of the sequence that comes next."""
        if self.hand is None:
            return None
        rng = generator(self.config.seed, "synth.fingers", subject, sequence)
        self.fingers = self.hand.draw(rng, count)
        return self.hand.shift(self.fingers, look.betas, self.body.num_vertices)

    def records(
        self,
        rng: np.random.Generator,
        place: tuple[int, int, int, int],
        posed: PosedPerson,
        motion: Motion,
        moment: Moment,
        camera: Camera,
    ) -> Iterator[FrameRecord | Reject]:
        """The hands that can be seen; one behind the body or a thing is a reject."""
        person, size = posed.person[place[2]], self.config.crop_px
        for side in SIDES if self.hand is None else SIDES[1:]:
            part = PART_NAMES.index(f"{side}_hand")
            vertices = person.vertices[person.part == part]
            intrinsics = crop_intrinsics(camera, vertices, size, self.config.box_scale, rng)
            picture = render(moment, camera, intrinsics, size, rng, self.config.supersample)
            mask = picture.part_map == part
            if mask.mean() < self.config.least_share:
                seen = f"the {side} hand covers {mask.mean():.0%} of its crop, below least_share"
                yield Reject(f"{source_of(place)}, {side} hand", seen)
                continue
            record = self.frame(
                place, posed, motion, camera, replace(picture, mask=mask), intrinsics
            )
            if self.hand is not None and self.fingers is not None:
                kept = {name: record.labels[name] for name in ("part_map", "uv_map")}
                own = self.hand.labels(self.fingers, posed, place[2], camera, intrinsics, size)
                record = replace(record, labels=own | kept)
            yield replace(
                record,
                subject=f"{record.subject}_{side}",
                sequence=f"{record.sequence}_{side}",
                track=side,
                centre=posed.joints[place[2], SMPL24.index(f"{side}_hand")].astype(np.float64),
                source=f"{record.source}, {side} hand",
            )
