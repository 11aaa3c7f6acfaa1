"""Training state on disk: pieces of named tensors, which know nothing of ranks, stages or engines.

    state-00000.safetensors ...   one per rank; together they hold every element once

A tensor's name is `weight:<parameter>`, `exp_avg:<parameter>` or `exp_avg_sq:<parameter>` for what
the optimizer moves, `kept:<name>` for all else in the module's state dict. A piece is a stretch of
the flattened tensor, filed as `<name>@<first element>`. Any engine on any number of ranks reads
the stretches that it holds, so a run may go on with another world, stage or engine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hpse_dist.disk import whole_file
from hpse_dist.safety import in_words, parsed_json

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's own names of a parameter's running means."""
_DAMAGED = (
    *(SafetensorError, ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, RecursionError),
)
_FILE = re.compile(r"^state-(\d{5})\.safetensors$")


class Piece(NamedTuple):
    """Elements [start, start + len(values)) of a flattened tensor."""

    name: str
    start: int
    values: Tensor
    """(n,)"""


@dataclass
class Snapshot:
    """A rank's share of the training state at one moment, in the CPU's memory."""

    rank: int
    facts: dict[str, int]
    """Plain numbers, equal on every rank."""
    pieces: list[Piece] = field(default_factory=list)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def add(self, name: str, shape: Iterable[int], start: int, values: Tensor) -> None:
        """Copy a stretch of the tensor `name`, which has `shape` as a whole."""
        # pieces may share memory, as tied weights do, which safetensors refuses
        copied = values.detach().flatten().to("cpu", copy=True)
        self.pieces.append(Piece(name, start, copied))
        self.shapes[name] = tuple(shape)

    def write(self, folder: Path) -> Path:
        """One file of `folder`; OSError where it could not be written whole."""
        path = folder / f"state-{self.rank:05d}.safetensors"
        tensors = {f"{name}@{start}": values for name, start, values in self.pieces}
        about = json.dumps({"facts": self.facts, "shapes": self.shapes})
        try:
            with whole_file(path) as draft:
                save_file(tensors, draft, metadata={"about": about})
        except SafetensorError as error:
            raise OSError(str(error)) from None
        return path


class SavedState:
    """The pieces in a folder, read as they are asked for; nothing in them can run code."""

    def __init__(self, folder: Path) -> None:
        paths = sorted(p for p in folder.iterdir() if _FILE.match(p.name))
        if not paths:
            raise ValueError(
                f"{folder}: holds no training state (state-00000.safetensors); it is of an older "
                "version of this program, or no checkpoint: start another run folder"
            )
        self.folder = folder
        self.facts: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._where: dict[str, list[tuple[int, int, int]]] = {}  # name: (start, end, file)
        self._files: list[Any] = []
        for number, path in enumerate(paths):
            try:
                self._files.append(safe_open(path, "pt", device="cpu"))
                self._read_index(number, self._files[number])
            except _DAMAGED as error:
                words = in_words(error, 300)
                raise ValueError(f"{path}: no training state, or a damaged one ({words})") from None

    def _read_index(self, number: int, file: Any) -> None:
        about = parsed_json((file.metadata() or {})["about"])
        self.facts |= {name: int(value) for name, value in about["facts"].items()}
        for name, shape in about["shapes"].items():
            if not all(type(side) is int and side >= 0 for side in shape):
                raise ValueError(f"{name[:80]!r} has no shape")
            self.shapes[name] = tuple(shape)
        if not {"updates", "moved"} <= self.facts.keys():
            raise ValueError("its facts are missing")
        keys = file.keys()  # it is no mapping
        for key in keys:
            name, _, start = key.rpartition("@")
            if start != str(int(start)):
                raise ValueError(f"{key[:80]!r} is no stretch of a tensor")
            (length,) = file.get_slice(key).get_shape()
            self._where.setdefault(name, []).append((int(start), int(start) + length, number))

    def stretch(self, name: str, start: int, length: int) -> Tensor:
        """Elements [start, start + length) of a flattened tensor: (length,)."""
        parts, place = [], start
        for first, end, number in sorted(self._where.get(name, [])):
            if first <= place < end and place < start + length:
                stop = min(end, start + length)
                piece = self._files[number].get_slice(f"{name}@{first}")
                parts.append(piece[place - first : stop - first])
                place = stop
        if place != start + length:
            raise ValueError(
                f"{self.folder}: elements {place} to {start + length} of {name} are not there; a "
                "file of the checkpoint is missing, or it is of another model"
            )
        return torch.cat(parts) if parts else torch.empty(0)

    def whole(self, name: str, like: Tensor) -> Tensor:
        """A whole tensor, which must have the shape of `like`."""
        self.check(name, like.shape)
        return self.stretch(name, 0, like.numel()).view(like.shape)

    def check(self, name: str, shape: Iterable[int]) -> None:
        """ValueError unless the tensor is there with this shape."""
        if self.shapes.get(name) != tuple(shape):
            found = self.shapes.get(name)
            raise ValueError(
                f"{self.folder}: {name} should be {tuple(shape)}, "
                f"{'is not there' if found is None else f'is {found}'}; it is of another model"
            )


def kept_aside(module: nn.Module) -> dict[str, Tensor]:
    """What of a module's state dict no optimizer moves: buffers, and parameters that are fixed."""
    moved = {name for name, p in module.named_parameters(remove_duplicate=False) if p.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in moved}


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that the optimizer moves, by name; tied ones once."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def snapshot_of_whole(
    snapshot: Snapshot,
    parameters: Mapping[str, nn.Parameter],
    state: Mapping[Any, Mapping[str, Tensor]],
) -> None:
    """Add parameters that this rank holds whole, with an AdamW's state of them."""
    for name, parameter in parameters.items():
        snapshot.add(f"weight:{name}", parameter.shape, 0, parameter)
        for moment in MOMENTS:
            if moment in state.get(parameter, {}):
                value = state[parameter][moment]
                snapshot.add(f"{moment}:{name}", parameter.shape, 0, value)


@torch.no_grad()
def take_whole(
    saved: SavedState,
    parameters: Mapping[str, nn.Parameter],
    state: Any,
) -> None:
    """Fill parameters that this rank holds whole and, if there is any, their AdamW state."""
    steps = saved.facts["moved"]
    for name, parameter in parameters.items():
        parameter.copy_(saved.whole(f"weight:{name}", parameter))
        if steps:
            moments = {m: saved.whole(f"{m}:{name}", parameter) for m in MOMENTS}
            state[parameter] = {
                # where the parameter is: fused AdamW counts its steps there
                "step": torch.tensor(float(steps), device=parameter.device),
                **{key: value.to(parameter.device) for key, value in moments.items()},
            }


@torch.no_grad()
def take_kept(saved: SavedState, module: nn.Module) -> None:
    """Fill what `kept_aside` names."""
    for name, value in kept_aside(module).items():
        value.copy_(saved.whole(f"kept:{name}", value))


@torch.no_grad()
def fill_stretch(
    saved: SavedState, name: str, shape: Iterable[int], start: int, into: Tensor
) -> None:
    """Fill `into` (n,) with elements of a tensor from `start` on; zeros beyond its end."""
    saved.check(name, shape)
    length = min(into.numel(), max(0, math.prod(shape) - start))
    into.zero_()
    into[:length].copy_(saved.stretch(name, start, length))
