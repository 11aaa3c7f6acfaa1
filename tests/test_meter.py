"""What a process has used: counters that wrap, GPUs that count, and machines that do not say."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hpse_dist.meter import GpuEnergy, Meter, Rapl
from hpse_dist.world import World


def test_a_process_knows_its_core_time_and_memory() -> None:
    meter = Meter(World(), torch.device("cpu"))
    until = time.process_time() + 0.15
    kept = torch.ones(4_000_000)
    while time.process_time() < until:
        kept.mul_(1.0)
    found = meter.read()
    assert 0.1 < found["core_seconds"] < 10
    assert found["memory_mb"] > 15 and "gpu_seconds" not in found


def package(root: Path, name: str, energy: int, span: int = 1_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(str(energy))
    (folder / "max_energy_range_uj").write_text(str(span))
    return folder


def test_rapl_adds_packages_and_survives_a_wrap(tmp_path: Path) -> None:
    first = package(tmp_path, "intel-rapl:0", 900_000)
    second = package(tmp_path, "intel-rapl:1", 100)
    package(tmp_path, "intel-rapl:0:0", 5)  # a part of package 0, counted in it already
    rapl = Rapl(tmp_path)
    (first / "energy_uj").write_text("100000")  # 200,000 on, over the end of the range
    (second / "energy_uj").write_text("500100")
    assert rapl.known and rapl.joules() == pytest.approx(0.7)
    (second / "energy_uj").write_text("600100")
    assert rapl.joules() == pytest.approx(0.8)


def test_without_rapl_there_is_no_energy(tmp_path: Path) -> None:
    assert not Rapl(tmp_path).known
    assert GpuEnergy.of(torch.device("cpu")) is None


def nvml(readings: list[int], unknown: bool = False) -> SimpleNamespace:
    """As much of NVML as is used, with a counter that gives the readings in turn."""

    def total(handle: ctypes.c_void_p, value: object) -> int:
        value._obj.value = readings.pop(0)  # type: ignore[attr-defined]
        return 0

    return SimpleNamespace(
        nvmlInit_v2=lambda: 0,
        nvmlDeviceGetHandleByUUID=lambda name, handle: 6 if unknown else 0,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )


def test_gpu_energy_is_the_counters_difference() -> None:
    meter = GpuEnergy(nvml([5_000, 12_500]), "abc")  # type: ignore[arg-type]
    assert meter.joules() == pytest.approx(7.5)
    with pytest.raises(OSError, match="nvmlDeviceGetHandleByUUID: NVML error 6"):
        GpuEnergy(nvml([], unknown=True), "abc")  # type: ignore[arg-type]
