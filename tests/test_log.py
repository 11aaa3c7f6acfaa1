"""metrics.jsonl, curves and pictures, before and after a resume."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hpse_dist.log import RunLog, commit_history, read_metrics, to_pixels
from hpse_dist.world import World
from tests.test_checkpoint import files_at_most


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """What TensorBoard would draw."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_after_a_resume_later_lines_are_gone_from_file_and_curve(tmp_path: Path) -> None:
    with RunLog(tmp_path, World(), 2) as log:
        for step in range(1, 7):
            if log.due(step):
                log.scalars(step, {"loss": 10.0 - step, "val/error": step, "loss_pose": math.nan})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    with RunLog(tmp_path, World(), 2, start=4) as log:
        log.scalars(6, {"loss": 0.5})
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(2, 8.0), (4, 6.0), (6, 0.5)]
    assert math.isnan(rows[0]["loss_pose"])
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert curve(tmp_path, "train/loss") == [(2, 8.0), (4, 6.0), (6, 0.5)]
    assert curve(tmp_path, "val/error") == [(2, 2.0), (4, 4.0)]


def test_the_page_of_curves_has_no_chart_that_stays_empty(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.custom_scalar import layout_pb2

    with RunLog(tmp_path, World(), 1) as log:
        log.scalars(1, {"loss": 3.0})
        log.scalars(2, {"val/joint_error": 40.0, "val/pck_01": 12.0})
        log.scalars(3, {"val/joint_error": 30.0, "val/pck_01": 22.0})
    events = EventAccumulator(str(tmp_path)).Reload().Tensors("custom_scalars__config__")
    assert len(events) == 1
    layout = layout_pb2.Layout.FromString(events[0].tensor_proto.string_val[0])
    charts = {one.title: [chart.title for chart in one.chart] for one in layout.category}
    assert charts["held out"] == ["other errors", "right, %"]
    assert charts["learning"] == ["losses", "learning rate", "gradient"]


def test_a_full_disk_loses_no_line_and_no_curve_and_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with RunLog(tmp_path, World(), 1) as log:
        log.scalars(1, {"loss": 9.0})
        log.flush()
        size = (tmp_path / "metrics.jsonl").stat().st_size
        with files_at_most(size + 20):  # the next line breaks off in the middle
            for step in (2, 3, 4):
                log.scalars(step, {"loss": 10.0 - step, "val/error": step})
                log.panels(step, {"mesh": torch.rand(3, 64, 64)})
            with pytest.raises(OSError, match=r"^metrics.jsonl: File too large$"):
                log.flush()
            assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1]
        assert caplog.text.count("could not be written (File too large)") == 1
        ((kind, why),) = log.incidents
        assert kind == "unwritten" and "training goes on" in why
        assert not list((tmp_path / "panels").iterdir())  # not half of one
        log.scalars(5, {"loss": 5.0})
        log.flush()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(s, 10.0 - s) for s in range(1, 6)]
    assert curve(tmp_path, "train/loss") == [(s, 10.0 - s) for s in range(1, 6)]


def test_a_store_that_was_away_gets_what_was_said_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with RunLog(folder, World(), 1) as log:
        log.scalars(1, {"loss": 9.0})
        folder.rename(tmp_path / "away")
        log.scalars(2, {"loss": 8.0})
        (tmp_path / "away").rename(folder)
        log.scalars(3, {"loss": 7.0})
    assert [row["loss"] for row in read_metrics(folder / "metrics.jsonl")] == [9.0, 8.0, 7.0]
    assert [value for _, value in curve(folder, "train/loss")] == [9.0, 8.0, 7.0]


def test_a_run_begun_again_from_nothing_has_no_history(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    commit_history(path, 0)
    assert path.read_text() == ""
    commit_history(tmp_path / "none.jsonl", 0)
    assert not (tmp_path / "none.jsonl").exists()


def test_panels_are_pictures_in_a_folder(tmp_path: Path) -> None:
    image = torch.zeros(3, 4, 6)
    image[0] = 1.0
    with RunLog(tmp_path, World(), 1) as log:
        log.panels(100, {"mesh/front": image})
        log.text("recipe", "steps: 3")
    pixels = np.asarray(Image.open(tmp_path / "panels" / "step_000100_mesh-front.png"))
    assert pixels.shape == (4, 6, 3)
    assert (pixels == [255, 0, 0]).all()


def test_pixels_are_cut_to_their_range() -> None:
    image = torch.tensor([-1.0, 0.5, 2.0, math.nan]).reshape(1, 1, 4).expand(3, 1, 4)
    assert to_pixels(image)[0, :, 0].tolist() == [0, 128, 255, 0]
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        to_pixels(torch.zeros(4, 4))


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", World(1, 2, 1, 2), 1) as log:
        log.scalars(1, {"loss": 1.0})
        log.panels(1, {"x": torch.zeros(3, 2, 2)})
        log.text("recipe", "x")
        log.flush()
    assert not (tmp_path / "run").exists()


def test_every_must_be_possible(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every 1 step or more"):
        RunLog(tmp_path, World(), 0)
