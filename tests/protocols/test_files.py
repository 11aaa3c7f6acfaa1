"""Files of predictions: exact ones score best in every protocol, and bad ones are one sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from hpse_dist.data.importers.coco_style import joints_of
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.protocols.examples import Examples
from hpse_dist.protocols.files import score_files, write, write_coco
from hpse_dist.protocols.score import Regressor, score
from hpse_dist.report.tables import METRICS
from pipelines import run_command
from pipelines.report import main, parser
from tests.metrics import published
from tests.protocols.made_examples import files, made


@pytest.mark.parametrize("name", PROTOCOLS)
def test_exact_predictions_come_back_without_error(name: str, tmp_path: Path) -> None:
    protocol = PROTOCOLS[name]
    found = score_files(protocol, *files(protocol, tmp_path, *made(protocol)))
    assert found.protocol == name
    asked = [f for f in protocol.figures if f not in ("surface_right", "part_iou", "uv_error")]
    if name == "part-pixels":
        asked = list(protocol.figures)
    assert found.examples == 6
    if name == "coco-keypoints":
        asked.remove("ap_medium")  # everybody is large
    assert list(found.figures) == asked
    for figure, value in found.figures.items():
        best = 100.0 if METRICS[figure].better == "higher" else 0.0
        assert value == pytest.approx(best, abs=1e-4), figure


def test_what_coco_annotates_is_written_as_coco_has_it(tmp_path: Path) -> None:
    """Read by the importer and predicted exactly: the server has no pixel's half to complain of."""
    given = np.column_stack([np.arange(17) * 3.0, np.arange(17) * 5.0, np.full(17, 2.0)])
    annotation = {"keypoints": given.ravel().tolist()}
    joints = joints_of(annotation, "keypoints", 17, (0.0, 0.5, 1.0))
    table = {"joints2d": joints[None], "image": np.array([7]), "score": np.array([0.9])}
    path = write_coco(Examples("", table), tmp_path / "results.json", truth=False)
    written = np.reshape(json.loads(path.read_text())[0]["keypoints"], (17, 3))
    np.testing.assert_allclose(written[:, :2], given[:, :2])
    truth = write_coco(
        Examples("", table | {"area": np.array([900.0])}), tmp_path / "truth.json", truth=True
    )
    person = json.loads(truth.read_text())["annotations"][0]
    np.testing.assert_allclose(person["keypoints"], annotation["keypoints"])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_wrong_predictions_do_not(name: str, tmp_path: Path) -> None:
    protocol = PROTOCOLS[name]
    mine, true = made(protocol)
    wrong, _ = made(protocol, seed=1)
    keep = {
        k: v for k, v in mine.arrays.items() if k in ("id", "image", "sequence", "person", "time")
    }
    found = score_files(
        protocol, *files(protocol, tmp_path, Examples("", wrong.arrays | keep), true)
    )
    for figure, value in found.figures.items():
        best = 100.0 if METRICS[figure].better == "higher" else 0.0
        assert abs(value - best) > 1.0 or figure == "f1", figure


def test_freihands_file_is_scored_as_freihand_does(tmp_path: Path) -> None:
    """Its own folder of ground truth; someone's file of predictions, a mirrored hand in it."""
    rng = np.random.default_rng(0)
    xyz, verts = rng.normal(0, 0.05, (4, 21, 3)), rng.normal(0, 0.05, (4, 778, 3))
    mine = xyz + rng.normal(0, 0.01, xyz.shape), verts + rng.normal(0, 0.005, verts.shape)
    mine[0][3] *= [-1, 1, 1]
    mine[1][3] *= [-1, 1, 1]
    (tmp_path / "evaluation_xyz.json").write_text(json.dumps(xyz.tolist()))
    (tmp_path / "evaluation_verts.json").write_text(json.dumps(verts.tolist()))
    pred = tmp_path / "pred.json"
    pred.write_text(json.dumps([side.tolist() for side in mine]))
    figures = score_files(PROTOCOLS["freihand"], pred, tmp_path).figures
    fitted = [
        np.stack([published.freihand_aligned(a, b) for a, b in zip(m, t, strict=True)])
        for m, t in zip(mine, (xyz, verts), strict=True)
    ]
    error = [
        1000 * np.linalg.norm(f - t, axis=-1).mean()
        for f, t in zip(fitted, (xyz, verts), strict=True)
    ]
    f5, f15 = (
        np.mean([published.freihand_f(f, v, near) for f, v in zip(fitted[1], verts, strict=True)])
        for near in (0.005, 0.015)
    )
    assert figures["joint_aligned"] == pytest.approx(error[0], rel=1e-6)
    assert figures["mesh_aligned"] == pytest.approx(error[1], rel=1e-6) and error[1] < 12
    assert figures["f_5"] == pytest.approx(f5, rel=1e-6)
    assert figures["f_15"] == pytest.approx(f15, rel=1e-6) and f15 > f5
    assert figures["joint_auc"] == pytest.approx(published.freihand_auc(fitted[0], xyz), rel=1e-6)
    assert figures["mesh_auc"] == pytest.approx(published.freihand_auc(fitted[1], verts), rel=1e-6)
    own = {"joints3d": np.stack([m[3] for m in (mine[0],)])}, {"joints3d": xyz[3:]}
    hands = [Examples("", {**side, "id": np.array(["x"])}) for side in own]
    assert score(PROTOCOLS["synthetic-hand"], *hands).figures["pa_mpjpe"] > 20  # told apart there


