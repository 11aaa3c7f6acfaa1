"""What `pipelines.bench` measures reading against: FFCV's own loop, and libjpeg-turbo alone."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from hpse_dist.data.beton import ffcv_package


def ffcv_batches(path: Path, batch_size: int, num_workers: int = 1) -> Iterator[np.ndarray]:
    """The bare FFCV loop over a shard's pictures, in order.

    Yields (b, crop, crop, 3) uint8, valid until the next one is asked for. Endless, so that the
    compilation of the first pass can be left out of a measurement.
    """
    ffcv, threads = ffcv_package(), torch.get_num_threads()
    names = ffcv.reader.Reader(str(path)).field_names
    pipelines = {name: None for name in names if name != "image"}
    loader = ffcv.Loader(
        str(path), batch_size=batch_size, num_workers=num_workers, pipelines=pipelines
    )
    torch.set_num_threads(threads)
    try:
        while True:
            epoch = iter(loader)
            try:
                for (images,) in epoch:
                    yield images.numpy()
            finally:
                epoch.close()
                while epoch.is_alive():  # its last word waits for ever for room in a full queue
                    with contextlib.suppress(queue.Empty):
                        epoch.output_queue.get(timeout=0.05)
    finally:
        torch.set_num_threads(threads)


def decode_alone(jpegs: Sequence[np.ndarray], out: np.ndarray) -> None:
    """JPEGs in memory into out (n, side, side, 3): one call of libjpeg-turbo each, by FFCV's own
    binding, and nothing else."""
    imdecode, side = ffcv_package().libffcv.imdecode, out.shape[1]
    for jpeg, picture in zip(jpegs, out, strict=True):
        imdecode(jpeg, picture, side, side, side, side, 0, 0, 1, 1, False, False)
