"""Recipes are strict: what is not understood is an error that says where and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from hpse_dist.config import Choice, ConfigError, build, digest, dump, load, read_yaml, to_dict
from hpse_dist.recipe import DataRecipe
from hpse_dist.study_recipe import StudyRecipe
from hpse_dist.sweep import SweepRecipe


@dataclass(frozen=True)
class Circle:
    radius: float = 1.0

    def __post_init__(self) -> None:
        if self.radius <= 0:
            raise ValueError(f"radius must be above 0, found {self.radius}")


@dataclass(frozen=True)
class Square:
    side: int = 2


@dataclass(frozen=True)
class Machine:
    micro_batch: int = 4


@dataclass(frozen=True)
class Recipe:
    name: str
    lr: float = 1e-4
    shape: Annotated[Any, Choice({"circle": Circle, "square": Square})] = Circle()
    sizes: tuple[int, ...] = (1, 2)
    box: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    folder: Path = Path("runs")
    flags: dict[str, bool] | None = None
    machine: Machine = Machine()


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_yaml_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nlr: 3e-4\nshape: {name: square, side: 5}\nsizes: [3]\n")
    recipe = load(Recipe, path, ["machine.micro_batch=8", "limit=7", "mode=slow", "lr=1e-3"])
    assert recipe == Recipe(
        "a", 1e-3, Square(5), (3,), limit=7, mode="slow", machine=Machine(micro_batch=8)
    )


def test_resolved_form_builds_the_same_recipe(tmp_path: Path) -> None:
    recipe = Recipe("a", shape=Square(7), flags={"x": True})
    assert build(Recipe, to_dict(recipe)) == recipe
    assert load(Recipe, write(tmp_path, dump(recipe))) == recipe


def test_digest_ignores_the_machine_and_nothing_else() -> None:
    base = Recipe("a")
    assert digest(base) == digest(Recipe("a", machine=Machine(16)))
    assert digest(base) != digest(Recipe("a", shape=Circle(2.0)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nlrr: 1", ["unknown key 'lrr'", "'lr'", "recipe.yaml"]),
        ("lr: 1", ["'name' is missing"]),
        ("name: a\nshape: {name: circel}", ["unknown name 'circel'", "'circle'", "square"]),
        ("name: a\nshape: {name: circle, side: 1}", ["shape", "unknown key 'side'", "radius"]),
        ("name: a\nshape: {name: circle, radius: -1}", ["shape", "above 0", "-1"]),
        ("name: a\nmode: quick", ["mode", "'quick'", "fast, slow"]),
        ("name: a\nsizes: [1, two]", ["sizes[1]", "'two'", "whole number"]),
        ("name: a\nsizes: 3", ["sizes", "list"]),
        ("name: a\nbox: [1]", ["box", "2 values"]),
        ("name: a\nlimit: 1.5", ["limit", "1.5"]),
        ("name: a\nlr: true", ["lr", "number"]),
        ("name: a\nmachine: 3", ["machine", "section", "found 3; allowed: micro_batch"]),
        ("name: a\nname: b", ["'name' stands twice"]),
        ("name: &x a\nmode: *x", ["aliases"]),
        ("name: !!python/object/apply:os.system [id]", ["not readable"]),
        ("- a", ["mapping"]),
        ("name: [", ["not readable"]),
    ],
)
def test_errors_say_where_and_what(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(Recipe, write(tmp_path, text))
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a/b", "../a", "a b", ".", "", "a\n"])
def test_names_that_are_no_folders(name: str) -> None:
    rest = {"source": {"name": "synthetic"}}
    study = {"sources": {"random": {"run": "random"}}, "tasks": {"a": "a.yaml"}}
    rounds = {"rounds": {"a": {"recipe": "a.yaml"}}, "space": {"optim.lr": {"values": [1e-3]}}}
    sweep = {"sources": study["sources"], **rounds, "metric": "joint_error"}
    for kind, values in ((DataRecipe, rest), (StudyRecipe, study), (SweepRecipe, sweep)):
        build(kind, {"name": "a", **values})
        with pytest.raises(ConfigError, match=r"name must be letters, digits"):
            build(kind, {"name": name, **values})


@pytest.mark.parametrize("name", ["2026_11_21", "2026-11-21", "007", "1:30", "1e5"])
def test_a_name_is_what_was_written(tmp_path: Path, name: str) -> None:
    assert load(Recipe, write(tmp_path, f"name: {name}")).name == name
    assert load(Recipe, write(tmp_path, "name: a"), [f"name={name}"]).name == name


@pytest.mark.parametrize(("text", "number"), [("1e2", 100), ("1_000", 1000), ("010", 10)])
def test_whole_numbers_as_people_write_them(tmp_path: Path, text: str, number: int) -> None:
    assert load(Recipe, write(tmp_path, "name: a"), [f"limit={text}"]).limit == number


@pytest.mark.parametrize("text", ["lr", "=3", "lr.x=3", "lr=[", "name.first.last=2"])
def test_bad_overrides(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load(Recipe, write(tmp_path, "name: a\nlr: 1"), [text])


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        read_yaml(tmp_path / "none.yaml")
    big = tmp_path / "big.yaml"
    big.write_text("name: " + "a" * (1 << 20))
    with pytest.raises(ConfigError, match="bytes"):
        read_yaml(big)
