"""The table of protocols, and what tasks and recipes say of them."""

from __future__ import annotations

import pytest

from hpse_dist.body.joints import FREIHAND21, JOINT_SETS, MANO21
from hpse_dist.protocols import PROTOCOLS, named
from hpse_dist.report.tables import METRICS
from hpse_dist.tasks import TASKS, protocol_of
from hpse_dist.tasks.classify import ClassifyConfig


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
