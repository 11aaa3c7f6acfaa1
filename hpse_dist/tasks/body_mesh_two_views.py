"""Body mesh from two pictures of one instant: encoder and completion's decoder are both kept.

The decoder, nothing hidden, reads the first picture beside the second; the query reads the
decoder's tokens and the first picture's own. The answer is the body in the first camera's frame.
The same network also answers from one picture, given it as its own second one, so that the gain of
a second view is measured within one run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from hpse_dist.fields import Batch
from hpse_dist.models.decoder import Decoder, DecoderConfig
from hpse_dist.models.encoder import Encoder
from hpse_dist.objectives.base import PANEL_ROWS, to_rgb
from hpse_dist.tasks.base import Prediction
from hpse_dist.tasks.body_mesh import BodyMesh, BodyMeshConfig
from hpse_dist.tasks.mesh_panels import mesh_rows

ONE_VIEW = "_one_view"  # ends the names of what comes from one picture


@dataclass(frozen=True)
class BodyMeshTwoViewsConfig(BodyMeshConfig):
    """Pose, shape and camera of a body by one query over two pictures."""

    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    """The decoder's size: the source's, where its decoder is taken (source_decoder)."""
    one_view_weight: float = 1.0
    """Weight of the loss of the answer from the first picture alone."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        return (*super().needs, "image_ref")

    @property
    def pair_kinds(self) -> tuple[str, ...]:
        """Two pictures of one instant: a pose pair's second one shows another."""
        return ("view",)


class BodyMeshTwoViews(BodyMesh):
    """Encoder, decoder, query head, and a parametric body."""

    Config = BodyMeshTwoViewsConfig
    config: BodyMeshTwoViewsConfig
    name = "body_mesh_two_views"

    def __init__(self, config: BodyMeshTwoViewsConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        self.decoder = Decoder(config.decoder, encoder)
        for unused in (self.decoder.head, self.decoder.mask_token):
            unused.requires_grad_(False)  # for hidden patches: here there are none
        self.from_decoder = nn.Linear(self.decoder.dim, encoder.dim)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`: that of two views and the weighted one of one view; the parts of two views as in
        body_mesh, and `loss_two_views` and `loss_one_view`."""
        two, one = (self.losses(guess, batch) for guess in self._both(batch))
        loss = two["loss"] + self.config.one_view_weight * one["loss"]
        sums = {"loss_two_views": two["loss"].detach(), "loss_one_view": one["loss"].detach()}
        return two | sums | {"loss": loss}

    @torch.no_grad()
    def predict(self, batch: Batch) -> Prediction:
        """The body in each first picture as body_mesh predicts it, and again, names ending in
        `_one_view`, from the first picture alone."""
        two, one = (self._finished(guess) for guess in self._both(batch))
        return two | {name + ONE_VIEW: value for name, value in one.items()}

    @torch.no_grad()
    def truth(self, batch: Batch) -> Prediction:
        """The labelled body, twice."""
        true = super().truth(batch)
        return true | {name + ONE_VIEW: value for name, value in true.items()}

    def errors(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """mpjpe, pa_mpjpe and pve of two views, and `_one_view` of one, mm per example."""
        one = {name: prediction[name + ONE_VIEW] for name in ("joints3d", "vertices")}
        alone = super().errors(one, batch)
        return super().errors(prediction, batch) | {k + ONE_VIEW: v for k, v in alone.items()}

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """Both pictures; the mesh of two views over the first, and from the side beside that of
        one view and the labelled one."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        guess, true = self.predict(batch), self._true_body(batch)
        error, faces = self.errors(guess, batch)["mpjpe"], self.body.faces.cpu().numpy()
        alone = (guess["vertices" + ONE_VIEW], guess["joints3d" + ONE_VIEW])
        second = to_rgb(batch["image_ref"]).cpu()
        picture = mesh_rows(
            batch, guess, true, batch["has_body"], faces, error, second=second, alone=alone
        )
        return {"body_mesh_two_views": picture}

    def _both(self, batch: Batch) -> tuple[Prediction, Prediction]:
        """Guesses from two views and from one."""
        first, second = self.encoder(batch["image"]), self.encoder(batch["image_ref"])
        grid, other = self.encoder.grid(batch["image"]), self.encoder.grid(batch["image_ref"])
        guesses = []
        for memory, memory_grid in ((second, other), (first, grid)):
            read = self.from_decoder(self.decoder.read(first, memory, grid, memory_grid))
            token = self.head(torch.cat((first, read), dim=1), grid)
            guesses.append(self._of_token(token, batch))
        return guesses[0], guesses[1]
