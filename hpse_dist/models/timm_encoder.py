"""timm's models as encoders: the only module that imports timm, and late: all its models take a
second to import, which every worker would spend at each start, and most train another encoder.

A model keeps everything of its own (class and register tokens, scales of layers, batch norms); what
comes out are its tokens of patches, or the cells of its last feature map row by row.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import Tensor, nn

from hpse_dist.fields import IMAGE_MEAN, IMAGE_STD
from hpse_dist.models.batch_norm import over_all_ranks
from hpse_dist.models.drop_path import DropKeys, DropPath
from hpse_dist.models.positions import Grid

VIT = "vit"  # stands for a vision transformer of the config's own sizes
_OF_A_SIZE = re.compile("vit|deit|eva|beit|swin")  # whether timm has published weights or not


class TimmEncoder(nn.Module):
    """A timm model whose tokens are read like an `Encoder`'s; it cannot leave patches out."""

    over_patches = False
    scale: Tensor
    shift: Tensor

    def __init__(self, config: Any) -> None:
        """config: an EncoderConfig with name 'timm'."""
        super().__init__()
        self.config = config
        self.drop_keys = DropKeys()
        model: Any = _keyed(over_all_ranks(_create(config)), self.drop_keys)
        self.model = model
        self.prefix: int = getattr(model, "num_prefix_tokens", 0)
        self.channels_last = getattr(model, "output_fmt", "") == "NHWC"  # Swin's maps
        self.image_px, self.patch_px = config.image_px, _reduction(model)
        if config.image_px % self.patch_px:
            raise ValueError(
                f"image_px must be a multiple of {self.patch_px}, the step of {config.timm}; found "
                f"{config.image_px}"
            )
        self.dim = int(model.num_features)
        mean, std = config.input_mean or IMAGE_MEAN, config.input_std or IMAGE_STD
        scale = torch.tensor(IMAGE_STD) / torch.tensor(std)
        shift = (torch.tensor(IMAGE_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.same_input = tuple(mean) == IMAGE_MEAN and tuple(std) == IMAGE_STD
        self.register_buffer("scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(3, 1, 1), persistent=False)
        if config.timm != VIT and _has_size(config.timm) and not _OF_A_SIZE.match(config.timm):
            self._try_out()

    def forward(self, image: Tensor, visible: Tensor | None = None) -> Tensor:
        """image (B, 3, H, W) in the loader's normalisation -> (B, N, C), row by row."""
        if visible is not None:
            raise ValueError(f"{self.config.timm} looks at whole pictures, not at some patches")
        rows, columns = self.grid(image)
        if not self.same_input:
            image = image * self.scale + self.shift
        tokens = self.model.forward_features(image)
        if not isinstance(tokens, Tensor) or tokens.ndim not in (3, 4):
            raise ValueError(f"encoder.timm: {self.config.timm} gives no map and no tokens of one")
        if tokens.ndim == 3:
            tokens = tokens[:, self.prefix :]
        elif self.channels_last:
            tokens = tokens.flatten(1, 2)
        else:
            tokens = tokens.flatten(2).transpose(1, 2)
        if tokens.shape[1:] != (rows * columns, self.dim):
            raise ValueError(
                f"encoder.timm: {self.config.timm} gives {tokens.shape[1]} tokens of "
                f"{tokens.shape[2]} channels, which are not the {rows} x {columns} places of its "
                f"last map with {self.dim}; choose another model"
            )
        return tokens

    def _try_out(self) -> None:
        """One black picture: not every timm model of one size can be told another (ValueError)."""
        side = self.image_px
        self.eval()
        try:
            with torch.no_grad():
                self(torch.zeros(1, 3, side, side))
        except (AssertionError, AttributeError, RuntimeError) as error:
            name, own = self.config.timm, pretrained_config(self.config.timm)["input_size"][-1]
            hope = f"it is made for {own}" if own != side else "choose another model"
            raise ValueError(
                f"encoder.image_px: timm's {name} gives no map of pictures of {side} px; {hope} "
                f"({str(error).splitlines()[0]})"
            ) from error
        self.train()

    def grid(self, image: Tensor) -> Grid:
        """Rows and columns of tokens of a picture (B, 3, H, W)."""
        height, width = image.shape[-2:]
        if height % self.patch_px or width % self.patch_px:
            raise ValueError(
                f"image: its height and width must be multiples of {self.patch_px} px; found "
                f"{height} x {width}"
            )
        return height // self.patch_px, width // self.patch_px


def pretrained_config(name: str) -> dict[str, Any]:
    """What timm knows of a model's published weights: where they are, input size, mean and std.

    ValueError for a name that timm does not have.
    """
    import timm

    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ValueError(f"timm has no model {name!r}{hint}")
    found = timm.get_pretrained_cfg(name)
    if found is None:
        raise ValueError(f"timm has no published weights of {name!r}")
    return dict(found.to_dict())


def published_weights(name: str, config: Any, download: bool) -> dict[str, Tensor]:
    """The state dict of timm's published weights: from its cache, or fetched if that was asked for.

    config: the EncoderConfig that they are for.
    """
    import huggingface_hub
    import timm

    known = pretrained_config(name)
    repository = known.get("hf_hub_id")
    cached = [
        huggingface_hub.try_to_load_from_cache(repository, file)
        for file in ("model.safetensors", "pytorch_model.bin")
        if repository
    ]
    if not download and not any(isinstance(path, str) for path in cached):
        raise ValueError(
            f"source timm:{name}: its weights are not on this machine; machine.download=true "
            f"fetches them through timm (from {repository or known.get('url')})"
        )
    options: dict[str, Any] = {"img_size": config.image_px} if _has_size(name) else {}
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **options)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"source timm:{name}: its weights could not be fetched: {error}") from None
    return dict(model.state_dict())


def timm_call(config: Any) -> str | None:
    """The timm call that makes the model which an encoder's state dict fits, with equal outputs of
    `forward_features`; None for what timm has not: encoder conv, and rotary positions, which its
    ViTs turn in another order."""
    if config.name == "timm" and config.timm != VIT:
        stride = f", output_stride={config.output_stride}" if config.output_stride else ""
        size = f", img_size={config.image_px}" if _has_size(config.timm) else ""
        return f"timm.create_model({config.timm!r}, num_classes=0{stride}{size})"
    if config.name == "conv" or (config.name != "timm" and config.positions == "rotary"):
        return None
    dim, depth, heads = config.sizes()
    options = {
        "img_size": config.image_px,
        "patch_size": config.patch_px,
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "class_token": config.class_token,
        "reg_tokens": config.registers,
        "no_embed_class": config.registers > 0,
        "init_values": 1.0 if config.layer_scale else None,
        "global_pool": "token" if config.class_token else "avg",
        "fc_norm": False,
        "num_classes": 0,
    }
    words = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"timm.create_model('vit_base_patch16_224', {words})"


def _create(config: Any) -> nn.Module:
    import timm

    try:
        if config.timm == VIT:
            return _vit(config)
        options: dict[str, Any] = {}
        if _has_size(config.timm):
            options = {"img_size": config.image_px}
        if _has_any_size(config.timm):
            options["dynamic_img_size"] = True
        if config.output_stride is not None:
            options["output_stride"] = config.output_stride
        model: nn.Module = timm.create_model(
            config.timm, num_classes=0, drop_path_rate=config.drop_path, **options
        )
    except RuntimeError as error:
        raise ValueError(f"encoder.timm: {error}; the names are those of timm") from None
    except TypeError as error:
        if config.output_stride is None:
            raise ValueError(
                f"encoder.timm: {config.timm} cannot be made with drop_path, as all encoders are "
                f"({error}); choose another model"
            ) from error
        raise ValueError(
            f"encoder.output_stride: {config.timm} has one stride only; set it to null"
        ) from error
    return model


def _vit(config: Any) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    dim, depth, heads = config.sizes()
    return VisionTransformer(
        img_size=config.image_px,
        patch_size=config.patch_px,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        class_token=config.class_token,
        reg_tokens=config.registers,
        no_embed_class=config.registers > 0,
        init_values=1.0 if config.layer_scale else None,
        global_pool="token" if config.class_token else "avg",
        fc_norm=False,
        drop_path_rate=config.drop_path,
        dynamic_img_size=True,
    )


def _keyed(model: nn.Module, keys: DropKeys) -> nn.Module:
    """The model with its drop paths replaced by those that draw by sample."""
    from timm.layers import DropPath as TimmDropPath

    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, TimmDropPath):
                setattr(parent, name, DropPath(float(part.drop_prob or 0.0), keys))
    return model


def _reduction(model: nn.Module) -> int:
    """Pixels of the picture to a token, along one side."""
    # a stem of convolutions, or later stages, come on top of the patches' own step
    info = getattr(model, "feature_info", None)
    if isinstance(info, list) and info and info[-1].get("reduction") is not None:
        return int(info[-1]["reduction"])
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if size is None:
        raise ValueError(f"{type(model).__name__}: timm does not say how large its patches are")
    return int(size[0] if isinstance(size, tuple | list) else size)


@functools.cache
def _has_size(name: str) -> bool:
    """Whether the model is made for a size of pictures: its positions or windows must be told."""
    import timm

    known = timm.get_pretrained_cfg(name)
    return _OF_A_SIZE.match(name) is not None or bool(known and known.fixed_input_size)


def _has_any_size(name: str) -> bool:
    """Whether it then takes pictures of other sizes too, if told so; relative positions do not."""
    return re.match("vit(?!_s?relpos)|deit|eva", name) is not None