def test_hands_without_a_label_are_not_judged(tmp_path: Path) -> None:
    """FreiHAND's files say so too, where ours hold such hands."""
    protocol = PROTOCOLS["freihand"]
    mine, true = made(protocol)
    mesh, joints = true["vertices"].copy(), true["joints3d"].copy()
    mesh[2:4] = mesh[2:4, ::-1]
    joints[3, 5:] = [np.nan, np.nan, np.nan, 0.0]
    known = np.array([1, 1, 0, 0, 1, 1])
    some = Examples("", {"joints3d": joints, "vertices": mesh, "vertices_known": known})
    mine = Examples("", {name: mine[name] for name in ("joints3d", "vertices")})
    for found in (
        score(protocol, mine, some),
        score_files(protocol, *files(protocol, tmp_path, mine, some)),
    ):
        assert list(found.figures) == list(protocol.figures)
        for name, value in found.figures.items():
            best = 100.0 if METRICS[name].better == "higher" else 0.0
            assert value == pytest.approx(best, abs=1e-4), name
    none = Examples("", some.arrays | {"vertices_known": 0 * known})
    assert set(score(protocol, mine, none).figures) == {"joint_aligned", "joint_auc"}


@pytest.mark.parametrize("name", ["freihand", "synthetic-hand"])
def test_what_truth_does_not_know_a_prediction_may_leave_out(name: str) -> None:
    mine, true = (dict(side.arrays) for side in made(PROTOCOLS[name]))
    true["vertices_known"] = mine["vertices_known"] = np.array([1, 1, 0, 1, 1, 1])
    mine["vertices"][2] = np.nan
    true["joints3d"][4, :, 3] = 0.0
    mine["joints3d"] = np.concatenate((mine["joints3d"], true["joints3d"][..., 3:]), -1)
    mine["joints3d"][4, :, :3] = np.nan
    for figure, value in score(
        PROTOCOLS[name], Examples("mine", mine), Examples("truth", true)
    ).figures.items():
        best = 100.0 if METRICS[figure].better == "higher" else 0.0
        assert value == pytest.approx(best, abs=1e-4), figure


def test_a_hand_without_a_mesh_counts_in_no_figure_of_meshes() -> None:
    protocol = PROTOCOLS["synthetic-hand"]
    mine, true = made(protocol)
    mesh = true["vertices"].copy()
    mesh[2] = np.nan
    known = np.array([1, 1, 0, 1, 1, 1])
    some = Examples("", true.arrays | {"vertices": mesh, "vertices_known": known})
    mine["vertices"][4] += np.random.default_rng(0).normal(0, 0.02, mesh[4].shape)
    figures = score(protocol, mine, some).figures
    five = np.array([0, 1, 3, 4, 5])
    alone = score(protocol, mine.taken(five), true.taken(five)).figures
    assert figures == pytest.approx(alone) and figures["pa_pve"] > 1
    fitted = published.freihand_aligned(mine["vertices"][4], mesh[4])
    for name, near in (("f_5", 0.005), ("f_15", 0.015)):
        wanted = (4 * 100 + published.freihand_f(fitted, mesh[4], near)) / 5
        assert figures[name] == pytest.approx(wanted)


