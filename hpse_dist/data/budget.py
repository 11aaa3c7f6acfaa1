"""How the budget of a machine's local copies is shared out among the decoders that read there.

A decoder can let go of its own copies only, never of another's. So each keeps within a room of its
own. All that train follow one order and share copies: together they hold the window at hand, the
last and the next, however many they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpse_dist.data.collection import Collection
from hpse_dist.data.items import Source
from hpse_dist.data.remote import RemoteCollection
from hpse_dist.world import World

_APART = 3  # windows that all decoders of training data are in at once
_FOR_EVALUATION = 4  # one part in so many of the budget, where it needs no more


def training_room(sources: Sequence[Source], window: int, threads: int) -> int:
    """Bytes of copies that a decoder of training data holds at most: those of `_together` shards
    of every collection."""
    together = _together(window, threads)
    return sum(one.largest_shards(together) for one in _remote(s.collection for s in sources))


def evaluation_room(collection: Collection, world: World) -> int:
    """The same of a decoder of held-out data, whose order mixes all shards: the more room, the
    fewer are opened again. Each rank has one, beside what trains."""
    if not isinstance(collection, RemoteCollection):
        return 0
    part = collection.stage.budget_bytes // (_FOR_EVALUATION * world.local_size)
    return max(_least(collection), part)


def check_budget(
    sources: Sequence[Source], window: int, world: World, threads: int = 1, decoders: int = 1
) -> None:
    """ValueError where what a machine's decoders hold is more than copies may take up.

    `decoders`: of training data, for each rank; `threads`: of each decoder.
    """
    remote = _remote(source.collection for source in sources)
    if not remote:
        return
    ranks = world.local_size
    apart = min(ranks * decoders, _APART)
    staged = max(one.largest_shards(1) for one in remote)  # by `Ahead`, of each rank
    training = apart * training_room(sources, window, threads) + ranks * staged
    evaluation = ranks * max(_least(one) for one in remote)
    # room for evaluation grows with the budget, and what trains must fit beside that
    beside = -(-training * _FOR_EVALUATION // (_FOR_EVALUATION - 1))
    # decoders share copies: whatever they hold, it is no more than all there is
    needed = min(max(training + evaluation, beside), sum(one.copied_bytes for one in remote))
    budget = remote[0].stage.budget_bytes
    if needed > budget:
        raise ValueError(
            f"machine.stage_gb is {budget / 1e9:.3g}, less than the shards that are read together "
            f"(up to {_together(window, threads)} of a collection in each of {apart} windows, for "
            f"{ranks * decoders} that decode on this machine, and some for evaluation: "
            f"{_rounded_up(needed) / 1e9:.3g} GB in all); raise it"
        )


def _together(window: int, threads: int) -> int:
    """Shards of a collection that are read together: a window of the order may begin and end
    within one, and each thread holds the one that it is opening."""
    return max(window + 1, threads)


def _least(collection: RemoteCollection) -> int:
    """Bytes without which nothing can be evaluated: the next shard beside the last, or, before
    there are any, a table."""
    return max(collection.largest_shards(2), collection.largest_table)


def _remote(collections: Iterable[Collection]) -> list[RemoteCollection]:
    return [one for one in collections if isinstance(one, RemoteCollection)]


def _rounded_up(size: int) -> int:
    """More than it was in three digits, as it is said: whoever sets that has enough."""
    unit = 10 ** max(0, len(str(size)) - 3)
    return (size // unit + 1) * unit
