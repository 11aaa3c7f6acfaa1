"""The stream: the same whatever the processes, ordered, an error instead of a wait."""

from __future__ import annotations

import multiprocessing
import os
import signal
from itertools import islice

import numpy as np
import pytest

from hpse_dist import synth
from hpse_dist.records import FrameRecord
from hpse_dist.synth.produce import SyntheticConfig, frames, provenance
from tests.synth.conftest import SMALL


def test_records_say_who_where_and_when(records: list[FrameRecord]) -> None:
    keys = [(r.subject, r.sequence, r.time, r.camera) for r in records]
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    for record in records:
        assert record.image.shape == (64, 64, 3) and record.image.dtype == np.uint8
        assert record.box == (0.0, 0.0, 64.0, 64.0)
        assert record.labels["part_map"].dtype == np.uint8
        assert record.labels["uv_map"].shape == (2, 64, 64)
        assert record.image.std() > 10  # a picture, not a plane
    assert [SMALL.split(subject) for subject in range(3)] == ["train", "train", "val"]
    assert {r.split for r in records if r.subject == "s00002"} == {"val"}


def test_two_processes_give_the_same_frames_and_a_dead_one_an_error() -> None:
    config = SyntheticConfig(**{**vars(SMALL), "num_subjects": 8})
    alone = list(islice(frames(config, processes=1), 4))
    crew = frames(config, processes=2)
    together = list(islice(crew, 4))
    for one, two in zip(alone, together, strict=True):
        assert isinstance(one, FrameRecord) and isinstance(two, FrameRecord)
        assert (one.subject, one.time, one.camera) == (two.subject, two.time, two.camera)
        np.testing.assert_array_equal(one.image, two.image)
        for name, value in one.labels.items():  # matrix products may differ in the last digit
            np.testing.assert_allclose(value, two.labels[name], rtol=1e-6, atol=1e-6)
    workers = [p for p in multiprocessing.active_children() if p.name.startswith("synth-")]
    assert len(workers) == 2 and workers[0].pid
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"a rendering process died \(exit code -9\)"):
        list(crew)
    assert not any(worker.is_alive() for worker in workers)  # none is left behind


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("num_subjects", 0, "num_subjects must be at least 1, found 0"),
        ("cameras", (4, 2), "least <= greatest"),
        ("crop_px", 8, "crop_px must be 32..1024, found 8"),
        ("heldout", 1.0, "heldout must be at least 0 and below 1"),
        ("moment_gap_s", 0.0, "moment_gap_s must be 0.02..5 seconds"),
    ],
)
def test_impossible_configs_are_refused(field: str, value: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SyntheticConfig(**{field: value})  # type: ignore[arg-type]


def test_the_licence_follows_the_body() -> None:
    assert provenance(SMALL).commercial and provenance(SMALL).joint_set == "smpl24"
    assert not provenance(SyntheticConfig(body="/models/smpl")).commercial
    assert synth.Config is SyntheticConfig
