"""Other people's encoders: checkpoints recognised by their tensors' names and put into ours.

Read are state dicts of timm, MAE, MoCo v2, DINO, DINOv2, CroCo v1 and v2, ViTPose, HMR 2.0 and
torchvision's ResNets, as safetensors or as torch files of plain tensors: unpickling runs no code.
The names are facts of the published files; heads and optimizer state are left behind.

Where a model has what our own encoder lacks (a class token, registers, scales of layers, batch
norms) it is rebuilt by timm, whose outputs are then its own. CroCo's, ViTPose's and HMR 2.0's
become our own encoder, with which objectives that hide patches can go on.
"""

from __future__ import annotations

import argparse
import logging
import math
import pickle
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hpse_dist.models.encoder import EncoderConfig
from hpse_dist.safety import in_words

State = dict[str, Tensor]
Adapted = tuple[EncoderConfig, State, State]
Adapter = Callable[[State], Adapted]
log = logging.getLogger(__name__)

HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24}  # as published
_WRAPPERS = ("state_dict", "model", "teacher", "model_state", "network")


@dataclass(frozen=True)
class Foreign:
    """What a checkpoint gives: an encoder and, from CroCo, a decoder for completion."""

    family: str
    config: EncoderConfig
    state: State
    decoder: State
    left: tuple[str, ...]
    """Tensors of the file that are not taken."""


def read_foreign(path: Path) -> Foreign:
    """The encoder in a file that other people's code wrote; ValueError says what is wrong."""
    state = strip(load_tensors(path))
    for family, knows, adapt in FAMILIES:
        if knows(state):
            config, taken, decoder = _adapted(path, family, adapt, state)
            found = Foreign(family, config, taken, decoder, _left(state, family))
            log.info(
                "source %s: %s, %d tensors for the encoder, %d for the decoder, %d left behind%s",
                path,
                family,
                len(taken),
                len(decoder),
                len(found.left),
                f" ({', '.join(found.left[:4])}, ...)" if found.left else "",
            )
            return found
    some = ", ".join(list(state)[:4])
    raise ValueError(
        f"source {path}: its {len(state)} tensors ({some}, ...) are those of no encoder that can "
        "be read: timm's and torchvision's ResNets, MoCo v2, timm's ViTs, MAE, DINO, DINOv2, "
        "CroCo, ViTPose, HMR 2.0"
    )


def _adapted(path: Path, family: str, adapt: Adapter, state: State) -> Adapted:
    """What an adapter makes of a state dict of its family; ValueError where it is not whole."""
    try:
        return adapt(state)
    except ValueError as error:
        raise ValueError(f"source {path}: {error}") from None
    # a tensor of the family's that is not there, or has another shape, fails wherever it is used
    except (LookupError, RuntimeError, TypeError, ZeroDivisionError) as error:
        words = in_words(error)
        raise ValueError(
            f"source {path}: its names are those of {family}, but a tensor is missing or of "
            f"another shape ({words})"
        ) from None


def load_tensors(path: Path) -> State:
    """All tensors of a checkpoint, by name; a file that would run code is refused."""
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise ValueError(f"source {path}: cannot be read: {error}") from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # MAE's and CroCo's settings
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL (\S+)", str(error))
        asks = f"it asks for {what[1]}" if what else "it is no file of torch's, or asks for code"
        raise ValueError(
            f"source {path}: refused, {asks} when it is read, and only plain tensors are read; "
            "save its state dict alone (torch.save(state_dict, ...) or safetensors) with the code "
            "it belongs to"
        ) from None
    # torch raises what it likes for a broken file; nothing is hidden, the message says it
    except Exception as error:
        words = in_words(error, 300)
        raise ValueError(f"source {path}: cannot be read as a torch file: {words}") from None
    while isinstance(loaded, dict):
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), dict)), None)
        if inner is None:
            break
        loaded = inner
    if not isinstance(loaded, dict):
        raise ValueError(f"source {path}: holds a {type(loaded).__name__}, no tensors by name")
    plain = {
        k: v
        for k, v in loaded.items()
        if isinstance(k, str) and isinstance(v, Tensor) and v.layout == torch.strided
    }
    for name, value in plain.items():  # one stored number may stand for any shape
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise ValueError(
                f"source {path}: {name} of shape {tuple(value.shape)} repeats numbers that are "
                "stored once; save its contiguous() copy"
            )
    return plain


def strip(state: State) -> State:
    """The encoder's tensors without what wrappers put before their names; the others as they are.

    The encoder is where a stem is: of MoCo's two the query encoder, of others the first.
    """
    stems = [
        (k.removesuffix(stem), other)
        for stem, other in (
            ("conv1.weight", "layer1.0.conv1.weight"),
            ("patch_embed.proj.weight", "patch_embed.proj.bias"),
        )
        for k in state
        if k.endswith(stem)
    ]
    found = [p for p, other in stems if p + other in state and "encoder_k" not in p]
    if not found or found[0] == "":
        return state
    prefix = found[0]
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return {k: v for k, v in state.items() if not k.startswith(prefix)} | inner


