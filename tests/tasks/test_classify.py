"""Classes that a picture can have."""

from __future__ import annotations

import math

import pytest
import torch

from hpse_dist.models.encoder import Encoder, EncoderConfig
from hpse_dist.tasks.classify import Classify, ClassifyConfig


@pytest.mark.parametrize(
    ("label", "said"),
    [(3, "a picture has class 3 and the recipe says num_classes 3"), (-1, "has no class")],
)
def test_a_class_that_there_is_not_is_said(label: int, said: str) -> None:
    encoder = Encoder(EncoderConfig("custom", image_px=32, patch_px=8, dim=32, depth=1, heads=2))
    task = Classify(ClassifyConfig(num_classes=3), encoder, 0)
    batch = {"image": torch.zeros(2, 3, 32, 32), "label": torch.tensor([0, label])}
    with pytest.raises(ValueError, match=said):
        task(batch)
    assert task({**batch, "label": torch.tensor([0, 2])})["loss"] > 0


def test_what_is_no_number_is_right_of_no_picture() -> None:
    """The largest of numbers that are none is the first: a diverged model would know that class."""
    encoder = Encoder(EncoderConfig("custom", image_px=32, patch_px=8, dim=32, depth=1, heads=2))
    task = Classify(ClassifyConfig(num_classes=3), encoder, 0)
    batch = {"image": torch.zeros(2, 3, 32, 32), "label": torch.tensor([0, 2])}
    with torch.no_grad():
        task.head.bias.fill_(math.nan)
    figures = task.metrics(batch)
    assert figures["accuracy"].tolist() == [0.0, 0.0]
    assert figures["uncertainty"].tolist() == [math.inf, math.inf]
