"""Batches on their way to a GPU: one crosses while another is computed with. Without a GPU the
order of the calls is looked at, and the loader's part on the CPU's own memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hpse_dist.data.items import Source
from hpse_dist.data.loader import Loader
from hpse_dist.data.prefetch import Prefetcher
from hpse_dist.data.transfer import Moving, Transfer
from tests.data.test_bad_records import FRAMES, with_damage
from tests.data.test_loader import equal, loader
from tests.waiting import until


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As on a GPU, and the next micro-batch is always there in time; what was done, in order."""
    done: list[str] = []
    send, arrived, is_ready = Transfer.send, Moving.arrived, Prefetcher.is_ready

    def sent(self: Transfer, buffer: Any) -> Moving:
        done.append("sent")
        return send(self, buffer)

    def used(self: Moving) -> Any:
        done.append("used")
        return arrived(self)

    def ready(self: Prefetcher) -> bool:
        return until(lambda: is_ready(self), "a buffer is filled")

    monkeypatch.setattr(Transfer, "overlaps", True)
    monkeypatch.setattr(Transfer, "send", sent)
    monkeypatch.setattr(Moving, "arrived", used)
    monkeypatch.setattr(Prefetcher, "is_ready", ready)
    return done


def steps(made: Loader, count: int) -> Iterator[tuple[Any, ...]]:
    """Each micro-batch, with the place and the bad records as they are then."""
    for number, batch in enumerate(made):
        yield batch, made.state_dict(), list(made.bad_records)
        if number + 1 == count:
            break
    made.close()


@pytest.mark.parametrize("kind", ["inline", "resident"])
def test_sending_early_changes_no_batch_no_place_and_no_word(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    source = Source(with_damage(tmp_path / "c"), split=None)
    settings: dict[str, Any] = {**FRAMES, "kind": kind, "micro_batch": 8, "threads": 2}
    plain = list(steps(loader(source, **settings), 12))
    done = request.getfixturevalue("early")
    found = list(steps(loader(source, **settings), 12))
    for (batch, place, bad), (other, its, others) in zip(plain, found, strict=True):
        assert equal(batch, other) and place == its and len(bad) == len(others)
    assert found[-1][2], "some were replaced"
    assert done[:5] == ["sent", "sent", "used", "sent", "used"], "one is always on its way"

    again = loader(source, **settings)
    again.load_state_dict(found[5][1])
    assert equal(next(iter(again)), found[6][0])
    again.close()


def test_what_is_not_ready_is_not_waited_for(
    early: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prefetcher, "is_ready", lambda self: False)
    list(steps(loader(**FRAMES), 3))
    assert early == ["sent", "used"] * 3


def test_a_failure_is_raised_in_its_turn() -> None:
    def fill(job: int, buffer: Any) -> Any:
        if job == 1:
            raise OSError("gone")
        return buffer

    buffers: list[Any] = [SimpleNamespace(), SimpleNamespace()]
    made = Prefetcher(fill, iter(range(3)), buffers, threads=1)
    made.take()
    until(made._running[0].result.done, "the second has failed")
    assert not made.is_ready()
    with pytest.raises(OSError, match="gone"):
        made.take()


def test_the_stream_that_computes_waits_and_the_process_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Any] = []

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name = str(name)

        def wait_event(self, event: Event) -> None:
            done.append((self.name, "waits for", event.of))

    class Event:
        of = ""

        def record(self, stream: Stream) -> None:
            self.of = stream.name

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        done.append(("begin", stream.name))
        yield
        done.append(("end", stream.name))

    def kept(tensor: Tensor, stream: Stream) -> None:
        done.append((tuple(tensor.shape), "kept for", stream.name))

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(f"copies to {device}"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("computes"))
    monkeypatch.setattr(Tensor, "record_stream", kept)
    with FakeTensorMode():
        transfer = Transfer(torch.device("cuda"))
        tensors = {"image": torch.empty(2, 3), "sample_id": torch.empty(2)}
        buffer: Any = SimpleNamespace(tensors=tensors, copied=None)
        moving = transfer.send(buffer)
        assert transfer.overlaps and buffer.copied.of == "copies to cuda"
        assert done == [("begin", "copies to cuda"), ("end", "copies to cuda")]
        batch = moving.arrived()
    assert {value.device.type for value in batch.values()} == {"cuda"}
    assert done[2:] == [
        ("computes", "waits for", "copies to cuda"),
        ((2, 3), "kept for", "computes"),
        ((2,), "kept for", "computes"),
    ]
