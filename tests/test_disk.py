"""Files on disks that fill up, and two writers of one file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpse_dist.disk import whole_file, write_text
from tests.test_checkpoint import files_at_most


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_text(path, "of before")
    with files_at_most(100), pytest.raises(OSError, match="File too large"):
        write_text(path, "x" * 1000)
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    assert path.read_text() == "of before"


def test_a_file_appears_when_all_of_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60)  # as long as a name may be, nearly
    with whole_file(path) as draft:
        draft.write_bytes(b"half")
        assert not path.exists()
        draft.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """As a study that writes its page while `pipelines.report` does."""
    path = tmp_path / "page.html"
    with whole_file(path) as mine, whole_file(path) as others:
        mine.write_text("mine")
        others.write_text("the other's")
    assert path.read_text() == "mine"  # which ended last
    assert list(tmp_path.iterdir()) == [path]
