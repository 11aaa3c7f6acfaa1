"""Which frames go together: mined from frames.parquet alone, no image is opened.

Cross-view pairs show one person at one moment from two cameras; cross-pose pairs show one person
from one camera at two moments. A pair never leaves its split nor its shard. What is drawn is drawn
from `draws`, keyed by sample ids: the same table gives the same pairs on any machine.
"""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpse_dist.config import digest, to_dict
from hpse_dist.data.collection import PAIR_SCHEMA, Collection
from hpse_dist.data.mining.candidates import Pairs, join, pose_candidates, view_candidates
from hpse_dist.data.mining.caps import place_in_run, within_cap, within_moment
from hpse_dist.data.mining.distributions import CANDIDATES, KEPT, Distributions
from hpse_dist.data.mining.frames import Frames, Names
from hpse_dist.data.mining.rules import CAPS, POSE, VIEW, PairsConfig, view_weight
from hpse_dist.safety import parsed_json

__all__ = ["POSE", "VIEW", "PairsConfig", "mine", "pair_counts", "view_weight", "write_pairs"]

log = logging.getLogger(__name__)


def write_pairs(collection: Collection, config: PairsConfig) -> Collection:
    """Mine a collection's pairs into pairs.parquet; pairs of the same config are kept as they are.

    The collection is changed in place and returned; sheets of other pairs are removed. Rules that
    leave nothing of all candidates are a ValueError where they would replace pairs that are there.
    """
    mark = digest(config, ignore=())
    before = collection.manifest.get("pairs", {})
    if before.get("digest") == mark:
        return collection
    began = time.perf_counter()
    table = mine(collection.frames, config)
    summary = {"digest": mark, "config": to_dict(config), **pair_counts(table)}
    wanted = config.max_view_per_moment or config.max_pose_per_frame
    if table.num_rows == 0 and wanted:
        sentence = f"{collection.folder}: {nothing_left(summary)}"
        if before.get("view", 0) + before.get("pose", 0):
            raise ValueError(f"{sentence}; the pairs that were there are kept as they were")
        log.warning("%s", sentence)
    shutil.rmtree(collection.folder / "sheets", ignore_errors=True)
    collection.update_file("pairs.parquet", lambda path: pq.write_table(table, path), pairs=summary)
    seconds = time.perf_counter() - began
    log.info("%s: %d pairs mined in %.1f s", collection.folder, table.num_rows, seconds)
    return collection


def pair_counts(table: pa.Table) -> dict[str, Any]:
    """How many pairs of each kind a table has, why candidates were dropped and how both are spread.

    `frames` counts those that can be in no pair of a kind; see `mining.distributions` for `spread`.
    """
    kinds = table["kind"].to_numpy()
    mined = parsed_json((table.schema.metadata or {}).get(b"mined", b"{}"))
    spread = mined.get("spread", {})
    reasons = {
        f"{kind}: {reason}": count
        for kind, found in spread.items()
        for reason, count in found["left_out"].items()
    }
    return {
        "view": int((kinds == VIEW).sum()),
        "pose": int((kinds == POSE).sum()),
        "dropped": dict(sorted(reasons.items(), key=lambda item: -item[1])),
        "frames": mined.get("frames", {}),
        "spread": {
            kind: {k: v for k, v in found.items() if k != "left_out"}
            for kind, found in spread.items()
        },
    }


def nothing_left(summary: dict[str, Any]) -> str:
    """Why there are no pairs, in one sentence: what each rule removed."""
    candidates = sum(found[CANDIDATES] for found in summary["spread"].values())
    reasons = [f"{reason} {count:,}" for reason, count in summary["dropped"].items()]
    if candidates:
        text = f"no pair is left of {candidates:,} candidates ({'; '.join(reasons)})"
        return f"{text}; widen those rules under pairs"
    reasons += [f"{reason} {count:,}" for reason, count in summary["frames"].items()]
    text = (
        "no two frames show one subject at one moment from two cameras, nor one subject or track "
        "from one camera within time_gap_s"
    )
    return f"{text} ({'; '.join(reasons)})" if reasons else text


