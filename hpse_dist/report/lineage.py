"""Where a result comes from: the data of a run and of every source before it, with licences and
what the leakage guard found. Read from cards and manifests; what they do not say is called unknown.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpse_dist.report.runs import Run, Study
from hpse_dist.stamps import counts

# of published weights; compared in lower case
_COMMERCIAL = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc0-1.0", "cc-by-4.0")
# what figures are measured on: named instead of the run's own held-out people, or besides
JUDGED, TEST = "held out", "test"
_MOST_SOURCES = 32  # a chain that is longer is no chain of sources


@dataclass(frozen=True)
class Part:
    """Data, poses or weights that went into a run, at first hand or through a source."""

    name: str
    what: str
    """collection, poses, weights or, of the run itself, what it names to be measured on"""
    via: str
    """The run that used it."""
    licence: str
    commercial: bool | None
    """Whether the licence allows commercial use; None where nobody said."""
    own: bool = False
    """Whether the run itself used it, not a source of its."""
    frames: str = ""
    """sha256 of frames.parquet, which tells a collection's frames from all others."""
    leakage: Mapping[str, Any] = field(default_factory=dict)
    """What the guard found, by the judged collection's `frames`."""


@dataclass(frozen=True)
class Finding:
    """Whether a collection that a run or its source saw leaks into one that it is judged on."""

    run: str
    source: str
    collection: str
    judged: str
    found: Mapping[str, Any] | None
    """The guard's stamp; None where the guard was not run, or by an earlier rule saw nothing."""
    fine_tuned: bool = False
    """Whether the run itself has seen it, not a source of its."""

    @property
    def leaks(self) -> bool:
        return bool(self.found and self.found.get("frames"))


def parts(run: Run) -> list[Part]:
    """All data and weights behind a run: its own, then those of the sources before it."""
    found: list[Part] = []
    for depth, card in enumerate(_chain(run)):
        via = str(card.get("name", "")) or run.name
        found += [_collection(row, via, depth == 0) for row in card.get("collections", ())]
        for row in card.get("judged_on", ()) if depth == 0 else ():
            split = {"name": f"{row.get('name', '')}, split {row.get('split', '')}"}
            what = TEST if row.get("besides") else JUDGED
            found.append(replace(_collection({**row, **split}, via, True), what=what))
        if poses := card.get("poses"):  # motion capture, of whose licence no file says anything
            found.append(Part(str(poses), "poses", via, "unknown", None))
        weights = _weights(card, via)
        if weights is not None:
            found.append(weights)
    return found


def _chain(run: Run) -> Iterator[Mapping[str, Any]]:
    """The card of a run and of each source before it."""
    card = _read(run.folder / "card.json")
    for _ in range(_MOST_SOURCES):
        if not isinstance(card, Mapping):
            return
        yield card
        card = card.get("started_from")


def _collection(row: Mapping[str, Any], via: str, own: bool) -> Part:
    """A collection as a card names it; its manifest, where it still is, knows of later checks."""
    path, frames = str(row.get("path", "")), str(row.get("frames", ""))
    leakage = dict(row.get("leakage", {}))
    if path:
        manifest = _read(_located(path) / "manifest.json") or {}
        entry = manifest.get("files", {}).get("frames.parquet", {})
        if entry.get("sha256") == frames:
            leakage |= manifest.get("leakage", {})
    return Part(
        name=str(row.get("name", "")),
        what="collection",
        via=via,
        licence=str(row.get("licence", "")) or "unknown",
        commercial=row.get("commercial"),
        own=own,
        frames=frames,
        leakage=leakage,
    )


def _weights(card: Mapping[str, Any], via: str) -> Part | None:
    """Other people's weights as a source; None for our own runs and a random start."""
    if "timm" in card:
        licence = str(card["timm"].get("license", ""))
        allowed = licence.lower() in _COMMERCIAL if licence else None
        return Part(via, "weights", via, licence or "unknown", allowed)
    if "family" in card:
        return Part(str(card.get("file", via)), "weights", via, "unknown", None)
    return None


