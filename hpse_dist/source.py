"""A source: a pre-trained encoder in one file that says what it is.

`encoder.safetensors` holds the encoder's tensors under their own (timm's) names and, in its header,
the encoder's config and a card. Reading it runs no code.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hpse_dist.config import ConfigError, build, to_dict
from hpse_dist.models.encoder import Encoder, EncoderConfig, build_encoder

FILE = "encoder.safetensors"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """An encoder's tensors, its shape, and where it comes from."""

    name: str
    config: EncoderConfig
    state: dict[str, Tensor]
    card: dict[str, Any]


def write_source(
    path: Path, config: EncoderConfig, state: dict[str, Tensor], card: dict[str, Any]
) -> None:
    """Write the encoder's state dict; readers see the whole file or none."""
    header = {"format": "pt", "encoder": json.dumps(to_dict(config)), "card": json.dumps(card)}
    temporary = path.with_name(f".{path.name}.partial")
    save_file({name: t.detach().cpu().contiguous() for name, t in state.items()}, temporary, header)
    temporary.replace(path)


def read_source(place: Path) -> Source:
    """The source in a run folder or a file; ValueError says what is wrong with it."""
    path = place / FILE if place.is_dir() else place
    if place.is_dir() and not path.is_file():
        raise ValueError(
            f"source {place}: no {FILE} in this folder, so its pre-training has not finished; run "
            "python -m pipelines.pretrain with its recipe to the end"
        )
    if not path.is_file():
        raise ValueError(
            f"source {place}: no such run folder or file; a source is a pre-training run's folder, "
            f"an {FILE} or random"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = build(EncoderConfig, json.loads(header["encoder"]), where=f"{path}, header")
        card = json.loads(header.get("card", "{}"))
    except ConfigError:
        raise
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise ValueError(
            f"source {path}: not a file that hpse_dist's pre-training wrote ({error})"
        ) from None
    return Source(str(card.get("name", path.stem)), config, state, card)


def encoder_of(source: Source, image_px: int) -> Encoder:
    """The source's encoder with its weights, for pictures of `image_px`.

    A tensor that is missing, left over or of another shape is a ValueError.
    """
    encoder = build_encoder(source.config)
    wanted = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in source.state.items()}
    wrong = [
        f"{name} is {found.get(name, 'missing')}, needed {wanted.get(name, 'nothing of that name')}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if wrong:
        raise ValueError(
            f"source {source.name}: {len(wrong)} of {len(wanted)} tensors do not fit its encoder, "
            f"the first: {wrong[0]}"
        )
    if image_px % source.config.patch_px:
        raise ValueError(
            f"source {source.name}: encoder.image_px {image_px} is no multiple of the source's "
            f"patch, {source.config.patch_px} px"
        )
    encoder.load_state_dict(source.state)
    log.info("source %s: all %d tensors taken", source.name, len(wanted))
    return encoder
