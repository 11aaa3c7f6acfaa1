"""JSON read in pieces: the same values as at once, and a sentence for everything broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hpse_dist.data.importers import json_files
from hpse_dist.data.importers.json_files import inside, json_items, json_pairs, numbers


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_pieces_give_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, indent: int | None
) -> None:
    monkeypatch.setattr(json_files, "_CHUNK", piece)
    content = {
        "info": {"a": [1, {"b": None}]},
        "images": [{"id": -12.5e3, "name": 'q"[],{ü'}, [], 7, True],
        "none": [],
        "annotations": [12345, 67890],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content, indent=indent))
    assert dict(json_pairs(path, "")) == content
    for key in ("images", "none", "annotations"):
        assert list(json_items(path, "", key)) == content[key]
    path.write_text(json.dumps(content["annotations"], indent=indent))
    assert list(json_items(path, "")) == [12345, 67890]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a list under 'images'|an object expected"),
        ("[1, 2]", "an object expected, found '\\['"),
        ('{"images": {"a": 1}}', "a list under 'images' expected"),
        ('{"pictures": [1]}', "it has no 'images'"),
        ('{"images": [1, 2', "end of the file"),
        ('{"images": [1, {"a" 2}]}', "':' delimiter"),
        ('{"images": [' + "[" * 100_000 + "]}", "recursion|nested"),
        ('{"images": ["\udcff"]}', "surrogates|utf-8"),
    ],
)
def test_broken_files_are_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"a\.json cannot be read as JSON: .*({message})"):
        list(json_items(path, "", "images"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.json is missing: get it there"):
        list(json_items(tmp_path / "no.json", "get it there"))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.jpg", "a/../../b.jpg", "..\\a", "", "a\0", 3, None, ["a"]]
)
def test_names_stay_inside(tmp_path: Path, name: object) -> None:
    with pytest.raises(ValueError, match="file name"):
        inside(tmp_path, name)
    assert inside(tmp_path, "a/b..c.jpg") == tmp_path / "a" / "b..c.jpg"


@pytest.mark.parametrize(
    "value", ["12", None, {"a": 1}, [1, 2], [1, 2, float("nan")], [[1], [2, 3]], [1, "a", 2]]
)
def test_numbers_are_numbers(value: object) -> None:
    with pytest.raises(ValueError, match=r"^K "):
        numbers(value, (3,), "K")
    assert numbers([[1], [True], [2]], (3,), "K").tolist() == [1, 1, 2]
    assert numbers([[1, 2]], (2,), "K").shape == (2,) and numbers(np.eye(3), (3, 3), "K")[1, 1] == 1
