"""From a collection through the loader, a task and a protocol: what is exact scores as exact, and
what is a known way off scores that, while training and by the protocol alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hpse_dist.body.model import load_body, load_hand
from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.items import Source
from hpse_dist.data.loader import evaluation_batches
from hpse_dist.data.pairs import PairsConfig, write_pairs
from hpse_dist.fields import Batch
from hpse_dist.models.decoder import DecoderConfig
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.protocols import PROTOCOLS
from hpse_dist.protocols.examples import Examples
from hpse_dist.protocols.files import score_examples
from hpse_dist.records import FrameRecord, Provenance
from hpse_dist.report.tables import METRICS
from hpse_dist.tasks import build
from hpse_dist.tasks.base import Prediction, Task
from hpse_dist.tasks.body_mesh import BodyMeshConfig
from hpse_dist.tasks.body_mesh_free import BodyMeshFreeConfig
from hpse_dist.tasks.body_mesh_two_views import BodyMeshTwoViewsConfig
from hpse_dist.tasks.classify import ClassifyConfig
from hpse_dist.tasks.dense_pose import DensePoseConfig
from hpse_dist.tasks.hand_mesh import HandMeshConfig, HandMeshFreeConfig
from hpse_dist.tasks.part_segmentation import PartSegmentationConfig
from hpse_dist.tasks.pose2d import Pose2dConfig
from hpse_dist.tasks.pose3d import Pose3dConfig
from hpse_dist.whole_set import Collector
from hpse_dist.world import World
from tests.data.made_collection import CROP_PX, frames
from tests.fabricate import tiny_body_file, tiny_hand_folder

UNLABELLED = 3  # of the rows, one without any label
DECODER = DecoderConfig("custom", dim=16, depth=1, heads=1)
QUERY = {"head_dim": 32, "head_depth": 1, "heads": 1, "head_hidden": 32}
FREE = {"num_mid": 84, "num_coarse": 42, "dims": (16,), "depth": 1, "heads": 1}
Change = Callable[[Prediction], dict[str, Tensor]]


def farther(prediction: Prediction) -> dict[str, Tensor]:
    """Everything but the root 30 mm farther away; of a mesh all, as its root is a joint."""
    off = torch.tensor([0.0, 0.0, 0.03])
    joints = prediction["joints3d"].clone()
    joints[:, 1:] += off
    meshes = {"vertices": prediction["vertices"] + off} if "vertices" in prediction else {}
    return {"joints3d": joints} | meshes


def beside(prediction: Prediction) -> dict[str, Tensor]:
    """Joints by 0.07 of each person's side."""
    joints, known = prediction["joints2d"].clone(), prediction["confidence"] > 0
    for row, seen in zip(joints, known, strict=True):
        if seen.any():
            row += torch.tensor([0.07, 0.0]) * (row[seen].amax(0) - row[seen].amin(0)).max()
    return {"joints2d": joints}


def another(prediction: Prediction) -> dict[str, Tensor]:
    return {"probability": prediction["probability"].roll(1, dims=1)}


def one_part_lost(prediction: Prediction) -> dict[str, Tensor]:
    """Part 1 of 6 is taken for the background, which is nobody's."""
    return {"part_map": prediction["part_map"] * (prediction["part_map"] != 1)}


def beside_on_the_surface(prediction: Prediction) -> dict[str, Tensor]:
    """By 0.03 of the coordinates' range on one half of the pixels, by 0.07 on the other."""
    uv = prediction["uv_map"].clone()
    uv[:, 0, ::2] += 0.03
    uv[:, 0, 1::2] += 0.07
    return {"uv_map": uv}


BODY = {"mpjpe": 30 * 23 / 24, "pve": 30.0}
HAND = {"mpjpe": 30 * 20 / 21, "pve": 30.0, "pa_pve": 0.0, "f_5": 100.0, "f_15": 100.0}
CASES: dict[str, tuple[Callable[[str], Any], bool, Change, dict[str, float]]] = {
    "pose3d": (lambda _: Pose3dConfig(), False, farther, {"mpjpe": BODY["mpjpe"]}),
    "pose3d of hands": (
        lambda _: Pose3dConfig(num_joints=21, protocol="synthetic-hand"),
        *(True, farther, {"mpjpe": HAND["mpjpe"]}),
    ),
    "pose2d": (
        lambda _: Pose2dConfig(head_dim=8),
        *(False, beside, {"joint_error": 7.0, "pck_005": 0.0, "pck_01": 100.0}),
    ),
    "body_mesh": (lambda body: BodyMeshConfig(body=body, **QUERY), False, farther, BODY),
    "body_mesh_free": (lambda body: BodyMeshFreeConfig(body=body, **FREE), False, farther, BODY),
    "hand_mesh": (lambda hand: HandMeshConfig(body=hand, **QUERY), True, farther, HAND),
    "hand_mesh_free": (lambda hand: HandMeshFreeConfig(hand=hand, **FREE), True, farther, HAND),
    "part_segmentation": (
        lambda _: PartSegmentationConfig(head_dim=8),
        *(False, one_part_lost, {"part_iou": 100 * 5 / 6}),
    ),
    "dense_pose": (
        lambda _: DensePoseConfig(head_dim=8),
        *(False, beside_on_the_surface, {"part_iou": 100.0, "uv_error": 5.0, "surface_right": 50}),
    ),
    "body_mesh_two_views": (
        lambda body: BodyMeshTwoViewsConfig(body=body, decoder=DECODER, **QUERY),
        *(False, farther, BODY | {f"{name}_one_view": 0.0 for name in BODY}),
    ),
    "classify": (
        lambda _: ClassifyConfig(num_classes=3),
        *(True, another, {"accuracy": 0.0, "uncertainty": 100.0, "macro_f1": 0.0}),
    ),
}


