"""Completion as a careful researcher writes it from the papers, to measure this project's against.

Plain eager torch, in the shape of the published implementations: every patch is embedded and the
visible ones are gathered, the two pictures go through the encoder one after the other, attention
is written out (scores, softmax, sum), rotary angles are looked up in a table made once, every block
of the decoder and its head run over all patches, targets are made for all patches, and the mean is
taken with the mask. What it shares with ours costs a step nothing to speak of: the draw of the
masks and the cutting into patches. Parameters carry our names, so that the weights of `Completion`
load as they are, and loss and gradients are the same numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpse_dist import masking
from hpse_dist.fields import Batch
from hpse_dist.models.positions import grid_positions, sincos_table
from hpse_dist.objectives.completion import Completion


class PlainRotary(nn.Module):
    """Rotary positions in two dimensions, as CroCo v2's: x * cos + rotated(x) * sin per axis."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, side: int, base: float = 100.0) -> None:
        """side: rows and columns of patches."""
        super().__init__()
        half = head_dim // 2
        frequencies = base ** -(torch.arange(0, half, 2).float() / half)
        angles = torch.outer(torch.arange(side).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """tokens (B, H, N, D), positions (B, N, 2) -> (B, H, N, D)."""
        y, x = tokens.chunk(2, dim=-1)
        return torch.cat((self.axis(y, positions[..., 0]), self.axis(x, positions[..., 1])), -1)

    def axis(self, tokens: Tensor, place: Tensor) -> Tensor:
        cos, sin = F.embedding(place, self.cos)[:, None], F.embedding(place, self.sin)[:, None]
        first, second = tokens.chunk(2, dim=-1)
        return tokens * cos + torch.cat((-second, first), -1) * sin


class PlainAttention(nn.Module):
    """Self-attention with its scores written out."""

    def __init__(self, dim: int, heads: int, rotary: PlainRotary | None) -> None:
        super().__init__()
        self.heads, self.scale, self.rotary = heads, (dim // heads) ** -0.5, rotary
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        batch, num, dim = x.shape
        qkv = self.qkv(x).reshape(batch, num, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary is not None:
            q, k = self.rotary(q, positions), self.rotary(k, positions)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, num, dim))


class PlainCrossAttention(nn.Module):
    """The same from one picture's tokens to another's."""

    def __init__(self, dim: int, heads: int, rotary: PlainRotary | None) -> None:
        super().__init__()
        self.heads, self.scale, self.rotary = heads, (dim // heads) ** -0.5, rotary
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, places: Tensor, memory_places: Tensor) -> Tensor:
        batch, num, dim = x.shape
        q = self.q(x).reshape(batch, num, self.heads, -1).transpose(1, 2)
        kv = self.kv(memory).reshape(batch, memory.shape[1], 2, self.heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary is not None:
            q, k = self.rotary(q, places), self.rotary(k, memory_places)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, num, dim))


class PlainMlp(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class PlainBlock(nn.Module):
    def __init__(self, dim: int, heads: int, rotary: PlainRotary | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, heads, rotary)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PlainMlp(dim)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), positions)
        return x + self.mlp(self.norm2(x))


class PlainCrossBlock(nn.Module):
    def __init__(self, dim: int, heads: int, rotary: PlainRotary | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = PlainAttention(dim, heads, rotary)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.norm_memory = nn.LayerNorm(dim, eps=1e-6)
        self.cross_attn = PlainCrossAttention(dim, heads, rotary)
        self.norm3 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = PlainMlp(dim)

    def forward(self, x: Tensor, memory: Tensor, places: Tensor, memory_places: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), places)
        memory = self.norm_memory(memory)
        x = x + self.cross_attn(self.norm2(x), memory, places, memory_places)
        return x + self.mlp(self.norm3(x))


