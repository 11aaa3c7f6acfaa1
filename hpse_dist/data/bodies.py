"""Whose parameters a collection's body labels are, beside the body that a task poses with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hpse_dist.data.collection import Collection
from hpse_dist.data.crops import BODY

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
        raise ValueError(
            f"{collection.folder}: its body parameters are of {whose}, and {key} is {body}, whose "
            f"mesh they would misshape; {helps}"
        )


def _origins(collection: Collection) -> Iterator[tuple[Sequence[str], dict[str, Any]]]:
    """Stored labels and details of a collection, or of each that it was merged of."""
    details = collection.manifest.get("details", {})
    for part in details.get("parts", [{"details": details}]):
        yield part.get("labels", collection.label_fields), part.get("details", {})