@pytest.mark.parametrize(
    "matrix", [np.ones(5), np.ones((2, 5), np.int64), np.array([[1.0, np.nan]])]
)
def test_a_regressor_is_a_table_of_finite_numbers(matrix: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", matrix)
    with pytest.raises(ValueError, match=r"r\.npy: a regressor is a table of numbers"):
        Regressor.read(tmp_path / "r.npy")


def test_a_mesh_without_a_root_is_not_placed() -> None:
    mine, true = made(PROTOCOLS["synthetic-24"])
    true["joints3d"][2, 0] = [9.0, 9.0, 9.0, 0.0]
    assert score(PROTOCOLS["synthetic-24"], mine, true).figures["pve"] == pytest.approx(0.0)


def test_joints_of_a_mesh_need_the_regressor_and_its_hash_is_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.uniform(size=(17, 6890)) ** 40
    matrix /= matrix.sum(1, keepdims=True)
    true = rng.normal(0, 0.3, (2, 6890, 3))
    mine = true + rng.normal(0, 0.05, true.shape)
    for name, mesh in (("mine", mine), ("true", true)):
        np.savez(tmp_path / f"{name}.npz", vertices=mesh, id=np.array(["a", "b"]))
    np.save(tmp_path / "regressor.npy", matrix)
    protocol = PROTOCOLS["3dpw-14"]
    paths = tmp_path / "mine.npz", tmp_path / "true.npz"
    found = score_files(protocol, *paths, tmp_path / "regressor.npy")
    joints = [(matrix @ mesh) for mesh in (mine, true)]
    a, b = (side - side[:, :1] for side in joints)
    wanted = 1000 * np.linalg.norm(a - b, axis=-1)[:, protocol.judged()].mean()
    assert found.figures["mpjpe"] == pytest.approx(wanted, rel=1e-6)
    root = (mine - joints[0][:, :1]) - (true - joints[1][:, :1])
    assert found.figures["pve"] == pytest.approx(1000 * np.linalg.norm(root, axis=-1).mean())
    assert len(found.regressor) == 64
    both = [Examples("", {"vertices": side}) for side in (mine, true)]
    regressor = Regressor.read(tmp_path / "regressor.npy")
    first = score(protocol, *(side.taken(np.array([0])) for side in both), regressor).figures
    half = np.where([[[True]], [[False]]], true, np.nan)
    other = Examples("", {"vertices": half, "vertices_known": np.array([1, 0])})
    assert score(protocol, both[0], other, regressor).figures == pytest.approx(first)
    with pytest.raises(ValueError, match=r"needs joints of h36m17, or --regressor with J_"):
        score_files(protocol, *paths)
    np.save(tmp_path / "small.npy", matrix[:, :100])
    with pytest.raises(ValueError, match="6890 vertices, and the regressor is 17 x 100"):
        score_files(protocol, *paths, tmp_path / "small.npy")
    text = (tmp_path / "small.npy").read_bytes()
    (tmp_path / "small.npy").write_bytes(text.replace(b" \n", b"{\n", 1))  # numpy: TokenError
    with pytest.raises(ValueError, match=r"small\.npy: not a regressor as \.npy"):
        score_files(protocol, *paths, tmp_path / "small.npy")


def test_people_left_out_and_made_up_count_where_the_protocol_says_so() -> None:
    mine, true = made(PROTOCOLS["agora"])
    some = mine.taken(np.array([4, 0, 2]))
    figures = score(PROTOCOLS["agora"], some, true).figures
    assert figures["mpjpe"] == 0.0 and figures["f1"] == pytest.approx(100 * 2 * 3 / 9)
    off = Examples("", mine.arrays | {"joints3d": mine["joints3d"] * 1.01})
    whole = score(PROTOCOLS["agora"], off, true).figures
    half = score(PROTOCOLS["agora"], off.taken(np.array([0, 1, 2])), true).figures
    assert whole["nmje"] == whole["mpjpe"] and half["nmje"] == pytest.approx(1.5 * half["mpjpe"])
    with pytest.raises(ValueError, match="mine: 3 of 6 examples have no prediction, such as s1"):
        score(PROTOCOLS["synthetic-24"], some, true)


@pytest.mark.parametrize("numbered", [False, True])
def test_people_whose_surface_nobody_marked_are_not_judged(numbered: bool) -> None:
    protocol = PROTOCOLS["densepose-coco"]
    _, whole = made(protocol)
    arrays, count = dict(whole.arrays), len(whole)
    arrays["vertex"] = arrays["vertex"].copy()
    arrays["vertex"][-2:] = -1  # as most people of a picture of COCO
    if numbered:  # the last but one is beside somebody who is marked, the last is alone
        arrays["image"] = np.array([*range(count - 2), 0, 99])
    true = Examples("truth", arrays)
    found = true.taken(np.arange(count - 2)) if numbered else true
    figures = score(protocol, found, true).figures
    assert figures["gps_ap"] == pytest.approx(100) and figures["gpsm_ap"] == pytest.approx(100)


def test_order_does_not_matter_where_there_are_ids() -> None:
    protocol = PROTOCOLS["synthetic-24"]
    mine, true = made(protocol)
    off = Examples("mine", mine.arrays | {"joints3d": mine["joints3d"] ** 2})
    turned = off.taken(np.array([3, 5, 0, 1, 4, 2]))
    assert score(protocol, turned, true).figures == pytest.approx(
        score(protocol, off, true).figures
    )


def test_frames_that_are_not_valid_do_not_count(tmp_path: Path) -> None:
    """Also: numpy arrays that another numpy pickled are read, and nothing else is."""
    joints = np.random.default_rng(0).normal(size=(1, 3, 24, 3))
    broken = joints.copy()
    broken[0, 1] = 7.0
    table = {"jointPositions": [joints[0]], "valid": np.array([[1, 0, 1]])}
    for name, content in (("truth", table), ("mine", {"jointPositions": broken})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "seq.pkl").write_bytes(pickle.dumps(content, protocol=2))
    protocol = PROTOCOLS["3dpw-challenge"]
    found = score_files(protocol, tmp_path / "mine", tmp_path / "truth")
    assert found.figures["mpjpe"] == pytest.approx(0.0, abs=1e-9)
    (tmp_path / "mine" / "seq.pkl").write_bytes(pickle.dumps({"jointPositions": print}))
    with pytest.raises(ValueError, match=r"was refused: it calls for \w+.print"):
        score_files(protocol, tmp_path / "mine", tmp_path / "truth")


@pytest.mark.parametrize("lost", [slice(None), slice(5, 9)])
def test_people_without_a_label_are_not_judged_from_3dpws_files(
    lost: slice, tmp_path: Path
) -> None:
    """Whole, or some of their joints; either way as without files."""
    protocol = PROTOCOLS["3dpw-challenge"]
    mine, true = made(protocol)
    off = np.random.default_rng(0).normal(0, 0.03, mine["joints3d"].shape)
    mine = Examples("mine", mine.arrays | {"joints3d": mine["joints3d"] + off})
    joints = true["joints3d"].copy()
    joints[1, lost] = 0.0  # as a collection keeps it
    some = Examples("truth", true.arrays | {"joints3d": joints})
    found = score_files(protocol, *files(protocol, tmp_path, mine, some))
    assert found.figures == pytest.approx(score(protocol, mine, some).figures)
    assert found.figures["mpjpe"] < 100


def test_3dpws_layout_is_the_challenges(tmp_path: Path) -> None:
    """One file for a sequence; orientations are the camera's, joint by joint down the body."""
    protocol = PROTOCOLS["3dpw-challenge"]
    mine, true = made(protocol)
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    mine["rotations"][:, [0, 2, 5]] = quarter  # pelvis, right hip, right knee: three quarters
    files(protocol, tmp_path, mine, true)
    with (tmp_path / "3dpw" / "test" / "run.pkl").open("rb") as file:
        table = pickle.load(file)
    joints = np.array(table["jointPositions"])
    assert joints.shape == (2, 2, 24, 3)
    assert joints[1, 0] == pytest.approx(mine["joints3d"][2])
    turns = np.array(table["orientations"])
    assert turns.shape == (2, 2, 9, 3, 3)
    assert turns[0, 0, 4] == pytest.approx(np.linalg.matrix_power(quarter, 3))  # the right knee
    assert turns[0, 0, 3] == pytest.approx(quarter)  # the left one


def test_a_full_disk_leaves_no_part_of_a_sequence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(table: object, file: IO[bytes], protocol: int) -> None:
        file.write(b"part of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    protocol = PROTOCOLS["3dpw-challenge"]
    examples = made(protocol)[0]
    monkeypatch.setattr("hpse_dist.protocols.files.pickle.dump", full)
    with pytest.raises(OSError, match=r"No space left on device: .*run\.pkl"):
        write(protocol, examples, tmp_path / "predictions")
    assert not list((tmp_path / "predictions" / "test").iterdir())


def test_the_command_says_figures_and_protocol(tmp_path: Path, capsys: Any) -> None:
    protocol = PROTOCOLS["freihand"]
    paths = [str(path) for path in files(protocol, tmp_path, *made(protocol))]
    out = tmp_path / "score.json"
    given = ["score", *paths, "--protocol", "freihand", "--out", str(out)]
    assert run_command(main, parser(), given) == 0
    said = capsys.readouterr().out
    assert "F@5 mm        100.0 %" in said and "TAKES MIRROR IMAGES" in said
    assert json.loads(out.read_text())["figures"]["f_5"] == 100.0
    assert run_command(main, parser(), ["score", *paths]) == 2
    assert run_command(main, parser(), ["score", *paths, "--protocol", "freehand"]) == 2
    assert "invalid choice: 'freehand'" in capsys.readouterr().err
    assert run_command(main, parser(), [str(tmp_path), "more"]) == 2


def test_classes_are_scored_from_probabilities_or_labels() -> None:
    protocol = next(each for each in PROTOCOLS.values() if each.kind == "classes")
    chances = np.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2]])
    true = Examples("truth", {"label": np.array([0, 1, 2, 1])})  # the second is wrong
    figures = score(protocol, Examples("mine", {"probability": chances}), true).figures
    f1 = (2 / 3 + 2 / 3 + 1) / 3
    wanted = {
        "accuracy": 75.0,
        "macro_f1": 100 * f1,
        "uncertainty": 100 * (0.3 + 0.7 + 0.2 + 0.4) / 4,
    }
    assert figures == pytest.approx({n: wanted[n] for n in protocol.figures})
    named = score(protocol, Examples("mine", {"label": chances.argmax(1)}), true).figures
    assert named == pytest.approx({n: figures[n] for n in figures if n != "uncertainty"})
    with pytest.raises(ValueError, match="probabilities of 3 classes, and truth has class 3"):
        score(
            protocol,
            Examples("mine", {"probability": chances}),
            Examples("truth", {"label": np.array([0, 1, 2, 3])}),
        )


