"""Annotation with wrong types, numbers beyond bounds, names that lead out: rejects or a sentence.

Every annotation file of every importer's fixture is changed at many places, one at a time. Whatever
is put there, records come out that can be stored or refused with a reason, or one ValueError.
"""

from __future__ import annotations

import copy
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpse_dist.data.crops import CollectionConfig, Pictures, Unusable, prepare_frame
from hpse_dist.data.importers import IMPORTERS
from hpse_dist.records import Reject
from tests.data.importers.layouts import LAYOUTS

DEEP: Any = []
for _ in range(300):
    DEEP = [DEEP]
HOSTILE: list[Any] = [
    *(None, True, -1, 0, 2**63, 10**19, 10**400, 1e300, -1e300, float("nan"), float("inf")),
    *("", "x", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "²", "9" * 400, "a" * 5000),
    *([], {}, [[]], {"x": []}, [None], ["x"] * 51, [1e300] * 4, [0] * 51, DEEP),
]


JSON = (
    *("coco", "coco_wholebody", "densepose_coco", "ai_challenger", "crowdpose", "posetrack18"),
    *("freihand", "hagrid", "interhand", "human36m", "panoptic", "aist", "muco"),
    "labelled",
)


def spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places in a JSON value; of a long list of numbers only the first two."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from spots(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 2)):
            yield from spots(value[index], (*path, index))


def changed(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    content = copy.deepcopy(content)
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return content


@pytest.mark.parametrize("name", JSON)
def test_hostile_values_are_rejects_or_a_sentence(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    keys = {k: tuple(v) if isinstance(v, list) else v for k, v in layout.keys.items()}
    made = layout.write(tmp_path)
    root = made if isinstance(made, Path) else tmp_path
    config = IMPORTERS[name].Config(root=root, **keys)
    untouched = sum(not isinstance(r, Reject) for r in IMPORTERS[name].frames(config))
    assert untouched, "the fixture is not read at all"
    rng = random.Random(name)
    paths = sorted(root.rglob("*.json*"))
    for path in paths:
        content = parse(path)
        everywhere = [(spot, value) for spot in spots(content) for value in HOSTILE]
        for spot, value in rng.sample(everywhere, 60 // len(paths)):
            put(path, changed(content, spot, value))
            try:
                read(name, config)
            except ValueError as error:
                assert str(error) and "\n" not in str(error)
            except Exception as error:  # say what did it
                raise AssertionError(f"{path.name} {spot} = {str(value)[:60]}") from error
        put(path, content)


def parse(path: Path) -> Any:
    """What a file holds, of a file of lines the list of them."""
    text = path.read_text()
    return json.loads(text if path.suffix == ".json" else f"[{','.join(text.splitlines())}]")


def put(path: Path, content: Any) -> None:
    lines = path.suffix == ".jsonl" and isinstance(content, list)
    path.write_text("\n".join(map(json.dumps, content)) if lines else json.dumps(content))


def read(name: str, config: Any) -> None:
    """Whatever comes out can be stored, or is refused with a reason."""
    pictures, rule = Pictures(), CollectionConfig(crop_px=16, min_side_px=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for record in IMPORTERS[name].frames(config):
            if isinstance(record, Reject):
                assert record.reason and record.source.encode() and record.reason.encode()
                continue
            try:
                stored = prepare_frame(record, rule, pictures)
            except Unusable as reason:
                assert str(reason).encode()
            else:
                texts = [v for v in stored.about.values() if isinstance(v, str)]
                assert all(text.encode() is not None for text in texts)
