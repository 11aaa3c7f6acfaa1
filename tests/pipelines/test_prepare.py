"""`pipelines.prepare` from a recipe on disk: results, second runs, checks and exit codes."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpse_dist import recipe as recipes
from hpse_dist.data.collection import SCHEMA_VERSION, Collection
from hpse_dist.records import FrameRecord, Provenance
from pipelines import prepare, run_command
from tests.data import made_rig
from tests.data.plain_shards import PlainWriter, plain_shards  # noqa: F401  a fixture

RECIPE = """
name: made
source: {name: made, subjects: 2}
collection: {crop_px: 32, label_px: 16, min_side_px: 20, frames_per_shard: 16}
out: %s
"""


@dataclass(frozen=True)
class MadeConfig:
    """A source for these tests."""

    subjects: int = 2
    """How many people."""
    known_by: str = "name"
    """Whether people have a name, a track, or neither."""


def frames(config: MadeConfig) -> Iterator[FrameRecord]:
    if config.subjects < 1:
        raise ValueError("no video in the folder")
    for record in made_rig.frames(config.subjects, moments=4, cameras=3):
        if config.known_by != "name":
            record.track = record.subject if config.known_by == "track" else ""
            record.subject = ""
        yield record


def provenance(config: MadeConfig) -> Provenance:
    return made_rig.PROVENANCE


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_shards: None) -> Path:  # noqa: F811
    source = SimpleNamespace(Config=MadeConfig, frames=frames, provenance=provenance)
    monkeypatch.setitem(recipes.FRAME_SOURCES, "made", source)
    monkeypatch.setitem(recipes._SOURCE_CONFIGS, "made", MadeConfig)
    path = tmp_path / "made.yaml"
    path.write_text(RECIPE % (tmp_path / "out"))
    return path


def run(*arguments: str | Path) -> int:
    return run_command(prepare.main, prepare.parser(), [str(text) for text in arguments])


def test_makes_a_collection_and_says_where_it_is(recipe, tmp_path, capsys):
    folder = tmp_path / "out" / "made"
    assert run(recipe) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].startswith("24 frames (") and "of 2 subjects, 2 sequences, 3 cameras" in lines[0]
    )
    assert lines[-1] == f"done: {folder}"
    collection = Collection.open(folder)
    pairs = collection.manifest["pairs"]
    once = [pairs["spread"][kind]["kept"] for kind in ("view", "pose")]
    assert lines[1].startswith(f"{pairs['view']} cross-view pairs, {pairs['pose']} cross-pose")
    assert lines[1].endswith(f" ({once[0]} and {once[1]}, each in both orders)")
    assert (folder / "sheets" / "pairs_view.png").is_file()
    assert run(recipe) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"done before: {folder}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["source.subjects=1"], "of 1 subject, 1 sequence, 3 cameras"),
        (["source.known_by=track"], "of 2 tracks (subjects not known), 2 sequences, 3 cameras"),
        (["source.known_by=nothing"], "of unknown subjects, 2 sequences, 3 cameras"),
    ],
)
def test_says_whom_it_shows_as_far_as_that_is_known(recipe, capsys, changes, told):
    assert run(recipe, *changes) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(told)


def test_other_pairs_are_mined_from_the_same_frames(recipe, tmp_path, capsys):
    folder = tmp_path / "out" / "made"
    assert run(recipe) == 0
    shard = (folder / "frames-00000.beton").stat()
    assert run(recipe, "pairs.max_pose_per_frame=0") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"done: {folder}"
    assert Collection.open(folder).manifest["pairs"]["pose"] == 0
    assert (folder / "frames-00000.beton").stat() == shard
    assert not (folder / "sheets" / "pairs_pose.png").exists()


def test_another_recipe_does_not_replace_a_collection_unasked(recipe, tmp_path, capsys):
    assert run(recipe) == 0
    assert run(recipe, "source.subjects=1") == 1
    assert "made by another recipe" in capsys.readouterr().err
    assert Collection.open(tmp_path / "out" / "made").num_frames == 24
    assert run(recipe, "source.subjects=1", "--overwrite") == 0
    assert Collection.open(tmp_path / "out" / "made").num_frames == 12


def test_verify(recipe, tmp_path, capsys):
    folder = tmp_path / "out" / "made"
    assert run(recipe) == 0
    assert run(folder, "--verify") == 0 and run(recipe, "--verify") == 0
    shard = folder / "frames-00001.beton"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    (folder / "rejects.parquet").unlink()
    capsys.readouterr()
    assert run(folder, "--verify") == 1
    shown = capsys.readouterr()
    assert "bad: frames-00001.beton: changed" in shown.out
    assert "bad: rejects.parquet: in the manifest, but no such file" in shown.out
    assert "frames-00001.beton" in shown.err and "rejects.parquet" in shown.err
    assert shown.err.count("\n") == 1


def test_one_look_at_a_time(tmp_path, capsys):
    for more in (("--leakage", tmp_path), ("--duplicates", "twice.csv")):
        assert run(tmp_path, "--verify", *more) == 2
        assert "not allowed with argument --verify" in capsys.readouterr().err


def test_bad_input_is_one_sentence(recipe, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "out" / "made"
    for arguments, code, says in (
        ((tmp_path / "absent.yaml",), 2, "no such recipe file"),
        ((recipe, "collection.crop=32"), 2, "did you mean 'crop_px'"),
        ((recipe, "collection.crop_px=3"), 2, "crop_px must be 16..2048, found 3"),
        ((recipe, "source.subjects=0"), 1, "no video in the folder"),
        ((recipe, "collection.min_side_px=2000"), 1, "no usable frame: 24 x the box is N px"),
        ((tmp_path, "--verify"), 1, "no collection here"),
        ((tmp_path, "a=1", "--verify"), 2, "key=value goes with a recipe"),
        ((recipe, "--with", tmp_path), 2, "--with goes with --duplicates"),
    ):
        assert run(*arguments) == code, arguments
        shown = capsys.readouterr()
        assert says in shown.err and shown.err.count("\n") == 1 and "Traceback" not in shown.err
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    def full(self, path, rows, spec):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(PlainWriter, "write", full)
        assert run(recipe) == 1
    assert f"{folder}: the disk is full" in capsys.readouterr().err
    assert run(recipe) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["schema"] = SCHEMA_VERSION + 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    for arguments in ((recipe,), (folder, "--verify")):
        assert run(*arguments) == 1
        assert "update the program" in capsys.readouterr().err