def test_a_part_that_is_nowhere_in_truth_is_a_wrong_one() -> None:
    true, mine = (np.array([[row]]) for row in ([1, 2, 0, 0], [1, 5, 0, 5]))
    sides = (Examples("", {"part_map": side}) for side in (mine, true))
    figures = score(PROTOCOLS["part-pixels"], *sides).figures
    assert figures == pytest.approx({"part_iou": (100 + 0) / 2, "person_iou": 100 * 2 / 3})
    turned = Examples("mine", {"part_map": mine.reshape(1, 2, 2)})
    with pytest.raises(ValueError, match=r"mine: part maps of \(2, 2\) pixels, and t has \(1, 4\)"):
        score(PROTOCOLS["part-pixels"], turned, Examples("t", {"part_map": true}))


def test_joints_in_a_picture_by_hand() -> None:
    """Shares of the person's side, here 1; a joint that is not labelled does not count."""
    protocol = next(each for each in PROTOCOLS.values() if "pck_005" in each.figures)
    true = np.array([[[0.5, 0.5, 1], [0.0, 0.0, 1], [1.0, 1.0, 1], [0.9, 0.9, 0]]])
    mine = true[..., :2] + np.array([[0.03, 0.0], [0.0, 0.08], [0.2, 0.0], [0.0, 0.0]])
    found = score(protocol, Examples("mine", {"joints2d": mine}), Examples("t", {"joints2d": true}))
    assert found.figures["pck_005"] == pytest.approx(100 / 3)
    assert found.figures["pck_01"] == pytest.approx(200 / 3)
    outside = np.concatenate((true, [[[1.7, 0.5, 1.0]]]), axis=1)  # labelled, and not in the crop
    wide = np.concatenate((mine, [[[0.2, 0.5]]]), axis=1)
    again = score(protocol, Examples("", {"joints2d": wide}), Examples("", {"joints2d": outside}))
    assert again.figures == found.figures


def test_a_full_disk_leaves_no_torn_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = PROTOCOLS["crop-pck"]
    examples, _ = made(protocol)
    path = write(protocol, examples, tmp_path / "predictions.npz")
    whole = path.read_bytes()

    def torn(file: Any, **_: Any) -> None:
        with open(file, "wb") if isinstance(file, Path) else file as opened:
            opened.write(b"PK")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", torn)
    with pytest.raises(OSError, match=r"No space left on device: .*predictions\.npz"):
        write(protocol, examples, path)
    assert path.read_bytes() == whole and list(tmp_path.iterdir()) == [path]
