"""Relative depth: which of two joints is nearer, learnt from 2D joints and perspective alone.

After Qiu et al., "Weakly-supervised pre-training for 3D human pose estimation via perspective
knowledge" (Pattern Recognition 139, 2023); the labels are those of `hpse_dist.data.depth_order`.
The model makes a map of depth z and heatmaps of the joints. For a pair of joints a, b of order r
(+1: a is farther), with z sampled at their places,

    r != 0   log(1 + exp(-r (z_a - z_b)))          r = 0   (z_a - z_b)^2

times the pair's confidence, divided by the number of the picture's pairs, and averaged over
pictures: a crowd counts as much as a couple. Depth in metres is measured against, never learnt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hpse_dist.fields import Batch
from hpse_dist.models.encoder import Encoder
from hpse_dist.models.maps import MapHead, cells_per_patch, gaussian_maps
from hpse_dist.objectives.base import PANEL_ROWS, Objective, to_rgb
from hpse_dist.objectives.depth_panels import depth_panel

GAPS_M = (0.0, 0.25, 0.5, 1.0, 2.0)  # accuracy is told by the gap in depth, from one to the next
_LEAST_GAP_M = 0.05  # joints at less distance in depth have no order to be right about
_LEVEL_RATIO = 1.25  # of depths: beyond it a relation that says level is wrong


@dataclass(frozen=True)
class RelativeDepthConfig:
    """Ranking of joints by depth, and heatmaps of the joints."""

    whole_pictures: bool = True
    """Relations between and inside people of whole pictures (people2d); false: inside the one
    person of a crop (joints2d)."""
    num_joints: int = 24
    """Joints of each person: channels of the heatmaps."""
    depth_weight: float = 1.0
    """Weight of the ranking loss."""
    heatmap_weight: float = 1.0
    """Weight of the heatmaps' loss."""
    heatmap_sigma: float = 1.5
    """Width of the heatmaps' gaussians, cells."""
    head_dim: int = 128
    """Channels of the head that enlarges the tokens to maps."""
    cell_px: int = 4
    """Pixels of the picture to a cell of the maps."""
    true_depth: bool = True
    """Whether frames carry joints in metres (people3d or joints3d) to measure against."""

    def __post_init__(self) -> None:
        if self.num_joints < 1:
            raise ValueError(f"num_joints must be at least 1, found {self.num_joints}")
        if self.depth_weight <= 0 or self.heatmap_sigma <= 0:
            raise ValueError("depth_weight and heatmap_sigma must be above 0")
        if self.heatmap_weight < 0:
            raise ValueError(f"heatmap_weight must be 0 or more, found {self.heatmap_weight}")

    @property
    def joints(self) -> str:
        """The field of joints in the picture."""
        return "people2d" if self.whole_pictures else "joints2d"

    @property
    def metres(self) -> str:
        """The field of joints in the camera's frame."""
        return "people3d" if self.whole_pictures else "joints3d"

    @property
    def needs(self) -> tuple[str, ...]:
        """The fields read from a batch."""
        needs = ("image", self.joints, "depth_pairs", "depth_order", "depth_confidence")
        return (*needs, self.metres) if self.true_depth else needs


