"""The body-mesh task: start, camera, kinematics, losses and what missing labels do."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpse_dist import config
from hpse_dist.body.model import Body, load_body
from hpse_dist.fields import Batch
from hpse_dist.geometry.camera import project
from hpse_dist.geometry.rotations import axis_angle_to_matrix
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.tasks.body_mesh import (
    BodyMesh,
    BodyMeshConfig,
    place_joints,
    rotation_to_ray,
    start_of,
)
from tests.fabricate import fabricate, tiny_body_file

SMALL = BodyMeshConfig(head_dim=32, head_depth=1, heads=1, head_hidden=32)


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Body:
    return load_body(tiny_body_file(tmp_path_factory.mktemp("body")))


@pytest.fixture
def task(tmp_path: Path) -> BodyMesh:
    return small(tmp_path)


def small(folder: Path, **changes: object) -> BodyMesh:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    size = replace(SMALL, body=str(tiny_body_file(folder)), **changes)  # type: ignore[arg-type]
    return BodyMesh(size, encoder, seed=0)


@pytest.fixture
def batch(body: Body) -> Batch:
    return fabricate(BodyMeshConfig().needs, body=body)


def at_the_start(task: BodyMesh) -> BodyMesh:
    """The task with a head that says nothing, so that the start values come out."""
    for layer in (task.to_pose, task.to_betas, task.to_camera):
        torch.nn.init.zeros_(layer.weight)
    return task


def test_joints_without_a_mesh_are_the_bodys_joints(body: Body, batch: Batch) -> None:
    pose = torch.cat((batch["global_orient"], batch["body_pose"]), 1).unflatten(1, (24, 3))
    rest = body.rest_joints(batch["betas"])
    mine = place_joints(axis_angle_to_matrix(pose), rest, body.parents)
    true = batch["joints3d"][..., :3]
    torch.testing.assert_close(mine, true - true[:, :1], rtol=1e-4, atol=1e-5)


def test_the_start_stands_upright_and_faces_the_camera(task: BodyMesh, batch: Batch) -> None:
    batch["intrinsics"][:, 0, 2] = batch["intrinsics"][:, 1, 2] = 0.5
    guess = at_the_start(task).predict(batch)
    joints = guess["joints3d"][0]
    assert joints[15, 1] < joints[0, 1] < joints[10, 1]  # y is down: head, pelvis, foot
    assert joints[10, 2] < joints[7, 2]  # toes are nearer than the ankle
    assert joints[16, 0] > joints[17, 0]  # its left shoulder is on the picture's right
    assert joints[0, 2].item() == pytest.approx(2 * 1.8 / 0.9)
    torch.testing.assert_close(guess["joints2d"][0, 0], torch.tensor([0.5, 0.5]))


def test_the_start_pose_may_be_given(tmp_path: Path, batch: Batch) -> None:
    pose = tuple(0.01 * i for i in range(69))
    guess = at_the_start(small(tmp_path, start_pose=pose)).predict(batch)
    torch.testing.assert_close(guess["body_pose"][0], torch.tensor(pose), rtol=1e-4, atol=1e-5)
    shape = tuple(0.1 * i for i in range(10))
    guess = at_the_start(small(tmp_path, start_betas=shape)).predict(batch)
    assert guess["betas"][0].tolist() == pytest.approx(shape)
    rotations, _ = start_of(SMALL)
    assert torch.equal(rotations[0].diagonal(), torch.tensor([1.0, -1.0, -1.0]))


def test_rotations_are_rotations_whatever_the_head_says(task: BodyMesh, batch: Batch) -> None:
    torch.nn.init.normal_(task.to_pose.weight)
    rotations = task.predict(batch)["rotations"]
    eye = torch.eye(3).expand_as(rotations)
    torch.testing.assert_close(rotations @ rotations.mT, eye, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.det(rotations), torch.ones(8, 24), rtol=1e-4, atol=1e-4)


def test_the_pelvis_lies_on_the_ray_through_the_crops_centre(task: BodyMesh, batch: Batch) -> None:
    """For any principal point, and one turned in its plane by augmentation."""
    turn = axis_angle_to_matrix(torch.tensor([0.0, 0.0, 0.4]))
    batch["intrinsics"][4:] = batch["intrinsics"][4:] @ turn
    guess = at_the_start(task).predict(batch)
    seen = project(guess["joints3d"][:, :1], batch["intrinsics"])[:, 0]
    torch.testing.assert_close(seen, torch.full((8, 2), 0.5), rtol=1e-4, atol=1e-4)


def test_equal_pictures_have_equal_answers_relative_to_their_rays(task: BodyMesh) -> None:
    straight = torch.tensor([[1.8, 0.0, 0.5], [0.0, 1.8, 0.5], [0.0, 0.0, 1.0]])
    aside = torch.tensor([[1.8, 0.0, -0.6], [0.0, 1.8, 0.9], [0.0, 0.0, 1.0]])
    image = torch.randn(1, 3, 32, 32).expand(2, -1, -1, -1)
    guess = task.predict({"image": image, "intrinsics": torch.stack((straight, aside))})
    ray = rotation_to_ray(aside[None])[0]
    joints = guess["joints3d"]
    torch.testing.assert_close(joints[1], joints[0] @ ray.T, rtol=1e-4, atol=1e-4)


def test_rotation_to_ray_turns_the_axis_and_nothing_else() -> None:
    intrinsics = torch.tensor([[[1.5, 0.0, -0.7], [0.0, 1.5, 1.1], [0.0, 0.0, 1.0]]])
    turn = rotation_to_ray(intrinsics)[0]
    seen = project(turn[None, None, :, 2], intrinsics)[0, 0]
    torch.testing.assert_close(seen, torch.tensor([0.5, 0.5]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turn @ turn.T, torch.eye(3), rtol=1e-5, atol=1e-5)
    axis = torch.stack((turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]))
    assert axis[2].abs() < 1e-6  # no turning about the optical axis


def test_unknown_intrinsics_give_way_to_the_configs_focal_length(
    task: BodyMesh, batch: Batch
) -> None:
    batch["intrinsics"][2:] = 0.0
    guess = at_the_start(task).predict(batch)
    assert guess["joints3d"][3, 0, 2].item() == pytest.approx(2 * 5.0 / 0.9)
    assert guess["joints3d"].isfinite().all()
    alone = task.predict({"image": batch["image"]})
    torch.testing.assert_close(alone["joints3d"][3], guess["joints3d"][3])


def test_parameters_give_back_the_predicted_mesh(task: BodyMesh, batch: Batch) -> None:
    torch.nn.init.normal_(task.to_pose.weight, std=0.1)
    guess = task.predict(batch)
    names = ("global_orient", "body_pose", "betas", "transl")
    again = task.body(*(guess[name] for name in names))
    torch.testing.assert_close(again.vertices, guess["vertices"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again.joints, guess["joints3d"], rtol=1e-3, atol=1e-4)
    seen = project(guess["joints3d"], guess["intrinsics"])
    torch.testing.assert_close(seen, guess["joints2d"], rtol=1e-4, atol=1e-4)


def test_the_loss_of_the_truth_is_zero(
    task: BodyMesh, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task, "_regress", task.truth)
    for name, value in task(batch).items():
        assert value < 1e-6, name


def test_the_loss_is_the_weighted_sum_of_parts_by_their_formulas(
    tmp_path: Path, batch: Batch
) -> None:
    """Row by row: 0 has no body, 1 no pelvis in 3D, 2 half its joints, 3 no camera."""
    names = ["joints3d", "joints_body", "joints2d", "camera", "orient", "pose", "betas", "vertices"]
    weights = {f"{name}_weight": 0.5 + 0.25 * i for i, name in enumerate(names)}
    task = small(tmp_path, **weights)
    torch.nn.init.normal_(task.to_pose.weight, std=0.1)
    batch["has_body"][0] = False
    batch["joints3d"][1, 0, 3] = 0.0
    batch["joints3d"][2, 12:, 3] = batch["joints2d"][2, 12:, 2] = 0.0
    batch["intrinsics"][3] = 0.0
    guess = task._regress(batch)
    found, sums = task.losses(guess, batch), dict.fromkeys(names, torch.tensor(0.0))
    labels = [batch[name] for name in task.labels]
    true = task.body(*labels)
    turns = axis_angle_to_matrix(torch.cat(labels[:2], 1).unflatten(1, (24, 3)))
    mesh = task.body.forward_matrices(guess["rotations"], guess["betas"], labels[3])
    for row in range(8):
        mine, its, there = guess["rotations"][row], turns[row], batch["joints3d"][row, :, 3] > 0
        a, b = guess["joints3d"][row], batch["joints3d"][row, :, :3]
        seen = batch["joints2d"][row, :, 2] > 0
        flat = (guess["joints2d"][row] - batch["joints2d"][row, :, :2]).abs()[seen].mean()
        sums["joints2d"] = sums["joints2d"] + flat
        if row != 1:
            sums["joints3d"] = sums["joints3d"] + ((a - a[0]) - (b - b[0])).abs()[there].mean()
        if row not in (1, 3):
            ray = rotation_to_ray(batch["intrinsics"][row : row + 1])[0]
            x, y = ray.T @ a[0], ray.T @ b[0]
            off = (x - y)[:2].abs().sum() * batch["intrinsics"][row, 0, 0] / y[2]
            sums["camera"] = sums["camera"] + (off + (x[2] / y[2]).log().abs()) / 3
        if row == 0:
            continue
        if row != 1:
            turned = torch.stack([mine[0].T @ p for p in a - a[0]]) - torch.stack(
                [its[0].T @ p for p in b - b[0]]
            )
            sums["joints_body"] = sums["joints_body"] + turned.abs()[there].mean()
        sums["orient"] = sums["orient"] + (mine[0] - its[0]).square().mean()
        sums["pose"] = sums["pose"] + (mine[1:] - its[1:]).square().mean()
        sums["betas"] = sums["betas"] + (guess["betas"][row] - labels[2][row]).square().mean()
        meshes = [(one.vertices[row] - one.joints[row, 0]) for one in (mesh, true)]
        sums["vertices"] = sums["vertices"] + (meshes[0] - meshes[1]).abs().mean()
    for name, value in sums.items():
        torch.testing.assert_close(found[f"loss_{name}"], value / 8, rtol=1e-3, atol=1e-5)
    total = sum(weights[f"{name}_weight"] * value / 8 for name, value in sums.items())
    torch.testing.assert_close(found["loss"], total, rtol=1e-3, atol=1e-5)


def test_six_numbers_have_no_error_at_the_truth_and_lead_to_it(
    tmp_path: Path, batch: Batch
) -> None:
    """Squared error of the numbers themselves, of the global rotation from the ray on."""
    task = small(tmp_path, rotation_error="six_d")
    guess = task._regress(batch)
    true = task.truth(batch)["rotations"]
    ray = rotation_to_ray(guess["intrinsics"])
    wanted = torch.cat((ray.mT[:, None] @ true[:, :1], true[:, 1:]), dim=1)[..., :2]
    apart = guess["six_d"].unflatten(-1, (2, 3)).mT - wanted
    errors = apart.square().mean((2, 3))
    torch.testing.assert_close(task(batch)["loss_orient"], errors[:, 0].mean())
    torch.testing.assert_close(task(batch)["loss_pose"], errors[:, 1:].mean())


def test_the_error_in_the_bodys_frame_ignores_the_global_rotation(
    task: BodyMesh, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = axis_angle_to_matrix(torch.tensor([0.3, 2.0, -0.5]))
    guess = task.truth(batch)
    guess["joints3d"] = guess["joints3d"] @ turn.T
    guess["rotations"] = guess["rotations"].clone()
    guess["rotations"][:, 0] = turn @ guess["rotations"][:, 0]
    monkeypatch.setattr(task, "_regress", lambda _: guess)
    parts = task(batch)
    assert parts["loss_joints_body"] < 1e-6
    assert parts["loss_joints3d"] > 0.1 and parts["loss_orient"] > 0.1


def test_rows_without_labels_add_nothing_and_have_no_figures(task: BodyMesh, batch: Batch) -> None:
    full = {name: value.clone() for name, value in task(batch).items()}
    batch["has_body"][:] = False
    batch["joints3d"][..., 3] = 0.0
    batch["joints2d"][4:, :, 2] = 0.0
    bare = task(batch)
    for name in ("loss_joints3d", "loss_joints_body", "loss_orient", "loss_pose", "loss_betas"):
        assert bare[name] == 0.0 < full[name]
    assert 0.0 < bare["loss_joints2d"] < full["loss_joints2d"]
    assert all(values.isnan().all() for values in task.metrics(batch).values())


def test_metrics_are_millimetres(task: BodyMesh, batch: Batch) -> None:
    truth = task.truth(batch)
    moved = {**truth, "joints3d": truth["joints3d"] + 0.5, "vertices": truth["vertices"] + 0.5}
    for values in task.errors(moved, batch).values():
        assert values.max() < 0.01  # all are relative to the pelvis
    moved["joints3d"] = truth["joints3d"].clone()
    moved["joints3d"][:, 5, 0] += 0.024  # one joint of 24 is 24 mm off
    figures = task.errors(moved, batch)
    torch.testing.assert_close(figures["mpjpe"], torch.ones(8), rtol=1e-3, atol=1e-3)
    assert (figures["pa_mpjpe"] - 2.0).abs().max() < 0.5  # alignment spreads it over all joints
    moved = {**truth, "joints3d": truth["joints3d"].clone()}
    moved["joints3d"][:, :, :] *= 1.1
    assert task.errors(moved, batch)["pa_mpjpe"].max() < 0.01


def test_another_joint_set_is_refused(task: BodyMesh, batch: Batch) -> None:
    batch["joints3d"] = batch["joints3d"][:, :17]
    with pytest.raises(ValueError, match="joints3d: the labels have 17 joints"):
        task(batch)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start_pose": [0.0, 1.0]}, "start_pose must have 69 numbers"),
        ({"head_depth": 0}, "head_depth must be at least 1"),
        ({"pose_weight": -1}, "weights must be 0 or more"),
        ({"focal": 0}, "start_scale and focal must be above 0"),
    ],
)
def test_impossible_configs_are_refused(values: dict, message: str) -> None:
    with pytest.raises(config.ConfigError, match=message):
        config.build(BodyMeshConfig, values)


def test_no_figure_is_nan_by_accident(task: BodyMesh, batch: Batch) -> None:
    batch["has_body"][0] = False
    figures = task.metrics(batch)
    assert math.isnan(figures["pve"][0]) and figures["pve"][1:].isfinite().all()
    assert figures["mpjpe"].isfinite().all()
