"""Other people's checkpoints: layouts as published, made small, read with full account."""

from __future__ import annotations

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from hpse_dist.config import to_dict
from hpse_dist.foreign import read_foreign
from hpse_dist.models.decoder import Decoder, DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.models.timm_encoder import timm_call
from hpse_dist.source import encoder_of, fill, open_source, read_source

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def vit(**options: Any) -> VisionTransformer:
    """timm's ViT, of 192 channels and 3 heads if no others are asked for, every tensor random."""
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 192, "depth": 2, "num_heads": 3}
    model = VisionTransformer(**sizes | {"num_classes": 0} | options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@torch.no_grad()
def tokens_of(path: Path, image: torch.Tensor = IMAGE) -> torch.Tensor:
    return encoder_of(read_source(path), image.shape[-1]).eval()(image)


@torch.no_grad()
def check(path: Path, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(tokens_of(path), wanted, rtol=1e-4, atol=1e-4)


def mae(model: VisionTransformer) -> dict[str, Any]:
    decoder = {"mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.ones(8)}
    settings = argparse.Namespace(model="mae_vit_tiny", mask_ratio=0.75)
    return {"model": model.state_dict() | decoder, "args": settings, "epoch": 3}


def dino(model: VisionTransformer) -> dict[str, Any]:
    teacher = {f"module.backbone.{k}": v for k, v in model.state_dict().items()}
    student = {f"module.backbone.{k}": v + 1 for k, v in model.state_dict().items()}
    head = {"module.head.mlp.0.weight": torch.ones(2, 2)}
    return {"student": student | head, "teacher": teacher | head, "epoch": 1}


@pytest.mark.parametrize(
    "layout", [mae, dino, lambda m: m.state_dict()], ids=["mae", "dino", "timm"]
)
def test_vits_with_a_class_token_give_timms_own_tokens(layout: Any, tmp_path: Path) -> None:
    model = vit()
    torch.save(layout(model), tmp_path / "it.pth")
    check(tmp_path / "it.pth", model.forward_features(IMAGE)[:, 1:])


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2(registers: int, tmp_path: Path) -> None:
    """Registers come after the positions are added, the class token has a position of its own."""
    model = vit(init_values=0.3, reg_tokens=registers, no_embed_class=registers > 0)
    state = {"mask_token": torch.zeros(1, 192), **model.state_dict()}
    if registers:
        position = torch.randn(1, 1, 192)
        state["register_tokens"] = state.pop("reg_token")
        state["cls_token"] = state["cls_token"] - position
        state["pos_embed"] = torch.cat((position, state["pos_embed"]), dim=1)
    torch.save(state, tmp_path / "it.pth")
    check(tmp_path / "it.pth", model.forward_features(IMAGE)[:, 1 + registers :])


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("class_token", [False, True])
def test_positions_of_patches_alone(class_token: bool, registers: int, tmp_path: Path) -> None:
    """As DeiT III's and those of timm's ViTs with registers."""
    options = {} if class_token else {"global_pool": "avg", "fc_norm": False}
    model = vit(
        class_token=class_token,
        reg_tokens=registers,
        no_embed_class=True,
        init_values=0.3,
        **options,
    )
    torch.save(model.state_dict(), tmp_path / "it.pth")
    check(tmp_path / "it.pth", model.forward_features(IMAGE)[:, class_token + registers :])
    table = torch.randn(1, 15, 192)
    torch.save(model.state_dict() | {"pos_embed": table}, tmp_path / "no_grid.pth")
    with pytest.raises(ValueError, match=r"no_grid\.pth: pos_embed: .* is no square grid"):
        read_source(tmp_path / "no_grid.pth")


def test_a_vit_without_class_token_becomes_our_own_encoder(tmp_path: Path) -> None:
    model = vit(class_token=False, global_pool="avg", fc_norm=False)
    save_file(model.state_dict(), tmp_path / "it.safetensors")
    check(tmp_path / "it.safetensors", model.forward_features(IMAGE))
    assert encoder_of(read_source(tmp_path / "it.safetensors"), 32).over_patches


def test_resnets_of_torchvision_and_moco(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    parts = [m for name, m in model.named_children() if name not in ("avgpool", "fc")]
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = torch.nn.Sequential(*parts)(image).flatten(2).transpose(1, 2)
    query = {f"module.encoder_q.{k}": v for k, v in model.state_dict().items()}
    key = {f"module.encoder_k.{k}": v + 1 for k, v in model.state_dict().items()}
    queue = {"module.queue": torch.ones(4, 8), "module.queue_ptr": torch.zeros(1)}
    torch.save({"arch": "resnet18", "state_dict": key | query | queue}, tmp_path / "moco.pth.tar")
    old = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    torch.save(old, tmp_path / "torchvision.pth")
    for name in ("moco.pth.tar", "torchvision.pth"):
        torch.testing.assert_close(tokens_of(tmp_path / name, image), wanted, rtol=1e-4, atol=1e-4)
    assert timm.is_model(read_source(tmp_path / "moco.pth.tar").config.timm)


def columns_first(side: int, dim: int) -> torch.Tensor:
    """CroCo v1's and MAE's positions (1, N, dim): columns in the first half of the channels."""
    count = dim // 4
    angles = torch.arange(side)[:, None] * 10000.0 ** -(torch.arange(count) / count)
    axis = torch.cat((angles.sin(), angles.cos()), dim=1)
    return torch.cat((axis.repeat(side, 1), axis.repeat_interleave(side, 0)), dim=1)[None]


def croco(rotary: bool) -> tuple[dict[str, torch.Tensor], Any, Decoder]:
    """CroCo's names for our encoder and decoder of 192 channels, and these with its positions."""
    torch.manual_seed(0)
    positions = "rotary" if rotary else "sincos"
    config = EncoderConfig("custom", 224, 16, 192, 2, 3, positions=positions)  # type: ignore[arg-type]
    encoder = build_encoder(config).eval()
    decoder = Decoder(DecoderConfig("custom", 64, 2, 4), encoder).eval()
    for part in (encoder, decoder):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    theirs = {}
    if not rotary:
        encoder.pos_embed, decoder.positions = columns_first(14, 192), columns_first(14, 64)
        theirs["dec_pos_embed"] = decoder.positions[0]
    for name, value in encoder.state_dict().items():
        if name == "pos_embed":
            theirs["enc_pos_embed"] = value[0]
            continue
        name = re.sub(r"^blocks", "enc_blocks", name)
        theirs[re.sub(r"^norm\.", "enc_norm.", name)] = value
    for name, value in decoder.state_dict().items():
        name = re.sub(r"^embed\.", "decoder_embed.", name)
        name = re.sub(r"^norm\.", "dec_norm.", name)
        name = re.sub(r"^blocks", "dec_blocks", name).replace("norm_memory", "norm_y")
        if "cross_attn.kv" in name:
            theirs[name.replace("kv", "projk")], theirs[name.replace("kv", "projv")] = value.chunk(
                2
            )
        elif name.startswith("head."):
            rows = [value[c * 256 + p] for p in range(256) for c in range(3)]  # pixel, then channel
            theirs[name.replace("head", "prediction_head")] = torch.stack(rows)
        else:
            theirs[name.replace("cross_attn.q.", "cross_attn.projq.")] = value
    return theirs, encoder, decoder


@pytest.mark.parametrize("rotary", [False, True], ids=["v1", "v2"])
def test_croco_gives_its_encoder_and_its_decoder(rotary: bool, tmp_path: Path) -> None:
    theirs, encoder, decoder = croco(rotary)
    torch.save({"model": theirs, "croco_kwargs": {"pos_embed": "RoPE100"}}, tmp_path / "croco.pth")
    source = read_source(tmp_path / "croco.pth")
    assert source.config.positions == ("rotary" if rotary else "sincos")
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(encoder_of(source, 224).eval()(image), encoder(image))
    again = Decoder(DecoderConfig("custom", 64, 2, 4), encoder).eval()
    fill(again, source.decoder, "decoder")
    order = torch.randperm(196)[None]
    seen, other = torch.randn(1, 50, 192), torch.randn(1, 196, 192)
    inputs = (seen, order[:, :50], order[:, 50:], other, (14, 14), (14, 14))
    with torch.no_grad():
        torch.testing.assert_close(again(*inputs), decoder(*inputs), rtol=1e-4, atol=1e-4)
    if rotary:  # v1's channels are in another order
        for name, value in decoder.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
    wrong = Decoder(DecoderConfig("custom", 64, 1, 4), encoder)
    with pytest.raises(ValueError, match=r"do not fit, the first: blocks\.1"):
        fill(wrong, source.decoder, "decoder")


def vitpose(model: VisionTransformer, table: torch.Tensor) -> dict[str, Any]:
    """ViTPose's names for a model of timm's, with positions of 16 x 12 patches and one for all."""
    state = {f"backbone.{k}": v for k, v in model.state_dict().items() if "norm." not in k[:5]}
    state |= {"backbone.pos_embed": table, "keypoint_head.final_layer.bias": torch.ones(17)}
    state |= {f"backbone.last_norm.{k}": v for k, v in model.norm.state_dict().items()}
    return {"state_dict": state, "meta": {"epoch": 1}}


def test_vitpose_keeps_its_positions_where_they_were(tmp_path: Path) -> None:
    model = vit(class_token=False, global_pool="avg", fc_norm=False)
    table = torch.randn(1, 16 * 12 + 1, 192)
    torch.save(vitpose(model, table), tmp_path / "vitpose.pth")
    source = read_source(tmp_path / "vitpose.pth")
    mine = source.state["pos_embed"].unflatten(1, (16, 16))
    for row, column in ((0, 0), (3, 11), (15, 5)):
        wanted = table[0, 1 + row * 12 + column] + table[0, 0]
        torch.testing.assert_close(mine[0, row, column + 2], wanted)
    torch.testing.assert_close(mine[0, 4, 0], mine[0, 4, 2])
    assert encoder_of(source, 64)(torch.randn(1, 3, 64, 64)).shape == (1, 64, 192)


@torch.no_grad()
def test_vitpose_s_has_twelve_heads(tmp_path: Path) -> None:
    sizes = {"img_size": 128, "embed_dim": 384, "depth": 1, "num_heads": 12}
    model = vit(class_token=False, global_pool="avg", fc_norm=False, **sizes)
    model.pos_embed.zero_()
    torch.save(vitpose(model, torch.zeros(1, 16 * 12 + 1, 384)), tmp_path / "vitpose_s.pth")
    image = torch.randn(2, 3, 128, 128)
    wanted = model.forward_features(image)
    torch.testing.assert_close(
        tokens_of(tmp_path / "vitpose_s.pth", image), wanted, rtol=1e-4, atol=1e-4
    )


class Harm:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/hpse_dist_was_harmed",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": vit().state_dict(), "extra": Harm()}, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad.pth: refused, it asks for posix.system"):
        read_source(tmp_path / "bad.pth")
    assert not Path("/tmp/hpse_dist_was_harmed").exists()


def test_what_matches_too_little_is_an_error(tmp_path: Path) -> None:
    state = vit().state_dict()
    del state["blocks.1.mlp.fc1.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"1 of 30 tensors do not fit, the first: blocks.1.mlp"):
        encoder_of(read_source(tmp_path / "part.pth"), 32)
    torch.save({"some.weight": torch.ones(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="are those of no encoder that can be read"):
        read_foreign(tmp_path / "other.pth")
    torch.save(vit().state_dict() | {(1, 2): torch.ones(3)}, tmp_path / "tuple.pth")
    assert len(read_foreign(tmp_path / "tuple.pth").state) == 30
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pth: "):
        read_source(tmp_path / "text.pth")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    with pytest.raises(ValueError, match=r"photo\.jpg: refused, it is no file of torch's"):
        read_source(tmp_path / "photo.jpg")


def test_sizes_that_the_file_does_not_hold_are_refused(tmp_path: Path) -> None:
    """Else a small file could ask for all memory there is."""
    state, name = vit().state_dict(), "patch_embed.proj.weight"
    torch.save(state | {name: torch.zeros(1).expand(10**6, 3, 8, 8)}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=rf"wide\.pth: {name} of shape .* repeats"):
        read_foreign(tmp_path / "wide.pth")
    torch.save(state | {"blocks.999999999.norm1.bias": torch.ones(192)}, tmp_path / "deep.pth")
    with pytest.raises(ValueError, match=r"deep\.pth: dim 192, depth 1000000000 .* than the file"):
        read_foreign(tmp_path / "deep.pth")


def test_other_sizes_resample_the_positions(tmp_path: Path) -> None:
    torch.save(vit().state_dict(), tmp_path / "it.pth")
    assert tokens_of(tmp_path / "it.pth", torch.randn(1, 3, 64, 64)).shape == (1, 64, 192)


@pytest.mark.parametrize(
    "config",
    [
        EncoderConfig("custom", 32, 8, 192, 2, 3, positions="sincos"),
        EncoderConfig("timm", 32, 8, 192, 2, 3, timm="vit", class_token=True, layer_scale=True),
        EncoderConfig("timm", 64, timm="resnet18"),
        EncoderConfig("timm", 64, timm="resnet18", output_stride=16),
        EncoderConfig("timm", 64, timm="vit_tiny_patch16_224", class_token=True),
    ],
    ids=["sincos", "vit", "resnet", "dilated", "sized"],
)
def test_an_exported_encoder_opens_in_timm(config: EncoderConfig) -> None:
    encoder = build_encoder(config).eval()
    call = timm_call(config)
    assert call is not None
    theirs = eval(call, {"timm": timm}).eval()
    state = encoder.model.state_dict() if config.name == "timm" else encoder.state_dict()
    theirs.load_state_dict(state)
    image = torch.randn(2, 3, config.image_px, config.image_px)
    with torch.no_grad():
        features = theirs.forward_features(image)
        if features.ndim == 4:
            features = features.flatten(2).transpose(1, 2)
        elif config.class_token:
            features = features[:, 1:]
        torch.testing.assert_close(encoder(image), features, rtol=1e-4, atol=1e-4)


def test_a_finer_stride() -> None:
    coarse, fine = (
        build_encoder(EncoderConfig("timm", 64, timm="resnet18", output_stride=stride))
        for stride in (None, 16)
    )
    image = torch.randn(1, 3, 64, 64)
    assert coarse.grid(image) == (2, 2) and fine.grid(image) == (4, 4)
    assert fine(image).shape[1] == 16
    with pytest.raises(ValueError, match="one stride only"):
        build_encoder(EncoderConfig("timm", 64, timm="mobilenetv3_small_100", output_stride=16))
    with pytest.raises(ValueError, match="convolutional"):
        EncoderConfig("vit_t", 64, output_stride=16)


def test_a_norm_behind_the_pool_is_not_taken_for_one_of_tokens(tmp_path: Path) -> None:
    model = vit(class_token=False, reg_tokens=4, no_embed_class=True, global_pool="avg")
    assert isinstance(model.norm, torch.nn.Identity)
    torch.save(model.state_dict(), tmp_path / "gap.pth")
    with pytest.raises(ValueError, match=r"gap\.pth: .*fc_norm in place of norm.* by timm only"):
        read_source(tmp_path / "gap.pth")
    encoder = build_encoder(EncoderConfig("timm", 64, timm="vit_wee_patch16_reg1_gap_256")).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder(image), encoder.model.forward_features(image)[:, 1:])  # type: ignore[operator]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "px", "tokens"),
    [
        ("swin_tiny_patch4_window7_224", 224, lambda found: found.flatten(1, 2)),
        ("pvt_v2_b0", 64, lambda found: found.flatten(2).transpose(1, 2)),
        ("vit_tiny_r_s16_p8_224", 64, lambda found: found[:, 1:]),
    ],
    ids=["channels_last", "stages", "convolutional_stem"],
)
def test_tokens_are_the_places_of_the_last_map(name: str, px: int, tokens: Any) -> None:
    encoder = build_encoder(EncoderConfig("timm", px, 1, timm=name)).eval()
    image = torch.randn(1, 3, px, px)
    found = encoder(image)
    assert torch.equal(found, tokens(encoder.model.forward_features(image)))  # type: ignore[operator]
    side = px // 32
    assert encoder.grid(image) == (side, side) and found.shape == (1, side * side, encoder.dim)


@torch.no_grad()
def test_models_whose_tokens_are_no_map_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pit_ti_224 gives 1 tokens of 256 .* not the 7 x 7"):
        build_encoder(EncoderConfig("timm", 224, 1, timm="pit_ti_224"))
    with pytest.raises(ValueError, match="repvit_m0_9 cannot be made with drop_path"):
        build_encoder(EncoderConfig("timm", 224, 1, timm="repvit_m0_9"))


@pytest.mark.parametrize(
    ("name", "tokens"), [("levit_128s", 1), ("vit_relpos_small_patch16_224", 16)]
)
def test_positions_at_another_size(name: str, tokens: int) -> None:
    """Tables of a size of pictures: timm says of each model whether it has such."""
    encoder = build_encoder(EncoderConfig("timm", 64, timm=name)).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, 64, 64)).shape == (1, tokens, encoder.dim)


def test_a_model_of_one_size_is_refused_at_another() -> None:
    with pytest.raises(
        ValueError,
        match=r"image_px: timm's efficientformer_l1 gives no map .* 128 px; it is made for 224",
    ):
        build_encoder(EncoderConfig("timm", 128, timm="efficientformer_l1"))


def test_windows_at_another_size() -> None:
    """They are made for a size of pictures, which timm must be told."""
    encoder = build_encoder(EncoderConfig("timm", 64, timm="swin_tiny_patch4_window7_224")).eval()
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert encoder.patch_px == 32 and encoder.grid(image) == (2, 2)
    with torch.no_grad():
        features = encoder.model.forward_features(image)  # type: ignore[operator, union-attr]
        torch.testing.assert_close(encoder(image)[0, 1], features[0, 0, 1])  # right above


def test_timms_weights_are_not_fetched_unasked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(ValueError, match=r"timm:resnet50: .* machine.download=true"):
        open_source("timm:resnet50", 64)
    with pytest.raises(ValueError, match="timm has no model 'resnet5000'"):
        open_source("timm:resnet5000", 64)


def test_another_normalisation_is_undone_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures come in ImageNet's normalisation, whatever the model was trained with."""
    half = (0.5, 0.5, 0.5)
    config = EncoderConfig("timm", 64, timm="resnet18", input_mean=half, input_std=half)
    encoder = build_encoder(config).eval()
    rgb = torch.rand(1, 3, 64, 64)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        wanted = encoder.model.forward_features((rgb - 0.5) / 0.5)  # type: ignore[operator]
        found = encoder((rgb - mean) / std)
    torch.testing.assert_close(found, wanted.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3)


def test_a_source_from_when_recomputing_was_the_encoders(tmp_path: Path) -> None:
    config = EncoderConfig("custom", 32, 8, dim=16, depth=1, heads=2)
    state, path = build_encoder(config).state_dict(), tmp_path / "encoder.safetensors"
    header = {"encoder": json.dumps({**to_dict(config), "recompute": True}), "card": "{}"}
    save_file(state, path, header)
    assert read_source(path).config == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"card": "[]"}, "its card is no object"),
        ({"encoder": {"depth": 10**6}}, "depth 1000000 .* need more than the file holds"),
    ],
)
def test_headers_of_our_own_that_claim_too_much(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    sizes = {"name": "custom", "image_px": 32, "patch_px": 8, "dim": 32, "depth": 1, "heads": 2}
    sizes |= change.get("encoder", {})
    header = {"encoder": json.dumps(sizes), "card": change.get("card", "{}")}
    save_file({"norm.weight": torch.ones(99_999)}, tmp_path / "a.safetensors", header)
    with pytest.raises(ValueError, match=rf"a\.safetensors: damaged.*{said}"):
        read_source(tmp_path / "a.safetensors")
