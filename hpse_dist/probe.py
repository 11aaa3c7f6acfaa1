"""Probing a frozen encoder: tokens and labels of frames computed once and kept on disk.

Pictures are seen as evaluation sees them, the whole stored crop without random changes, so one pass
of the encoder is all there is of it; a step of training then looks tokens up and moves the head.

    <cache>/probe/tokens-<key>/000000000-000000592/   by the encoder's weights and shape, the
                                  collection and its split, the picture's size, and the precision
    <cache>/probe/labels-<key>/000000000-000000592/   by the collection and its split, the fields,
                                  and the sizes

Frames are computed in the order in which a probe comes to want them, so many as it does: those of
a smaller share of the labels, or of fewer held-out samples, are the first ones of a larger's, and a
probe that wants more adds a piece. N pictures take N x tokens x channels x 4 bytes (2 in bf16).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpse_dist.body.free_body import cache_folder
from hpse_dist.config import to_dict
from hpse_dist.data.collection import Collection
from hpse_dist.data.decode import Rows
from hpse_dist.data.depth_order import DepthOrderConfig
from hpse_dist.data.items import Items, Source, label_order, read_items
from hpse_dist.data.loader import Loader, evaluation_batches, evaluation_rows
from hpse_dist.data.order import evenly_mixed
from hpse_dist.fields import Batch
from hpse_dist.models.blind import is_blind
from hpse_dist.models.frozen import FrozenEncoder, Stacked, stand_in
from hpse_dist.world import World

FORMAT = 2  # rises with every change of what is stored
NOT_KEPT = ("image", "sample_id", "epoch", "valid")  # made anew for each batch
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sight:
    """How pictures and labels are read for a probe."""

    needs: tuple[str, ...]
    image_px: int
    micro_batch: int
    device: torch.device
    precision: str = "fp32"
    depth_order: DepthOrderConfig | None = None
    beside: tuple[Collection, ...] = ()
    """See `evaluation_batches`."""


@dataclass(frozen=True)
class Subset:
    """The first `count` of a split's frames, in one of the orders that probes take them in."""

    source: Source
    items: Items
    """Of the whole split."""
    order: np.ndarray
    """(n,) item numbers, all of them."""
    order_name: str
    count: int


def for_training(source: Source, label_fraction: float) -> Subset:
    """The frames of a share of the labels."""
    items = read_items(source, "frames")
    share = read_items(source, "frames", label_fraction=label_fraction)
    order = label_order(items.sample_id[items.first])
    return Subset(source, items, order, "labels", len(share.first))


def for_evaluation(source: Source, limit: int | None) -> Subset:
    """The frames of `evaluation_batches`, at most `limit`."""
    items = read_items(source, "frames")
    order = evenly_mixed(items.subject[items.first], 0)
    return Subset(source, items, order, "mixed", len(order[:limit]))


@dataclass(frozen=True)
class Shelf:
    """Some frames of one source: their rows among the encoder's tokens, and their labels."""

    subset: Subset
    start: int
    """Row of the first frame in the frozen encoder's table."""
    place: np.ndarray
    """(N,) for each frame of the collection its place in `labels`; -1 where it has none."""
    labels: Mapping[str, Stacked]
    image_px: int

    def rows(self, items: Items, item: np.ndarray) -> dict[str, np.ndarray]:
        """Some items' rows, sample ids and labels, each (B, ...)."""
        frames = items.first[item]
        place = self.place[frames]
        assert place.min(initial=0) >= 0, "a frame that the probe has no tokens of"
        found = {name: stacked[place] for name, stacked in self.labels.items()}
        found["sample_id"] = items.sample_id[frames] + items.offset
        return found | {"row": self.start + place}


def shelve(encoder: FrozenEncoder, subset: Subset, sight: Sight) -> Shelf:
    """Make or find the tokens and labels of some frames."""
    source, items = subset.source, subset.items
    place: np.ndarray = np.full(len(items.sample_id), -1, np.int64)
    place[items.first[subset.order[: subset.count]]] = np.arange(subset.count)
    data = {
        "format": FORMAT,
        "files": source.collection.manifest["files"],
        "split": source.split,
        "order": subset.order_name,
        "image_px": sight.image_px,
    }
    of_encoder = {
        "encoder": to_dict(encoder.config),
        "weights": weights_hash(encoder),
        **({"blind": True} if is_blind(encoder.inner) else {}),
        "precision": sight.precision,
    }
    of_labels = {
        "needs": sorted(sight.needs),
        "patch_px": encoder.patch_px,
        "depth_order": to_dict(sight.depth_order) if sight.depth_order else None,
    }
    beside = {name: str(field) for one in sight.beside for name, field in one.fields.items()}
    lacks = {*sight.needs} & beside.keys() - {*source.collection.fields}
    if lacks:  # zeros of these shapes
        of_labels["lacks"] = {name: beside[name] for name in sorted(lacks)}

    def tokens_of(batch: Batch) -> dict[str, torch.Tensor]:
        wide = torch.autocast(sight.device.type, torch.bfloat16, enabled=sight.precision == "bf16")
        with wide:
            found = encoder(batch["image"]).float()
        return {"tokens": found.half() if sight.precision == "bf16" else found}

    def labels_of(batch: Batch) -> dict[str, torch.Tensor]:
        return {
            name: value.int() if value.dtype == torch.int64 and value.ndim > 1 else value
            for name, value in batch.items()
            if name not in NOT_KEPT
        }

    def batches(start: int) -> Iterator[Batch]:
        """Its frames from the `start`-th on."""
        return evaluation_batches(
            source,
            needs=tuple(dict.fromkeys((*sight.needs, "sample_id"))),
            sampling="frames",
            world=World(),
            micro_batch=sight.micro_batch,
            image_px=sight.image_px,
            patch_px=encoder.patch_px,
            device=sight.device,
            depth_order=sight.depth_order,
            beside=sight.beside,
            order=subset.order[start : subset.count],
        )

    tokens = kept("tokens", data | of_encoder, subset.count, batches, tokens_of)["tokens"]
    labels = kept("labels", data | of_labels, subset.count, batches, labels_of)
    return Shelf(subset, encoder.add_tokens(tokens), place, labels, sight.image_px)