class PlainPatches(nn.Module):
    def __init__(self, patch_px: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_px, patch_px)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class PlainEncoder(nn.Module):
    pos_embed: Tensor | None

    def __init__(self, ours: Completion) -> None:
        super().__init__()
        config = ours.encoder.config
        dim, depth, heads = config.sizes()
        rotary = (
            PlainRotary(dim // heads, max(config.grid())) if config.positions == "rotary" else None
        )
        table = sincos_table(config.grid(), dim) if rotary is None else None
        self.patch_embed = PlainPatches(config.patch_px, dim)
        self.register_buffer("pos_embed", table)
        self.blocks = nn.ModuleList(PlainBlock(dim, heads, rotary) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, image: Tensor, positions: Tensor, visible: Tensor | None) -> Tensor:
        """All tokens of image (B, 3, H, W), or those where `visible` (B, N) bool is True."""
        x = self.patch_embed(image)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        if visible is not None:
            x = x[visible].reshape(len(x), -1, x.shape[-1])
            positions = positions[visible].reshape(len(x), -1, 2)
        for block in self.blocks:
            x = block(x, positions)
        return self.norm(x)


class PlainDecoder(nn.Module):
    positions: Tensor | None

    def __init__(self, ours: Completion) -> None:
        super().__init__()
        config = ours.encoder.config
        dim, depth, heads = ours.config.decoder.sizes()
        rotary = (
            PlainRotary(dim // heads, max(config.grid())) if config.positions == "rotary" else None
        )
        table = sincos_table(config.grid(), dim) if rotary is None else None
        self.register_buffer("positions", table, persistent=False)
        self.embed = nn.Linear(ours.encoder.dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(PlainCrossBlock(dim, heads, rotary) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, 3 * config.patch_px**2)

    def forward(self, tokens: Tensor, mask: Tensor, memory: Tensor, places: Tensor) -> Tensor:
        """Pixels of all patches: tokens (B, K, C) of those where mask (B, N) is False."""
        known = self.embed(tokens)
        x = self.mask_token.expand(*mask.shape, -1).clone()
        x[~mask] = known.flatten(0, 1).to(x.dtype)  # autocast's are halves
        memory = self.embed(memory)
        if self.positions is not None:
            x, memory = x + self.positions, memory + self.positions
        for block in self.blocks:
            x = block(x, memory, places, places)
        return self.head(self.norm(x))


class PlainCompletion(nn.Module):
    """The model, its masks and its loss; `ours` gives sizes, and masks by the same draws."""

    def __init__(self, ours: Completion) -> None:
        super().__init__()
        self.encoder = PlainEncoder(ours)
        self.decoder = PlainDecoder(ours)
        self.config, self.seed, self.patch_px = ours.config, ours.seed, ours.encoder.patch_px
        self.load_state_dict(ours.state_dict())

    def forward(self, batch: Batch) -> Tensor:
        """The loss, which is `Completion`'s."""
        image, reference, config = batch["image"], batch["image_ref"], self.config
        grid = (image.shape[2] // self.patch_px, image.shape[3] // self.patch_px)
        mask = masking.hidden_patches(
            batch.get("person"),
            config.mask_ratio,
            config.person_ratio,
            self.seed,
            batch["epoch"],
            batch["sample_id"],
            grid=grid,
            person_min=config.person_patch_min,
            rule=config.count_rule,
        )
        places = grid_positions(grid, image.device).expand(len(image), -1, -1)
        tokens = self.encoder(image, places, ~mask)
        memory = self.encoder(reference, places, None)
        prediction = self.decoder(tokens, mask, memory, places)
        errors = self.errors(prediction, image, mask) * batch["pair_weight"]
        view, pose = ((errors * (batch["pair_kind"] == kind)).mean() for kind in (0, 1))
        return config.view_weight * view + config.pose_weight * pose

    def errors(self, prediction: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """Each sample's mean squared error over its hidden patches, (B,)."""
        targets = masking.patchify(image, self.patch_px)
        if self.config.normalise_targets:
            mean, variance = targets.mean(-1, keepdim=True), targets.var(-1, keepdim=True)
            targets = (targets - mean) / (variance + 1e-6) ** 0.5
        each = F.mse_loss(prediction, targets, reduction="none").mean(dim=-1)
        return (each * mask).sum(dim=1) / mask.sum(dim=1)