class RelativeDepth(Objective):
    """Encoder, a head of maps (depth first, then a heatmap per joint), and the two losses."""

    Config = RelativeDepthConfig
    config: RelativeDepthConfig

    def __init__(self, config: RelativeDepthConfig, encoder: Encoder, seed: int) -> None:
        super().__init__(config, encoder, seed)
        cells = cells_per_patch(encoder.patch_px, config.cell_px)
        self.head = MapHead(encoder.dim, config.head_dim, 1 + config.num_joints, cells)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss` and its parts before weighting: the ranking, between and inside people, and the
        heatmaps. Each is a sum over a picture divided by its own count, averaged over B."""
        config = self.config
        people = self._people(batch)
        maps = self._maps(batch["image"])
        known = self._known(batch, people)
        terms = ranking(sample(maps[:, 0], people), batch["depth_pairs"], batch["depth_order"])
        terms = terms * known
        count = (known > 0).sum(1).clamp(min=1)
        depth = (terms.sum(1) / count).mean()
        heatmap = self._heatmap_errors(maps[:, 1:], people).mean()
        inside = self._inside(batch)
        parts = {
            "loss_depth": depth,
            "loss_between": ((terms * ~inside).sum(1) / count).mean(),
            "loss_inside": ((terms * inside).sum(1) / count).mean(),
            "loss_heatmap": heatmap,
        }
        loss = config.depth_weight * depth + config.heatmap_weight * heatmap
        return {"loss": loss} | {name: part.detach() for name, part in parts.items()}

    @torch.no_grad()
    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Shares of right relations per picture, NaN where it has none.

        label_agreement: labelled relations (-1, +1) that the model repeats. Against true depth:
        accuracy, of the model on labelled relations between people, and accuracy_inside on those
        inside a person; label_precision, label_precision_inside and label_precision_level (depths
        within 25 %) of the labels themselves. For the same joints of every two people as far as
        both are in sight, labelled or not: accuracy_all, accuracy_from_X for gaps in depth from X
        metres to the next, and accuracy_people of the means over those joints. heatmap_gain: 1 -
        error / error of empty maps.
        """
        people = self._people(batch)
        maps = self._maps(batch["image"])
        z = sample(maps[:, 0], people)  # (B, P, J)
        known, inside, order = self._known(batch, people), self._inside(batch), batch["depth_order"]
        told = (known > 0) & (order != 0)
        guess = _apart(z.flatten(1), batch["depth_pairs"])
        errors = self._heatmap_errors(maps[:, 1:], people)
        empty = self._heatmap_errors(torch.zeros_like(maps[:, 1:]), people)
        figures = {
            "label_agreement": _share(guess.sign() == order, told),
            "heatmap_gain": 1 - errors / empty.where(empty > 0, math.nan),
        }
        if self.config.true_depth:
            figures |= self._against_truth(batch, people, z, guess, told, inside)
        return figures

    def _against_truth(
        self, batch: Batch, people: Tensor, z: Tensor, guess: Tensor, told: Tensor, inside: Tensor
    ) -> dict[str, Tensor]:
        metres = batch[self.config.metres]
        metres = metres if metres.ndim == 4 else metres[:, None]
        depth, sure = metres[..., 2], metres[..., 3] > 0
        pairs, order = batch["depth_pairs"], batch["depth_order"]
        true = _apart(depth.flatten(1), pairs)
        both = _both(sure.flatten(1), pairs)
        real = both & (true.abs() >= _LEAST_GAP_M)
        level = (self._known(batch, people) > 0) & (order == 0) & both
        ratio = _apart(depth.flatten(1).clamp(min=1e-6).log(), pairs).abs()
        right, correct = guess.sign() == true.sign(), order == true.sign()
        figures = {
            "accuracy": _share(right, told & real & ~inside),
            "accuracy_inside": _share(right, told & real & inside),
            "label_precision": _share(correct, told & real & ~inside),
            "label_precision_inside": _share(correct, told & real & inside),
            "label_precision_level": _share(ratio <= math.log(_LEVEL_RATIO), level),
        }
        if not self.config.whole_pictures:
            return figures
        return figures | self._all_couples(z, depth, self._seen(people) & sure)

    def _all_couples(self, z: Tensor, depth: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """Accuracies over every two people, from z, true depth and sight, (B, P, J) each."""
        first, second = torch.triu_indices(z.shape[1], z.shape[1], 1, device=z.device)
        seen = seen[:, first] & seen[:, second]  # (B, couples, J)
        gap, guess = depth[:, first] - depth[:, second], z[:, first] - z[:, second]
        right = guess.sign() == gap.sign()
        figures = {"accuracy_all": _share(right, seen & (gap.abs() >= _LEAST_GAP_M))}
        for low, high in zip(GAPS_M, (*GAPS_M[1:], math.inf), strict=True):
            here = seen & (gap.abs() >= low) & (gap.abs() < high)
            figures[f"accuracy_from_{low:g}m"] = _share(right, here)
        gap, guess = ((values * seen).sum(-1) for values in (gap, guess))
        far = gap.abs() >= _LEAST_GAP_M * seen.sum(-1).clamp(min=1)
        figures["accuracy_people"] = _share(guess.sign() == gap.sign(), far)
        return figures

    @torch.no_grad()
    def panels(self, batch: Batch) -> dict[str, Tensor]:
        """People coloured from near to far, as the model says and as it is, and the maps."""
        batch = {name: value[:PANEL_ROWS] for name, value in batch.items()}
        people = self._people(batch)
        maps = self._maps(batch["image"])
        true = None
        if self.config.true_depth:
            metres = batch[self.config.metres]
            true = (metres if metres.ndim == 4 else metres[:, None])[..., 2]
        picture = depth_panel(
            to_rgb(batch["image"]),
            people,
            self._seen(people),
            sample(maps[:, 0], people),
            true,
            maps[:, 0],
            maps[:, 1:],
            [f"{share:.0%} right" if share == share else "" for share in self._right(batch)],
        )
        return {"relative_depth": picture}

    def _right(self, batch: Batch) -> list[float]:
        """Share of relations that the model has right, of each picture; NaN without any."""
        figures = self.metrics(batch)
        name = "label_agreement"
        if self.config.true_depth:
            name = "accuracy" if self.config.whole_pictures else "accuracy_inside"
        return figures[name].tolist()

    def _maps(self, image: Tensor) -> Tensor:
        """(B, 1 + J, h, w) float32: depth z, then heatmaps."""
        return self.head(self.encoder(image), self.encoder.grid(image)).float()

    def _people(self, batch: Batch) -> Tensor:
        """Joints in the picture, (B, P, J, 3)."""
        people = batch[self.config.joints]
        people = people if people.ndim == 4 else people[:, None]
        if people.shape[2] != self.config.num_joints:
            raise ValueError(
                f"{self.config.joints}: the labels have {people.shape[2]} joints and the recipe "
                f"says objective.num_joints = {self.config.num_joints}"
            )
        return people

    def _seen(self, people: Tensor) -> Tensor:
        """(B, P, J) bool: joints that are in this crop and in sight."""
        return _inside_crop(people) & (people[..., 2] >= 0.5)

    def _known(self, batch: Batch, people: Tensor) -> Tensor:
        """Confidence (B, Q) of the relations whose joints are in this crop."""
        there = _both(_inside_crop(people).flatten(1), batch["depth_pairs"])
        return batch["depth_confidence"] * there

    def _inside(self, batch: Batch) -> Tensor:
        """(B, Q) bool: relations inside one person."""
        owner = batch["depth_pairs"] // self.config.num_joints
        return owner[..., 0] == owner[..., 1]

    def _heatmap_errors(self, maps: Tensor, people: Tensor) -> Tensor:
        """Squared error of heatmaps (B, J, h, w) per joint in the crop, as a share of the energy of
        one gaussian, so that empty maps have an error of about 1: (B,).

        A joint's map shows it of everybody: the largest of their gaussians.
        """
        sigma = self.config.heatmap_sigma
        shown = _inside_crop(people) & (people[..., 2] > 0)
        target = gaussian_maps(people[..., :2], shown, (maps.shape[2], maps.shape[3]), sigma)
        energy = math.pi * sigma**2 * shown.sum((1, 2)).clamp(min=1)
        return (maps - target).square().sum((1, 2, 3)) / energy


def ranking(z: Tensor, pairs: Tensor, order: Tensor) -> Tensor:
    """The loss of each pair, (B, Q): z (B, P, J), pairs (B, Q, 2), order (B, Q) -1, 0 or +1."""
    apart = _apart(z.flatten(1), pairs)
    return torch.where(order != 0, F.softplus(-order * apart), apart.square())


def sample(z: Tensor, people: Tensor) -> Tensor:
    """A map at the places of joints, bilinear: (B, h, w) and (B, P, J, 2 or 3) -> (B, P, J)."""
    places = 2 * people[..., :2] - 1
    values = F.grid_sample(z[:, None], places, padding_mode="border", align_corners=False)
    return values[:, 0]


def _apart(values: Tensor, pairs: Tensor) -> Tensor:
    """First minus second: values (B, P J), pairs (B, Q, 2) -> (B, Q)."""
    return values.gather(1, pairs[..., 0]) - values.gather(1, pairs[..., 1])


def _both(flags: Tensor, pairs: Tensor) -> Tensor:
    return flags.gather(1, pairs[..., 0]) & flags.gather(1, pairs[..., 1])


def _inside_crop(people: Tensor) -> Tensor:
    return ((people[..., :2] >= 0) & (people[..., :2] <= 1)).all(-1)


def _share(right: Tensor, among: Tensor) -> Tensor:
    """Share of `right` among `among`, (B, ...) bool both -> (B,), NaN where there are none."""
    right, among = (right & among).flatten(1).sum(1).float(), among.flatten(1).sum(1)
    return right / among.where(among > 0, math.nan)