def weights_hash(encoder: FrozenEncoder) -> str:
    """sha256 over the encoder's tensors and their names."""
    found = hashlib.sha256()
    for name, value in sorted(encoder.inner.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def kept(
    what: str,
    key: Mapping[str, Any],
    count: int,
    batches: Callable[[int], Iterator[Batch]],
    of: Callable[[Batch], Mapping[str, torch.Tensor]],
) -> dict[str, Stacked]:
    """Arrays of at least `count` rows from the cache, read as they are needed; the rows that are
    not there yet are made of `batches(first lacking row)` and added.

    Two processes at once: one makes them and the other waits. OSError where the disk is full.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    folder = cache_folder() / "probe" / f"{what}-{digest[:24]}"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock"):
        pieces, have = _pieces(folder)
        if have < count:
            pieces.append(folder / f"{have:09d}-{count:09d}")
            log.info("probe: %s of %d pictures into %s", what, count - have, pieces[-1])
            scratch = Path(tempfile.mkdtemp(prefix=".", dir=folder))
            try:
                _write(scratch, count - have, batches(have), of)
                scratch.rename(pieces[-1])
            except OSError as error:
                raise OSError(
                    f"{folder}: the probe's {what} could not be written ({error.strerror}); make "
                    "room, or set HPSE_CACHE to a folder with more"
                ) from error
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    names = sorted(path.stem for path in pieces[0].glob("*.npy"))
    return {
        name: Stacked([np.load(piece / f"{name}.npy", mmap_mode="r") for piece in pieces])
        for name in names
    }


def _pieces(folder: Path) -> tuple[list[Path], int]:
    """The pieces that follow one another from row 0 on, and how many rows they hold."""
    found, have = [], 0
    for piece in sorted(folder.glob("[0-9]*-[0-9]*")):
        start, end = (int(part) for part in piece.name.split("-"))
        if start == have:
            found.append(piece)
            have = end
    return found, have


def _write(
    folder: Path,
    count: int,
    batches: Iterator[Batch],
    of: Callable[[Batch], Mapping[str, torch.Tensor]],
) -> None:
    arrays: dict[str, np.memmap] = {}
    done = 0
    with torch.no_grad():
        for batch in batches:
            rows = int(batch["valid"].sum())  # the last batch is filled up at its end
            for name, value in of(batch).items():
                part = value[:rows].cpu().numpy()
                if name not in arrays:
                    arrays[name] = np.lib.format.open_memmap(
                        folder / f"{name}.npy", "w+", part.dtype, (count, *part.shape[1:])
                    )
                arrays[name][done : done + rows] = part
            done += rows
    assert done == count
    for array in arrays.values():
        array.flush()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class ProbeLoader(Loader):
    """The batches of `Loader` in the same order, with stand-ins for pictures, from shelves."""

    def __init__(self, shelves: Sequence[Shelf], device: torch.device, **settings: Any) -> None:
        """`settings`: Loader's, of the shelves' sources."""
        super().__init__([s.subset.source for s in shelves], device=device, **settings)
        self.shelves, self.device = shelves, device
        self._decoder.release()  # nothing is decoded here

    def _run(self, decoded: bool) -> Iterator[Batch]:
        assert not decoded, "nothing is decoded here"
        for rows in self._rows():
            batch = gathered(self.shelves, self._items, rows, self.device)
            self._taken += 1
            yield batch


def gathered(
    shelves: Sequence[Shelf], items: Sequence[Items], rows: Rows, device: torch.device
) -> Batch:
    """A micro-batch on the device."""
    parts: dict[str, np.ndarray] = {}
    for number, shelf in enumerate(shelves):
        here = np.flatnonzero(rows.source == number)
        if len(here) == 0 and len(shelves) > 1:
            continue
        for name, value in shelf.rows(items[number], rows.item[here]).items():
            if name not in parts:
                parts[name] = np.zeros((len(rows.item), *value.shape[1:]), value.dtype)
            parts[name][here] = value
    image = stand_in(parts.pop("row"), shelves[0].image_px)
    batch = {name: _wide(torch.from_numpy(value)) for name, value in parts.items()}
    batch |= {"epoch": torch.from_numpy(rows.epoch), "valid": torch.from_numpy(rows.valid)}
    return {"image": image.to(device)} | {k: v.to(device) for k, v in batch.items()}


def _wide(value: torch.Tensor) -> torch.Tensor:
    return value.long() if value.dtype == torch.int32 else value


def evaluation(
    shelf: Shelf, world: World, micro_batch: int, device: torch.device, limit: int | None
) -> Iterator[Batch]:
    """The batches of `evaluation_batches`, from a shelf of what is held out."""
    items = shelf.subset.items
    order = shelf.subset.order[: shelf.subset.count][:limit]
    for rows in evaluation_rows(items, order, world, micro_batch):
        yield gathered([shelf], [items], rows, device)
