"""A detector of torchvision from a weights file: recognised, used, or refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from hpse_dist.data.importers import videos
from hpse_dist.data.importers.detector import Detector, load_detector
from hpse_dist.data.importers.videos import VideosConfig
from hpse_dist.geometry.boxes import iou
from hpse_dist.records import FrameRecord
from tests.data.importers.made_videos import write_video
from tests.data.importers.walkers import draw, pan, walk

SMALLEST = "ssdlite320_mobilenet_v3_large"


class RedShirts(nn.Module):
    """Finds what is red, and with less confidence a dog; torchvision's contract."""

    def forward(self, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
        red, green, blue = pictures[0]
        assert pictures[0].dtype == torch.float32 and float(pictures[0].max()) <= 1
        rows, columns = torch.nonzero((red > 0.75) & (green < 0.3) & (blue < 0.3), as_tuple=True)
        person = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()]).float()
        person += torch.tensor([-8.0, -35, 8, 70])
        boxes = torch.stack([person, person / 2, person])
        labels, scores = torch.tensor([1, 18, 1]), torch.tensor([0.9, 0.95, 0.2])
        return [{"boxes": boxes, "labels": labels, "scores": scores}]


def test_people_above_the_score_are_taken() -> None:
    picture = walk(1, 100, 100)[0][0][..., ::-1]
    (box,) = Detector(RedShirts(), 0.5).people(picture)
    assert box.dtype == np.float64 and iou(box, walk(1, 100, 100)[1][0]) > 0.4
    assert Detector(RedShirts(), 0.99).people(picture).shape == (0, 4)


def test_a_detector_finds_people_where_the_camera_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, truth = pan(2, 40, 2), []
    for n, image in enumerate(pictures):
        image[:] = image // 2
        truth.append(draw(image, 100 + n, swing=0.3 + 0.3 * np.sin(0.4 * n)))
    write_video(tmp_path / "pan.avi", pictures, 20)
    (tmp_path / "weights.pth").write_bytes(b"")
    monkeypatch.setattr(videos, "load_detector", lambda path, score: Detector(RedShirts(), score))
    found = list(videos.frames(VideosConfig(root=tmp_path, detector=Path("weights.pth"))))
    good = [record for record in found if isinstance(record, FrameRecord)]
    assert len(good) == len(found) == 10 and len({record.track for record in good}) == 1
    assert all(record.mask is None and record.appearance is not None for record in good)


def test_weights_are_recognised_by_their_tensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_model(SMALLEST, weights=None, weights_backbone=None)
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "mine.pth")
    detector = load_detector(tmp_path / "mine.pth", 0.5)
    loaded = detector._model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in model.state_dict().items())
    assert detector.people(np.zeros((64, 48, 3), np.uint8)).shape[1:] == (4,)


def test_wrong_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none.pth: no such weights; download those"):
        load_detector(tmp_path / "none.pth", 0.5)
    torch.save({"layer.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="its 1 tensors are not those of a detector"):
        load_detector(tmp_path / "other.pth", 0.5)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no weights"):
        load_detector(tmp_path / "list.pth", 0.5)
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_detector(tmp_path / "text.pth", 0.5)
    torch.save(nn.Linear(2, 2), tmp_path / "code.pth")  # would run code when unpickled
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_detector(tmp_path / "code.pth", 0.5)
