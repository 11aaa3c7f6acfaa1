"""Bodies and hands over made-up files: agreement with smplx's own classes, precision, gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import smplx
import torch
from smplx.utils import Struct

from hpse_dist.body.joints import SMPL24
from hpse_dist.body.model import Body, Hand, load_body, load_hand, mended_left
from hpse_dist.geometry.rotations import axis_angle_to_matrix
from tests.body.made_files import SMPLX_PARENTS, made_body, made_hand

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _inputs(batch: int = 4, pose: int = 69) -> Inputs:
    sizes = (3, pose, 10, 3)
    return tuple(torch.randn(batch, size) * 0.5 for size in sizes)  # type: ignore[return-value]


def test_smplx_loads_the_same_file_to_the_same_body() -> None:
    arrays = {name: array.astype(np.float32) for name, array in made_body().items()}
    anywhere = dict.fromkeys(smplx.vertex_ids.vertex_ids["smplh"], 0)
    theirs = smplx.SMPL("", data_struct=Struct(**arrays), vertex_ids=anywhere, batch_size=4)
    orient, pose, betas, transl = _inputs()
    wanted = theirs(global_orient=orient, body_pose=pose, betas=betas, transl=transl)
    found = Body(arrays)(orient, pose, betas, transl)
    assert found.joints.shape == (4, 24, 3)
    assert torch.allclose(found.vertices, wanted.vertices, atol=1e-5)
    assert torch.allclose(found.joints, wanted.joints[:, :24], atol=1e-5)


def test_smplx_loads_the_same_hand() -> None:
    arrays = {name: array.astype(np.float32) for name, array in made_hand().items()}
    arrays["hands_components"] = np.eye(45, dtype=np.float32)
    theirs = smplx.MANO("", data_struct=Struct(**arrays), use_pca=False, batch_size=4)
    orient, pose, betas, transl = _inputs(pose=45)
    wanted = theirs(global_orient=orient, hand_pose=pose, betas=betas, transl=transl)
    found = Hand(arrays)(orient, pose, betas, transl)
    assert torch.allclose(found.vertices, wanted.vertices, atol=1e-5)
    assert torch.allclose(found.joints[:, :16], wanted.joints, atol=1e-5)
    assert torch.equal(found.joints[:, 16], found.vertices[:, 745])  # the thumb's tip


def test_matrices_give_the_same_as_axis_angles() -> None:
    body = Body(made_body())
    orient, pose, betas, transl = _inputs()
    matrices = axis_angle_to_matrix(torch.cat([orient, pose], dim=1).unflatten(1, (24, 3)))
    for one, other in zip(
        body(orient, pose, betas, transl),
        body.forward_matrices(matrices, betas, transl),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_zero_pose_is_the_template_and_rest_joints_are_its_joints() -> None:
    arrays = made_body()
    body = Body(arrays)
    betas = torch.randn(2, 10)
    zero = body(torch.zeros(2, 3), torch.zeros(2, 69), betas, torch.zeros(2, 3))
    shaped = arrays["v_template"] + np.einsum("vck,bk->bvc", arrays["shapedirs"], betas.numpy())
    assert np.allclose(zero.vertices.numpy(), shaped, atol=1e-5)
    assert torch.allclose(zero.joints, body.rest_joints(betas), atol=1e-5)


def test_gradients_reach_every_input_and_are_finite_at_rest() -> None:
    body = Body(made_body())
    inputs = [torch.zeros(2, size, requires_grad=True) for size in (3, 69, 10, 3)]
    output = body(*inputs)
    (output.vertices.square().sum() + output.joints.square().sum()).backward()
    for one in inputs:
        assert torch.isfinite(one.grad).all()
        assert (one.grad != 0).any()


def test_a_cast_to_bfloat16_or_autocast_leaves_the_body_precise() -> None:
    body = Body(made_body())
    inputs = _inputs()
    wanted = body(*inputs).vertices
    body.to(torch.bfloat16)
    assert body.v_template.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(body(*inputs).vertices, wanted, atol=1e-6)


def test_the_body_is_in_no_state_dict_and_has_nothing_to_train() -> None:
    body = Body(made_body())
    assert not body.state_dict()
    assert not list(body.parameters())


def test_smplx_files_answer_as_smpl_with_hands_in_one_piece() -> None:
    body = Body(made_body(SMPLX_PARENTS, betas=20))
    output = body(*_inputs())
    assert output.joints.shape == (4, 24, 3)
    assert body.rest_joints(torch.zeros(1, 10)).shape == (1, 24, 3)
    # Turning SMPL's left hand moves what hangs on the fingers and none of the body's joints.
    still, turned = torch.zeros(1, 69), torch.zeros(1, 69)
    turned[0, 3 * (SMPL24.index("left_hand") - 1)] = 1.0
    rest = (torch.zeros(1, 3), torch.zeros(1, 10), torch.zeros(1, 3))
    before, after = (body(rest[0], pose, rest[1], rest[2]) for pose in (still, turned))
    assert torch.allclose(before.joints, after.joints)
    assert not torch.allclose(before.vertices, after.vertices)
    assert set(body.vertex_part.tolist()) <= set(range(1, 15))


def test_surface_coordinates_are_made_up_where_the_file_has_none() -> None:
    body = Body(made_body())
    assert body.vertex_uv.shape == (80, 2)
    assert body.corner_uv.shape == (160, 3, 2)
    assert body.vertex_uv.min() >= 0 and body.vertex_uv.max() <= 1
    assert torch.equal(body.corner_uv, body.vertex_uv[body.faces])


@pytest.mark.parametrize("name", ["SMPL_FEMALE.npz", "SMPLX_FEMALE.npz"])
def test_a_folder_is_searched_for_the_gender(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / name, **made_body())
    assert load_body(tmp_path, "female").num_vertices == 80
    assert load_body(tmp_path / name).num_vertices == 80
    with pytest.raises(ValueError, match=r"holds none of SMPL_MALE\.pkl"):
        load_body(tmp_path, "male")


def test_what_cannot_be_a_body_is_refused() -> None:
    with pytest.raises(ValueError, match="one gender, neutral, found 'male'"):
        load_body("free", "male")
    with pytest.raises(ValueError, match="gender must be one of"):
        load_body("free", "child")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="this one has 16; MANO is loaded with load_hand"):
        Body(made_hand())
    with pytest.raises(ValueError, match="needs 10 shape components, this one has 4"):
        Body(made_body(betas=4))
    with pytest.raises(ValueError, match="MANO file has 16 joints and 778 vertices"):
        Hand(made_body())


def test_the_left_hand_is_mended_exactly_once(tmp_path: Path) -> None:
    right, left = made_hand(0), made_hand(1)
    faulty = dict(left, shapedirs=right["shapedirs"] * np.array([1.0, 0.5, 0.5])[:, None])
    np.savez(tmp_path / "MANO_RIGHT.npz", **right)
    np.savez(tmp_path / "MANO_LEFT.npz", **faulty)
    mended = mended_left(faulty["shapedirs"], right["shapedirs"])
    assert np.array_equal(mended, faulty["shapedirs"] * np.array([-1.0, 1, 1])[:, None])
    assert np.array_equal(mended_left(mended, right["shapedirs"]), mended)
    hand = load_hand(tmp_path, "left")
    assert np.allclose(hand.shapedirs.numpy(), mended)
    assert np.allclose(load_hand(tmp_path, "right").shapedirs.numpy(), right["shapedirs"])
    assert not load_hand(tmp_path, "right", flat_mean=True).hands_mean.any()


def test_a_left_hand_needs_the_right_one_beside_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "MANO_LEFT.npz", **made_hand())
    with pytest.raises(ValueError, match="holds none of MANO_RIGHT"):
        load_hand(tmp_path, "left")
    with pytest.raises(ValueError, match="must be the folder"):
        load_hand(tmp_path / "MANO_LEFT.npz", "left")
