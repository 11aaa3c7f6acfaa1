"""The table of importers: each reads its official layout through the whole of prepare, writes what
it leaves out with the reason, and names a file that is not there. A new importer needs its line in
`layouts`, and its recipe."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hpse_dist.body.joints import JOINT_SETS
from hpse_dist.config import build, load
from hpse_dist.data.importers import IMPORTERS
from hpse_dist.prepare import prepare
from hpse_dist.recipe import DataRecipe
from tests.data.importers.layouts import LAYOUTS, Layout, remove
from tests.data.plain_shards import plain_shards  # noqa: F401  a fixture

pytestmark = pytest.mark.usefixtures("plain_shards")
TOP = Path(__file__).parents[3]


def recipe(name: str, layout: Layout, root: Path, out: Path) -> DataRecipe:
    keys: dict[str, Any] = {"name": name, **layout.keys}
    if "root" in {key.name for key in fields(IMPORTERS[name].Config)}:
        keys["root"] = str(root)
    else:  # of several datasets, each with its own
        parts = {part: {**about, "root": str(root / part)} for part, about in layout.keys.items()}
        keys |= parts
    rule = {"crop_px": 32, "min_side_px": 10, "min_inside_ratio": 0.01, "label_px": 8}
    values = {"name": name, "source": keys, "collection": rule, "pairs": None, "out": str(out)}
    return build(DataRecipe, values)


def test_the_table_is_complete() -> None:
    assert LAYOUTS.keys() == IMPORTERS.keys()
    docs = (TOP / "docs" / "datasets.md").read_text()
    for name in IMPORTERS:
        written = load(DataRecipe, TOP / "configs" / "data" / f"{name}.yaml")
        assert written.source_name() == name
        assert name in ("image_folder", "rig", "videos") or f"`{name}`" in docs, (
            f"{name}: not in the docs"
        )


@pytest.mark.parametrize("name", LAYOUTS)
def test_prepared_with_one_broken_record_and_without_a_file(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    folder = tmp_path / "dataset"
    folder.mkdir()
    root = layout.write(folder)
    root = root if isinstance(root, Path) else folder
    layout.damage(root)
    made = prepare(recipe(name, layout, root, tmp_path / "out"))
    assert made.num_frames and made.verify() == []
    rejects = made.rejects.to_pylist()
    reasons = [reject["reason"] for reject in rejects]
    assert any(re.search(layout.reason, reason) for reason in reasons), reasons
    assert all(reject["source"] and reject["reason"] for reject in rejects)
    assert (made.folder / "sheets" / "frames.png").is_file()
    manifest = made.manifest
    assert manifest["importer"] == name and manifest["licence"] and manifest["citation"] is not None
    assert isinstance(manifest["commercial"], bool)
    assert manifest["joint_set"] is None or manifest["joint_set"] in JOINT_SETS
    joints = made.fields.get("joints2d") or made.fields.get("joints3d")
    if joints is not None:
        assert joints[0][0] == len(JOINT_SETS[manifest["joint_set"]])
    account = manifest["reprojection"]
    if account is not None and "median_px" in account:
        assert account["median_px"] < 1

    lost = remove(root, layout.missing)
    with pytest.raises(ValueError, match=re.escape(lost)) as caught:
        prepare(recipe(name, layout, root, tmp_path / "again"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "again" / name).exists()