def records(hands: bool, model: str) -> Iterator[FrameRecord]:
    """People, or hands, whose joints are exactly those of their mesh; some without labels."""
    mesh = load_hand(model, "right") if hands else load_body(model)
    for number, record in enumerate(frames(hands=hands)):
        names = [n for n in record.labels if n.endswith(("orient", "pose", "betas", "transl"))]
        values = [torch.tensor(record.labels[n], dtype=torch.float32)[None] for n in names]
        values[3] = torch.tensor([[0.1, 0.05, 3.0]])
        record.labels[names[3]] = values[3][0].numpy()
        joints = mesh(*values).joints[0].double().numpy()
        pixels = joints @ record.intrinsics.T
        one = np.ones((len(joints), 1))
        record.labels["joints3d"] = np.concatenate((joints, one), axis=1)
        record.labels["joints2d"] = np.concatenate((pixels[:, :2] / pixels[:, 2:], one), axis=1)
        if number % UNLABELLED == 0:
            record.labels = {k: v for k, v in record.labels.items() if k == "label"}
        yield record


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, tuple[str, Collection]]:
    """The model and the collection of bodies (False) and of hands (True)."""
    found = {}
    for hands in (False, True):
        folder = tmp_path_factory.mktemp("made")
        model = str(tiny_hand_folder(folder) if hands else tiny_body_file(folder))
        config = CollectionConfig(crop_px=CROP_PX, box_scale=1.2, image_mode="raw", label_px=32)
        about = Provenance("made", "CC0-1.0", True, "", "mano21" if hands else "smpl24")
        data = write_collection(folder / "data", list(records(hands, model)), config, about)
        pairs = PairsConfig(time_gap_s=(0.4, 2.0), pose_distance=(0.01, 9.0))
        found[hands] = model, data if hands else write_pairs(data, pairs)
    return found


def batches(task: Task, collection: Collection) -> Iterator[Batch]:
    return evaluation_batches(
        Source(collection, split=None),
        needs=tuple({*task.config.needs, "sample_id"}),
        sampling="pairs" if "image_ref" in task.config.needs else "frames",
        world=World(),
        micro_batch=8,
        image_px=32,
        patch_px=8,
    )


def both_ways(task: Task, collection: Collection, change: Change) -> tuple[dict, dict]:
    """Means of the task's errors of truth that was changed, and the protocol's figures of it."""
    task.predict = lambda batch: task.truth(batch) | change(task.truth(batch))  # type: ignore
    protocol = PROTOCOLS[task.protocol_of(task.config)]
    collector, errors = Collector(protocol, collection), []
    for batch in batches(task, collection):
        collector(task, batch)
        found = task.metrics(batch)
        errors.append({name: value[batch["valid"]] for name, value in found.items()})
    means = {n: float(torch.cat([e[n] for e in errors]).nanmean()) for n in errors[0]}
    engine: Any = SimpleNamespace(gather=lambda value: [value], world=World())
    sides = collector.gathered(engine)
    return means, score_examples(protocol, *(Examples("", side) for side in sides)).figures


@pytest.mark.parametrize("name", CASES)
def test_what_is_exact_and_what_is_off(name: str, made: dict[bool, tuple[str, Collection]]) -> None:
    config, of_hands, change, wanted = CASES[name]
    model, collection = made[of_hands]
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    task = build(config(model), encoder, seed=0).eval()
    for figures in both_ways(task, collection, lambda _: {}):
        for figure, value in figures.items():
            best = 100.0 if METRICS[figure].better == "higher" else 0.0
            assert value == pytest.approx(best, abs=2e-2), figure
    means, scored = both_ways(task, collection, change)
    for figures in (means, scored):
        for figure in wanted.keys() & figures.keys():
            assert figures[figure] == pytest.approx(wanted[figure], abs=2e-2), figure
    assert wanted.keys() <= means.keys() | scored.keys()
    for figure in means.keys() & scored.keys():
        assert means[figure] == pytest.approx(scored[figure], abs=2e-2), figure


def test_people_without_a_keypoint_are_not_looked_for(tmp_path: Path) -> None:
    """COCO ignores them and who is found there; a prediction for them would be one made up."""
    some = list(frames())[:12]
    for number, record in enumerate(some):
        joints = record.labels["joints2d"][:17].copy()
        if number % UNLABELLED == 0:
            joints[:, 2] = 0.0
        record.labels = {"joints2d": joints}
    config = CollectionConfig(crop_px=CROP_PX, box_scale=1.2, image_mode="raw")
    about = Provenance("made", "CC0-1.0", True, "", "coco17")
    collection = write_collection(tmp_path / "coco", some, config, about)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    task = build(Pose2dConfig(num_joints=17, head_dim=8), encoder, seed=0).eval()
    sure = torch.ones(8, 17)  # of people without a label too
    task.predict = lambda batch: task.truth(batch) | {"confidence": sure}  # type: ignore
    collector = Collector(PROTOCOLS["coco-keypoints"], collection)
    for batch in batches(task, collection):
        collector(task, batch)
    engine: Any = SimpleNamespace(gather=lambda value: [value], world=World())
    mine, true = (Examples("", side) for side in collector.gathered(engine))
    stored = collection.read(np.arange(collection.num_frames), ["joints2d"])["joints2d"]
    assert len(true) == (stored[..., 2] > 0).any(1).sum() < len(stored)
    assert score_examples(PROTOCOLS["coco-keypoints"], mine, true).figures["ap"] == pytest.approx(
        100.0
    )
