"""`bench loader`: frames per second of the loader beside what a user would otherwise have.

All read the pictures of the same shard. A rate per core counts the seconds of processor time that
this process and its children used: others on the machine change it little, while they share what
the clock measures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.beton import read_encoded, read_rows
from hpse_dist.data.collection import Collection
from hpse_dist.data.loader import Loader, Source
from hpse_dist.data.yardsticks import decode_alone, ffcv_batches
from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD
from hpse_dist.world import World
from pipelines import place
from pipelines.figures import Figure, figure, figures, in_turn

_PREFETCHED = 12  # batches that may have been ready before a measurement began


@dataclass(frozen=True)
class Contest:
    """What every candidate reads."""

    one: Collection
    """Of one shard."""
    folder: Path
    """The same pictures as one JPEG file each."""
    batch: int
    threads: int
    """Decoding threads, or worker processes in their place."""
    stack: ExitStack
    """Ends what a candidate started."""

    @property
    def crop_px(self) -> int:
        """Side of the crop that is trained on: 224 of 256."""
        return self.one.config.crop_px * 7 // 8


# --------------------------------------------------------------------------------- candidates


def turbo(contest: Contest) -> Iterator[int]:
    """libjpeg-turbo alone: the pictures are in memory already, and nothing is kept."""
    jpegs = read_encoded(contest.one.shards[0], np.arange(contest.one.num_frames))
    side, step = contest.one.config.crop_px, min(contest.batch, len(jpegs))
    out: np.ndarray = np.empty((step, side, side, 3), np.uint8)
    while True:
        for start in range(0, len(jpegs) - step + 1, step):
            decode_alone(jpegs[start : start + step], out)
            yield step


def bare_ffcv(contest: Contest) -> Iterator[int]:
    """FFCV's own loop, without augmentation."""
    batches = ffcv_batches(contest.one.shards[0], contest.batch, contest.threads)
    return _lengths(contest.stack.enter_context(closing(batches)))  # type: ignore[type-var]


def decoded(contest: Contest) -> Iterator[int]:
    """Our loader's buffers before augmentation."""
    return _lengths(_ours(contest).decoded())


def whole(contest: Contest) -> Iterator[int]:
    """Our loader's batches as training gets them."""
    return _lengths(iter(_ours(contest)))


def pil(contest: Contest) -> Iterator[int]:
    """torch's DataLoader with PIL: pictures as bytes."""
    return _lengths(_torch_batches(contest, _Files(contest.folder, _bytes)))


def torchvision(contest: Contest) -> Iterator[int]:
    """torch's DataLoader with PIL and torchvision's transforms: what `whole` does."""
    from torchvision import transforms

    steps = [
        transforms.RandomCrop(contest.crop_px),
        transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        transforms.ToTensor(),
        transforms.Normalize(IMAGE_MEAN, IMAGE_STD),
    ]
    return _lengths(_torch_batches(contest, _Files(contest.folder, transforms.Compose(steps))))


TURBO = "libjpeg-turbo alone"
CANDIDATES: dict[str, Callable[[Contest], Iterator[int]]] = {
    TURBO: turbo,
    "FFCV's own loop": bare_ffcv,
    "our loader": decoded,
    "torch DataLoader, PIL": pil,
    "our loader, cropped and coloured": whole,
    "torch DataLoader, PIL, torchvision": torchvision,
}
"""Name -> endless iterator that gives how many frames each batch has."""
TARGETS = {"our loader": "at least 0.9"}
"""Of the rate per core, over libjpeg-turbo's."""
RIVALS = {
    "our loader": "torch DataLoader, PIL",
    "our loader, cropped and coloured": "torch DataLoader, PIL, torchvision",
}
"""Which does the same work."""


def _ours(contest: Contest) -> Loader:
    loader = Loader(
        [Source(contest.one, split=None)],
        needs=["image"],
        sampling="frames",
        world=World(),
        seed=0,
        global_batch=contest.batch,
        micro_batch=contest.batch,
        augment=AugmentConfig(),
        image_px=contest.crop_px,
        patch_px=contest.crop_px,
        threads=contest.threads,
    )
    contest.stack.callback(loader.close)
    return loader


class _Files(Dataset[torch.Tensor]):
    """What a plain torch data set of JPEG files does."""

    def __init__(self, folder: Path, then: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths, self.then = sorted(folder.glob("*.jpg")), then

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as file:
            return self.then(file.convert("RGB"))


def _bytes(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture))


def _torch_batches(contest: Contest, files: _Files) -> Iterator[torch.Tensor]:
    """Endless; worker processes in place of threads."""
    loader = DataLoader(
        files,
        batch_size=contest.batch,
        shuffle=True,
        num_workers=contest.threads,
        persistent_workers=True,
        multiprocessing_context="forkserver",  # forking a process with threads is not safe
    )
    while True:
        yield from loader


