"""Learned tokens, one for each joint or vertex, that read an encoder's tokens and one another.

The network of FastMETRO (Cho et al., Cross-Attention of Disentangled Modalities for 3D Human Mesh
Recovery with Transformers, ECCV 2022): a camera token joins the picture's tokens in the stage's
encoder; joint and vertex tokens are the queries of its decoder, where a vertex sees the joints and
its neighbours on the mesh only. Stages grow narrower. Without dropout, as the other heads here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hpse_dist.models.blocks import Block, CrossBlock, init_weights, layer_norm
from hpse_dist.models.heads import fixed_positions
from hpse_dist.models.positions import Grid


class JointTokens(nn.Module):
    """A token for each joint: self-attention, cross-attention to the picture and MLP, repeated."""

    def __init__(self, memory_dim: int, num_tokens: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(memory_dim, dim)
        self.tokens = nn.Parameter(torch.empty(1, num_tokens, dim))
        self.blocks = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))
        self.norm = layer_norm(dim)
        init_weights(self.modules())
        nn.init.normal_(self.tokens, std=0.02)

    def forward(self, tokens: Tensor, grid: Grid) -> Tensor:
        """tokens (B, N, C) of rows and columns `grid` -> (B, num_tokens, dim)."""
        memory = self.embed(tokens)
        memory = memory + fixed_positions(grid, memory)
        x = self.tokens.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, memory)
        return self.norm(x)


class MeshStage(nn.Module):
    """One width of `MeshTokens`: blocks over camera and picture, then over joints and vertices."""

    def __init__(self, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.encode = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.decode = nn.ModuleList(CrossBlock(dim, heads) for _ in range(depth))

    def forward(self, memory: Tensor, queries: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """memory (B, 1 + N, C), the camera first; queries (B, J + V, C) -> the same, both.

        Queries read the picture's tokens, not the camera's.
        """
        for block in self.encode:
            memory = block(memory)
        for block in self.decode:
            queries = block(queries, memory[:, 1:], mask=mask)
        return memory, queries


class MeshTokens(nn.Module):
    """Camera, joints and coarse vertices of a mesh from an encoder's tokens."""

    mask: Tensor

    def __init__(
        self,
        memory_dim: int,
        num_joints: int,
        adjacency: Tensor,
        dims: Sequence[int],
        depth: int,
        heads: int,
    ) -> None:
        """adjacency (V, V) bool: which vertices see one another, each itself among them."""
        super().__init__()
        self.num_joints, count = num_joints, num_joints + len(adjacency)
        mask = torch.ones(count, count, dtype=torch.bool)
        mask[num_joints:, num_joints:] = adjacency
        self.register_buffer("mask", mask, persistent=False)
        self.embed = nn.Linear(memory_dim, dims[0])
        self.camera = nn.Parameter(torch.empty(1, 1, dims[0]))
        self.tokens = nn.Parameter(torch.empty(1, count, dims[0]))
        self.stages = nn.ModuleList(MeshStage(dim, depth, heads) for dim in dims)
        steps = list(itertools.pairwise(dims))
        self.narrow_memory = nn.ModuleList(nn.Linear(*step) for step in steps)
        self.narrow_tokens = nn.ModuleList(nn.Linear(*step) for step in steps)
        self.norm_camera, self.norm = layer_norm(dims[-1]), layer_norm(dims[-1])
        init_weights(self.modules())
        nn.init.normal_(self.camera, std=0.02)
        nn.init.normal_(self.tokens, std=0.02)

    def forward(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """tokens (B, N, C) of rows and columns `grid` -> camera (B, D), joints (B, J, D) and
        vertices (B, V, D)."""
        memory = self.embed(tokens)
        memory = memory + fixed_positions(grid, memory)
        memory = torch.cat((self.camera.to(memory.dtype).expand(len(memory), -1, -1), memory), 1)
        queries = self.tokens.expand(len(memory), -1, -1)
        for number, stage in enumerate(self.stages):
            if number > 0:
                memory = self.narrow_memory[number - 1](memory)
                queries = self.narrow_tokens[number - 1](queries)
            memory, queries = stage(memory, queries, self.mask)
        queries = self.norm(queries)
        joints, vertices = queries[:, : self.num_joints], queries[:, self.num_joints :]
        return self.norm_camera(memory[:, 0]), joints, vertices
