"""Every figure equals the published definition written out plainly, on random predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.spatial import procrustes

from hpse_dist.metrics.average_precision import Matches, average_precision, keypoint_ap
from hpse_dist.metrics.classes import accuracy, macro_f1
from hpse_dist.metrics.dense import closest_vertices, geodesic_distances, gps, gpsm
from hpse_dist.metrics.hand import curve_area, distance_mm, f_score, freihand_align
from hpse_dist.metrics.pose2d import COCO_SIGMAS, oks
from hpse_dist.metrics.pose3d import auc3d, mpjpe, n_mpjpe, pa_mpjpe, pa_pve, pck3d
from tests.metrics import published

CLOSE = {"rel": 1e-6, "abs": 1e-6}
MIRROR = np.array([-1.0, 1.0, 1.0])


@pytest.fixture
def clouds() -> tuple[np.ndarray, np.ndarray]:
    """(6, 21, 3) metres: a hand's size, two centimetres wrong."""
    rng = np.random.default_rng(0)
    true = 0.06 * rng.normal(size=(6, 21, 3)) + [0.0, 0.0, 0.5]
    return true + 0.02 * rng.normal(size=true.shape), true


def _each(values: torch.Tensor) -> list[float]:
    assert values.ndim == 1 and values.dtype == torch.float64
    return values.tolist()


