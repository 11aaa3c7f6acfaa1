"""Licences and leaks, inherited through sources: from cards and manifests to page and command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpse_dist.report import write_report
from hpse_dist.report.lineage import findings, leak_warnings
from hpse_dist.report.runs import read_study
from hpse_dist.stamps import VERSION
from pipelines import report, run_command
from tests.report.made_study import make_study
from tests.report.test_page import parsed

STAMP = {"frames": 7, "held_out_frames": 40, "pictures": 3, "subjects": 0, "sequences": 1}
CLEAN = {**dict.fromkeys(STAMP, 0), "version": VERSION}


def collection(folder: Path, name: str, commercial: bool = True, **stamps: Any) -> dict[str, Any]:
    """A collection's manifest on disk and its row in a card."""
    place = folder / "collections" / name
    place.mkdir(parents=True, exist_ok=True)
    manifest = {"files": {"frames.parquet": {"sha256": f"sha-{name}"}}, "leakage": stamps}
    (place / "manifest.json").write_text(json.dumps(manifest))
    licence = "CC0-1.0" if commercial else "research only"
    about = {"licence": licence, "commercial": commercial, "frames": f"sha-{name}"}
    return {"name": name, "path": str(place), **about}


def cards(folder: Path, seen: dict[str, Any], judged: dict[str, Any], first: Any = None) -> None:
    """Cards of a made study: completion is pre-trained on `seen`, the tasks judged on `judged`."""
    started = {"name": "completion", "collections": [seen], "started_from": first}
    for run in read_study(folder).runs:
        card: dict[str, Any] = {"name": run.name, "collections": [judged]}
        if run.kind == "pretrain":
            card = started
        elif run.source == "completion":
            card["started_from"] = started
        (run.folder / "card.json").write_text(json.dumps(card))


def commercial(folder: Path) -> int:
    return run_command(report.main, report.parser(), [str(folder), "--commercial"])


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return make_study(tmp_path / "study")


def test_a_leak_is_said_at_the_top_of_the_page(tmp_path, study):
    cards(study, collection(tmp_path, "web", **{"sha-demo": STAMP}), collection(tmp_path, "demo"))
    page = write_report(study)
    text = page.read_text(encoding="utf-8")
    sentence = "completion was pre-trained on web, which leaks into what it is judged on: 7 of the"
    assert text.count(sentence) == 1 and text.index(sentence) < text.index("PA-MPJPE, held-out")
    assert "3 pictures, 1 sequences in common" in text
    assert "data" in parsed(page).ids and "collection web" in text


def test_what_a_run_is_judged_on_is_no_data_of_its_and_may_leak(tmp_path, study, capsys):
    """A test set of another collection: what the run itself learnt from counts too."""
    own = collection(tmp_path, "own", **{"sha-bench": STAMP})
    bench = collection(tmp_path, "bench", commercial=False) | {"split": "test"}
    for run in read_study(study).runs:
        card = {
            "name": run.name,
            "collections": [own],
            "judged_on": [bench, own | {"split": "val"}],
        }
        (run.folder / "card.json").write_text(json.dumps(card))
    (said,) = leak_warnings(read_study(study))  # once for all runs
    assert "fine-tuning is on own, which leaks into what it is judged on: 7 of the 40" in said
    assert "held-out frames of bench, split test are touched" in said
    # the splits of one collection share nobody, so it is not asked whether it leaks into itself
    assert {finding.judged for finding in findings(read_study(study))} == {"bench, split test"}
    text = write_report(study).read_text(encoding="utf-8")
    assert "held out bench, split test" in text
    assert commercial(study) == 0, "nothing was learnt from it"
    assert "bench" not in capsys.readouterr().out


def test_tests_besides_leave_what_is_held_out_as_it_was(tmp_path, study):
    """A source that has seen the run's own held-out people is told all the same."""
    seen = collection(tmp_path, "web", **{"sha-demo": STAMP, "sha-bench": CLEAN})
    cards(study, seen, collection(tmp_path, "demo"))
    bench = collection(tmp_path, "bench") | {"split": "test", "besides": True}
    for run in read_study(study).of_kind("finetune"):
        card = json.loads((run.folder / "card.json").read_text())
        (run.folder / "card.json").write_text(json.dumps(card | {"judged_on": [bench]}))
    (said,) = leak_warnings(read_study(study))
    assert "held-out frames of demo are touched" in said
    pairs = {(one.collection, one.judged) for one in findings(read_study(study))}
    assert pairs == {("web", "demo"), *((name, "bench, split test") for name in ("web", "demo"))}
    assert "test bench, split test" in write_report(study).read_text(encoding="utf-8")


