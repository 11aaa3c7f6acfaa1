"""The free body: SMPL's format and conventions, people-like, made once by one of many processes."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import smplx
import torch
from smplx.utils import Struct

from hpse_dist.body import free_body as module
from hpse_dist.body.free_body import free_body_path
from hpse_dist.body.joints import PART_NAMES, SMPL24, left_right_order, part_of_joint
from hpse_dist.body.model import Body, BodyOutput
from tests.waiting import PATIENCE_S

X, Y, Z = np.eye(3)


def _posed(body: Body, betas: torch.Tensor | None = None, **turns: tuple[float, ...]) -> BodyOutput:
    pose = torch.zeros(1, 69)
    for name, turn in turns.items():
        at = 3 * (SMPL24.index(name) - 1)
        pose[0, at : at + 3] = torch.tensor(turn)
    betas = torch.zeros(1, 10) if betas is None else betas
    return body(torch.zeros(1, 3), pose, betas, torch.zeros(1, 3))


def _joint(output: BodyOutput, name: str) -> np.ndarray:
    return output.joints[0, SMPL24.index(name)].numpy()


def test_smplx_loads_the_file_like_any_other(free_body: Body) -> None:
    with np.load(free_body_path()) as file:
        arrays = {name: file[name] for name in file.files}
    anywhere = dict.fromkeys(smplx.vertex_ids.vertex_ids["smplh"], 0)
    theirs = smplx.SMPL("", data_struct=Struct(**arrays), vertex_ids=anywhere)
    pose, betas = torch.randn(1, 69) * 0.3, torch.randn(1, 10)
    zero = torch.zeros(1, 3)
    wanted = theirs(global_orient=zero, body_pose=pose, betas=betas, transl=zero)
    found = free_body(zero, pose, betas, zero)
    assert torch.allclose(found.vertices, wanted.vertices, atol=1e-5)
    assert torch.allclose(found.joints, wanted.joints[:, :24], atol=1e-5)


def test_the_zero_pose_is_smpls(free_body: Body) -> None:
    rest = _posed(free_body)
    assert np.linalg.norm(_joint(rest, "pelvis")) < 0.01
    assert _joint(rest, "head")[1] > 0.5 and _joint(rest, "left_ankle")[1] < -0.7
    for side, sign in (("left", 1), ("right", -1)):
        arm = _joint(rest, f"{side}_wrist") - _joint(rest, f"{side}_shoulder")
        assert arm @ X * sign > 0.99 * np.linalg.norm(arm)
        leg = _joint(rest, f"{side}_ankle") - _joint(rest, f"{side}_hip")
        assert leg @ -Y > 0.99 * np.linalg.norm(leg)
        foot = _joint(rest, f"{side}_foot") - _joint(rest, f"{side}_ankle")
        assert foot @ Z > 0.8 * np.linalg.norm(foot)
    vertices = rest.vertices[0].numpy()
    head = vertices[free_body.vertex_part.numpy() == PART_NAMES.index("head")]
    assert head[:, 2].max() > 0.1  # the nose looks along +z
    palms = vertices[free_body.vertex_part.numpy() == PART_NAMES.index("left_hand")]
    assert np.ptp(palms[:, 1]) < np.ptp(palms[:, 2])  # flat hands, not on edge


def test_limbs_bend_as_smpls_do(free_body: Body) -> None:
    rest = _posed(free_body)

    def shift(joint: str, **turns: tuple[float, ...]) -> np.ndarray:
        return _joint(_posed(free_body, **turns), joint) - _joint(rest, joint)

    assert shift("left_ankle", left_knee=(1.0, 0, 0)) @ Z < -0.2  # knees bend backward
    assert shift("right_ankle", right_knee=(1.0, 0, 0)) @ Z < -0.2
    assert shift("left_knee", left_hip=(-1.0, 0, 0)) @ Z > 0.2  # thighs rise to the front
    assert shift("left_wrist", left_elbow=(0, -1.0, 0)) @ Z > 0.1  # elbows bend to the front
    assert shift("right_wrist", right_elbow=(0, 1.0, 0)) @ Z > 0.1
    assert shift("left_wrist", left_shoulder=(0, 0, -1.0)) @ Y < -0.2  # arms sink
    assert shift("right_wrist", right_shoulder=(0, 0, 1.0)) @ Y < -0.2
    assert shift("head", spine1=(0.5, 0, 0)) @ Z > 0.1  # the trunk bends forward
    assert shift("left_foot", left_ankle=(0.5, 0, 0)) @ Y < -0.02  # toes point down


def test_bent_limbs_keep_their_thickness(free_body: Body) -> None:
    """Arms at the sides, where people mostly have them, look as sculpted: no thin shoulder."""
    part = free_body.vertex_part.numpy()
    arm = np.isin(part, [PART_NAMES.index("left_upper_arm"), PART_NAMES.index("left_lower_arm")])
    faces = free_body.faces.numpy()
    faces = faces[arm[faces].all(axis=1)]

    def area(output: BodyOutput) -> float:
        a, b, c = (output.vertices[0].numpy()[faces[:, k]] for k in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)

    down = _posed(free_body, left_shoulder=(0, 0, -1.2), left_elbow=(0, -0.5, 0))
    assert area(down) == pytest.approx(area(_posed(free_body)), rel=0.1)


def test_betas_from_a_normal_distribution_make_adults(free_body: Body) -> None:
    betas = torch.randn(400, 10, generator=torch.Generator().manual_seed(0))
    shaped = free_body.v_template + torch.einsum("bk,vck->bvc", betas, free_body.shapedirs)
    heights = (shaped[..., 1].amax(dim=1) - shaped[..., 1].amin(dim=1)).numpy()
    assert 1.64 < heights.mean() < 1.76
    assert 0.07 < heights.std() < 0.13
    assert heights.min() > 1.3 and heights.max() < 2.2
    taller = _posed(free_body, torch.eye(10)[:1]).vertices[0, :, 1]
    assert np.ptp(taller.numpy()) > np.ptp(_posed(free_body).vertices[0, :, 1].numpy()) + 0.05


def test_joints_are_inside_the_limbs_of_every_shape(free_body: Body) -> None:
    betas = torch.randn(20, 10)
    joints = free_body.rest_joints(betas)
    shaped = free_body.v_template + torch.einsum("bk,vck->bvc", betas, free_body.shapedirs)
    for name, axis in (("left_knee", 1), ("right_elbow", 0), ("left_wrist", 0), ("neck", 1)):
        away = shaped - joints[:, SMPL24.index(name), None]
        slab = (away[..., axis].abs() < 0.03) & (away.norm(dim=-1) < 0.15)  # a slice of the limb
        away[..., axis] = 0
        for shape, chosen in zip(away, slab, strict=True):
            around = torch.nn.functional.normalize(shape[chosen], dim=-1)
            assert len(around) > 8
            assert around.mean(dim=0).norm() < 0.5, name  # its surface is on all sides


def test_left_and_right_are_mirror_images(free_body: Body) -> None:
    joints = free_body.rest_joints(torch.randn(5, 10))
    order = list(left_right_order(SMPL24))
    assert torch.allclose(joints[:, order] * torch.tensor([-1.0, 1, 1]), joints, atol=0.01)


def test_file_keeps_to_the_format(free_body: Body) -> None:
    with np.load(free_body_path(), allow_pickle=False) as file:
        weights, regressor = file["weights"], file["J_regressor"]
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5) and (weights >= 0).all()
    assert np.allclose(regressor.sum(axis=1), 1, atol=1e-5) and (regressor >= 0).all()
    assert (regressor > 0).sum(axis=1).max() <= 34
    assert set(free_body.vertex_part.tolist()) == set(range(1, 15))
    assert 5000 < free_body.num_vertices < 7000
    for uv in (free_body.vertex_uv, free_body.corner_uv):
        assert uv.min() >= 0 and uv.max() <= 1
    # Over a face the coordinates stay together: no face spans the whole texture.
    assert (free_body.corner_uv.amax(dim=1) - free_body.corner_uv.amin(dim=1)).max() < 0.2
    for name in ("left_hand", "right_foot", "head"):  # each part is where its joint is
        vertices = free_body.v_template[free_body.vertex_part == part_of_joint(name)]
        joint = free_body.rest_joints(torch.zeros(1, 10))[0, SMPL24.index(name)]
        assert (vertices.mean(dim=0) - joint).norm() < 0.15


def test_no_pose_tears_the_body(free_body: Body) -> None:
    pose = 0.5 * torch.randn(16, 69)
    output = free_body(torch.zeros(16, 3), pose, torch.randn(16, 10), torch.zeros(16, 3))
    edges = output.vertices[:, free_body.faces]
    lengths = (edges - edges.roll(1, dims=2)).norm(dim=-1)
    assert torch.isfinite(lengths).all()
    assert lengths.max() < 0.25


def _make_slowly(scratch: Path) -> dict[str, np.ndarray]:
    with (scratch.parent / "made").open("a") as log:
        log.write(f"{os.getpid()}\n")
    return {"v_template": np.zeros((2, 3))}


def _ask(folder: Path) -> None:
    module.make_free_body = _make_slowly
    assert free_body_path(folder).exists()


def test_of_many_processes_one_makes_the_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    asking = [context.Process(target=_ask, args=(tmp_path / "cache",)) for _ in range(4)]
    for process in asking:
        process.start()
    for process in asking:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in asking] == [0, 0, 0, 0]
    assert len((tmp_path / "cache" / "made").read_text().split()) == 1
    left = {path.name for path in (tmp_path / "cache").iterdir()}
    assert left == {"made", module.FILE_NAME, module.FILE_NAME + ".lock"}


def test_a_failed_making_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(scratch: Path) -> dict[str, np.ndarray]:
        (scratch / "half").write_text("done")
        raise OSError("disk full")

    monkeypatch.setattr(module, "make_free_body", fail)
    with pytest.raises(OSError, match="disk full"):
        free_body_path(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [module.FILE_NAME + ".lock"]


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPSE_CACHE", str(tmp_path))
    assert module.cache_folder() == tmp_path
    monkeypatch.delenv("HPSE_CACHE")
    assert module.cache_folder() == Path.home() / ".cache" / "hpse_dist"