def check_sizes(state: State, dim: int, depth: int, patch: int) -> None:
    """ValueError for a vision transformer of sizes that need more than the file holds: making it
    could take all memory."""
    stored = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in state.values()}
    if dim * (12 * dim * depth + 3 * patch * patch) > sum(stored.values()):  # a byte each is little
        raise ValueError(
            f"dim {dim}, depth {depth} and patches of {patch} px, which it claims, need more than "
            "the file holds"
        )


def _vit_sizes(state: State, blocks: str = "blocks") -> tuple[int, int, int, int]:
    """dim, depth, heads and patch of a vision transformer."""
    weight = state["patch_embed.proj.weight"]
    dim, patch = weight.shape[0], weight.shape[-1]
    depth = 1 + max(int(m[1]) for k in state if (m := re.match(rf"{blocks}\.(\d+)\.", k)))
    check_sizes(state, dim, depth, patch)
    return dim, depth, HEADS.get(dim, max(1, dim // 64)), patch


def _side(count: int, what: str) -> int:
    side = round(count**0.5)
    if side * side != count:
        raise ValueError(f"{what}: a table of {count} positions is no square grid")
    return side


def _resnet(state: State) -> Adapted:
    """torchvision's and timm's ResNets have the same names; the classifier stays behind."""
    deep = "layer1.0.conv3.weight" in state
    counts = tuple(
        1 + max(int(m[1]) for k in state if (m := re.match(rf"layer{i}\.(\d+)\.", k)))
        for i in range(1, 5)
    )
    names: dict[tuple[bool, tuple[int, ...]], str] = {
        (False, (2, 2, 2, 2)): "resnet18",
        (False, (3, 4, 6, 3)): "resnet34",
        (True, (3, 4, 6, 3)): "resnet50",
        (True, (3, 4, 23, 3)): "resnet101",
        (True, (3, 8, 36, 3)): "resnet152",
    }
    if (deep, counts) not in names:
        raise ValueError(f"a ResNet of {counts} blocks is none of {', '.join(names.values())}")
    taken = {k: v for k, v in state.items() if re.match(r"(conv1|bn1|layer[1-4])\.", k)}
    return EncoderConfig("timm", timm=names[deep, counts]), taken, {}


def _vit(state: State) -> Adapted:
    """timm's names, which MAE, DINO and DINOv2 share but for the registers'."""
    dim, depth, heads, patch = _vit_sizes(state)
    if any(".w12." in k for k in state):
        raise ValueError("a ViT with gated MLPs (DINOv2 ViT-g) is read by timm only: timm:<name>")
    if "fc_norm.weight" in state and "norm.weight" not in state:
        raise ValueError(
            "a ViT whose last norm stands behind its pool (fc_norm in place of norm) gives patches "
            "without a norm, and is read by timm only: timm:<name>"
        )
    taken = {
        k: v
        for k, v in state.items()
        if re.match(r"(cls_token|pos_embed|patch_embed|blocks|norm)\b", k)
    }
    registers = state.get("register_tokens", state.get("reg_token"))
    table = state["pos_embed"]
    has_class = "cls_token" in state
    count = table.shape[1]
    class_row = has_class and math.isqrt(count) ** 2 != count  # n^2 + 1 is no square
    image_px = _side(count - class_row, "pos_embed") * patch
    if registers is not None:
        taken["reg_token"] = registers
        if class_row:
            # a class token's position is added to it before registers come between
            taken["cls_token"] = taken["cls_token"] + table[:, :1]
            taken["pos_embed"] = table[:, 1:]
    elif has_class and not class_row:
        taken["pos_embed"] = F.pad(table, (0, 0, 1, 0))  # a class token without one: of zeros
    if not has_class and registers is None and "blocks.0.ls1.gamma" not in state:
        plain = EncoderConfig("custom", image_px, patch, dim, depth, heads, positions="sincos")
        return plain, taken, {}
    config = EncoderConfig(
        "timm",
        image_px,
        patch,
        dim,
        depth,
        heads,
        timm="vit",
        class_token=has_class,
        registers=0 if registers is None else registers.shape[1],
        layer_scale="blocks.0.ls1.gamma" in state,
    )
    return config, taken, {}


def _croco(state: State) -> Adapted:
    """CroCo v1 (a table of positions) and v2 (rotary), and the decoder of either."""
    dim, depth, heads, patch = _vit_sizes(state, "enc_blocks")
    table = state.get("enc_pos_embed")
    count = 196 if table is None else table.shape[-2]
    taken = {
        k.replace("enc_blocks", "blocks").replace("enc_norm", "norm"): v
        for k, v in state.items()
        if re.match(r"(patch_embed\.proj|enc_blocks|enc_norm)\.", k)
    }
    if table is not None:
        taken["pos_embed"] = table.reshape(1, count, dim).float()
    config = EncoderConfig(
        "custom",
        _side(count, "enc_pos_embed") * patch,
        patch,
        dim,
        depth,
        heads,
        positions="rotary" if table is None else "sincos",
    )
    decoder = _croco_decoder(state, patch)
    return config, taken, decoder if table is None else _rows_first(decoder)


def _croco_decoder(state: State, patch: int) -> State:
    """Our decoder's names: keys and values in one projection, pixels channel by channel."""
    taken: State = {}
    for name, value in state.items():
        if m := re.match(r"dec_blocks\.(\d+)\.(.*)", name):
            block, part = f"blocks.{m[1]}", m[2]
            if part.startswith("cross_attn.projk."):
                other = state[name.replace("projk", "projv")]
                taken[f"{block}.cross_attn.kv.{part.rpartition('.')[2]}"] = torch.cat(
                    (value, other)
                )
            elif not part.startswith("cross_attn.projv."):
                part = part.replace("cross_attn.projq", "cross_attn.q")
                taken[f"{block}.{part.replace('norm_y', 'norm_memory')}"] = value
        elif name.startswith("decoder_embed."):
            taken[name.replace("decoder_embed", "embed")] = value
        elif name.startswith("dec_norm."):
            taken[name.replace("dec_norm", "norm")] = value
        elif name == "mask_token":
            taken[name] = value.reshape(1, 1, -1)
        elif name.startswith("prediction_head."):  # theirs: row, column, channel
            pixels = value.unflatten(0, (patch, patch, 3)).movedim(2, 0).flatten(0, 2)
            taken[name.replace("prediction_head", "head")] = pixels
    return taken


def _rows_first(decoder: State) -> State:
    """A v1 decoder for our table of positions: ours has rows in the first half of the channels and
    theirs columns, so the halves change places wherever tokens are read or written. Layer norms,
    and thus all outputs, are the same in any order of channels.
    """
    turned: State = {}
    for name, value in decoder.items():
        reads = re.search(r"\b(qkv|q|kv|fc1|head)\.(weight|bias)$", name)
        axis = -1 if reads or name == "mask_token" else 0
        stays = reads is not None and reads[2] == "bias"  # of what was read, no longer of tokens
        turned[name] = value if stays else value.roll(value.shape[axis] // 2, axis)
    return turned


def _vitpose(state: State) -> Adapted:
    """ViTPose and HMR 2.0: no class token, but its row in the table, which is added to every patch.

    Their pictures are the middle 12 of 16 columns; the outer ones get their neighbours' positions.
    Their patches start two pixels outside the picture and ours at its border. ViTPose-S has 12
    heads, not the 6 of other models as wide, which no tensor's shape tells.
    """
    dim, depth, heads, patch = _vit_sizes(state)
    heads = 12 if dim == 384 else heads
    table = state["pos_embed"]
    table = table[:, 1:] + table[:, :1]
    rows = round((table.shape[1] * 4 / 3) ** 0.5)
    columns = table.shape[1] // rows
    grid = table.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    side = (rows - columns) // 2
    grid = F.pad(grid, (side, rows - columns - side, 0, 0), mode="replicate")
    taken = {k: v for k, v in state.items() if re.match(r"(patch_embed\.proj|blocks)\.", k)}
    taken |= {k.replace("last_norm", "norm"): v for k, v in state.items() if "last_norm." in k}
    taken["pos_embed"] = grid.flatten(2).transpose(1, 2)
    config = EncoderConfig("custom", rows * patch, patch, dim, depth, heads, positions="sincos")
    return config, taken, {}


def _left(state: State, family: str) -> tuple[str, ...]:
    """Tensors that no encoder needs: heads, decoders of other kinds, predictors."""
    kept = {
        "ResNet": r"(conv1|bn1|layer[1-4])\.",
        "CroCo": r"(patch_embed|enc_|dec|mask_token|prediction_head)",
        "ViTPose": r"(patch_embed|blocks|last_norm|pos_embed)",
    }.get(family, r"(cls_token|pos_embed|patch_embed|blocks|norm\.|reg)")
    return tuple(name for name in state if not re.match(kept, name))


FAMILIES: tuple[tuple[str, Callable[[State], bool], Adapter], ...] = (
    ("CroCo", lambda s: "enc_blocks.0.norm1.weight" in s, _croco),
    ("ViTPose", lambda s: "last_norm.weight" in s and "blocks.0.norm1.weight" in s, _vitpose),
    ("ViT", lambda s: {"blocks.0.norm1.weight", "pos_embed"} <= s.keys(), _vit),
    ("ResNet", lambda s: {"conv1.weight", "layer1.0.conv1.weight"} <= s.keys(), _resnet),
)
"""Name, whether a state dict is of it, and the adapter; the first that fits is taken."""
