"""What every downstream task is."""

from __future__ import annotations

import torch
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.objectives.base import Objective

Prediction = dict[str, Tensor]


class Task(Objective):
    """An objective that also predicts, and is judged example by example.

    A subclass writes `predict`, `truth` and `errors`; `metrics` follows from them.
    """

    def predict(self, batch: Batch) -> Prediction:
        """What the model says of a batch of pictures; reads no labels."""
        raise NotImplementedError

    def truth(self, batch: Batch) -> Prediction:
        """What a perfect model would say, from the labels, under the names of `predict`."""
        raise NotImplementedError

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Figures per example of a prediction beside the labels, (B,) each; NaN for want of one."""
        raise NotImplementedError

    @torch.no_grad()
    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """The errors of this model's own predictions, per example."""
        return self.errors(self.predict(batch), batch)
