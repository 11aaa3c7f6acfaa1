"""Relations of depth in batches: of the stored joints, whole and upright, whatever the crop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hpse_dist.data.augment import AugmentConfig
from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.depth_order import FIELDS, DepthOrder, DepthOrderConfig
from hpse_dist.data.items import Source
from hpse_dist.data.loader import Loader, evaluation_batches
from hpse_dist.fields import Batch
from hpse_dist.records import FrameRecord, Provenance
from hpse_dist.world import World
from tests.data.made_collection import made_collection
from tests.data.people import stand

PX, J = 64, 24
WILD = AugmentConfig(crop_scale=(0.6, 1.0), rotation_deg=30)
NEEDS = ("image", "sample_id", "people2d", "people3d", *FIELDS)


def record(number: int) -> FrameRecord:
    rng = np.random.default_rng(number)
    people2d, people3d = stand(rng.uniform(3, 9, 3).tolist())
    people2d[..., :2] *= PX
    return FrameRecord(
        image=rng.integers(0, 255, (PX, PX, 3), dtype=np.uint8),
        box=(0.0, 0.0, float(PX), float(PX)),
        subject=f"g{number}",
        sequence=f"g{number}",
        camera="cam0",
        time=0.0,
        source=f"made {number}",
        intrinsics=np.array([[0.8 * PX, 0, PX / 2], [0, 0.8 * PX, PX / 2], [0, 0, 1]]),
        labels={"people2d": people2d[0].numpy(), "people3d": people3d[0].numpy()},
        split="train" if number else "val",
    )


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    config = CollectionConfig(crop_px=PX, box_scale=1.0, min_side_px=20)
    made = Provenance("made", "CC0-1.0", True, "", "smpl24")
    folder = tmp_path_factory.mktemp("groups") / "groups"
    return write_collection(folder, [record(k) for k in range(9)], config, made)


def loaded(
    collection: Collection,
    needs: tuple[str, ...] = NEEDS,
    config: DepthOrderConfig | None = None,
    batches: int = 1,
) -> list[Batch]:
    loader = Loader(
        [Source(collection, 1.0, "train", ("view", "pose"))],
        needs=needs,
        sampling="frames",
        world=World(),
        seed=0,
        global_batch=8,
        micro_batch=8,
        augment=WILD,
        image_px=48,
        patch_px=8,
        depth_order=config,
    )
    found = iter(loader)
    try:
        return [next(found) for _ in range(batches)]
    finally:
        loader.close()


def test_labels_are_those_of_the_stored_joints(groups: Collection) -> None:
    assert "depth_pairs" not in groups.fields
    first, later = loaded(groups, batches=2)
    stored = groups.read(first["sample_id"].tolist(), ["people2d", "people3d"])
    order = DepthOrder("smpl24")(torch.from_numpy(stored["people2d"]))
    assert set(first) == set(NEEDS)
    for name in ("depth_order", "depth_confidence"):  # far apart, other joints are compared
        assert torch.equal(first[name].sign().unique(), order[name].sign().unique())
    between = (order["depth_confidence"] == 1) & (order["depth_order"] != 0)
    assert torch.equal(first["depth_order"][between], order["depth_order"][between])
    # they were cropped and turned, and the depths of the joints bear the labels out
    assert not np.allclose(first["people2d"], stored["people2d"], atol=0.02)
    depth = first["people3d"][..., 2].flatten(1)
    ends = [depth.gather(1, first["depth_pairs"][..., k]) for k in (0, 1)]
    told = (first["depth_confidence"] == 1) & (first["depth_order"] != 0)
    assert told.sum() > 50
    assert torch.equal((ends[0] - ends[1]).sign()[told], first["depth_order"][told])
    # partners change from pass to pass
    pairs = {b["sample_id"][k].item(): b["depth_pairs"][k] for b in (later,) for k in range(8)}
    again = torch.stack([pairs[i] for i in first["sample_id"].tolist()])
    assert not torch.equal(first["depth_pairs"], again)


def test_evaluation_compares_like_with_like(groups: Collection) -> None:
    source = Source(groups, 1.0, "val", ("view", "pose"))
    batch = next(
        evaluation_batches(
            source,
            needs=NEEDS,
            sampling="frames",
            world=World(),
            micro_batch=2,
            image_px=48,
            patch_px=8,
        )
    )
    between = batch["depth_pairs"] // J
    between = between[..., 0] != between[..., 1]
    joints = batch["depth_pairs"] % J
    assert torch.equal(joints[..., 0][between], joints[..., 1][between])


def test_the_recipe_decides_the_margins(groups: Collection) -> None:
    needs = ("sample_id", "depth_order", "depth_confidence")
    wide = DepthOrderConfig(margin=0.8, keypoint_margin=0.8, level=False)
    few, many = (loaded(groups, needs, config)[0] for config in (wide, None))
    counts = [(b["depth_confidence"] == 1).sum() for b in (few, many)]
    assert set(few) == set(needs) and 0 < counts[0] < counts[1]


def test_single_people_have_relations_inside_only() -> None:
    needs = ("image", "joints2d", *FIELDS)
    (batch,) = loaded(made_collection(), needs)
    assert batch["depth_pairs"].shape == (8, 7, 2) and batch["depth_pairs"].max() < J
    assert set(batch["depth_confidence"].unique().tolist()) <= {0.0, 0.25}
