"""The table of protocols, and what tasks and recipes say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpse_dist.body.joints import FREIHAND21, JOINT_SETS, MANO21
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.protocols import PROTOCOLS, named
from hpse_dist.protocols.examples import Examples
from hpse_dist.protocols.score import score
from hpse_dist.report.tables import METRICS
from hpse_dist.tasks import TASKS, protocol_of
from hpse_dist.tasks.classify import ClassifyConfig
from hpse_dist.tasks.pose3d import Pose3d, Pose3dConfig


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_whole(name: str) -> None:
    protocol = PROTOCOLS[name]
    assert protocol.name == name and set(protocol.figures) <= set(METRICS)
    text = protocol.describe()
    for part in (name, "Ground truth: ", "Misses: ", "Unit: "):
        assert part in text
    assert text.count("\n") == 0
    if protocol.joints:
        names = JOINT_SETS[protocol.joint_set]
        assert [names[place] for place in protocol.judged()] == list(protocol.joints)


def test_joints_of_the_benchmarks() -> None:
    assert len(PROTOCOLS["3dpw-14"].joints) == len(PROTOCOLS["h36m-p2"].joints) == 14
    assert PROTOCOLS["3dpw-14"].judged() == [1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 14, 15, 16]
    assert PROTOCOLS["3dhp"].judged() == list(range(14))
    # FreiHAND goes finger by finger; MANO has its own order and the tips at the end
    order = [MANO21.index(joint) for joint in FREIHAND21]
    assert order == [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]


def test_an_unknown_protocol_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="no protocol is called '3dpw'; there are synthetic-24, "):
        named("3dpw")


def test_a_joint_set_that_a_protocol_cannot_use_is_one_sentence() -> None:
    protocol = PROTOCOLS["3dpw-14"]
    protocol.check_joint_set("h36m17", "x")
    protocol.check_joint_set(None, "x")
    with pytest.raises(
        ValueError, match="x: its joints are smpl24 and protocol 3dpw-14 judges h36"
    ):
        protocol.check_joint_set("smpl24", "x")
    with pytest.raises(
        ValueError, match="x: 14 joints, and protocol 3dpw-14 needs the 17 of h36m17"
    ):
        protocol.check_joint_count(14, "x")


def test_every_task_names_its_protocol() -> None:
    for name, task in TASKS.items():
        assert set(task.protocols) <= set(PROTOCOLS), name
        assert protocol_of(task.Config()) == next(iter(task.protocols), "")
    assert protocol_of(ClassifyConfig(protocol="hagrid")) == "hagrid"
    with pytest.raises(ValueError, match="one of classes, hagrid, gun71, found '3dpw-14'"):
        protocol_of(ClassifyConfig(protocol="3dpw-14"))


@pytest.mark.parametrize("name", ["synthetic-24", "synthetic-hand", "h36m-p1", "h36m-p2", "3dhp"])
def test_joints_are_judged_by_the_tasks_protocol_while_training(name: str) -> None:
    """What pose3d says of itself is what a file with the same joints scores."""
    protocol = PROTOCOLS[name]
    count, rng = len(protocol.names()), np.random.default_rng(0)
    true = np.concatenate((rng.normal(0, 0.3, (5, count, 3)), np.ones((5, count, 1))), -1)
    mine = true[..., :3] + rng.normal(0, 0.08, (5, count, 3))
    true[1, 3, 3] = 0.0
    config = Pose3dConfig(num_joints=count, head_dim=32, head_depth=1, heads=2, protocol=name)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2))
    batch = {"joints3d": torch.from_numpy(true)}
    errors = Pose3d(config, encoder, 0).errors({"joints3d": torch.from_numpy(mine)}, batch)
    sides = [Examples("", {"joints3d": side}) for side in (mine, true)]
    figures = score(protocol, *sides).figures
    assert set(figures) == set(errors)
    for figure, values in errors.items():
        assert figures[figure] == pytest.approx(float(values.nanmean()), rel=1e-9), figure


def test_a_task_with_another_number_of_joints_than_its_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="the 17 of mpi17 for protocol 3dhp, found 24"):
        Pose3dConfig(protocol="3dhp")
