"""Whose parameters a collection's body and hand labels are, beside what a task poses with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hpse_dist.data.collection import Collection
from hpse_dist.data.crops import BODY, HAND

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
                "(collection.labels=[joints2d, joints3d]; merged by an earlier version, merge it "
                f"again), and choose pose3d or add a collection of {key}"
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
    for part in details.get("parts", [{"details": details}]):
        yield part.get("labels", collection.label_fields), part.get("details", {})
