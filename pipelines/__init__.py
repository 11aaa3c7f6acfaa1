"""Commands: argument parsing, progress and exit codes; no science.

Every command ends with 0 (done), 1 (failed: one clear sentence) or 2 (a bad recipe or bad
arguments), and shows a traceback only with `--debug`.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

INTERRUPTED = "interrupted; run the same command again to go on"


def _told(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a command's modules are imported, which takes seconds: no traceback."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"error: {INTERRUPTED}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _told
try:
    from tqdm import tqdm

    from hpse_dist.config import ConfigError
    from hpse_dist.safety import one_line, read_weights_only
except ModuleNotFoundError as error:  # in a new shell, the virtual environment is forgotten first
    if (error.name or "").partition(".")[0] == "hpse_dist":
        raise
    sys.exit(
        f"error: {sys.executable} lacks the package {error.name}; activate the environment that "
        "has it (. .venv/bin/activate), or make one: bash cluster/local.sh setup"
    )

DONE, FAILED, BAD_RECIPE = 0, 1, 2


def command_parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser for `python -m pipelines.<name>` with `--debug` and an example under `--help`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m pipelines.{name}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def place(text: str) -> Path:
    """Data or results that an argument names, for argparse's `type`: what is there, else the same
    under $HPSE_ROOT, where the paths of recipes start."""
    from hpse_dist.recipe import located  # late: --help need not wait for it

    here, there = Path(text), located(text)
    return there if not here.exists() and there.exists() else here


def new_place(text: str) -> Path:
    """A folder to be made beside others: where those are, see `place`."""
    return place(str(Path(text).parent)) / Path(text).name


def run_command(
    main: Callable[[argparse.Namespace], None],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run `main`, and turn what it raises into one sentence and an exit code.

    `ConfigError` and wrong arguments give 2, everything else 1. Options may stand between the
    positional arguments (`prepare x.yaml --debug key=value`). `argv` defaults to the process's.
    """
    try:
        options = _parse(parser, argv)
    except SystemExit as stop:  # argparse has said what is wrong (2), or printed its help (0)
        return stop.code if isinstance(stop.code, int) else BAD_RECIPE
    read_weights_only()
    try:
        main(options)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, FAILED)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return FAILED
        if options.debug:
            traceback.print_exc()
        code = BAD_RECIPE if isinstance(error, ConfigError) else FAILED
        return _fail(describe(error), code)
    return DONE


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    if any(isinstance(action, argparse._SubParsersAction) for action in parser._actions):
        return parser.parse_args(argv)  # argparse cannot intermix with sub-commands
    return parser.parse_intermixed_args(argv)


def _nobody_reads() -> bool:
    """Whether the reader of standard output has had enough, as `| head` has: nothing to speak of.
    What is still to be written there, at exit too, then goes nowhere."""
    asked = select.poll()
    asked.register(sys.stdout, 0)  # errors are told of in any case
    if not asked.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _fail(sentence: str, code: int) -> int:
    sys.stdout.flush()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return code


def describe(error: BaseException) -> str:
    """An error as one line for the user; one that no user caused says that it is ours."""
    text = one_line(str(error))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        # of a write that failed, which often names no file; our own sentences say what to do
        full = error.strerror in map(os.strerror, (errno.ENOSPC, errno.EDQUOT))
        room = "; make room where the command writes, then give it again: it goes on"
        return one_line(f"{where}{error.strerror}{room if full else ''}")
    if isinstance(error, (ValueError, OSError, RuntimeError)) and text:
        return text
    return (
        f"unexpected {type(error).__name__}: {text or 'no message'}; "
        "this looks like a fault of the program, --debug shows where"
    )


def progress_bar(total: int | None, what: str, unit: str = "it") -> tqdm[Any]:
    """A bar on standard error, silent where that is not a terminal."""
    return tqdm(total=total, desc=what, unit=unit, disable=None, dynamic_ncols=True)
