"""`pipelines.doctor`: what does not work is named, the rest tried, and nothing left behind."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from pipelines import doctor, run_command


def run(*arguments: str) -> int:
    return run_command(doctor.main, doctor.parser(), arguments)


def test_what_fails_is_named_and_the_rest_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(scratch: Path) -> str:
        (scratch / "half").touch()
        raise OSError("libopencv_core.so.406: cannot open shared object file")

    def missing(scratch: Path) -> str:
        raise ModuleNotFoundError("No module named 'xformers'")

    checks = {"machine": lambda _: "as good as any", "attention": missing, "pictures": broken}
    checks["ray"] = lambda _: "fine"
    monkeypatch.setattr(doctor, "_checks", lambda options: checks)
    monkeypatch.setenv("HPSE_ROOT", str(tmp_path))
    assert run() == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines()[1:] == [
        "machine    as good as any",
        "attention  FAILED: No module named 'xformers'; "
        "bash cluster/local.sh setup installs what is missing",
        "pictures   FAILED: libopencv_core.so.406: cannot open shared object file",
        "ray        not tried, for want of pictures",
    ]
    assert shown.err == "error: attention, pictures failed, as said above\n"
    assert not list(tmp_path.iterdir())
    assert run("--debug") == 1 and "in missing\n" in capsys.readouterr().err
    del checks["attention"], checks["pictures"]
    assert run() == 0
    assert capsys.readouterr().out.splitlines()[-1] == "done: all that training needs works here"


def test_an_installation_that_cannot_be_imported_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(options: argparse.Namespace) -> dict[str, doctor.Check]:
        raise ModuleNotFoundError("No module named 'ffcv'")

    monkeypatch.setattr(doctor, "_checks", without)
    assert run() == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("packages   ")
    assert "cannot be imported (ModuleNotFoundError: No module named 'ffcv'); bash" in shown.err
    assert run("--workers", "0") == 1
