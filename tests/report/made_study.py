"""A study's folder made up: what runs would have left, with figures that a test can know."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from hpse_dist.report.runs import EXAMPLES_FILE

FINAL = {  # PA-MPJPE in mm by source and seed
    "random": (71.2, 69.0, 72.4),
    "completion": (61.0, 63.5, 60.1),
}


def make_study(folder: Path, *, done: bool = True) -> Path:
    """Two sources x three seeds and one pre-training; not done: the last run is under way."""
    rows = [plan_row(folder, "completion", "pretrain", "completion", "", 0)]
    make_pretraining(folder / "completion")
    for seed in range(3):
        for source, finals in FINAL.items():
            name = f"{source}-body_mesh-seed{seed}"
            last = source == "completion" and seed == 2
            make_finetuning(folder / name, source, seed, finals[seed], done=done or not last)
            rows.append(plan_row(folder, name, "finetune", source, "body_mesh", seed))
    plan = {"study": "demo", "baseline": "random", "runs": rows}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def make_wide_study(folder: Path, *, settings: bool = False, examples: bool = True) -> Path:
    """Three sources x two tasks x three shares of labels x two seeds, with their examples; with
    `settings` a grid of two learning rates. All figures follow one formula: see `wide_error`."""
    rows = []
    for source in ("random", "good", "bad"):
        for task in ("body_mesh", "pose2d"):
            for share in (0.01, 0.1, 1.0):
                for lr in (1e-3, 1e-2) if settings else (None,):
                    for seed in range(2):
                        name = f"{source}-{task}-labels{100 * share:g}-lr{lr}-seed{seed}"
                        row = plan_row(folder, name, "finetune", source, task, seed)
                        row |= {"label_fraction": share, "after": []}
                        row |= {"settings": {"optim.lr": lr}} if lr else {}
                        rows.append(row)
                        _wide_run(folder / name, row, examples)
    plan = {"study": "wide", "baseline": "random", "runs": rows}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def wide_error(source: str, share: float, seed: int, lr: float | None = None) -> float:
    """80 - 10 per tenfold labels; good is 10 better, bad 5 worse; seeds 0.4 apart; 1e-2 costs 6."""
    error = 60.0 - 10.0 * math.log10(share) + {"random": 0.0, "good": -10.0, "bad": 5.0}[source]
    return error + 0.4 * seed + (6.0 if lr == 1e-2 else 0.0)


def _wide_run(folder: Path, row: dict, examples: bool) -> None:
    source, task, seed = row["source"], row["task"], row["seed"]
    lr = row.get("settings", {}).get("optim.lr")
    error = wide_error(source, row["label_fraction"], seed, lr)
    make_finetuning(folder, source, seed, error)
    path = folder / "report.json"
    name, final = ("pa_mpjpe", error) if task == "body_mesh" else ("pck_005", 100 - error)
    report = json.loads(path.read_text())
    report |= {"task": task, "label_fraction": row["label_fraction"], "metrics": {name: final}}
    report["protocol"] = "synthetic-24" if task == "body_mesh" else "crop-pck"
    report["cost"] = {"seconds": 95.0, "core_seconds": 90.0, "memory_mb": 1100.0}
    if task == "pose2d":
        report["history"] = [
            {"step": h["step"], name: 100 - h["pa_mpjpe"]} for h in report["history"]
        ]
    path.write_text(json.dumps(report))
    if examples:
        make_examples(folder, name, final, seed)


def make_examples(
    folder: Path, name: str, mean: float, seed: int, people: int = 10, *, file: str = EXAMPLES_FILE
) -> None:
    """Sixty examples of ten people whose mean is exactly `mean`; from behind is 8 worse."""
    rng = np.random.default_rng(7)  # the same people for all; a little of its own for every run
    count = 6 * people
    view = np.tile([10.0, 90.0, 170.0], count // 3)
    values = rng.normal(size=people).repeat(6) + np.random.default_rng(seed).normal(size=count)
    values = values + np.where(view > 135, 8.0, 0.0)
    table = {
        "sample_id": np.arange(count),
        "subject": [f"s{i}" for i in np.arange(people).repeat(6)],
        "sequence": ["walk"] * count,
        "camera": ["cam0"] * count,
        "view_deg": view.astype(np.float32),
        "in_sight": np.ones(count, np.float32),
        "pose_distance": np.linspace(0.1, 0.6, count, dtype=np.float32),
        f"metric/{name}": (values - values.mean() + mean).astype(np.float32),
    }
    pq.write_table(pa.table(table), folder / file)


def plan_row(folder: Path, name: str, kind: str, source: str, task: str, seed: int) -> dict:
    return {
        "name": name,
        "kind": kind,
        "folder": str(folder / name),
        "source": source,
        "task": task,
        "seed": seed,
    }


def make_finetuning(
    folder: Path, source: str, seed: int, final: float, *, done: bool = True, steps: int = 400
) -> Path:
    rng = np.random.default_rng([seed, len(source)])
    history = []
    for step in range(100, steps + 1, 100):
        error = final * (1 + 1.2 * math.exp(-4 * step / steps) - 1.2 * math.exp(-4))
        history.append({"step": step, "pa_mpjpe": error, "mpjpe": error * 1.45, "pve": error * 1.7})
    training = [
        {"step": s, "time": 1e9 + s, "loss": 3 * math.exp(-s / 150) + 0.4 + 0.05 * rng.normal()}
        for s in range(10, steps + 1, 10)
    ]
    report = {
        "kind": "finetune",
        "task": "body_mesh",
        "protocol": "synthetic-24",
        "source": source,
        "label_fraction": 1.0,
        "name": f"{source}-body_mesh-seed{seed}",
        "seed": seed,
        "steps": steps,
        "global_batch": 32,
        "seconds": 95.2 + seed,
        "samples_per_s": 171.0,
        "world_size": 1,
        "recipe_hash": f"{seed}{source}".encode().hex().ljust(64, "0"),
        "metrics": {k: v for k, v in history[-1].items() if k != "step"},
        "history": history,
    }
    recipe = (
        f"name: {report['name']}\ncollections:\n- path: collections/demo\n  weight: 1.0\n"
        f"global_batch: 32\nsteps: {steps}\nseed: {seed}\nsource: {source}\n"
    )
    _write_run(folder, report if done else None, recipe, training, history)
    _panel(folder / "panels" / f"step_{steps:06d}_body_mesh.png", rng)
    return folder


def make_pretraining(folder: Path, steps: int = 1500) -> Path:
    rng = np.random.default_rng(7)
    history = [
        {
            "step": step,
            "hidden_loss": 0.45 + 0.5 * math.exp(-step / 500),
            "hidden_loss_mean": 1.0,
            "reference_gain": 14.2 * (1 - math.exp(-step / 700)),
            "reference_gain_view": 17.9 * (1 - math.exp(-step / 700)),
            "reference_gain_pose": 10.1 * (1 - math.exp(-step / 700)),
        }
        for step in range(250, steps + 1, 250)
    ]
    training = [
        {"step": s, "time": 1e9 + s, "loss": 0.5 + 0.5 * math.exp(-s / 400) + 0.03 * rng.normal()}
        for s in range(10, steps + 1, 10)
    ]
    report = {
        "kind": "pretrain",
        "objective": "completion",
        "source": "completion",
        "name": "completion",
        "seed": 0,
        "steps": steps,
        "global_batch": 64,
        "seconds": 402.7,
        "samples_per_s": 262.0,
        "world_size": 2,
        "recipe_hash": "ab" * 32,
        "metrics": {k: v for k, v in history[-1].items() if k != "step"},
        "history": history,
    }
    _write_run(folder, report, f"name: completion\nsteps: {steps}\n", training, history)
    _panel(folder / "panels" / f"step_{steps:06d}_completion.png", rng)
    return folder


def _write_run(
    folder: Path, report: dict | None, recipe: str, training: list[dict], history: list[dict]
) -> None:
    (folder / "panels").mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "environment.json").write_text(
        json.dumps(
            {
                "python": "3.11.7",
                "platform": "Linux-6.1-x86_64",
                "packages": {"torch": "2.10.0", "ray": "2.60.0", "ffcv": "1.0.2"},
                "cpus": 2,
                "gpus": [],
            }
        )
    )
    lines = [*training]
    lines += [
        {"step": row["step"], **{f"val/{k}": v for k, v in row.items() if k != "step"}}
        for row in history
    ]
    lines.sort(key=lambda row: row["step"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    if report is not None:
        (folder / "report.json").write_text(json.dumps(report))
        (folder / "DONE").touch()


def _panel(path: Path, rng: np.random.Generator) -> None:
    """Stick people on coloured ground, four to a row, as a task's sheet would be."""
    tile, columns, rows = 160, 4, 4
    sheet = Image.new("RGB", (columns * (tile + 4) + 4, rows * (tile + 4) + 22), (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    for row in range(rows):
        ground = tuple(int(v) for v in rng.integers(90, 200, 3))
        for column in range(columns):
            x, y = 4 + column * (tile + 4), 22 + row * (tile + 4)
            draw.rectangle((x, y, x + tile, y + tile), fill=ground)
            arms = rng.integers(-30, 30, 2)
            ink = (35, 60, 90) if column == 0 else (230, 225, 210)
            draw.ellipse((x + 68, y + 25, x + 92, y + 49), fill=ink)
            draw.line((x + 80, y + 49, x + 80, y + 100), fill=ink, width=16)
            draw.line((x + 80, y + 60, x + 40, y + 80 + arms[0]), fill=ink, width=8)
            draw.line((x + 80, y + 60, x + 120, y + 80 + arms[1]), fill=ink, width=8)
            draw.line((x + 80, y + 98, x + 62, y + 150), fill=ink, width=10)
            draw.line((x + 80, y + 98, x + 98, y + 150), fill=ink, width=10)
    sheet.save(path)


def make_sweep(folder: Path) -> Path:
    """Two sources, three learning rates: a probe of all of them, of which the worst is stopped
    early with a flattering figure, and the best of each source end to end."""
    rows = []
    for source, best in (("random", 1e-2), ("completion", 1e-3)):
        for task, rates in (("probe", (1e-4, 1e-3, 1e-2)), ("end_to_end", (best,))):
            for lr in rates:
                early = task == "probe" and lr == 1e-4
                error = 50.0 if early else 60.0 + (0 if lr == best else 8) - 9 * (task != "probe")
                name = f"{source}-{task}-lr{lr:g}"
                run = make_finetuning(folder / name, source, 0, error)
                _account(run, task, early, killed=name == "random-probe-lr0.01")
                row = plan_row(folder, name, "finetune", source, task, 0)
                rows.append(row | {"steps": 400, "settings": {"optim.lr": lr}})
    plan = {"study": "tried", "baseline": "random", "runs": rows}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "sweep.json").write_text(
        json.dumps({"rounds": ["probe", "end_to_end"], "metric": "mpjpe"})
    )
    return folder


def _account(folder: Path, task: str, early: bool, killed: bool) -> None:
    """Of a hundred seconds eighty in steps; one that was killed has lost forty of 400 steps."""
    report = json.loads((folder / "report.json").read_text())
    report |= {"task": task, "label_fraction": 0.1 if task == "probe" else 1.0}
    report["account"] = {
        "effective": 0.8,
        "useful_s": 80.0,
        "wall_s": 100.0,
        "starts": 2 if killed else 1,
        "ended": {"killed": 1} if killed else {},
        "lost_steps": 40 if killed else 0,
        "recover_s": {"median": 9.0, "worst": 9.0} if killed else {"median": None, "worst": None},
    }
    (folder / "report.json").write_text(json.dumps(report))
    if early:
        del report["account"]
        (folder / "stopped_early.json").write_text(json.dumps(report | {"steps": 100}))
        for name in ("report.json", "DONE"):
            (folder / name).unlink()
