"""People found by a detector of torchvision, whose weights the user has on disk.

Nothing is downloaded. Which of torchvision's detectors a file belongs to is told by the names and
shapes of its tensors; weights are read without running code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hpse_dist.safety import one_line

PERSON = 1  # in COCO's numbering of classes, which torchvision keeps
_CLASS_TENSOR = "roi_heads.box_predictor.cls_score.bias"  # as long as there are classes
_COCO_CLASSES = 91
# what only some of them have, in whose names
_MARKS = {
    "roi_heads.keypoint": "keypointrcnn",
    "roi_heads.mask": "maskrcnn",
    "roi_heads.": "fasterrcnn",
    "backbone.features.": "ssd",
    "head.": "",
}


class Detector:
    """Boxes of people in single pictures."""

    def __init__(self, model: nn.Module, score: float, device: torch.device | None = None) -> None:
        """A model with torchvision's contract: pictures in, dicts of boxes, labels, scores out."""
        auto = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._device = device or auto
        self._model = model.to(self._device).eval()
        self._score = score

    @torch.inference_mode()
    def people(self, picture: np.ndarray) -> np.ndarray:
        """(N, 4) boxes in pixels of a (H, W, 3) uint8 RGB picture, the surest first."""
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(self._device)
        (found,) = self._model([pixels.permute(2, 0, 1).float() / 255])
        sure = (found["labels"] == PERSON) & (found["scores"] >= self._score)
        boxes = found["boxes"][sure][found["scores"][sure].argsort(descending=True)]
        return boxes.double().cpu().numpy().reshape(-1, 4)


def load_detector(path: Path, score: float) -> Detector:
    """The detector of a weights file; ValueError where the file is missing or fits none."""
    # imported here: it takes a second, and only few recipes have a detector
    from torchvision.models import get_model

    state = _read(path)
    name, classes = _architecture(path, state)
    model = get_model(name, weights=None, weights_backbone=None, num_classes=classes)
    model.load_state_dict(state)
    return Detector(model, score)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(
            f"{path}: no such weights; download those of one of torchvision's detection models, "
            "such as fasterrcnn_resnet50_fpn, and set `source.detector` to the file"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken or hostile file
        words = one_line(str(error))[:200]
        raise ValueError(f"{path}: cannot be read as weights: {words}") from None
    for key in ("model", "state_dict"):  # as training scripts wrap them
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: holds no weights of a model (names and tensors)")
    return dict(content)


def _architecture(path: Path, state: Mapping[str, Tensor]) -> tuple[str, int]:
    """Name of torchvision's detector with these tensors, and its number of classes."""
    from torchvision.models import detection, get_model, list_models

    shapes = {name: tuple(value.shape) for name, value in state.items()}
    known = list_models(module=detection)
    kinds = [kind for mark, kind in _MARKS.items() if any(key.startswith(mark) for key in shapes)]
    counts = shapes.get(_CLASS_TENSOR, (_COCO_CLASSES,))
    for name in known if kinds else ():
        for classes in counts if name.startswith(kinds[0]) else ():
            options: dict[str, Any] = {"weights": None, "weights_backbone": None}
            with torch.device("meta"):  # shapes alone, without memory
                model = get_model(name, num_classes=classes, **options)
            if {key: tuple(value.shape) for key, value in model.state_dict().items()} == shapes:
                return name, classes
    raise ValueError(
        f"{path}: its {len(shapes)} tensors are not those of a detector of torchvision; known are "
        f"{', '.join(known)}"
    )