def test_clean_and_unchecked_collections_are_told_apart(tmp_path, study):
    web = collection(tmp_path, "web", **{"sha-demo": CLEAN})
    cards(study, web, collection(tmp_path, "demo"))
    assert leak_warnings(read_study(study)) == []
    text = write_report(study).read_text(encoding="utf-8")
    assert "Checked, nothing in common: web against demo." in text and "Never checked" not in text
    cards(study, web, collection(tmp_path, "other"))
    text = write_report(study).read_text(encoding="utf-8")
    assert "Never checked for leakage by this version: web against other" in text


@pytest.mark.parametrize("checks", [["pictures", "subjects"], ["subjects"]])
def test_what_an_earlier_rule_did_not_find_is_not_known(tmp_path, study, checks):
    old = {**CLEAN, "checks": checks, "version": VERSION - 1}
    cards(study, collection(tmp_path, "web", **{"sha-demo": old}), collection(tmp_path, "demo"))
    known = {finding.found is not None for finding in findings(read_study(study))}
    assert known == {"pictures" not in checks}
    leak = {**STAMP, "checks": checks}  # and by whatever rule, what leaks leaks
    cards(study, collection(tmp_path, "web", **{"sha-demo": leak}), collection(tmp_path, "demo"))
    assert len(leak_warnings(read_study(study))) == 1


def test_stamps_of_other_frames_count_for_nothing(tmp_path, study):
    """The collection at that place was made anew since; the card keeps what it was trained on."""
    web = collection(tmp_path, "web", **{"sha-demo": STAMP})
    cards(study, {**web, "frames": "sha-old"}, collection(tmp_path, "demo"))
    assert {finding.found is None for finding in findings(read_study(study))} == {True}
    kept = {**web, "frames": "sha-old", "path": "gone", "leakage": {"sha-demo": STAMP}}
    cards(study, kept, collection(tmp_path, "demo"))
    assert len(leak_warnings(read_study(study))) == 1


def test_commercial_use_names_the_culprit_behind_a_source(tmp_path, study, capsys):
    free, judged = collection(tmp_path, "free"), collection(tmp_path, "demo")
    cards(study, free, judged, {"name": "random"})
    assert commercial(study) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("nothing forbids commercial use of demo: collection demo, collection f")
    assert shown.count("\n") == 1
    lab = {"name": "older", "collections": [collection(tmp_path, "lab", commercial=False)]}
    cards(study, free, judged, lab)
    assert commercial(study) == 1
    error = capsys.readouterr().err
    assert "collection lab (licence: research only) forbids commercial use, used by older" in error
    assert "free" not in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("card", "code", "says"),
    [
        ({"name": "timm:vit", "timm": {"license": "apache-2.0"}}, 0, "weights timm:vit"),
        ({"name": "timm:vit", "timm": {"license": "cc-by-nc-4.0"}}, 1, "cc-by-nc-4.0) forbids"),
        ({"name": "timm:vit", "timm": {}}, 1, "unknown) says nothing of commercial use"),
        ({"name": "dolls", "poses": "/data/amass"}, 1, "poses /data/amass (licence: unknown) says"),
        ({"name": "x", "family": "croco", "file": "a/x.pth"}, 1, "weights a/x.pth (licence: unk"),
    ],
)
def test_weights_of_others_have_licences_too(tmp_path, study, capsys, card, code, says):
    cards(study, collection(tmp_path, "free"), collection(tmp_path, "demo"), card)
    assert commercial(study) == code
    shown = capsys.readouterr()
    assert says in (shown.err if code else shown.out)


def test_runs_without_a_card_are_not_vouched_for(study, capsys):
    assert commercial(study) == 1
    assert "no card.json" in capsys.readouterr().err
