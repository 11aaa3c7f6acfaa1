"""Copies of the shards that come next, made while the ones before are read."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Sequence

import numpy as np

from hpse_dist.data.items import Items
from hpse_dist.data.order import Order
from hpse_dist.data.remote import RemoteCollection

_STEP = 4096  # items looked at together


class Ahead:
    """Stages the shards of the next window of items on a thread of its own.

    Does nothing where all collections lie on this machine's own disk.
    """

    def __init__(self, order: Order, items: Sequence[Items], place: int) -> None:
        """place: where reading begins."""
        self._order = copy.copy(order)  # what it keeps of an epoch is the thread's own
        self._items, self._lead = items, max(1, order.items_per_window)
        self._place, self._until, self._ended = place, place + self._lead, False
        self._turn = threading.Condition()
        self._thread: threading.Thread | None = None
        if any(isinstance(one.source.collection, RemoteCollection) for one in items):
            self._thread = threading.Thread(target=self._run, name="stage-ahead", daemon=True)
            self._thread.start()

    def reach(self, place: int) -> None:
        """Reading has come to this item."""
        if self._thread is not None:
            with self._turn:
                self._until = place + self._lead
                self._turn.notify()

    def close(self) -> None:
        """End the thread, after the copy it is at."""
        if self._thread is not None:
            with self._turn:
                self._ended = True
                self._turn.notify()
            self._thread.join()

    def _run(self) -> None:
        newest: list[tuple[int, int]] = []
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._ended or self._place < self._until)
                if self._ended:
                    return
                stop = min(self._until, self._place + _STEP)
            for key in self._shards(self._place, stop):
                if key not in newest and not self._ended:
                    newest = [*newest[-63:], key]
                    collection = self._items[key[0]].source.collection
                    # what is wrong is said to the reader, who will ask for the same
                    with contextlib.suppress(ValueError, OSError):
                        collection.hold_shard(key[1]).close()
            self._place = stop

    def _shards(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(source, shard) of some items, in the order of their first use."""
        stretch = self._order.between(start, stop)
        found: dict[tuple[int, int], None] = {}
        for number, items in enumerate(self._items):
            at = np.flatnonzero(stretch.source == number)
            shards = items.shard[items.first[stretch.item[at]]]
            unique, first = np.unique(shards, return_index=True)
            found.update({(number, int(unique[i])): None for i in np.argsort(first)})
        return list(found)