def _lengths(batches: Iterator[Any]) -> Generator[int, None, None]:
    for batch in batches:
        yield len(batch["image"] if isinstance(batch, dict) else batch)


# -------------------------------------------------------------------------------- measurement


@dataclass(frozen=True)
class Rate:
    """Frames over seconds."""

    clock: float
    core: float
    """Over seconds of processor time."""


def bench_loader(
    collection: Collection, *, batch: int, threads: int, rounds: int, seconds: float
) -> list[Figure]:
    """Frames/s of one shard's pictures, by the clock and per core, and over those of rivals."""
    one = largest_shard(collection)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpse_bench_")))
        write_jpegs(one, folder)
        contest = Contest(one, folder, batch, threads, stack)
        running = {name: make(contest) for name, make in CANDIDATES.items()}
        for iterator in running.values():
            stack.enter_context(closing(iterator))  # type: ignore[type-var]
        measured = in_turn(
            {name: partial(rate, counts, seconds) for name, counts in running.items()}, rounds
        )
    core = {name: [one.core for one in rates] for name, rates in measured.items()}
    lines = figures(core, "frames/s per core", TURBO, TARGETS)
    for ours, other in RIVALS.items():
        ratios = [a / b for a, b in zip(core[ours], core[other], strict=True)]
        lines.append(figure(f"{ours} / {other}", "times per core", ratios, "at least 4"))
    clock = {
        f"{name}, by the clock": [one.clock for one in rates] for name, rates in measured.items()
    }
    return lines + figures(clock, "frames/s", f"{TURBO}, by the clock", {})


def largest_shard(collection: Collection) -> Collection:
    """A collection of one shard: the same file for all."""
    shards = np.asarray(collection.frames["shard"])
    number = int(np.bincount(shards).argmax())
    rows = collection.frames.filter(pc.equal(collection.frames["shard"], number))
    manifest = {
        **collection.manifest,
        "counts": {**collection.manifest["counts"], "frames": rows.num_rows},
        "shards": [collection.manifest["shards"][number]],
        "sample_id_starts": [collection.sample_id_starts[number]],
    }
    one = Collection(collection.folder, manifest)
    zeros = np.zeros(rows.num_rows, np.int32)
    place = rows.schema.get_field_index("shard")
    one.__dict__["frames"] = rows.set_column(place, "shard", [zeros])
    return one


def write_jpegs(one: Collection, folder: Path) -> None:
    """The shard's frames as one JPEG file each: as they are stored, where they are JPEGs."""
    for start in range(0, one.num_frames, 256):
        index = range(start, min(start + 256, one.num_frames))
        if one.config.image_mode == "jpg":
            jpegs = read_encoded(one.shards[0], index)
            for i, jpeg in zip(index, jpegs, strict=True):
                (folder / f"{i:06d}.jpg").write_bytes(jpeg.tobytes())
            continue
        for i, image in zip(
            index, read_rows(one.shards[0], index, ["image"])["image"], strict=True
        ):
            Image.fromarray(image).save(folder / f"{i:06d}.jpg", quality=one.config.jpeg_quality)


def rate(counts: Iterator[int], seconds: float) -> Rate:
    """Things per second of an endless iterator, what was ready beforehand left out."""
    for _ in range(_PREFETCHED):
        next(counts)
    done, start, busy = 0, time.perf_counter(), processor_seconds()
    while (passed := time.perf_counter() - start) < seconds:
        done += next(counts)
    return Rate(done / passed, done / max(processor_seconds() - busy, 1e-9))


def processor_seconds(counted: Callable[[str], bool] = lambda _: True) -> float:
    """Processor time of this process and of its living children, theirs to a hundredth; of those
    children that are `counted` by their command lines."""
    total = time.process_time()
    for child in psutil.Process().children(recursive=True):
        try:
            if not counted(" ".join(child.cmdline())):
                continue
            times = child.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


# ------------------------------------------------------------------------------------ command


def add_arguments(parts: Any) -> None:
    """The command's part `loader`."""
    part: argparse.ArgumentParser = parts.add_parser(
        "loader", help="frames/s beside libjpeg-turbo, bare FFCV and torch with PIL"
    )
    part.add_argument("collection", type=place, nargs="?", default="collections/demo")
    part.add_argument("--batch", type=int, default=64)
    part.add_argument("--threads", type=int, default=1, help="decoding threads of each loader")
    part.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    part.add_argument("--rounds", type=int, default=7, help="repeats, candidates in turn")
    part.add_argument(
        "--without-ray", action="store_true", help="leave out the kinds of machine.loader"
    )
    part.add_argument("--json", type=Path, help="write the figures here too")
