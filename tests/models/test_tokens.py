"""Tokens of joints and vertices: who sees whom, and that all of the picture is read."""

from __future__ import annotations

import torch

from hpse_dist.models.tokens import JointTokens, MeshTokens


def ring(count: int) -> torch.Tensor:
    """Adjacency of vertices on a circle."""
    eye = torch.eye(count, dtype=torch.bool)
    return eye | eye.roll(1, 0) | eye.roll(-1, 0)


def test_a_vertex_sees_its_neighbours_and_all_joints() -> None:
    torch.manual_seed(0)
    network = MeshTokens(16, 3, ring(8), (16, 8), depth=1, heads=2)
    memory = torch.randn(2, 9, 16)
    camera, joints, vertices = network(memory, (3, 3))
    assert camera.shape == (2, 8) and joints.shape == (2, 3, 8) and vertices.shape == (2, 8, 8)
    # two stages of one block: news of a token goes at most two edges far, or by way of a joint
    network.mask[:3, 3:] = False  # joints see no vertices now, so they carry no news of them
    _, _, before = network(memory, (3, 3))
    with torch.no_grad():
        network.tokens[0, 3] += 5.0 * torch.randn(16)
    _, _, after = network(memory, (3, 3))
    changed = (after - before).abs().amax((0, 2)) > 1e-5
    assert changed.tolist() == [True, True, True, False, False, False, True, True]


def test_places_of_the_picture_tell_apart() -> None:
    """The same patches in another order are another picture."""
    torch.manual_seed(0)
    memory = torch.randn(2, 9, 16)
    for network in (JointTokens(16, 4, 16, 1, 2), MeshTokens(16, 4, ring(5), (16,), 1, 2)):
        one, other = network(memory, (3, 3)), network(memory.flip(1), (3, 3))
        pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
        for first, second in pairs:
            assert (first - second).abs().max() > 1e-3
