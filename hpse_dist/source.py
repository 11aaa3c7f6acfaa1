"""A source: a pre-trained encoder in one file that says what it is.

`encoder.safetensors` holds the encoder's tensors under their own (timm's) names and, in its header,
the encoder's config and a card; `decoder.safetensors` beside it, if there is one, the decoder of
completion; `head.safetensors`, of a fine-tuned encoder, what its task has beside it. Reading them
runs no code. Other people's files are sources too, see `foreign`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hpse_dist.config import ConfigError, build, to_dict
from hpse_dist.disk import whole_file
from hpse_dist.foreign import check_sizes, read_foreign
from hpse_dist.models.encoder import Encoder, EncoderConfig, build_encoder
from hpse_dist.models.timm_encoder import TimmEncoder, pretrained_config, published_weights
from hpse_dist.safety import parsed_json

FILE = "encoder.safetensors"
DECODER_FILE = "decoder.safetensors"
HEAD_FILE = "head.safetensors"
TIMM = "timm:"
RANDOM = "random"
BLIND = "blind"
WORDS = (RANDOM, BLIND)
"""What stands for a source where there is no file: random start weights, and those of an encoder
that sees no picture, see `models.blind`."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """An encoder's tensors, its shape, and where it comes from."""

    name: str
    config: EncoderConfig
    state: dict[str, Tensor]
    card: dict[str, Any]
    decoder: dict[str, Tensor] = field(default_factory=dict)
    """The decoder of completion, where the source has one."""


def write_source(
    path: Path, config: EncoderConfig, state: dict[str, Tensor], card: dict[str, Any]
) -> None:
    """Write the encoder's state dict; readers see the whole file or none."""
    header = {"format": "pt", "encoder": json.dumps(to_dict(config)), "card": json.dumps(card)}
    _save(path, state, header)


def write_decoder(path: Path, state: dict[str, Tensor]) -> None:
    """Write completion's decoder beside its encoder."""
    _save(path, state, {"format": "pt"})


def write_head(path: Path, state: dict[str, Tensor]) -> None:
    """Write what a task has beside its encoder."""
    _save(path, state, {"format": "pt"})


def fill_finished(module: nn.Module, encoder: Encoder, folder: Path) -> None:
    """Give a task the weights of its finished run: of encoder.safetensors and head.safetensors."""
    path = folder / HEAD_FILE
    if not path.is_file():
        raise ValueError(f"{path}: not there, so this task cannot predict; run the recipe again")
    fill(named_by_timm(encoder), read_source(folder).state, f"{folder / FILE}")
    of_encoder = {k: v for k, v in module.state_dict().items() if k.startswith("encoder.")}
    fill(module, {**of_encoder, **load_file(path)}, str(path))


def _save(path: Path, state: dict[str, Tensor], header: dict[str, str]) -> None:
    with whole_file(path) as draft:
        save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, draft, header)


def open_source(place: str, image_px: int, *, download: bool = False) -> Source:
    """The source at a path, or timm's published weights `timm:<name>` for pictures of `image_px`.

    `download` lets timm fetch them; without it they must be in its cache.
    """
    if not place.startswith(TIMM):
        return read_source(Path(place))
    name = place.removeprefix(TIMM)
    known = pretrained_config(name)
    config = EncoderConfig(
        "timm",
        image_px,
        1,
        timm=name,
        input_mean=tuple(known["mean"]),
        input_std=tuple(known["std"]),
    )
    state = published_weights(name, config, download)
    facts = ("hf_hub_id", "license", "origin_url", "paper_name")
    card = {"name": place, "timm": {key: known[key] for key in facts if known.get(key)}}
    return Source(place, config, state, card)


def read_source(place: Path) -> Source:
    """The source in a run folder or a file; ValueError says what is wrong with it."""
    path = place / FILE if place.is_dir() else place
    if place.is_dir() and not path.is_file():
        if not (place / "recipe.yaml").is_file():
            raise ValueError(
                f"source {place}: no run's folder, it has neither {FILE} nor recipe.yaml; a source "
                f"is a pre-training run's folder, an {FILE} or random"
            )
        raise ValueError(
            f"source {place}: no {FILE} in this folder, so its pre-training has not finished; run "
            "python -m pipelines.pretrain with its recipe to the end"
        )
    if not path.is_file():
        raise ValueError(
            f"source {place}: no such run folder or file; a source is a pre-training run's folder, "
            f"an {FILE}, random or blind"
        )
    return _own(path) or _foreign(path)


def _own(path: Path) -> Source | None:
    """A source that `write_source` wrote; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if "encoder" not in header:
                return None
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = parsed_json(header["encoder"])
        if isinstance(values, dict):
            values.pop("recompute", None)  # of files from before it was the machine's
        config = build(EncoderConfig, values, where=f"{path}, header")
        card = parsed_json(header.get("card", "{}"))
        if not isinstance(card, dict):
            raise ValueError("its card is no object")
        if config.name not in ("conv", "timm"):  # sizes of a transformer
            dim, depth, _ = config.sizes()
            check_sizes(state, dim, depth, config.patch_px)
    except ConfigError:
        raise
    except (SafetensorError, ValueError, OSError) as error:
        if path.suffix != ".safetensors":
            return None
        raise ValueError(f"source {path}: damaged, or no safetensors file ({error})") from None
    beside = path.with_name(DECODER_FILE)
    decoder = load_file(beside) if beside.is_file() else {}
    return Source(str(card.get("name", path.stem)), config, state, card, decoder)


def _foreign(path: Path) -> Source:
    found = read_foreign(path)
    card = {"name": path.stem, "family": found.family, "file": str(path), "left": len(found.left)}
    return Source(path.stem, found.config, found.state, card, found.decoder)


def encoder_of(source: Source, image_px: int, training: EncoderConfig | None = None) -> Encoder:
    """The source's encoder with its weights, for pictures of `image_px`.

    Its config, and thus shape, positions and input normalisation are the source's; drop_path, which
    only training on is about, is of the config `training`, as is nothing else of it. A tensor that
    is missing, left over or of another shape is a ValueError.
    """
    config = source.config
    if training is not None:
        config = replace(config, drop_path=training.drop_path)
    encoder = build_encoder(config)
    fill(named_by_timm(encoder), source.state, f"source {source.name}")
    if image_px % encoder.patch_px:
        raise ValueError(
            f"source {source.name}: encoder.image_px {image_px} is no multiple of the source's "
            f"patch, {encoder.patch_px} px"
        )
    encoder.image_px = image_px  # its positions are worked out from those of the source's size
    log.info("source %s: all %d tensors taken", source.name, len(source.state))
    return encoder


def fill(module: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load a state dict whole; a tensor missing, left over or of another shape is a ValueError."""
    wanted = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    counts = {n: t for n, t in module.state_dict().items() if n.endswith("num_batches_tracked")}
    state = {**counts, **state}  # files from before torch 0.4.1 do not count batches
    found = {name: tuple(t.shape) for name, t in state.items()}
    wrong = [
        f"{name} is {found.get(name, 'missing')}, needed {wanted.get(name, 'nothing of that name')}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if wrong:
        raise ValueError(
            f"{what}: {len(wrong)} of {len(wanted)} tensors do not fit, the first: {wrong[0]}"
        )
    module.load_state_dict(state)


def named_by_timm(encoder: Encoder) -> nn.Module:
    """The module whose state dict has timm's names: the encoder, or timm's model inside it."""
    return encoder.model if isinstance(encoder, TimmEncoder) else encoder