def test_similarity_is_scipys(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    mine, true = clouds
    wanted = [published.pa_error(a, b) for a, b in zip(mine, true, strict=True)]
    for figure in (pa_mpjpe, pa_pve):
        assert _each(figure(*map(torch.from_numpy, clouds))) == pytest.approx(wanted, **CLOSE)
    assert pa_pve(torch.from_numpy(true * MIRROR), torch.from_numpy(true)).min() > 10.0


def test_three_known_joints_are_enough(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    mine, true = clouds
    known = torch.zeros(6, 21)
    known[:, [2, 9, 17]] = 1
    wanted = [
        published.pa_error(a[[2, 9, 17]], b[[2, 9, 17]]) for a, b in zip(mine, true, strict=True)
    ]
    found = pa_mpjpe(torch.from_numpy(mine), torch.from_numpy(true), known)
    assert _each(found) == pytest.approx(wanted, **CLOSE)


def test_scale_is_the_best_one(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    mine, true = (torch.from_numpy(points) for points in clouds)
    a, b = (points - points[:, :1] for points in (mine, true))
    for i, value in enumerate(_each(n_mpjpe(mine, true))):
        scale = np.linalg.lstsq(a[i].reshape(-1, 1).numpy(), b[i].reshape(-1).numpy(), rcond=None)[
            0
        ]
        wanted = 1000 * float((float(scale[0]) * a[i] - b[i]).norm(dim=-1).mean())
        assert value == pytest.approx(wanted, **CLOSE)
    assert n_mpjpe(0.3 * true, true).max() < 1e-9
    assert n_mpjpe(torch.zeros_like(true), true).isfinite().all()


def test_pck_and_auc_are_those_of_the_3dhp_script(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    mine, true = (torch.from_numpy(3 * points) for points in clouds)
    a, b = (points - points[:, :1] for points in (mine, true))
    error = 1000 * (a - b).norm(dim=-1).numpy()[:, 1:]  # the root is exact, and not asked about
    got = pck3d(a[:, 1:], b[:, 1:], root=None), auc3d(a[:, 1:], b[:, 1:], root=None)
    for i in range(len(error)):
        assert _each(got[0])[i] == pytest.approx(100 * (error[i] < 150).mean(), **CLOSE)
        curve = [(error[i] < limit).mean() for limit in range(0, 151, 5)]
        assert _each(got[1])[i] == pytest.approx(100 * np.mean(curve), **CLOSE)
    assert 20 < float(got[0].mean()) < 95
    assert auc3d(true, true).tolist() == [100.0] * 6
    limit = torch.zeros(1, 2, 3)
    limit[0, 1, 0] = 0.125  # on the limit is not nearer than it
    assert pck3d(limit, torch.zeros(1, 2, 3), limit_mm=125.0).tolist() == [50.0]


def test_freihand(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    mine, true = clouds
    aligned = freihand_align(*map(torch.from_numpy, clouds)).numpy()
    wanted = np.stack([published.freihand_aligned(a, b) for a, b in zip(mine, true, strict=True)])
    assert aligned == pytest.approx(wanted, abs=1e-9)
    for one, other in zip(aligned, true, strict=True):  # scipy's own normal form of the same
        normal, fitted, _ = procrustes(other, published.freihand_aligned(one, other))
        there = (one - other.mean(0)) / np.linalg.norm(other - other.mean(0))
        assert there == pytest.approx(fitted, abs=1e-6)
        assert normal == pytest.approx(
            (other - other.mean(0)) / np.linalg.norm(other - other.mean(0))
        )
    for points in (mine, wanted):
        a, b = torch.from_numpy(points), torch.from_numpy(true)
        error = 1000 * np.linalg.norm(points - true, axis=-1).mean()
        assert float(distance_mm(a, b).mean()) == pytest.approx(error, **CLOSE)
        assert float(curve_area(a, b).mean()) == pytest.approx(
            published.freihand_auc(points, true), **CLOSE
        )
        for limit in (5.0, 15.0):
            each = [
                published.freihand_f(p, t, limit / 1000) for p, t in zip(points, true, strict=True)
            ]
            assert _each(f_score(a, b, limit)) == pytest.approx(each, **CLOSE)


def test_freihand_takes_a_mirror_image_and_pa_does_not(
    clouds: tuple[np.ndarray, np.ndarray],
) -> None:
    true = torch.from_numpy(clouds[1])
    other_hand = true * torch.from_numpy(MIRROR)
    assert distance_mm(freihand_align(other_hand, true), true).max() < 1e-3
    assert pa_mpjpe(other_hand, true).min() > 10.0


def test_freihand_alignment_is_exact_under_autocast() -> None:
    """Evaluations run under the recipe's bf16, in which a similarity would be off by 0.2 mm."""
    draw = torch.Generator().manual_seed(0)
    true = 0.05 * torch.randn(4, 778, 3, generator=draw)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=draw))[0]
    with torch.autocast("cpu", torch.bfloat16):
        aligned = freihand_align((1.1 * true.double() @ turn.double() + 0.3).float(), true)
    assert aligned.dtype == torch.float32
    assert distance_mm(aligned, true).max() < 1e-3


def test_freihand_of_exact_and_of_lost_hands() -> None:
    true = torch.rand(2, 21, 3, generator=torch.Generator().manual_seed(0)).double()
    assert curve_area(true, true).tolist() == [100.0] * 2
    assert f_score(true, true, 5.0).tolist() == [100.0] * 2
    assert (
        curve_area(true + 9, true).tolist() == f_score(true + 9, true, 15.0).tolist() == [0.0] * 2
    )
    rounded = true.clone()
    rounded[..., 0] += 5e-8  # metres, left of an alignment
    assert curve_area(rounded, true).tolist() == [100.0] * 2
    two = torch.tensor([[[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]]])
    on_the_limit = two + torch.tensor([[[0.005, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    for a, b in ((two, on_the_limit), (on_the_limit, two)):
        assert f_score(a, b, 5.0).tolist() == [50.0], "a point on the limit is not nearer"
    on_the_last = true.clone()
    on_the_last[..., 0] += 0.049999
    assert curve_area(on_the_last, true).tolist() == pytest.approx([100 * 0.5 / 99] * 2)
    below_the_second = true.clone()  # of the thresholds it is within all but zero
    below_the_second[..., 0] += 0.0003
    assert curve_area(below_the_second, true).tolist() == pytest.approx([100 * 98.5 / 99] * 2)


def test_a_hand_that_is_no_number_spoils_no_other() -> None:
    """Of a diverged model: infinite in evaluation, and not the end of the run."""
    true = torch.rand(3, 21, 3, generator=torch.Generator().manual_seed(0)).double()
    mine = true.clone()
    mine[1, 4, 2], mine[2, 0, 0] = torch.nan, torch.inf
    aligned = freihand_align(mine, true)
    assert distance_mm(aligned, true)[0] < 1e-3 and not aligned[1:].isfinite().any()
    assert f_score(aligned, true, 5.0).tolist() == [100.0, 0.0, 0.0]


def test_labels_that_are_not_there_do_not_count(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    mine, true = (torch.from_numpy(points) for points in clouds)
    known = torch.ones(6, 21, dtype=torch.bool)
    known[0, 7] = known[1, 0] = False
    known[2] = False
    broken = true.clone()
    broken[0, 7] = broken[2] = torch.nan
    for figure in (mpjpe, n_mpjpe, pck3d, auc3d):
        values = figure(mine, broken, known)
        assert values.isnan().tolist() == [False, True, True, False, False, False]
        keep = [j for j in range(21) if j != 7]
        torch.testing.assert_close(values[:1], figure(mine[:1, keep], true[:1, keep]))
        torch.testing.assert_close(values[3:], figure(mine[3:], true[3:]))


def _people(rng: np.random.Generator, pictures: int = 12) -> tuple[dict, list[dict]]:
    """COCO annotations of crowded pictures, and results that are partly wrong."""
    annotations: list[dict] = []
    results = []
    for image in range(1, pictures + 1):
        for _ in range(rng.integers(1, 4)):
            side = float(rng.uniform(30, 220))
            corner = rng.uniform(0, 300, 2)
            points = corner + side * rng.uniform(0, 1, (17, 2))
            seen = rng.integers(0, 3, 17)
            keypoints = np.column_stack((points, seen))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": 1,
                    "keypoints": keypoints.ravel().tolist(),
                    "num_keypoints": int((seen > 0).sum()),
                    "area": 0.6 * side**2,
                    "bbox": [*corner.tolist(), side, side],
                    "iscrowd": 0,
                }
            )
            wrong = side * rng.uniform(0, 0.1) * rng.normal(size=(17, 2))
            guess = np.column_stack((points + wrong, np.ones(17)))
            results.append(
                {
                    "image_id": image,
                    "category_id": 1,
                    "keypoints": guess.ravel().tolist(),
                    "score": float(rng.uniform()),
                }
            )
    results += [dict(row, score=row["score"] * 0.9) for row in results[::4]]  # seen twice
    truth = {
        "images": [{"id": image} for image in range(1, pictures + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    return truth, results


def test_oks_and_its_average_precision(capsys: pytest.CaptureFixture[str]) -> None:
    truth, results = _people(np.random.default_rng(3))
    figures = keypoint_ap(truth, results, COCO_SIGMAS)
    assert capsys.readouterr().out == ""
    people = COCO()
    people.dataset = {"info": {}, **truth}
    people.createIndex()
    theirs = COCOeval(people, people.loadRes([dict(row) for row in results]), "keypoints")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()
    assert list(figures.values()) == pytest.approx((100 * theirs.stats[:6]).tolist(), **CLOSE)
    tables, scores = [], []
    for image in range(1, 13):
        mine = sorted((r for r in results if r["image_id"] == image), key=lambda row: -row["score"])
        there = [a for a in truth["annotations"] if a["image_id"] == image]
        table = _oks_table(mine, there)
        assert table == pytest.approx(theirs.ious[image, 1], **CLOSE)
        tables.append(table)
        scores.append(np.array([row["score"] for row in mine]))
    wanted = published.average_precision(tables, scores, np.linspace(0.5, 0.95, 10))
    assert figures["ap"] == pytest.approx(wanted, abs=1e-6) and 20 < wanted < 95
    given = average_precision([Matches(t, s) for t, s in zip(tables, scores, strict=True)])
    for name in ("ap", "ap_50", "ap_75", "ar"):
        assert given[name] == pytest.approx(figures[name], **CLOSE)


def test_the_sigmas_that_are_given_count() -> None:
    """d^2 / (2 area (2 sigma)^2): sigmas twice as large are areas four times as large."""
    truth, results = _people(np.random.default_rng(3))
    larger = [dict(a, area=4 * a["area"]) for a in truth["annotations"]]
    twice = keypoint_ap(truth, results, [2 * sigma for sigma in COCO_SIGMAS])
    wanted = keypoint_ap({**truth, "annotations": larger}, results, COCO_SIGMAS)
    assert twice["ap"] == pytest.approx(wanted["ap"], **CLOSE)
    assert twice["ap"] > keypoint_ap(truth, results, COCO_SIGMAS)["ap"] + 5


def _oks_table(mine: list[dict], there: list[dict]) -> np.ndarray:
    """(D, G) by our own per-example figure."""
    columns = []
    for person in there:
        true = torch.tensor(person["keypoints"], dtype=torch.float64).view(1, 17, 3)
        guess = torch.tensor([row["keypoints"] for row in mine], dtype=torch.float64)
        guess = guess.view(len(mine), 17, 3)
        area = torch.full((len(mine),), person["area"], dtype=torch.float64)
        known = (true[..., 2] > 0).expand(len(mine), -1)
        columns.append(oks(guess[..., :2], true[..., :2], known, area, COCO_SIGMAS))
    return torch.stack(columns, dim=1).numpy()


def test_someone_missed_and_someone_made_up_lower_the_precision() -> None:
    exact = [Matches(np.eye(2), np.array([0.9, 0.8])) for _ in range(5)]
    assert average_precision(exact)["ap"] == pytest.approx(100.0)
    missed = [*exact[:4], Matches(np.eye(2)[:1], np.array([0.9]))]
    assert average_precision(missed)["ap"] == pytest.approx(100 * 91 / 101)
    made_up = [*exact[:4], Matches(np.zeros((2, 0)), np.array([0.99, 0.95]))]
    assert average_precision(made_up)["ap"] == pytest.approx(80.0)


def test_nobody_found_is_no_precision() -> None:
    assert average_precision([Matches(np.zeros((0, 1)), np.zeros(0))] * 2) == pytest.approx(
        dict.fromkeys(("ap", "ap_50", "ap_75", "ar"), 0.0)
    )


def test_twenty_predictions_of_a_picture_count() -> None:
    """COCO's limit: the surest, whatever their order; the rest might as well not be there."""
    rng = np.random.default_rng(7)
    tables, scores = [rng.uniform(size=(30, 14)) for _ in range(4)], [rng.uniform(size=30)] * 4
    given = average_precision([Matches(t, s) for t, s in zip(tables, scores, strict=True)])
    surest = np.argsort(-scores[0])[:20]
    wanted = published.average_precision(
        [table[surest] for table in tables], [scores[0][surest]] * 4, np.linspace(0.5, 0.95, 10)
    )
    assert given["ap"] == pytest.approx(wanted, abs=1e-6) and 5 < wanted < 95


def test_geodesic_point_similarity() -> None:
    rng = np.random.default_rng(5)
    distance, known = rng.uniform(0, 0.6, (7, 40)), rng.uniform(size=(7, 40)) < 0.7
    kappa = rng.choice([0.351, 0.107, 0.126], (7, 40))
    distance[0, :5] = np.inf  # the prediction shows no body there
    known[6] = False
    mine = gps(torch.from_numpy(distance), torch.from_numpy(known), torch.from_numpy(kappa))
    for i in range(6):
        wanted = published.gps(distance[i][known[i]], kappa[i][known[i]])
        assert _each(mine)[i] == pytest.approx(wanted, **CLOSE)
    assert math.isnan(mine[6])
    half = gps(torch.tensor([[0.3]]), torch.ones(1, 1, dtype=torch.bool))
    assert float(half) == pytest.approx(0.5, abs=0.002)  # what the paper chose 0.255 for
    assert float(gpsm(torch.tensor([0.25]), torch.tensor([1.0]))) == 0.5
    tables = [rng.uniform(size=(3, 2)) for _ in range(20)]
    scores = [rng.uniform(size=3) for _ in range(20)]
    given = average_precision([Matches(t, s) for t, s in zip(tables, scores, strict=True)])
    wanted = published.average_precision(tables, scores, np.linspace(0.5, 0.95, 10))
    assert given["ap"] == pytest.approx(wanted, abs=1e-6) and 5 < wanted < 95


def test_ways_over_a_surface() -> None:
    """A flat square of 5 x 5 places and one piece apart: shortest ways by Floyd and Warshall."""
    places = np.array([[x, y, 0.1 * x * y] for x in range(5) for y in range(5)], dtype=float)
    corners = [(5 * x + y, 5 * x + y + 1, 5 * x + y + 5) for x in range(4) for y in range(4)]
    corners += [(b, c + 1, c) for a, b, c in corners]
    vertices = np.concatenate((places, places[:3] + 9))
    faces = np.array([*corners, (25, 26, 27)])
    ways = np.full((28, 28), np.inf)
    np.fill_diagonal(ways, 0)
    for face in faces:
        for i, j in ((0, 1), (1, 2), (2, 0)):
            length = np.linalg.norm(vertices[face[i]] - vertices[face[j]])
            ways[face[i], face[j]] = ways[face[j], face[i]] = length
    for middle in range(28):
        ways = np.minimum(ways, ways[:, [middle]] + ways[[middle]])
    assert geodesic_distances(vertices, faces) == pytest.approx(ways, **CLOSE)
    some = np.array([3, 26])
    assert geodesic_distances(vertices, faces, some) == pytest.approx(ways[some], **CLOSE)
    assert np.isinf(ways[0, 25])


def test_points_of_a_surface_go_to_their_parts_nearest_vertex() -> None:
    rng = np.random.default_rng(1)
    part, uv = rng.integers(1, 4, 60), rng.uniform(size=(60, 2))
    asked, places = rng.integers(0, 5, 80), rng.uniform(size=(80, 2))  # part 4 has no vertex
    found = closest_vertices(asked, places, part, uv)
    for p, place, vertex in zip(asked, places, found, strict=True):
        apart = np.where(part == p, np.linalg.norm(uv - place, axis=1), np.inf)
        assert vertex == (apart.argmin() if 1 <= p <= 3 else -1)
    assert (closest_vertices(part, uv, part, uv) == np.arange(60)).all()


def test_macro_f1_weighs_classes_and_accuracy_pictures() -> None:
    rng = np.random.default_rng(2)
    true = rng.choice(4, 200, p=[0.7, 0.2, 0.06, 0.04])
    mine = np.where(rng.uniform(size=200) < 0.6, true, rng.integers(0, 5, 200))
    each = []
    for kind in range(5):
        hit = ((mine == kind) & (true == kind)).sum()
        each.append(200 * hit / ((mine == kind).sum() + (true == kind).sum()))
    a, b = torch.from_numpy(mine), torch.from_numpy(true)
    assert macro_f1(a, b) == pytest.approx(np.mean(each), **CLOSE)
    assert float(accuracy(a, b).mean()) == pytest.approx(100 * (mine == true).mean(), rel=1e-6)
    assert macro_f1(b, b) == 100.0