def mine(frames: pa.Table, config: PairsConfig) -> pa.Table:
    """All pairs of a collection's frames.parquet, in the columns of pairs.parquet.

    angle_deg: between viewing directions at the person (0 for cross-pose pairs of a still camera,
    null where the camera is unknown). pose_distance: of cross-pose pairs, null where nothing is
    known of the poses. overlap: Jaccard index of the body surface both show, else, for cross-pose,
    intersection over union of the boxes, else null. weight: 4 cos a (1 - cos a) for cross-view
    pairs, 1 for cross-pose pairs. difficulty: see `mining.rules`. The schema's metadata `mined`
    holds, as JSON, what `pair_counts` reads. Memory: the table, and what is kept.
    """
    names, ids = Names.of(frames), frames["sample_id"].to_numpy()
    shards = frames["shard"].to_numpy()
    spread = Distributions(names, config)
    order = np.lexsort((ids, shards))
    edges = np.flatnonzero(np.diff(shards[order], prepend=-1, append=-1))
    found: dict[int, list[Pairs]] = {VIEW: [], POSE: []}
    for start, stop in itertools.pairwise(edges):
        shard = Frames(frames, names, order[start:stop])
        if config.max_view_per_moment:
            found[VIEW] += _view_pairs(shard, ids, names, config, spread)
        if config.max_pose_per_frame:
            found[POSE] += _pose_pairs(shard, config, spread)
    kept = {kind: join(parts) for kind, parts in found.items()}
    for kind, cap in itertools.product(kept, CAPS):
        stays = within_cap(kind, cap, kept[kind], ids, names, config)
        kept[kind] = kept[kind].take(spread.drop(kind, {f"over {cap}": ~stays}))
    for kind, pairs in kept.items():
        spread.add(kind, KEPT, pairs)
    mined = {"frames": _unpaired(names), "spread": spread.summary()}
    table = _table(kept, ids, shards, config.both_orders)
    return table.replace_schema_metadata({"mined": json.dumps(mined)})


def _unpaired(names: Names) -> dict[str, int]:
    """How many frames can be in no pair, by reason."""
    timed = np.isfinite(names.time)
    counts = {
        "frames without a time": (~timed).sum(),
        "frames without a subject, for no cross-view pair": (timed & ~names.has_subject).sum(),
        "frames without a subject or track, for no cross-pose pair": (
            timed & ~names.has_person
        ).sum(),
    }
    return {reason: int(count) for reason, count in counts.items() if count}


def _view_pairs(
    shard: Frames, ids: np.ndarray, names: Names, config: PairsConfig, spread: Distributions
) -> list[Pairs]:
    """A shard's cross-view pairs, caps of more than a moment left to come."""
    low, high = config.view_angle_deg
    kept = []
    for pairs, unseen in view_candidates(shard, config):
        spread.add(VIEW, CANDIDATES, pairs)
        if unseen:
            spread.left_out[VIEW]["not looked at, in a moment of too many cameras"] += unseen
        reasons = {
            "camera unknown": np.isnan(pairs.angle_deg),
            f"angle below {low:g}": pairs.angle_deg < low,
            f"angle above {high:g}": pairs.angle_deg > high,
            f"overlap below {config.min_view_overlap:g}": pairs.overlap < config.min_view_overlap,
        }
        pairs = pairs.take(spread.drop(VIEW, reasons))
        over = {"over max_view_per_moment": ~within_moment(pairs, ids, names, config)}
        kept.append(pairs.take(spread.drop(VIEW, over)))
    return kept


def _pose_pairs(shard: Frames, config: PairsConfig, spread: Distributions) -> list[Pairs]:
    """A shard's cross-pose pairs, caps of more than a frame left to come."""
    kept = []
    for pairs in pose_candidates(shard, config):
        spread.add(POSE, CANDIDATES, pairs)
        ranges = np.where(
            pairs.of_silhouettes[:, None], config.silhouette_distance, config.pose_distance
        ).astype(np.float32)
        unknown = np.isnan(pairs.pose_distance)
        reasons = {
            "nothing known of it": unknown & (not config.unknown_pose),
            "too alike": pairs.pose_distance < ranges[:, 0],
            "too different": pairs.pose_distance > ranges[:, 1],
        }
        pairs = pairs.take(spread.drop(POSE, reasons))
        over = {"over max_pose_per_frame": place_in_run(pairs.a) >= config.max_pose_per_frame}
        kept.append(pairs.take(spread.drop(POSE, over)))
    return kept


def _table(
    kept: dict[int, Pairs], ids: np.ndarray, shards: np.ndarray, both_orders: bool
) -> pa.Table:
    """Pairs of rows as pairs of sample ids with their measures: shard after shard, cross-view
    before cross-pose, each order after the other."""
    columns: dict[str, np.ndarray] = {}
    pairs = join(list(kept.values()))
    kind: np.ndarray = np.repeat(list(kept), [len(part) for part in kept.values()])
    weight = np.where(kind == VIEW, view_weight(pairs.angle_deg.astype(np.float64)), 1.0)
    first, second = ids[pairs.a], ids[pairs.b]
    order = np.lexsort((second, first, kind, shards[pairs.a]))
    if both_orders:
        turned: np.ndarray = np.repeat([0, 1], len(pairs))
        twice = np.tile(order, 2)
        block = np.lexsort((turned, kind[twice], shards[pairs.a[twice]]))
        order, turned = twice[block], turned[block].astype(bool)
        first, second = first[order], second[order]
        first, second = np.where(turned, second, first), np.where(turned, first, second)
    else:
        first, second = first[order], second[order]
    columns = {"a": first, "b": second, "kind": kind[order], "weight": weight[order]}
    arrays = [
        pa.array(
            columns[field.name] if field.name in columns else getattr(pairs, field.name)[order],
            from_pandas=True,
        ).cast(field.type, safe=False)
        for field in PAIR_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=PAIR_SCHEMA)
