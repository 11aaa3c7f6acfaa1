"""Machines that are not there: network namespaces with their own addresses, on one bridge."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import PATIENCE_S

IP = shutil.which("ip")
NETWORK = "10.213.77"


@dataclass
class Machine:
    """A network namespace, and the processes that were started in it."""

    namespace: str
    address: str
    disk: Path | None = None
    """A folder of which every machine has one of its own, under the same name."""
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, *words: str | Path) -> list[str]:
        inside = [str(IP), "netns", "exec", self.namespace, *map(str, words)]
        if self.disk is None:
            return inside
        own = self.disk.with_name(f"{self.disk.name}-{self.address}")
        own.mkdir(exist_ok=True)
        # `ip netns exec` gives its command a table of mounts of its own
        mount = ("sh", "-c", 'mount --bind "$0" "$1" && shift && exec "$@"', own, self.disk)
        return [*inside[:4], *map(str, mount), *inside[4:]]

    def start(self, *words: str | Path, environment: dict[str, str], log: Path) -> None:
        with log.open("w") as file:
            self.started.append(
                subprocess.Popen(
                    self.command(*words),
                    env=environment,
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            )

    def processes(self) -> list[int]:
        listed = _ip("netns", "pids", self.namespace)
        return [int(number) for number in listed.stdout.split()]

    def kill(self) -> int:
        """SIGKILL to everything in it, as when the plug is pulled; how many processes that were."""
        killed = set()
        for _ in range(40):
            alive = self.processes()
            if not alive:
                break
            for number in alive:
                killed.add(number)
                try:
                    os.kill(number, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            for process in self.started:
                process.poll()
            time.sleep(0.1)
        return len(killed)


def reason_against() -> str | None:
    """Why no such machines can be made here, if so."""
    if IP is None:
        return "needs the command `ip` (iproute2)"
    made = _ip("netns", "add", f"hpse{os.getpid()}")
    if made.returncode:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    _ip("netns", "del", f"hpse{os.getpid()}")
    return None


@contextmanager
def machines(count: int, disk: Path | None = None) -> Iterator[list[Machine]]:
    """`count` namespaces on one bridge, which this machine is on too, at .254."""
    tag = f"h{os.getpid() % 100000}"
    bridge, made = f"{tag}br", []
    try:
        _must("link", "add", bridge, "type", "bridge")
        _must("addr", "add", f"{NETWORK}.254/24", "dev", bridge)
        _must("link", "set", bridge, "up")
        for index in range(count):
            machine = Machine(f"{tag}n{index}", f"{NETWORK}.{index + 1}", disk)
            made.append(machine)
            outside = f"{tag}v{index}"
            _must("netns", "add", machine.namespace)
            _must("link", "add", outside, "type", "veth", "peer", "name", f"{tag}p{index}")
            _must("link", "set", f"{tag}p{index}", "netns", machine.namespace)
            _must("link", "set", outside, "master", bridge, "up")
            inside = ("-n", machine.namespace)
            _must(*inside, "addr", "add", f"{machine.address}/24", "dev", f"{tag}p{index}")
            _must(*inside, "link", "set", f"{tag}p{index}", "up")
            _must(*inside, "link", "set", "lo", "up")
        yield made
    finally:
        for machine in made:
            machine.kill()
            for process in machine.started:
                process.wait(timeout=PATIENCE_S)
            _ip("netns", "del", machine.namespace)
        _ip("link", "del", bridge)


def _ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(IP), *words], capture_output=True, text=True)


def _must(*words: str) -> None:
    done = _ip(*words)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
