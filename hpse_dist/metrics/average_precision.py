"""Average precision over a whole set, by COCO's own evaluation. The door of pycocotools.

Matching people to predictions, ranking by score and integrating precision over recall is the same
for keypoints, for dense pose and for anything else that has a similarity 0..1 and a score.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

_NAMES = ("ap", "ap_50", "ap_75", "ap_medium", "ap_large", "ar")
_LARGE = 200.0**2  # area of a person whose size is not told: counted, and counted as large


@dataclass(frozen=True)
class Matches:
    """One picture: how alike each prediction and each person is."""

    similarity: np.ndarray
    """(D, G) 0..1, a row for each prediction, a column for each person."""
    score: np.ndarray
    """(D,) how sure the model is of each prediction; only their order over the set counts."""


def average_precision(pictures: Sequence[Matches]) -> dict[str, float]:
    """Percent over thresholds 0.50:0.05:0.95 on the similarity: ap, ap_50, ap_75 and ar."""
    given: dict[tuple[int, int], np.ndarray] = {}
    people, results = [], []
    for image, picture in enumerate(pictures, start=1):
        order = np.argsort(-picture.score, kind="mergesort")[:20]  # as many as COCO counts
        given[image, 1] = np.asarray(picture.similarity, dtype=np.float64)[order]
        people += [_person(image) for _ in range(picture.similarity.shape[1])]
        results += [
            {"image_id": image, "category_id": 1, "keypoints": [0, 0, 1], "score": float(s)}
            for s in picture.score
        ]
    for number, person in enumerate(people, start=1):
        person["id"] = number
    truth = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(pictures) + 1)],
        "annotations": people,
        "categories": [{"id": 1, "name": "person"}],
    }
    figures = _evaluate(truth, results, None, given)
    return {name: figures[name] for name in ("ap", "ap_50", "ap_75", "ar")}


def keypoint_ap(
    truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], sigmas: Sequence[float]
) -> dict[str, float]:
    """Percent: OKS average precision of COCO's results against its annotations, as files have them.

    ap, ap_50, ap_75, ap_medium, ap_large and ar; NaN for a size of which there is nobody.
    """
    return _evaluate(dict(truth), [dict(row) for row in results], sigmas, None)


class _Given(COCOeval):
    """COCO's evaluation with similarities that are known already."""

    given: Mapping[tuple[int, int], np.ndarray]

    def computeOks(self, imgId: int, catId: int) -> np.ndarray:
        return self.given.get((imgId, catId), np.zeros((0, 0)))


def _evaluate(
    truth: dict[str, Any],
    results: list[dict[str, Any]],
    sigmas: Sequence[float] | None,
    given: Mapping[tuple[int, int], np.ndarray] | None,
) -> dict[str, float]:
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        people, nobody = COCO(), COCO()
        people.dataset = {"info": {}, **truth}
        nobody.dataset = {**people.dataset, "annotations": []}
        for side in (people, nobody):
            side.createIndex()
        found = people.loadRes(results) if results else nobody  # which it cannot load
        kind = COCOeval if given is None else _Given
        judge = kind(people, found, "keypoints")
        if given is not None:
            judge.given = given
        if sigmas is not None:
            judge.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    figures = dict(zip(_NAMES, judge.stats[: len(_NAMES)].tolist(), strict=True))
    return {name: 100 * value if value >= 0 else float("nan") for name, value in figures.items()}


def _person(image: int) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": 1,
        "keypoints": [0, 0, 2],
        "num_keypoints": 1,
        "area": _LARGE,
        "bbox": [0, 0, 200, 200],
        "iscrowd": 0,
    }
