"""Collections decoded once and held in memory, for those that fit.

The processes of a run on one machine share the memory: each decodes some of the shards into it.
It has no name, so it is gone with the last of them, however that ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hpse_dist.collectives import gather_objects, num_ranks
from hpse_dist.data.beton import Damaged, Shard
from hpse_dist.data.decode import Decoder, Readable
from hpse_dist.data.items import Items
from hpse_dist.data.prefetch import Layout
from hpse_dist.data.shared import Shared, arrays_in, opened, size_of
from hpse_dist.meter import free_memory
from hpse_dist.world import World

_log = logging.getLogger(__name__)

_SHARE = 0.8  # of the free memory that may be taken
_CHUNK = 256  # rows decoded together
_DAMAGED = "damaged"


class Resident(Decoder):
    """A decoder whose pictures and labels are decoded already when it is made.

    Collective: every process of a run makes one. ValueError where they do not fit.
    """

    def __init__(
        self,
        sources: Sequence[Items],
        labels: Sequence[str],
        room: int,
        world: World,
        threads: int,
    ) -> None:
        self._held: dict[tuple[int, int], _Held] = {}
        super().__init__(sources, labels, replaces=True, room=room)
        plans = [
            plan for number, items in enumerate(sources) for plan in self._plans(number, items)
        ]
        sizes = [size_of(plan.layouts) for plan in plans]
        size = sum(sizes)
        began = time.perf_counter()
        memory = shared_memory(size, world, refusal(size, sources))
        offset = 0
        for plan, room in zip(plans, sizes, strict=True):
            self._held[plan.key] = _Held(plan, memory[offset : offset + room])
            offset += room
        mine = plans[world.local_rank :: world.local_size] if num_ranks() > 1 else plans
        _together(self._decode_all(mine, threads))
        self.release()  # no shard is read again
        frames, seconds = sum(len(plan.rows) for plan in plans), time.perf_counter() - began
        _log.info(
            "%d frames are decoded and held in memory: %.3g GB, %.1f s", frames, size / 1e9, seconds
        )

    def _plans(self, number: int, items: Items) -> list[_Plan]:
        """What is held of each shard of a source: the rows that its items are made of."""
        used = np.unique(items.first if items.second is None else [*items.first, *items.second])
        fields = {name: layout for name, layout in self._labels.items() if self._has(items, name)}
        layouts = {"image": ((self.crop_px, self.crop_px, 3), np.dtype(np.uint8)), **fields}
        shards = items.shard[used]
        return [
            _Plan((number, index), np.unique(items.row[used[shards == index]]), layouts)
            for index in np.unique(shards).tolist()
        ]

    @staticmethod
    def _has(items: Items, label: str) -> bool:
        return label in items.source.collection.fields

    def _decode_all(self, plans: Sequence[_Plan], threads: int) -> Exception | None:
        """Fill what is held of some shards; what went wrong, for all ranks to read."""
        try:
            with ThreadPoolExecutor(threads, thread_name_prefix="resident") as pool:
                list(pool.map(self._decode_one, plans))
        except (ValueError, OSError) as error:
            return (OSError if isinstance(error, OSError) else ValueError)(str(error))
        return None

    def _decode_one(self, plan: _Plan) -> None:
        shard = super()._shard(*plan.key)
        assert isinstance(shard, Shard)
        self._held[plan.key].fill(shard)

    def _shard(self, number: int, index: int) -> Readable:
        held = self._held.get((number, index))
        return held if held is not None else super()._shard(number, index)


@dataclass(frozen=True)
class _Plan:
    """What is held of one shard."""

    key: tuple[int, int]
    """Source and shard."""
    rows: np.ndarray
    """(k,) rising."""
    fields: dict[str, Layout]
    """Of one row."""

    @property
    def layouts(self) -> dict[str, Layout]:
        """Of its memory; last whether a picture is damaged."""
        fields = {**self.fields, _DAMAGED: ((), np.dtype(np.bool_))}
        count = len(self.rows)
        return {name: ((count, *shape), dtype) for name, (shape, dtype) in fields.items()}


class _Held:
    """Rows of a shard, decoded, to be read as the shard is."""

    def __init__(self, plan: _Plan, memory: np.ndarray) -> None:
        self._rows = plan.rows
        views = arrays_in(memory, plan.layouts)
        self._damaged = views.pop(_DAMAGED)
        self._values = views

    def fill(self, shard: Shard) -> None:
        """Decode all; pictures that cannot be are marked."""
        for start in range(0, len(self._rows), _CHUNK):
            here = slice(start, start + _CHUNK)
            rows = self._rows[here]
            for name, values in self._values.items():
                try:
                    shard.read(name, rows, values[here], np.arange(len(rows)))
                except Damaged as error:
                    self._damaged[here][error.which] = True

    def read(self, name: str, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """As `Shard.read`."""
        slots = np.searchsorted(self._rows, rows)
        assert np.array_equal(self._rows[slots], rows)
        out[places] = self._values[name][slots]
        damaged = self._damaged[slots]
        if name == "image" and damaged.any():
            raise Damaged("pictures are damaged", np.flatnonzero(damaged))


def refusal(size: int, sources: Sequence[Items]) -> str | None:
    """Why so many bytes cannot be held, if so."""
    free = free_memory()
    if size <= _SHARE * free:
        return None
    names = " and ".join(str(items.source.collection.folder) for items in sources)
    return (
        f"machine.loader is resident, but {names} decoded needs {size / 1e9:.3g} GB, and "
        f"{free / 1e9:.3g} GB of memory are free here, of which at most {_SHARE:.0%} are taken; "
        "set machine.loader to inline or workers, or prepare smaller crops"
    )


def shared_memory(size: int, world: World, refused: str | None) -> np.ndarray:
    """(size,) uint8 that this machine's processes of a run share. Collective.

    ValueError on all ranks where the first process of any machine is `refused`.
    """
    if num_ranks() == 1:
        if refused:
            raise ValueError(refused)
        return np.zeros(size, np.uint8)
    made = Shared("hpse_resident", size) if world.local_rank == 0 and not refused else None
    answers = gather_objects((world.local_rank, refused, made and made.place))
    said = next((why for local, why, _ in answers if local == 0 and why), None)
    if said:
        raise ValueError(said)
    local, _, place = answers[world.rank - world.local_rank]
    assert local == 0 and place is not None, "the ranks of one machine follow one another"
    memory = opened(place) if made is None else made.array
    _together(None)  # now all have it
    return memory


def _together(error: Exception | None) -> None:
    """Wait for all ranks; the error of the first that failed is raised on all."""
    failed = next((one for one in gather_objects(error) if one is not None), None)
    if failed is not None:
        raise failed
