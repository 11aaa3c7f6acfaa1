"""The ranking loss against its plain formula; pictures count alike; figures mean what they say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hpse_dist.data.depth_order import DepthOrder
from hpse_dist.fields import Batch
from hpse_dist.models.encoder import EncoderConfig, build_encoder
from hpse_dist.models.maps import gaussian_maps
from hpse_dist.objectives.relative_depth import (
    RelativeDepth,
    RelativeDepthConfig,
    ranking,
    sample,
)
from tests.data.people import stand
from tests.fabricate import rows

J = 24


@pytest.fixture
def objective() -> RelativeDepth:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=2, heads=2))
    return RelativeDepth(RelativeDepthConfig(head_dim=32), encoder, seed=0)


def pictures() -> Batch:
    """Three people each, in depth order (0, 1, 2), (2, 1, 0) and (1, 0, 2)."""
    found = [stand([3.0, 5.0, 7.5]), stand([7.5, 5.0, 3.0]), stand([5.0, 3.0, 7.5])]
    people2d, people3d = (torch.cat(values) for values in zip(*found, strict=True))
    fields = DepthOrder("smpl24")(people2d)
    rng = torch.Generator().manual_seed(0)
    image = torch.randn(3, 3, 32, 32, generator=rng)
    return {"image": image, "people2d": people2d, "people3d": people3d, **fields}


def plain_loss(z: Tensor, batch: Batch) -> float:
    """The formula, pair by pair and picture by picture; z (B, P, J) at the joints."""
    pictures = []
    for i in range(len(z)):
        total, count = 0.0, 0
        values = z[i].flatten().tolist()
        places = batch["people2d"][i].flatten(0, 1).tolist()
        for (a, b), r, confidence in zip(
            batch["depth_pairs"][i].tolist(),
            batch["depth_order"][i].tolist(),
            batch["depth_confidence"][i].tolist(),
            strict=True,
        ):
            inside = all(0 <= x <= 1 for k in (a, b) for x in places[k][:2])
            if confidence == 0 or not inside:
                continue
            apart = values[a] - values[b]
            term = math.log(1 + math.exp(-r * apart)) if r != 0 else apart**2
            total, count = total + confidence * term, count + 1
        pictures.append(total / count if count else 0.0)
    return sum(pictures) / len(pictures)


def test_the_loss_is_the_formula(objective: RelativeDepth) -> None:
    batch = pictures()
    batch["depth_order"][:, ::5] = 0.0
    batch["depth_confidence"][2] = 0.0  # a picture without relations counts as 0
    batch["people2d"][0, 1, 3, 0] = 1.2  # a joint that the crop has cut off
    z = sample(objective._maps(batch["image"])[:, 0], batch["people2d"])
    expected = plain_loss(z.double(), batch)
    scalars = objective(batch)
    assert expected > 0.1
    assert scalars["loss_depth"].item() == pytest.approx(expected, rel=1e-5)
    parts = scalars["loss_between"] + scalars["loss_inside"]
    torch.testing.assert_close(parts, scalars["loss_depth"])


def test_the_ranking_is_antisymmetric_and_falls_with_the_right_gap() -> None:
    z = torch.tensor([[[0.0, 1.0, 3.0]]])
    there, back = torch.tensor([[[0, 1], [0, 2], [1, 2]]]), torch.tensor([[[1, 0], [2, 0], [2, 1]]])
    order = torch.tensor([[-1.0, -1.0, 0.0]])
    torch.testing.assert_close(ranking(z, there, order), ranking(z, back, -order))
    values = ranking(z, there, order)[0]
    assert values[1] < values[0] < math.log(2) and values[2] == 4.0
    assert (ranking(z, there, -order)[0, :2] > math.log(2)).all()


def test_a_crowd_counts_as_much_as_a_couple(objective: RelativeDepth) -> None:
    """The same relations given ten times over change nothing."""
    batch = pictures()
    crowded = {
        name: torch.cat([value] * 10, 1) if name.startswith("depth_") else value
        for name, value in batch.items()
    }
    few = {**batch, "depth_confidence": batch["depth_confidence"].clone()}
    few["depth_confidence"][1, 5:] = 0.0
    one, ten = objective(batch)["loss_depth"], objective(crowded)["loss_depth"]
    torch.testing.assert_close(one, ten)
    alone = torch.stack([objective(rows(few, i, i + 1))["loss_depth"] for i in range(3)])
    torch.testing.assert_close(objective(few)["loss_depth"], alone.mean())


def test_low_confidence_weighs_less(objective: RelativeDepth) -> None:
    batch = pictures()
    half = {**batch, "depth_confidence": 0.5 * batch["depth_confidence"]}
    torch.testing.assert_close(objective(half)["loss_depth"], 0.5 * objective(batch)["loss_depth"])


def test_depth_is_sampled_between_cells() -> None:
    columns = torch.arange(8.0).expand(8, 8)[None]  # cell k has its middle at (k + 0.5) / 8
    people = torch.tensor([[[[0.5 / 8, 0.5, 1], [0.5, 0.2, 1], [1.0, 0.5, 1], [2.0, 0.5, 1]]]])
    values = sample(columns, people)[0, 0]
    torch.testing.assert_close(values, torch.tensor([0.0, 3.5, 7.0, 7.0]))


def test_maps_show_everybody() -> None:
    places = torch.tensor([[[[0.25, 0.25]], [[0.75, 0.5]], [[0.5, 0.5]]]])
    shown = torch.tensor([[[True], [True], [False]]])
    maps = gaussian_maps(places, shown, (16, 16), 1.0)
    assert maps.shape == (1, 1, 16, 16)
    high = torch.exp(torch.tensor(-0.25))  # half a cell off in x and in y
    torch.testing.assert_close(maps[0, 0, 3, 3], high)
    torch.testing.assert_close(maps[0, 0, 7, 11], high)
    assert maps[0, 0, 8, 7] < 0.01


def test_empty_heatmaps_have_an_error_of_one(objective: RelativeDepth) -> None:
    """However many joints are shown; those beyond the crop and unlabelled ones are not."""
    people = torch.tensor([0.5, 0.5, 1.0]).repeat(2, 1, J, 1)
    people[1, :, 5:, 2] = 0.0
    people[1, :, 0, 0] = 1.5
    errors = objective._heatmap_errors(torch.zeros(2, J, 24, 32), people)
    torch.testing.assert_close(errors, torch.ones(2), rtol=1e-3, atol=0)


def test_figures_of_a_model_that_knows_and_of_one_that_errs(objective: RelativeDepth) -> None:
    batch = pictures()
    batch["people3d"][0, 0, :, 2] = 6.0  # in truth behind the second: labels of (0, 1) are wrong
    z = batch["people3d"][..., 2]
    objective.eval()

    def figures(at_joints: Tensor) -> Batch:
        people = objective._people(batch)
        told = (objective._known(batch, people) > 0) & (batch["depth_order"] != 0)
        first, second = batch["depth_pairs"].unbind(-1)
        guess = at_joints.flatten(1).gather(1, first) - at_joints.flatten(1).gather(1, second)
        inside = objective._inside(batch)
        return objective._against_truth(batch, people, at_joints, guess, told, inside)

    right, wrong = figures(z), figures(-z)
    torch.testing.assert_close(right["accuracy"], torch.ones(3))
    torch.testing.assert_close(wrong["accuracy"], torch.zeros(3))
    torch.testing.assert_close(right["accuracy_all"], torch.ones(3))
    torch.testing.assert_close(right["accuracy_people"], torch.ones(3))
    torch.testing.assert_close(wrong["accuracy_people"], torch.zeros(3))
    precision = right["label_precision"]
    assert precision[1:].tolist() == [1, 1] and 0.5 < precision[0] < 0.75
    assert torch.equal(precision, wrong["label_precision"])  # the labels', not the model's
    assert (
        right["accuracy_from_0m"].isnan().all() and right["accuracy_from_2m"][1:].isfinite().all()
    )


def test_single_people_have_relations_inside_only() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig("custom", 32, 8, dim=32, depth=1, heads=2))
    config = RelativeDepthConfig(whole_pictures=False, head_dim=16)
    alone = RelativeDepth(config, encoder, seed=0)
    assert "joints2d" in alone.needs and "people2d" not in alone.needs
    people2d, people3d = stand([3.0])
    people2d[0, 0, 7, 1] += 0.05  # the left ankle is lower: nearer
    batch = {
        "image": torch.randn(1, 3, 32, 32),
        "joints2d": people2d[:, 0],
        "joints3d": people3d[:, 0],
        **DepthOrder("smpl24")(people2d),
    }
    scalars = alone(batch)
    assert scalars["loss_inside"] > 0 and scalars["loss_between"] == 0
    assert alone.metrics(batch)["label_agreement"].isfinite().all()
    assert "accuracy_all" not in alone.metrics(batch)


def test_joints_and_cells_that_do_not_fit_are_refused(objective: RelativeDepth) -> None:
    batch = pictures()
    batch["people2d"] = batch["people2d"][:, :, :17]
    with pytest.raises(ValueError, match=r"17 joints .*objective.num_joints = 24"):
        objective(batch)
    with pytest.raises(ValueError, match="cell_px must divide the encoder's patch, 8 px; found 3"):
        RelativeDepth(RelativeDepthConfig(cell_px=3), objective.encoder, seed=0)
