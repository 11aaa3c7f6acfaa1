"""Hands: a crop shows the hand that its record names, and nothing of it is another's."""

from __future__ import annotations

import numpy as np
import pytest

from hpse_dist.body.joints import PART_NAMES, SMPL24
from hpse_dist.records import FrameRecord, Reject
from hpse_dist.synth.hands import HandsConfig, HandStudio, provenance

SMALL = HandsConfig(
    num_subjects=2,
    sequences_per_subject=1,
    moments_per_sequence=2,
    cameras=(3, 3),
    crop_px=64,
    supersample=1,
    seed=3,
)


@pytest.fixture(scope="module")
def found() -> list[FrameRecord | Reject]:
    studio = HandStudio(SMALL)
    return [record for subject in range(2) for record in studio.sequence(subject, 0)]


def test_each_camera_and_moment_gives_both_hands_or_says_why_not(
    found: list[FrameRecord | Reject],
) -> None:
    assert len(found) == 2 * 2 * 3 * 2
    for reject in (record for record in found if isinstance(record, Reject)):
        assert "hand covers" in reject.reason and "hand" in reject.source


def test_the_mask_is_the_named_hand_and_its_joint_is_on_it(
    found: list[FrameRecord | Reject],
) -> None:
    frames = [record for record in found if isinstance(record, FrameRecord)]
    assert {frame.track for frame in frames} == {"left", "right"}
    distances = []
    for frame in frames:
        side = frame.track
        assert frame.subject.endswith(side) and frame.sequence.endswith(side)
        part = PART_NAMES.index(f"{side}_hand")
        np.testing.assert_array_equal(frame.mask, frame.labels["part_map"] == part)
        assert frame.mask is not None and frame.mask.mean() >= SMALL.least_share
        joint = frame.labels["joints2d"][SMPL24.index(f"{side}_hand"), :2]
        rows, columns = np.nonzero(frame.mask)
        distances.append(np.hypot(columns + 0.5 - joint[0], rows + 0.5 - joint[1]).min())
        assert frame.centre is not None and frame.intrinsics is not None
        seen = frame.intrinsics @ (frame.rotation @ frame.centre + frame.translation)
        np.testing.assert_allclose(seen[:2] / seen[2], joint, atol=1e-2)
    assert np.median(distances) < 2.0  # pixels of 64; another hand may be in front of one


def test_a_hand_is_a_subject_of_its_own(found: list[FrameRecord | Reject]) -> None:
    subjects = {record.subject for record in found if isinstance(record, FrameRecord)}
    assert subjects <= {f"s{n:05d}_{side}" for n in range(2) for side in ("left", "right")}
    assert len(subjects) >= 3


def test_shares_are_checked_and_the_licence_is_the_bodys() -> None:
    with pytest.raises(ValueError, match="least_share must be between 0 and 1"):
        HandsConfig(least_share=0.0)
    assert provenance(SMALL).commercial
