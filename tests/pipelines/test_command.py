"""The commands' shared manners: one sentence, and an exit code that tells whose fault it is."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hpse_dist.config import ConfigError
from pipelines import command_parser, new_place, place, run_command


def _raise(error: BaseException):
    def main(options: argparse.Namespace) -> None:
        raise error

    return main


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("demo", "does nothing", "python -m pipelines.demo x.yaml a.b=1")
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    return parser


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigError("x.yaml: unknown key 'lrr'"), 2, "unknown key 'lrr'"),
        (ValueError("no video in\n  folder a"), 1, "no video in folder a"),
        (ValueError("no video in \x1b]0;a\x07\udc80"), 1, r"in \x1b]0;a\x07\udc80"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a.beton"), 1, "out/a.beton: No"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "device; make room where"),
        (OSError(errno.ENOSPC, "the disk is full: free space"), 1, "is full: free space\n"),
        (KeyError("x"), 1, "unexpected KeyError: 'x'"),
        (KeyboardInterrupt(), 1, "interrupted"),
    ],
)
def test_an_error_is_one_sentence_and_an_exit_code(error, code, says, capsys):
    assert run_command(_raise(error), _parser(), ["x.yaml"]) == code
    shown = capsys.readouterr()
    assert says in shown.err and shown.err.count("\n") == 1
    assert "Traceback" not in shown.err + shown.out


def test_a_reader_who_has_had_enough_is_told_nothing():
    lines = (
        "from pipelines import command_parser, run_command\n"
        "def main(options):\n"
        "    for number in range(100_000):\n"
        "        print('a line that nobody reads', number)\n"
        "exit(run_command(main, command_parser('demo', '', ''), []))\n"
    )
    command = [sys.executable, "-c", lines]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (1, b"")


def test_debug_shows_the_traceback(capsys):
    assert run_command(_raise(ValueError("bad")), _parser(), ["x.yaml", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_arguments(capsys):
    seen = []
    assert run_command(seen.append, _parser(), ["x.yaml", "a=1", "--debug", "b.c=2"]) == 0
    assert (seen[0].recipe, seen[0].overrides) == ("x.yaml", ["a=1", "b.c=2"])
    assert run_command(seen.append, _parser(), []) == 2
    assert run_command(seen.append, _parser(), ["--help"]) == 0
    assert "example:" in capsys.readouterr().out
    assert len(seen) == 1


class _Payload:
    """Makes a folder where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("asked_for", ["0", "1"])
def test_no_package_can_unpickle_code_within_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, asked_for: str
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", asked_for)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0")
    torch.save(_Payload(tmp_path / "ran"), tmp_path / "a.pt")

    def main(options: argparse.Namespace) -> None:
        torch.load(tmp_path / "a.pt", weights_only=False)  # as somebody's package may

    assert run_command(main, _parser(), ["x.yaml"]) == 1
    assert "Weights only load failed" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_a_folder_is_taken_from_here_or_from_where_recipes_start(tmp_path, monkeypatch):
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here / "runs" / "mine", root / "runs" / "mine", root / "runs" / "theirs"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert place("runs/theirs") == Path("runs/theirs")  # so that the error says what was typed
    monkeypatch.setenv("HPSE_ROOT", str(root))
    assert place("runs/mine") == Path("runs/mine")
    assert place("runs/theirs") == root / "runs" / "theirs"
    assert place("runs/nowhere") == Path("runs/nowhere")
    assert new_place("runs/new") == Path("runs/new")
    (root / "collections").mkdir()
    assert new_place("collections/new") == root / "collections" / "new"
    assert new_place("new") == Path("new")


def test_a_python_without_the_packages_says_what_to_do() -> None:
    """As in a new shell, where nobody has activated the environment: -S leaves it out."""
    command = [sys.executable, "-S", "-m", "pipelines.report", "runs/demo"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and not ended.stdout
    (said,) = ended.stderr.splitlines()
    assert said.startswith(f"error: {sys.executable} lacks the package tqdm; activate")


def test_an_interrupt_during_the_imports_is_one_sentence() -> None:
    """Importing torch and the rest takes seconds, in which people change their minds."""
    code = "import pipelines, signal, os; os.kill(os.getpid(), signal.SIGINT); import time; "
    ended = subprocess.run(
        [sys.executable, "-c", code + "time.sleep(60)"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert ended.stderr == "error: interrupted; run the same command again to go on\n"
