"""Where a loader's pictures are decoded: here, once and for all, or by processes elsewhere.

    inline      by threads of the trainer's process, each micro-batch when its turn comes
    resident    once, before the first batch, into memory (`resident.py`)
    workers     by processes elsewhere, of which this layer knows no more than `Crew`

All give the same batches: what a micro-batch holds follows from its `Rows` alone, and these from
the place in the sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from hpse_dist.data.decode import Decoder, Rows
from hpse_dist.data.items import Source, read_items
from hpse_dist.data.prefetch import Buffer, Layout

Sampling = Literal["pairs", "frames"]
Kind = Literal["inline", "workers", "resident"]

NO_CREW = (
    "machine.loader is workers, and there are no Ray data workers here: they come with trainers "
    "that Ray has started; leave --without-ray out, or set machine.loader to inline or resident"
)


@dataclass(frozen=True)
class Incident:
    """Something that went wrong while decoding and was mended."""

    kind: Literal["hung_decode", "lost_data_worker"]
    why: str


@dataclass(frozen=True)
class Reading:
    """All that a process needs to know to decode a run's micro-batches; it can be pickled."""

    sources: tuple[Source, ...]
    sampling: Sampling
    label_fraction: float
    labels: tuple[str, ...]
    """Stored fields besides the pictures."""
    micro_batch: int
    layouts: dict[str, Layout]
    """Of the arrays of a micro-batch."""
    room: int
    """Bytes of local copies that each decoder holds at most."""

    def decoder(self) -> Decoder:
        """For the same rows it fills in the same values in any process."""
        items = [
            read_items(source, self.sampling, number=number, label_fraction=self.label_fraction)
            for number, source in enumerate(self.sources)
        ]
        made = Decoder(items, self.labels, replaces=True, room=self.room)
        if made.layouts(self.micro_batch) != self.layouts:
            folders = " and ".join(str(source.collection.folder) for source in self.sources)
            raise ValueError(f"{folders}: not the collections that the trainer has opened")
        return made


class Crew(Protocol):
    """Processes elsewhere that decode. Whoever dies or hangs is replaced within."""

    @property
    def threads(self) -> int:
        """How many calls of `fill` at once keep all of them busy."""

    @property
    def apart(self) -> bool:
        """Whether they are on other machines, for all that is known."""

    @property
    def core_seconds(self) -> float:
        """Processor time that they have used."""

    def buffers(self, pinned: bool, ahead: int) -> Sequence[Buffer]:
        """What `fill` is given: one for each call at once, and so many for whoever takes them.

        They are always the same: for one iterator at a time.
        """

    def fill(self, rows: Rows, buffer: Buffer) -> Buffer:
        """A micro-batch, as `Decoder.fill`; callable from several threads."""

    def incidents(self) -> Sequence[Incident]:
        """What went wrong since this was last asked."""

    def close(self) -> None:
        """End them; `fill` then raises."""


Hire = Callable[[Reading, float | None], Crew]
"""From what is read, and the longest that a micro-batch may take in seconds."""
