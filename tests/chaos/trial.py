"""One kind of file, spoilt again and again in one folder: what came of each trial."""

from __future__ import annotations

import contextlib
import random
import traceback
import warnings
from pathlib import Path

from pipelines import describe
from tests.chaos.fuzzing import TARGETS
from tests.chaos.spoiling import spoil


class Trials:
    """Trials of a target, each told by its number alone."""

    def __init__(self, name: str, folder: Path, canary: Path) -> None:
        """canary: what would appear if code was run."""
        self.name, self.folder, self.canary = name, folder, canary
        self.target = TARGETS[name]
        self.refused = 0
        folder.mkdir(parents=True)
        self._whole = {path: path.read_bytes() for path in self.target.write(folder)}
        self._sealed = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert self._whole, "nothing to spoil"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.target.read(folder)

    def own(self) -> set[Path]:
        """What reading whole files left in the folder."""
        return {p for p in self.folder.rglob("*") if p not in self._sealed}

    def run(self, number: int) -> str | None:
        """Spoil a file, read the folder, put it right again; what should not have happened."""
        draw = random.Random(f"{self.name} {number}")
        path = draw.choice([*self._whole])
        path.write_bytes(spoil(path, self._whole[path], draw, self.canary))
        if self.target.seal is not None and draw.random() < 0.8:
            with contextlib.suppress(Exception):  # too badly spoilt to be sealed
                self.target.seal(self.folder)
        what = f"{self.name} {number}: {path.name}"
        try:
            return self._read(what)
        finally:
            for other, data in self._sealed.items() if self.target.seal else ():
                other.write_bytes(data)
            path.write_bytes(self._whole[path])

    def _read(self, what: str) -> str | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.target.read(self.folder)
        except (ValueError, OSError) as error:
            self.refused += 1
            text = describe(error)  # as the command says it
            if not text.isprintable() or text.startswith("unexpected"):
                return f"{what}: no sentence: {type(error).__name__} {text!r}"
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)
            ours = [f"{f.filename}:{f.lineno}" for f in last if "hpse_dist" in f.filename][-1:]
            return f"{what}: {type(error).__name__}: {str(error)[:200]!r} at {ours}"
        if self.canary.exists():
            self.canary.rmdir()
            return f"{what}: code was run"
        return None
