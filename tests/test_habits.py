"""Formatter, linter and types, as everyone runs them; and every shipped recipe and command."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hpse_dist import recipe as recipes
from hpse_dist.config import build, dump, load, read_yaml, to_dict
from hpse_dist.study_recipe import StudyRecipe
from hpse_dist.sweep import SweepRecipe
from pipelines import (
    bench,
    collection,
    doctor,
    finetune,
    layers,
    prepare,
    pretrain,
    report,
    study,
    sweep,
)

ROOT = Path(__file__).parents[1]
KINDS = {
    "data": recipes.DataRecipe,
    "pretrain": recipes.PretrainRecipe,
    "finetune": recipes.FinetuneRecipe,
    "study": StudyRecipe,
    "sweep": SweepRecipe,
}
PIPELINES = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        bench,
        collection,
        doctor,
        finetune,
        layers,
        prepare,
        pretrain,
        report,
        study,
        sweep,
    )
}
YAMLS = sorted((ROOT / "configs").glob("*/*.yaml"))
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    "command", ["ruff format --check .", "ruff check .", "mypy"], ids=lambda text: text[:12]
)
def test_habits(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command.split()], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_recipe_reads_and_round_trips(path: Path) -> None:
    kind = KINDS[path.parent.name]
    recipe = load(kind, path)
    assert build(kind, to_dict(recipe)) == recipe
    assert dump(recipe)
    text = path.read_text()
    assert len(text.splitlines()) <= 60 and text.startswith("#")
    assert "python -m pipelines." in text


# what the shipped recipes leave behind for a command's source=
SOURCES = {f"runs/{read_yaml(path)['name']}" for path in YAMLS if path.parent.name == "pretrain"}


def commands() -> list[str]:
    """Of the documents, the recipes and --help; one that ends in a backslash goes on below."""
    texts = [path.read_text() for path in (*DOCUMENTS, *YAMLS)]
    texts += [module.parser().epilog or "" for module in PIPELINES.values()]
    found = []
    for text in texts:
        found += re.findall(r"python -m pipelines\.[^\n`]*", re.sub(r"\\\n#?", " ", text))
    return sorted({command.partition("  #")[0].strip() for command in found})


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_texts_parses(command: str) -> None:
    words = re.sub(r"\[(--[\w-]+)\]", r"\1", command)  # what may be left out
    name, *rest = shlex.split(words.partition("python -m pipelines.")[2])
    if rest and not rest[0].startswith("<"):
        parser = PIPELINES[name].parser()
        parse = parser.parse_args if name == "bench" else parser.parse_intermixed_args  # as run
        options = parse(rest)
        path = getattr(options, "recipe", None)
        if path is not None and path.suffix == ".yaml":
            overrides = getattr(options, "overrides", [])
            recipe = load(KINDS[path.parent.name], ROOT / path, overrides)
            source = getattr(recipe, "source", None)
            if isinstance(source, str) and source != "random":
                assert source in SOURCES
