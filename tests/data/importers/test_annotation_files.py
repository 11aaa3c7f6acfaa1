"""Streams of JSON and outlines of people: the same as other readers', and hostile input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as reference

from hpse_dist.data.importers import json_stream
from hpse_dist.data.importers.json_stream import elements, json_items, json_pairs, read_element
from hpse_dist.data.importers.official import Bad, inside, numbers
from hpse_dist.data.importers.outlines import mask_of, run_lengths

CONTENT = {
    "info": {"by": "Jürgen", "list": [1, {"a": []}]},
    "empty": [],
    "images": [{"id": i, "name": f"bild_{i}_ä", "n": [1.5e-3] * i} for i in range(40)],
    "number": 12345,
    "annotations": [1, "zwei, ] }", None, True, 3.25],
}


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_elements_are_those_of_the_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chunk: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(CONTENT, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    found = list(elements(path))
    for key in ("images", "annotations"):
        assert [e.value for e in found if e.key == key] == CONTENT[key]
    assert [e.value for e in found if e.key == "number"] == [12345]
    with open(path, "rb") as file:
        assert all(read_element(file, e.start, e.stop) == e.value for e in found)
    assert dict(json_pairs(path, "")) == CONTENT
    for key in ("images", "empty", "annotations"):
        assert list(json_items(path, "", key)) == CONTENT[key]


def test_an_outermost_array(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(' [ {"a": 1} , 2 ] ')
    assert [(e.key, e.value) for e in elements(path)] == [("", {"a": 1}), ("", 2)]
    assert list(json_items(path, "")) == [{"a": 1}, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no whole JSON file"),
        ("[1, 2]", "has no 'images'"),
        ('{"images": {"a": 1}}', "holds no list under 'images'"),
        ('{"pictures": [1], "b": [2]}', "has no 'images'"),
        ('{"images": [1, 2', "no whole JSON file"),
        ('{"images": [1, {"a" 2}]}', "no whole JSON file"),
        ('{"a": 1, "images": [' + "[" * 100_000 + "]}", "no whole JSON file"),
    ],
)
def test_what_is_not_under_a_key_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json .*{message}"):
        list(json_items(path, "", "images"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no\.json is missing; get it there"):
        list(json_items(tmp_path / "no.json", "get it there"))
    with pytest.raises(ValueError, match=r"no\.json is missing; get it there"):
        list(json_pairs(tmp_path / "no.json", "get it there"))


@pytest.mark.parametrize(
    "value",
    [
        *("12", None, {"a": 1}, [1, 2], [1, 2, float("nan")], [1, 2, float("inf")], [[1], [2, 3]]),
        *([1, "a", 2], [1, None, 2], [1, 2, 10**400], [[[1, 2, 3]] * 2], 5),
    ],
)
def test_numbers_are_numbers(value: object) -> None:
    with pytest.raises(Bad, match=r"^K "):
        numbers(value, (3,), "K")
    with pytest.raises(Bad, match=r"^K "):
        numbers(value, 3, "K")


def test_numbers_have_the_shape_asked_for() -> None:
    assert numbers([[1], [2], [3]], (3,), "K").tolist() == [1, 2, 3]
    assert numbers([[1, 2]], 2, "K").shape == (2,) and numbers(np.eye(3), (3, 3), "K")[1, 1] == 1
    assert numbers([[1, 2]], (None, 2), "K").shape == (1, 2)
    assert numbers([], 0, "K").shape == (0,)


@pytest.mark.parametrize(
    "text",
    [
        *("", "12", "{", '{"a"', '{"a": [1, 2', '{"a": [1 2]}', '{"a": [1,]}', "[1]x", '{"a": x}'),
        *("[" * 100_000, '{"a": [' + "9" * 5000 + "]}", '{"a": 1 "b": 2}'),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json is no whole JSON file"):
        list(elements(path))


def test_an_element_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_LARGEST", 1000)
    path = tmp_path / "a.json"
    path.write_text('{"a": ["' + "x" * (1 << 21) + '"]}')
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    with pytest.raises(ValueError, match="no whole JSON file"):
        list(elements(path))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_run_lengths_are_cocos() -> None:
    numbers = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.97):
        mask = numbers.random((37, 53)) < share
        mask[5:30, 10:40] = share > 0.4
        packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
        text = {"size": packed["size"], "counts": packed["counts"].decode()}
        assert np.array_equal(run_lengths(text), mask)
        plain = reference.frPyObjects({"size": [37, 53], "counts": [100, 61, 1800]}, 37, 53)
        ours = run_lengths({"size": [37, 53], "counts": [100, 61, 1800]})
        assert np.array_equal(ours, reference.decode(plain) > 0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_are_cocos_up_to_their_border() -> None:
    corners = [[20.3, 10.1, 80.2, 30.7, 60.0, 90.4, 15.5, 60.2], [100, 100, 130, 100, 115, 128.5]]
    theirs = reference.decode(reference.merge(reference.frPyObjects(corners, 140, 150))) > 0
    ours = mask_of(corners, 140, 150)
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.95


@pytest.mark.parametrize("counts", ["\x10", "é", "o", "ooooooooooooo0", 5, None, [-3, 28]])
def test_hostile_run_lengths_are_refused(counts: object) -> None:
    with pytest.raises(Bad):
        run_lengths({"size": [5, 5], "counts": counts})


@pytest.mark.parametrize(
    "name", ["../a.jpg", "a/../../b.jpg", "/etc/passwd", "..\\a.jpg", "C:\\a.jpg", "", None, "a\0b"]
)
def test_names_stay_inside(name: object) -> None:
    with pytest.raises(Bad):
        inside(Path("root"), name)
    assert inside(Path("root"), "a/b.jpg") == Path("root/a/b.jpg")


def test_links_may_not_lead_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_text("")
    (root / "images").mkdir(parents=True)
    (root / "images" / "a.jpg").symlink_to(outside / "secret.jpg")
    (root / "images" / "deep").mkdir()
    (root / "images" / "deep" / "out").symlink_to(outside)
    (root / "images" / "circle").symlink_to(root / "images" / "circle")
    for name in ("a.jpg", "deep/out/secret.jpg"):
        with pytest.raises(Bad, match="is a link that leads out of the dataset's folder"):
            inside(root / "images", name)
    with pytest.raises(Bad, match="none that a file can have"):
        inside(root / "images", "circle/a.jpg")
    with pytest.raises(Bad, match="longer than a file's can be"):
        inside(root / "images", "a" * 300)
    # but a user may keep the whole folder elsewhere, and links may stay inside
    (root / "elsewhere").symlink_to(outside)
    assert inside(root / "elsewhere", "secret.jpg").is_file()
    (outside / "b.jpg").symlink_to("secret.jpg")
    assert inside(root / "elsewhere", "b.jpg").is_file()


def test_a_users_folders_of_pictures_may_be_links(tmp_path: Path) -> None:
    """root/images -> another disk is common; a link within that disk that leaves it is refused."""
    root, disk = tmp_path / "root", tmp_path / "disk"
    root.mkdir()
    (disk / "s1").mkdir(parents=True)
    (disk / "s1" / "a.jpg").write_text("")
    (tmp_path / "secret.jpg").write_text("")
    (disk / "s1" / "b.jpg").symlink_to(tmp_path / "secret.jpg")
    (disk / "s2").symlink_to(tmp_path)
    (root / "images").symlink_to(disk)
    assert inside(root, "images/s1/a.jpg").is_file()
    for name in ("images/s1/b.jpg", "images/s2/secret.jpg"):
        with pytest.raises(Bad, match="is a link that leads out of the dataset's folder"):
            inside(root, name)
