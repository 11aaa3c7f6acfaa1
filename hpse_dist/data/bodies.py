"""Whose parameters a collection's body and hand labels are, beside what a task poses with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hpse_dist.data.collection import Collection
from hpse_dist.data.crops import BODY, GROUPS, HAND
from hpse_dist.data.leakage import named_frames

FREE = "free"


def check_body(collection: Collection, body: str, key: str) -> None:
    """ValueError where body labels are parameters of another body than `body`, the recipe's `key`.

    Synthetic people say under `body` what they were made with, datasets under `body_model` the
    model, and after a comma how it differs from person to person. Who says nothing is let through,
    and any file beside any other: one body has many names.
    """
    for fields, details in _origins(collection):
        if BODY[0] not in fields:
            continue
        made_with, model = (str(details.get(key) or "") for key in ("body", "body_model"))
        if made_with and (made_with == FREE) != (body == FREE):
            whose, helps = f"the body {made_with}", f"set {key} to that body"
        elif ", " in model:
            whose = model
            helps = (
                "no one body fits them, so prepare it without "
                "(collection.labels=[joints2d, joints3d]), and choose pose3d or add a collection "
                f"of {key}"
            )
        elif model and body == FREE:
            whose, helps = model.upper(), f"set {key} to its file"
        else:
            continue
        raise ValueError(_mismatch(collection, "body", whose, body, key, helps))


def check_hand(collection: Collection, hand: str, key: str) -> None:
    """ValueError where hand labels are parameters of another hand than `hand`, the recipe's `key`.

    Synthetic hands are the free body's, which they say under `body`; datasets say under
    `hand_model` whose. Who says nothing is let through.
    """
    for fields, details in _origins(collection):
        if HAND[0] not in fields:
            continue
        model = str(details.get("hand_model") or "")
        if details.get("body") == FREE and hand != FREE:
            whose, helps = "the free hand", f"set {key} to {FREE}"
        elif model and hand == FREE:
            whose, helps = model, f"set {key} to the folder with its file"
        else:
            continue
        raise ValueError(_mismatch(collection, "hand", whose, hand, key, helps))


def _mismatch(
    collection: Collection, what: str, whose: str, wanted: str, key: str, helps: str
) -> str:
    return (
        f"{collection.folder}: its {what} parameters are of {whose}, and {key} is {wanted}, whose "
        f"mesh they would misshape; {helps}"
    )


def _origins(collection: Collection) -> Iterator[tuple[Sequence[str], dict[str, Any]]]:
    """Stored labels and details of a collection, or of each that it was merged of."""
    details = collection.manifest.get("details", {})
    if "parts" not in details:
        yield collection.label_fields, details
    for part in labelled_parts(collection):
        yield part["labels"], part.get("details", {})


def labelled_parts(collection: Collection) -> list[dict[str, Any]]:
    """What a collection was merged of, each with its labels; [] for one that was not merged.

    An earlier version did not say whose labels were whose. They are then those that some frame of
    the part's importer has: frames tell apart importers, and no more.
    """
    parts = collection.manifest.get("details", {}).get("parts", [])
    if all("labels" in part for part in parts):
        return list(parts)
    frames = collection.frames
    importers = np.array([n.partition("\n")[0] for n in named_frames(collection, "sequence")])
    anybodys = ~np.isin(importers, [part["importer"] for part in parts])
    found = []
    for part in parts:
        own = anybodys | (importers == part["importer"])
        lacking = {
            name
            for group, names in GROUPS.items()
            if f"has_{group}" in frames.column_names
            and not frames[f"has_{group}"].to_numpy()[own].any()
            for name in (*names, f"has_{group}")
        }
        labels = [name for name in collection.label_fields if name not in lacking]
        found.append({"labels": labels, **part})
    return found
