"""Classification of whole pictures: the supervised (ImageNet) source, and a downstream task.

Mean of the tokens, LayerNorm, one linear layer; cross entropy with label smoothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hpse_dist.constants import at_hand
from hpse_dist.fields import Batch
from hpse_dist.models.blocks import layer_norm
from hpse_dist.models.encoder import Encoder
from hpse_dist.objectives.base import PANEL_ROWS, sheet, to_rgb
from hpse_dist.tasks.base import Prediction, Task


@dataclass(frozen=True)
class ClassifyConfig:
    """A class for every picture."""

    num_classes: int = 1000
    """Classes of the collection."""
    label_smoothing: float = 0.1
    """Share of the target that all classes have alike (Szegedy et al., CVPR 2016)."""

    protocol: str = "classes"
    """By which its figures are called: classes, hagrid or gun71."""

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, found {self.num_classes}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1), found {self.label_smoothing}")

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return ("image", "label")


class Classify(Task):
    """Encoder and a linear classifier of the mean token."""

    Config = ClassifyConfig
    protocols = ("classes", "hagrid", "gun71")
    config: ClassifyConfig

    def __init__(self, config: ClassifyConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.norm = layer_norm(encoder.dim)
        self.head = nn.Linear(encoder.dim, config.num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: cross entropy with label smoothing; `accuracy`, percent of right pictures."""
        logits, label = self._logits(batch["image"]), self._label(batch)
        loss = F.cross_entropy(logits, label, label_smoothing=self.config.label_smoothing)
        right = (logits.detach().argmax(1) == label).float().mean()
        return {"loss": loss, "accuracy": 100 * right}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """probability (B, K) of every class."""
        return {"probability": self._logits(batch["image"]).softmax(1)}

    @torch.no_grad()
    def truth(self, batch: Batch) -> Prediction:
        """All probability on the labelled class."""
        return {"probability": F.one_hot(self._label(batch), self.config.num_classes).float()}

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """accuracy, 100 where the labelled class has the largest probability and 0 elsewhere, and
        uncertainty, the percent of probability that it does not have."""
        label, probability = self._label(batch), prediction["probability"]
        given = probability.gather(1, label[:, None])[:, 0]
        # the largest of what is no number is the first class: right of every picture that has it
        right = (probability.argmax(1) == label) & probability.isfinite().all(1)
        return {
            "accuracy": 100 * right.float(),
            "uncertainty": 100 * (1 - given),
        }

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Pictures with the predicted class, its probability, and the labelled class."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        best, number = self.predict(batch)["probability"].max(1)
        captions = [
            f"{n} ({p:.0%}), is {true}"
            for n, p, true in zip(
                number.tolist(), best.tolist(), batch["label"].tolist(), strict=True
            )
        ]
        rows = [[picture] for picture in to_rgb(batch["image"]).cpu()]
        return {"classify": sheet(rows, ("class",), captions)}

    def _logits(self, image: Tensor) -> Tensor:
        """(B, K) float32."""
        return self.head(self.norm(self.encoder(image).mean(1))).float()

    def _label(self, batch: Batch) -> Tensor:
        """(B,) labelled class; looked at on the CPU only, a GPU stops at a wrong one."""
        label = batch["label"]
        if not at_hand(label) or not len(label):
            return label
        if int(label.max()) >= self.config.num_classes:
            raise ValueError(
                f"label: a picture has class {int(label.max())} and the recipe says num_classes "
                f"{self.config.num_classes}; set it to the collection's (its manifest names them)"
            )
        if int(label.min()) < 0:
            raise ValueError(
                "label: a picture of the collection has no class; prepare it without such pictures"
            )
        return label
