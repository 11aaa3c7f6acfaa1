"""What every downstream task is."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.objectives.base import Objective

Prediction = dict[str, Tensor]


class Task(Objective):
    """An objective that also predicts, and is judged example by example.

    A subclass writes `predict`, `truth` and `errors`; `metrics` follows from them.
    """

    protocols: ClassVar[tuple[str, ...]] = ()
    """Named protocols that its errors are figures of. The first one holds, unless the config has a
    key `protocol` that names another."""
    set_protocols: ClassVar[tuple[str, ...]] = ()
    """Others, of figures of whole sets, that its predictions are judged by as well where the data
    has their joints."""
    has: ClassVar[str] = ""
    """Of a mesh: the flag in a batch of the rows whose mesh is labelled."""

    @classmethod
    def protocol_of(cls, config: Any) -> str:
        """The protocol that figures of this task are of with that config; empty without any."""
        chosen = getattr(config, "protocol", "") or next(iter(cls.protocols), "")
        if chosen and chosen not in cls.protocols:
            raise ValueError(
                f"protocol must be one of {', '.join(cls.protocols)}, found {chosen!r}; files of "
                "predictions can be scored by any protocol (pipelines.report score)"
            )
        return chosen

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
        """The errors of this model's own predictions, per example; infinite where a prediction is
        no number: NaN, which says that a label lacks, would leave it out of the mean."""
        prediction = self.predict(batch)
        rows = [value.isfinite().flatten(1).all(1) for value in prediction.values()]
        lost = ~torch.stack(rows).all(0)
        figures = self.errors(prediction, batch)
        return {
            n: value.masked_fill(value.isnan() & lost, math.inf) for n, value in figures.items()
        }
