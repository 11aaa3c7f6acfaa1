"""Recorded motion drives synthetic people: times, floor, determinism, broken clips named."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hpse_dist.body.clips import Clip, between_frames, find_clips, read_clip
from hpse_dist.body.model import load_body
from hpse_dist.recipe import FRAME_SOURCES
from hpse_dist.records import FrameRecord, Reject
from hpse_dist.synth import clips
from hpse_dist.synth.clips import ClipStudio, MotionsConfig, clip_motion
from tests.synth import made_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_clips.write_folder(tmp_path_factory.mktemp("amass"))


@pytest.fixture(scope="module")
def rest() -> np.ndarray:
    return load_body("free").rest_joints(torch.zeros(1, 10))[0].numpy()


def config(folder: Path, **changes: object) -> MotionsConfig:
    given = {
        **{"num_subjects": 2, "sequences_per_subject": 1, "moments_per_sequence": 2},
        **{"moment_gap_s": 0.4, "cameras": (1, 1), "crop_px": 32, "supersample": 1},
        **{"motions": folder, "motion_share": 1.0},
    }
    return MotionsConfig(**{**given, **changes})  # type: ignore[arg-type]


def test_a_clip_is_sampled_at_its_true_rate_and_stands_on_the_floor(
    folder: Path, rest: np.ndarray
) -> None:
    names = find_clips(folder)
    assert len(names) == 3 and names == sorted(names)
    clip = read_clip(folder / "CMU" / "01" / "01_01_poses.npz")
    assert clip.rate == 120 and clip.seconds == pytest.approx(3.0)
    assert not clip.poses[:, 66:].any()  # the hands are the body's own
    up = torch.from_numpy(clip.poses[:, :3]).double()
    assert (clip.path[:, 1] > 0.5).all() and up.norm(dim=1).max() < 4  # y up
    times = np.array([0.0, 0.5, 1.0])
    rotations, path = between_frames(clip, times + 0.25)
    assert np.allclose(path, clip.path[[30, 90, 150]]) and rotations.shape == (3, 24, 3, 3)
    half, _ = between_frames(clip, np.array([30.5 / 120]))
    ends, _ = between_frames(clip, np.array([30 / 120, 31 / 120]))
    assert torch.allclose(half[0], ends.mean(0), atol=1e-2)
    draw = np.random.default_rng(0)
    motion = clip_motion("a", clip, draw, rest, times)
    assert motion.lift.max() == 0 and motion.body_pose.shape == (3, 69)  # somebody who walks
    steps = np.linalg.norm(np.diff(motion.root, axis=0), axis=1)
    assert (steps < 2.0).all() and np.abs(motion.root.min(0) + motion.root.max(0)).max() < 1e-6
    with pytest.raises(ValueError, match=r"is 3\.00 s long, 4\.00 s are needed"):
        clip_motion("a", clip, draw, rest, times * 4)


def test_jumps_are_lifted_and_stairs_are_not(rest: np.ndarray) -> None:
    at = np.arange(240) / 120
    still = np.zeros((240, 72), np.float32)
    for height, lifted in (
        (0.4 * np.exp(-(((at - 1.0) / 0.12) ** 2)), 0.4),
        (0.5 * at, 0.0),
    ):
        clip = Clip(still, np.stack([0 * at, 1 + height, 0 * at], axis=1), 120.0)
        motion = clip_motion("a", clip, np.random.default_rng(0), rest, np.arange(240) / 120.0)
        peak = motion.lift[60:180].max()
        assert peak == pytest.approx(lifted, abs=0.02) if lifted else peak < 0.3


def test_frames_are_the_same_whatever_the_processes(folder: Path) -> None:
    one = list(clips.frames(config(folder), processes=1))
    # as processes do that get the jobs in any order
    studio = ClipStudio(config(folder))
    last, first = (list(studio.sequence(subject, 0)) for subject in (1, 0))
    two = [*first, *last]
    assert len(one) == len(two) == 4
    for a, b in zip(one, two, strict=True):
        assert isinstance(a, FrameRecord) and isinstance(b, FrameRecord)
        assert np.array_equal(a.image, b.image) and a.sequence == b.sequence
        assert "_poses" in a.sequence and a.labels["body_pose"].any()
    assert FRAME_SOURCES["synthetic_motions"] is clips
    assert not clips.provenance(config(folder)).commercial


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("/tmp/hpse_dist_payload_was_run",)


def broken(folder: Path) -> dict[str, str]:
    """Files and a word of what is wrong with each."""
    good = dict(np.load(made_clips.write_clip(folder / "good_poses.npz", seconds=0.5)))
    (folder / "good_poses.npz").unlink()

    def write(name: str, **changes: object) -> None:
        np.savez(folder / name, **{**good, **changes})  # type: ignore[arg-type]

    write("nan.npz", poses=np.full((61, 156), np.nan))
    write("short.npz", poses=good["poses"][:5])
    write("objects.npz", poses=np.array([{}], object))
    write("words.npz", trans=np.full((61, 3), "a"))
    write("rate.npz", mocap_framerate=np.array(0.0))
    write("fast.npz", trans=good["trans"] + 90.0 * (np.arange(61)[:, None] % 2))
    np.savez(folder / "poses_only.npz", poses=good["poses"])
    (folder / "text.npz").write_text("no archive")
    (folder / "pickle.npz").write_bytes(pickle.dumps(Payload()))
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': "
    header += b"(9000000000, 156), }"
    with zipfile.ZipFile(folder / "huge.npz", "w") as file:
        file.writestr("poses.npy", header.ljust(127) + b"\n")
        file.writestr("trans.npy", b"")
        file.writestr("mocap_framerate.npy", b"")
    return {
        **{"nan.npz": "finite", "short.npz": "has shape", "objects.npz": "cannot be read"},
        **{"words.npz": "finite", "rate.npz": "no rate", "fast.npz": "m/s"},
        **{"poses_only.npz": "has no poses, trans", "text.npz": "cannot be read"},
        **{"pickle.npz": "cannot be read", "huge.npz": "cannot be read"},
    }


def test_broken_clips_are_named_skipped_and_counted(tmp_path: Path) -> None:
    for name, words in broken(tmp_path).items():
        with pytest.raises(ValueError, match=words):
            read_clip(tmp_path / name)
    assert not Path("/tmp/hpse_dist_payload_was_run").exists()
    found = list(clips.frames(config(tmp_path, num_subjects=1), processes=1))
    rejects = [one for one in found if isinstance(one, Reject)]
    assert len(found) - len(rejects) == 2  # a generated motion took its place
    assert len(rejects) == 8 and all(one.source.startswith("motions, ") for one in rejects)
    with pytest.raises(ValueError, match=r"no folder with \.npz files"):
        list(clips.frames(config(tmp_path / "none")))
    with pytest.raises(ValueError, match=r"motion_share must be in \(0, 1\]"):
        config(tmp_path, motion_share=0.0)
