"""What the figures of a report mean, and by which protocol they were measured."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from hpse_dist.protocols import PROTOCOLS, Protocol


@dataclass(frozen=True)
class Metric:
    """How a figure is called, which way is better, and what exactly it measures."""

    label: str
    unit: str = ""
    better: Literal["lower", "higher", ""] = ""
    digits: int = 3
    meaning: str = ""

    @property
    def sign(self) -> float:
        """What makes of a figure one where lower is better."""
        return -1.0 if self.better == "higher" else 1.0


METRICS: dict[str, Metric] = {
    "pa_mpjpe": Metric(
        "PA-MPJPE",
        "mm",
        "lower",
        1,
        "mean distance of the joints after the similarity transform that fits each example best",
    ),
    "mpjpe": Metric(
        "MPJPE", "mm", "lower", 1, "mean distance of the joints, both bodies put at their pelvis"
    ),
    "n_mpjpe": Metric(
        "N-MPJPE", "mm", "lower", 1, "the same after one factor of scale for each example"
    ),
    "pa_pve": Metric("PA-PVE", "mm", "lower", 1, "mean distance of the vertices, aligned as PA"),
    "pve": Metric(
        "PVE", "mm", "lower", 1, "mean distance of the vertices, both bodies put at their pelvis"
    ),
    "pa_mpjpe_one_view": Metric(
        "PA-MPJPE, one view", "mm", "lower", 1, "the same network without its second picture"
    ),
    "mpjpe_one_view": Metric("MPJPE, one view", "mm", "lower", 1, "likewise"),
    "pve_one_view": Metric("PVE, one view", "mm", "lower", 1, "likewise"),
    "pck_150": Metric("PCK@150 mm", "%", "higher", 1, "share of joints nearer than 150 mm"),
    "auc_150": Metric("AUC", "%", "higher", 1, "mean of PCK over 0, 5, ... 150 mm"),
    "nmje": Metric("NMJE", "mm", "lower", 1, "MPJPE of the people found, divided by F1"),
    "nmve": Metric("NMVE", "mm", "lower", 1, "PVE of the people found, divided by F1"),
    "f1": Metric("F1", "%", "higher", 1, "of finding people"),
    "joint_aligned": Metric("joints, aligned", "mm", "lower", 1, "after FreiHAND's alignment"),
    "mesh_aligned": Metric("mesh, aligned", "mm", "lower", 1, "after FreiHAND's alignment"),
    "f_5": Metric("F@5 mm", "%", "higher", 1, "F-score of the aligned vertices at 5 mm"),
    "f_15": Metric("F@15 mm", "%", "higher", 1, "F-score of the aligned vertices at 15 mm"),
    "joint_auc": Metric("AUC, joints", "%", "higher", 1, "under PCK over 0..50 mm, aligned"),
    "mesh_auc": Metric("AUC, mesh", "%", "higher", 1, "under PCK over 0..50 mm, aligned"),
    "ap": Metric("AP", "%", "higher", 1, "average precision over OKS 0.50:0.05:0.95"),
    "ap_50": Metric("AP@50", "%", "higher", 1, "average precision at OKS 0.50"),
    "ap_75": Metric("AP@75", "%", "higher", 1, "average precision at OKS 0.75"),
    "ap_medium": Metric("AP, medium", "%", "higher", 1, "AP of people of 32^2 to 96^2 pixels"),
    "ap_large": Metric("AP, large", "%", "higher", 1, "AP of people above 96^2 pixels"),
    "ar": Metric("AR", "%", "higher", 1, "average recall over OKS 0.50:0.05:0.95"),
    "gps_ap": Metric("GPS AP", "%", "higher", 1, "average precision over GPS 0.50:0.05:0.95"),
    "gps_ap_50": Metric("GPS AP@50", "%", "higher", 1, "average precision at GPS 0.50"),
    "gps_ap_75": Metric("GPS AP@75", "%", "higher", 1, "average precision at GPS 0.75"),
    "gpsm_ap": Metric("GPSm AP", "%", "higher", 1, "the same with the masks' overlap"),
    "gpsm_ap_50": Metric("GPSm AP@50", "%", "higher", 1, "the same with the masks' overlap"),
    "gpsm_ap_75": Metric("GPSm AP@75", "%", "higher", 1, "the same with the masks' overlap"),
    "macro_f1": Metric("macro F1", "%", "higher", 1, "F1 of each class, mean over classes"),
    "accuracy": Metric("accuracy", "%", "higher", 1, "share of pictures with the right class"),
    "uncertainty": Metric(
        "uncertainty", "%", "lower", 1, "probability given to classes other than the right one"
    ),
    "pck_005": Metric(
        "PCK@0.05",
        "%",
        "higher",
        1,
        "share of joints within 0.05 of the larger side of the box around the labelled joints",
    ),
    "pck_01": Metric("PCK@0.1", "%", "higher", 1, "the same within 0.1 of it"),
    "joint_error": Metric("joint error", "%", "lower", 1, "mean distance of 2D joints over it"),
    "part_iou": Metric(
        "part IoU", "%", "higher", 1, "intersection over union, mean over the parts in sight"
    ),
    "person_iou": Metric("person IoU", "%", "higher", 1, "the same for person and background"),
    "surface_right": Metric(
        "surface right",
        "%",
        "higher",
        1,
        "share of the person's pixels with the right part and coordinates within 0.05",
    ),
    "uv_error": Metric(
        "surface error", "%", "lower", 1, "distance of coordinates where the part is right"
    ),
    "reference_gain": Metric(
        "reference gain",
        "%",
        "higher",
        1,
        "how much larger the error on hidden patches is when the second picture shows another "
        "subject: above zero, the second picture is used",
    ),
    "hidden_loss": Metric("hidden loss", "", "lower", 3, "mean squared error on hidden patches"),
    "hidden_loss_mean": Metric(
        "guessing the mean", "", "", 3, "the same error for each hidden patch's mean colour"
    ),
    "hidden_loss_nearest": Metric(
        "nearest patch", "", "", 3, "the same error for the nearest visible patch in its place"
    ),
}


# as `recipe.HeldOut.by` and `runs._scores` write it
_NAME = re.compile(r"(?P<protocol>[\w-]*)(?: on (?P<place>.+?))?(?: \((?P<sha>[0-9a-f]+)\))?")


def protocol_text(name: str) -> str:
    """What a column's protocol pins down; for one that is not known, that."""
    if not name:
        return "No protocol was recorded: compare these numbers with nothing but one another."
    protocol = protocol_named(name)
    if protocol is None:
        return f"Protocol {name}, which this version does not know."
    whole = _NAME.fullmatch(name)
    assert whole is not None
    place = f" Measured on {whole['place']}." if whole["place"] else ""
    regressor = f" Regressor's sha256 begins with {whole['sha']}." if whole["sha"] else ""
    return f"Protocol {protocol.describe()}{place}{regressor}"


def protocol_named(name: str) -> Protocol | None:
    """The protocol that a column says, without what it was measured on, or what with."""
    whole = _NAME.fullmatch(name)
    return PROTOCOLS.get(whole["protocol"]) if whole else None


def on_other_frames(name: str) -> bool:
    """Whether a column says that it was measured elsewhere than on the run's own held-out set."""
    whole = _NAME.fullmatch(name)
    return bool(whole and whole["place"])
