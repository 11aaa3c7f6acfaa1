"""Models in one's own code: they are what was trained, and pictures reach them as in training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hpse_dist.data.collection import Collection, CollectionConfig, write_collection
from hpse_dist.data.items import Source
from hpse_dist.data.loader import evaluation_batches
from hpse_dist.predict import Wanted, predict
from hpse_dist.run import pretrain
from hpse_dist.use import load_encoder, load_task, person_picture
from hpse_dist.world import World
from tests.data.made_collection import frame, made_collection
from tests.data.made_rig import PROVENANCE
from tests.test_predict import trained
from tests.test_run import pretraining


@pytest.fixture(scope="module")
def collection() -> Collection:
    return made_collection()


def test_an_encoder_is_opened_in_one_call(tmp_path: Path, collection: Collection) -> None:
    recipe = pretraining(tmp_path, collection, steps=3)
    pretrain(recipe, World(), recipe.folder())
    encoder = load_encoder(recipe.folder())
    assert not encoder.training and encoder.image_px == recipe.encoder.image_px
    file = recipe.folder() / "encoder.safetensors"
    exported = load_file(file)
    assert all(torch.equal(exported[name], value) for name, value in encoder.state_dict().items())
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    larger = load_encoder(file, image_px=64)
    tokens = larger(pictures)
    assert tokens.shape == (2, (64 // larger.patch_px) ** 2, larger.dim)
    assert torch.equal(tokens, larger(pictures))
    with pytest.raises(ValueError, match="no such run folder or file"):
        load_encoder(tmp_path / "none")
    with pytest.raises(ValueError, match="which has no task; open its encoder"):
        load_task(recipe.folder())


def test_a_task_needs_its_runs_folder_alone(tmp_path: Path, collection: Collection) -> None:
    """The source may be gone, and the folder elsewhere."""
    first = pretraining(tmp_path / "first", collection, steps=3)
    pretrain(first, World(), first.folder())
    task = {"name": "pose2d", "head_dim": 16}
    recipe = trained(tmp_path / "then", collection, task, source=str(first.folder()))
    picture = person_picture(np.full((90, 70, 3), 128, np.uint8), (10, 10, 60, 80), 32)
    before = load_task(recipe.folder()).predict({"image": picture[None]})
    assert before["joints2d"].shape == (1, 24, 2)
    shutil.rmtree(first.folder())
    predict(Wanted(recipe), World(), recipe.folder())
    moved = shutil.move(recipe.folder(), tmp_path / "moved")
    module = load_task(moved)
    assert not module.training
    after = module.predict({"image": picture[None]})
    assert torch.equal(before["joints2d"], after["joints2d"])
    for folder in (tmp_path, tmp_path / "first"):
        with pytest.raises(ValueError, match="no finished run; give the folder of a fine-tuning"):
            load_task(folder)


def test_a_picture_is_what_evaluation_sees(tmp_path: Path) -> None:
    records = [frame(np.random.default_rng(3), 4, moment, 0) for moment in range(3)]
    config = CollectionConfig(crop_px=32, image_mode="raw", min_side_px=20)
    stored = write_collection(tmp_path / "stored", records, config, PROVENANCE)
    (seen,) = evaluation_batches(
        Source(stored, split="val"),
        needs=("image", "sample_id"),
        sampling="frames",
        world=World(),
        micro_batch=4,
        image_px=32,
        patch_px=8,
        device=torch.device("cpu"),
    )
    for place, number in enumerate(seen["sample_id"].tolist()[:3]):
        record = records[number]
        assert isinstance(record.image, np.ndarray)
        mine = person_picture(record.image, record.box, 32)
        assert torch.allclose(mine, seen["image"][place], atol=1e-5)
    Image.fromarray(record.image).save(tmp_path / "whole.png")
    assert torch.equal(person_picture(tmp_path / "whole.png", record.box, 32), mine)
    with pytest.raises(ValueError, match="box: x0 < x1 and y0 < y1 are needed"):
        person_picture(record.image, (5, 5, 5, 9), 32)
    with pytest.raises(ValueError, match=r"none\.png: the picture is missing"):
        person_picture(tmp_path / "none.png", (1, 1, 5, 9), 32)
    with pytest.raises(ValueError, match="image: image is float64"):
        person_picture(np.zeros((4, 4, 3)), (1, 1, 5, 9), 32)
