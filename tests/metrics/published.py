"""The published evaluations, written out plainly in numpy: what the metrics are compared with."""

from __future__ import annotations

import numpy as np
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation


def pa_error(mine: np.ndarray, true: np.ndarray) -> float:
    """Millimetres after the best similarity, the rotation by scipy."""
    a, b = mine - mine.mean(0), true - true.mean(0)
    rotation, _ = Rotation.align_vectors(b, a)
    turned = rotation.apply(a)
    scale = (turned * b).sum() / (a * a).sum()
    return 1000 * float(np.linalg.norm(scale * turned - b, axis=1).mean())


def freihand_aligned(mine: np.ndarray, true: np.ndarray) -> np.ndarray:
    a, b = true - true.mean(0), mine - mine.mean(0)
    size = np.linalg.norm(a) + 1e-8
    rotation, scale = orthogonal_procrustes(a / size, b / (np.linalg.norm(b) + 1e-8))
    return (b / (np.linalg.norm(b) + 1e-8)) @ rotation.T * scale * size + true.mean(0)


def freihand_auc(mine: np.ndarray, true: np.ndarray) -> float:
    """(N, K, 3) each: the mean over keypoints of the area under each one's PCK curve, percent."""
    distance = np.linalg.norm(mine - true, axis=-1)
    limits = np.linspace(0.0, 0.05, 100)
    areas = []
    for point in range(distance.shape[1]):
        curve = np.array([(distance[:, point] <= limit).mean() for limit in limits])
        areas.append(np.trapezoid(curve, limits) / np.trapezoid(np.ones_like(limits), limits))
    return 100 * float(np.mean(areas))


def freihand_f(mine: np.ndarray, true: np.ndarray, limit: float) -> float:
    apart = cdist(true, mine)
    recall, precision = (apart.min(0) < limit).mean(), (apart.min(1) < limit).mean()
    both = recall + precision
    return 100 * float(2 * recall * precision / both) if both > 0 else 0.0


def gps(distance: np.ndarray, kappa: np.ndarray) -> float:
    """One person: distances of the annotated points, each with its part's normaliser."""
    return float(np.mean(np.exp(-(distance**2) / (2 * kappa**2))))


def average_precision(
    similarity: list[np.ndarray], score: list[np.ndarray], limits: np.ndarray
) -> float:
    """Percent: greedy matching by score in each picture, 101 points of recall, mean over limits."""
    people = sum(table.shape[1] for table in similarity)
    found = []
    for limit in limits:
        rows = []
        for table, scores in zip(similarity, score, strict=True):
            free = [True] * table.shape[1]
            for i in np.argsort(-scores, kind="mergesort"):
                best, chosen = limit, -1
                for j in range(table.shape[1]):
                    if free[j] and table[i, j] >= best:
                        best, chosen = table[i, j], j
                if chosen >= 0:
                    free[chosen] = False
                rows.append((scores[i], chosen >= 0))
        hits = np.array([hit for _, hit in sorted(rows, key=lambda row: -row[0])], dtype=float)
        recall = np.cumsum(hits) / people
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = [precision[recall >= r].max(initial=0.0) for r in np.linspace(0, 1, 101)]
        found.append(np.mean(at))
    return 100 * float(np.mean(found))
