"""Dense pose over a whole set: average precision over similarity on the body's surface.

Each prediction says which vertex of the body it sees at the annotated points. Predictions are
matched to people picture by picture; a file in which they stand row by row, one person to a
picture, needs no picture numbers.
"""

from __future__ import annotations

import numpy as np
import torch

from hpse_dist.metrics.average_precision import Matches, average_precision
from hpse_dist.metrics.dense import KAPPA_METRES, geodesic_distances, gps, gpsm
from hpse_dist.protocols.base import Protocol
from hpse_dist.protocols.examples import Examples


def dense_figures(protocol: Protocol, predicted: Examples, true: Examples) -> dict[str, float]:
    """GPS-AP, and GPSm-AP where both sides have masks.

    A prediction's points are those of the person in its picture: `vertex` (N, P) by the points of
    the truth that has the same picture, so a picture has one person here. People without an
    annotated point are left out, as DensePose's evaluation does, and pictures of nobody else.
    """
    ways = _Ways(true)
    annotated = (true["vertex"] >= 0).any(1)
    pictures = [
        (mine, there[annotated[there]])
        for mine, there in _by_picture(predicted, true)
        if annotated[there].any()
    ]
    similar: list[Matches] = []
    masked: list[Matches] = []
    with_masks = "mask" in predicted and "mask" in true
    for mine, there in pictures:
        scores = predicted["score"][mine] if "score" in predicted else np.ones(len(mine))
        table = np.zeros((len(mine), len(there)))
        overlap = np.zeros_like(table)
        for column, person in enumerate(there):
            for row, guess in enumerate(mine):
                table[row, column] = _similarity(protocol, ways, predicted, guess, true, person)
                if with_masks:
                    overlap[row, column] = _iou(predicted["mask"][guess], true["mask"][person])
        similar.append(Matches(table, scores))
        both = gpsm(torch.from_numpy(table), torch.from_numpy(overlap)).numpy()
        masked.append(Matches(both, scores))
    figures = {f"gps_{name}": value for name, value in average_precision(similar).items()}
    if with_masks:
        figures |= {f"gpsm_{name}": value for name, value in average_precision(masked).items()}
    return {name: figures[name] for name in protocol.figures if name in figures}


class _Ways:
    """Distances over the true body, from the vertices that people were annotated at."""

    def __init__(self, true: Examples) -> None:
        vertex = true["vertex"]
        self.vertices = len(true["mesh_vertices"])
        self.sources = np.unique(vertex[vertex >= 0])
        if len(self.sources) == 0:
            raise ValueError(f"{true.where}: nobody has an annotated point (vertex is -1 for all)")
        if self.sources[-1] >= self.vertices:
            raise ValueError(
                f"{true.where}: vertex {self.sources[-1]} is not on the mesh of {self.vertices}"
            )
        mesh = true["mesh_vertices"], true["mesh_faces"]
        self.distance = geodesic_distances(*mesh, self.sources)

    def between(self, there: np.ndarray, mine: np.ndarray) -> np.ndarray:
        """(P,) metres; infinite where the prediction shows no body."""
        distance = self.distance[np.searchsorted(self.sources, there), mine.clip(0)]
        return np.where(mine >= 0, distance, np.inf)


def _similarity(
    protocol: Protocol, ways: _Ways, predicted: Examples, guess: int, true: Examples, person: int
) -> float:
    there, mine = true["vertex"][person], predicted["vertex"][guess]
    if mine.shape != there.shape:
        raise ValueError(
            f"{predicted.where}: {len(mine)} points to an example, and {true.where} has "
            f"{len(there)}"
        )
    if mine.max() >= ways.vertices:
        raise ValueError(
            f"{predicted.where}: vertex {mine.max()} is not on the mesh of {ways.vertices} "
            f"vertices that {true.where} is about"
        )
    known = there >= 0
    kappa: float | torch.Tensor = KAPPA_METRES
    if protocol.kappas:
        part = true["part"][person][known].astype(np.int64)
        if part.min() < 1 or part.max() > len(protocol.kappas):
            raise ValueError(f"{true.where}: part must be 1 to {len(protocol.kappas)} at a point")
        kappa = torch.tensor(protocol.kappas, dtype=torch.float64)[part - 1][None]
    distance = torch.from_numpy(ways.between(there[known], mine[known])).double()[None]
    return float(gps(distance, torch.ones_like(distance, dtype=torch.bool), kappa))


def _iou(mine: np.ndarray, there: np.ndarray) -> float:
    if mine.shape != there.shape:
        raise ValueError(f"masks of {mine.shape} and of {there.shape} pixels cannot be compared")
    union = (mine.astype(bool) | there.astype(bool)).sum()
    return float((mine.astype(bool) & there.astype(bool)).sum() / union) if union else 0.0


def _by_picture(predicted: Examples, true: Examples) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows of predictions and of people, picture by picture."""
    key = next((k for k in ("image", "id") if k in predicted and k in true), None)
    if key is None:
        if len(predicted) != len(true):
            raise ValueError(
                f"{predicted.where}: {len(predicted)} predictions for {len(true)} people of "
                f"{true.where}; give both an array image with the number of the picture"
            )
        return [(np.array([row]), np.array([row])) for row in range(len(true))]
    strangers = np.setdiff1d(predicted[key], true[key])
    if len(strangers):
        raise ValueError(
            f"{predicted.where}: picture {strangers[0]} is not among those of {true.where}"
        )
    return [
        (np.flatnonzero(predicted[key] == picture), np.flatnonzero(true[key] == picture))
        for picture in np.unique(true[key])
    ]
