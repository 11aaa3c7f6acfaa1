"""One small studio, and one rendered sequence, for all tests of the synthetic people."""

from __future__ import annotations

import pytest

from hpse_dist.records import FrameRecord
from hpse_dist.synth.produce import Studio, SyntheticConfig

SMALL = SyntheticConfig(
    num_subjects=3,
    sequences_per_subject=1,
    moments_per_sequence=2,
    moment_gap_s=0.4,
    cameras=(2, 2),
    crop_px=64,
    seed=3,
)


@pytest.fixture(scope="session")
def studio() -> Studio:
    return Studio(SMALL)


@pytest.fixture(scope="session")
def records(studio: Studio) -> list[FrameRecord]:
    """Frames of all three subjects."""
    found = [r for subject in range(3) for r in studio.sequence(subject, 0)]
    return [r for r in found if isinstance(r, FrameRecord)]