def _located(path: str) -> Path:
    """As recipes are read: relative paths start at $HPSE_ROOT, else at the working directory."""
    return Path(os.environ.get("HPSE_ROOT", ".")) / Path(path).expanduser()


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file, or it is not one."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def findings(study: Study) -> list[Finding]:
    """For each finished fine-tuning run, its sources' collections against those it is judged on;
    its own too against others that it names."""
    found = []
    for run in study.of_kind("finetune"):
        chain = parts(run)
        collections = [part for part in chain if part.what == "collection"]
        judged_on = [part for part in chain if part.what == JUDGED]
        judged_on = judged_on or [part for part in collections if part.own]
        for judged in (*judged_on, *(part for part in chain if part.what == TEST)):
            for part in collections:
                # splits of one collection share no subject
                if not part.own or (judged.what != part.what and part.frames != judged.frames):
                    stamp = _stamp(part, judged)
                    one = Finding(run.name, part.via, part.name, judged.name, stamp, part.own)
                    found.append(one)
    return found


def _stamp(part: Part, judged: Part) -> Mapping[str, Any] | None:
    stamp = part.leakage.get(judged.frames) if judged.frames else None
    return stamp if isinstance(stamp, Mapping) and counts(stamp) else None


def leak_warnings(study: Study) -> list[str]:
    """A sentence for each source that has seen what its runs are judged on."""
    told: dict[str, None] = {}
    for finding in findings(study):
        if finding.leaks and finding.found:
            kinds = [
                f"{finding.found[kind]} {kind}"
                for kind in ("pictures", "subjects", "sequences")
                if finding.found.get(kind)
            ]
            who = "fine-tuning is" if finding.fine_tuned else f"{finding.source} was pre-trained"
            sentence = (
                f"{who} on {finding.collection}, which leaks into what it is judged on: "
                f"{finding.found['frames']} of the "
                f"{finding.found.get('held_out_frames', '?')} held-out frames of {finding.judged} "
                f"are touched ({', '.join(kinds)} in common). Its figures are not to be trusted."
            )
            told[sentence] = None
    return list(told)


def data_section(study: Study) -> dict[str, Any] | None:
    """Rows of the page's table of data, and what is known of leakage; None where nothing is."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in study.runs:
        for part in parts(run):
            key = part.what, part.name, part.licence, part.frames
            row = rows.setdefault(
                key,
                {
                    "name": part.name,
                    "what": part.what,
                    "licence": part.licence,
                    "commercial": {True: "yes", False: "no", None: "unknown"}[part.commercial],
                    "runs": [],
                },
            )
            if part.via not in row["runs"]:
                row["runs"].append(part.via)
    if not rows:
        return None
    return {
        "rows": [{**row, "runs": ", ".join(row["runs"])} for row in rows.values()],
        "leakage": _leakage_text(findings(study)),
    }


def _leakage_text(found: Sequence[Finding]) -> str:
    if not found:
        return ""
    clean = {(f.collection, f.judged) for f in found if f.found is not None and not f.leaks}
    unknown = {(f.collection, f.judged) for f in found if f.found is None}
    text = ""
    if clean:
        text += f"Checked, nothing in common: {_listed(clean)}. "
    if unknown:
        text += (
            f"Never checked for leakage by this version: {_listed(unknown)} (python -m "
            "pipelines.prepare <pre-training collection> --leakage <judged collection>)."
        )
    return text.strip()


def _listed(found: set[tuple[str, str]]) -> str:
    return ", ".join(f"{collection} against {judged}" for collection, judged in sorted(found))


def commercial(study: Study) -> str:
    """One sentence when nothing behind the study forbids commercial use.

    ValueError that names each culprit otherwise; what says nothing of its licence is one too.
    """
    unfinished = [run.name for run in study.runs if _read(run.folder / "card.json") is None]
    if unfinished:
        raise ValueError(
            f"{', '.join(unfinished)}: no card.json, so what it was made of is not known; let it "
            "finish"
        )
    culprits: dict[str, set[str]] = {}
    seen = set()
    for run in study.runs:
        for part in parts(run):
            if part.what in (JUDGED, TEST):  # nothing was learnt from it
                continue
            seen.add((part.what, part.name))
            if part.commercial is not True:
                verb = "says nothing of" if part.commercial is None else "forbids"
                told = f"{part.what} {part.name} (licence: {part.licence}) {verb} commercial use"
                culprits.setdefault(told, set()).add(part.via)
    if culprits:
        named = [f"{what}, used by {', '.join(sorted(by))}" for what, by in culprits.items()]
        raise ValueError(f"{study.name} must not be used commercially: {'; '.join(named)}")
    names = ", ".join(f"{what} {name}" for what, name in sorted(seen)) or "random starts alone"
    return (
        f"nothing forbids commercial use of {study.name}: {names} (licences of data and weights; "
        "body-model files have their own)"
    )
