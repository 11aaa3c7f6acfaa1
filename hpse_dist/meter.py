"""What a process has used: core time, memory and, where the machine says so, energy.

    core_seconds    user and system time of the process and its ended children
    gpu_seconds     wall time, of a process that trains on a GPU
    memory_mb       peak resident memory; gpu_memory_mb: peak of torch's allocator
    cpu_joules      RAPL counters of the whole machine, read by its first process
    gpu_joules      NVML's counter of the process's own GPU

Energy is what the hardware has used meanwhile, for whomever; a counter that cannot be read is left
out, never guessed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from pathlib import Path

import psutil
import torch

from hpse_dist.world import World

RAPL = Path("/sys/class/powercap")
PROCESS = Path("/proc/self")
CONTAINER = Path("/sys/fs/cgroup")
NVML = "libnvidia-ml.so.1"


class Meter:
    """Readings of one process since it was made."""

    def __init__(self, world: World, device: torch.device) -> None:
        self.device = device
        forget_peak()  # so that an earlier run in this process is not counted
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._began, self._cores = time.monotonic(), _core_seconds()
        self._packages = Rapl() if world.local_rank == 0 else None
        self._gpu = GpuEnergy.of(device)

    def read(self) -> dict[str, float]:
        """Names as above; those that cannot be known here are absent."""
        found = {"core_seconds": _core_seconds() - self._cores}
        with contextlib.suppress(OSError, ValueError):
            found["memory_mb"] = peak_memory_mb()
        if self.device.type == "cuda":
            found["gpu_seconds"] = time.monotonic() - self._began
            found["gpu_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        if self._packages is not None and self._packages.known:
            found["cpu_joules"] = self._packages.joules()
        if self._gpu is not None:
            found["gpu_joules"] = self._gpu.joules()
        return found


def _core_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def forget_peak() -> None:
    """Count the peak of memory from now on, where the system can."""
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text("5")


def peak_memory_mb() -> float:
    """Peak resident memory; ValueError where the system does not say."""
    found = re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text())
    if found is None:
        raise ValueError("no VmHWM")
    return int(found[1]) / 1024


def free_memory() -> int:
    """Bytes that may still be taken here: the machine's, or less where a container may not."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no such group, or one without a limit
        used = int((CONTAINER / "memory.current").read_text())
        kept = re.search(r"^inactive_file (\d+)", (CONTAINER / "memory.stat").read_text(), re.M)
        limit = int((CONTAINER / "memory.max").read_text())
        free = min(free, limit - used + int(kept[1] if kept else 0))
    return max(0, free)


class Rapl:
    """Energy of the machine's processor packages since the first reading.

    The counters wrap within an hour at full power: they are read whenever the run writes its log.
    """

    def __init__(self, root: Path = RAPL) -> None:
        self._used = 0.0
        self._last: dict[Path, int] = {}
        for path in sorted(root.glob("intel-rapl:*")):
            if path.name.count(":") == 1:  # a package; its parts, such as DRAM, have two
                with contextlib.suppress(OSError, ValueError):  # for root alone on most machines
                    self._last[path] = int((path / "energy_uj").read_text())

    @property
    def known(self) -> bool:
        return bool(self._last)

    def joules(self) -> float:
        for path, before in self._last.items():
            now = int((path / "energy_uj").read_text())
            span = int((path / "max_energy_range_uj").read_text()) if now < before else 0
            self._used += (now - before + span) / 1e6
            self._last[path] = now
        return self._used


class GpuEnergy:
    """Energy of one GPU since it was made, by NVML's own counter (Volta and later)."""

    def __init__(self, library: ctypes.CDLL, uuid: str) -> None:
        """OSError where NVML does not know the GPU or its counter."""
        self._library, self._handle = library, ctypes.c_void_p()
        self._call("nvmlInit_v2")
        name = ctypes.c_char_p(f"GPU-{uuid}".encode())
        self._call("nvmlDeviceGetHandleByUUID", name, ctypes.byref(self._handle))
        self._start = self._millijoules()

    @classmethod
    def of(cls, device: torch.device) -> GpuEnergy | None:
        """That of torch's device; None where there is none or it cannot be read."""
        if device.type != "cuda":
            return None
        try:
            return cls(ctypes.CDLL(NVML), str(torch.cuda.get_device_properties(device).uuid))
        except (OSError, AttributeError):
            return None

    def joules(self) -> float:
        return (self._millijoules() - self._start) / 1000

    def _millijoules(self) -> int:
        value = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle, ctypes.byref(value))
        return value.value

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            raise OSError(f"{name}: NVML error {code}")
