"""The doctor's checks: they see what works, and they fail where something does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hpse_dist import checkup
from hpse_dist.installed import beside_pins, version_of
from hpse_dist.log import METRICS_FILE
from hpse_dist.models.attention import attend


def test_what_is_installed_is_compared_with_the_pins(tmp_path: Path) -> None:
    pins = tmp_path / "requirements.txt"
    numpy = version_of("numpy")
    pins.write_text(f"# tested\nnumpy=={numpy}\nray[default,train]=={version_of('ray')}\n")
    assert beside_pins(pins) == "2 as they were tested together"
    pins.write_text(f"numpy=={numpy}\ntqdm==0.0.1\nno-such-thing==7\n")
    others = f"tqdm {version_of('tqdm')} (tested: 0.0.1), no-such-thing missing (tested: 7)"
    assert beside_pins(pins).startswith(f"1 as they were tested together, others: {others}; bash")
    assert "not there to compare with" in beside_pins(tmp_path / "none")


def test_attention_is_held_against_its_formula(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert " of the formula written out" in checkup.attention(tmp_path)
    monkeypatch.setattr(checkup, "attend", lambda q, k, v, lengths: attend(q, k, v))
    with pytest.raises(ValueError, match="that is too far"):
        checkup.attention(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees the GPU of this machine")
def test_a_gpu_that_torch_does_not_see_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "cores" in checkup.machine(tmp_path)
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/dev/nvidia0")]))
    with pytest.raises(ValueError, match="does not see: update its driver"):
        checkup.machine(tmp_path)


def test_training_is_tried_and_held_against_plain_torch(tmp_path: Path) -> None:
    """Of as many trainers' pictures as are asked for, whoever takes them."""
    assert checkup.pictures(tmp_path, trainers=2).startswith("32 written")
    plain = checkup.recipe(tmp_path, "plain", 2, engine="plain")
    assert checkup.trained(plain, checkup.here).startswith("2 steps of completion, loss ")
    assert (plain.global_batch, plain.accumulation(1)) == (8, 2)
    other = checkup.recipe(tmp_path, "other", 2, engine="plain", micro_batch=8)
    assert checkup.trained(other, checkup.here).endswith(", as plain torch")
    log = plain.folder() / METRICS_FILE
    log.write_text(log.read_text().replace('"loss": 1', '"loss": 2'))
    third = checkup.recipe(tmp_path, "third", 2, engine="plain")
    with pytest.raises(ValueError, match=r"loss \d\.\d+, where plain torch has 2\."):
        checkup.trained(third, checkup.here)
