"""What is installed, beside what was tested together. Nothing heavy is imported."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

PINS = Path(__file__).parents[1] / "cluster" / "requirements.txt"


def version_of(package: str) -> str | None:
    """The installed version, None where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def beside_pins(pins: Path = PINS) -> str:
    """A sentence: how many packages are installed as they were tested, and which are not."""
    if not pins.is_file():
        return f"{pins} is not there to compare with"
    wanted = re.findall(r"^([\w-]+)(?:\[.*\])?==(\S+)$", pins.read_text("utf-8"), re.MULTILINE)
    others = []
    for name, pin in wanted:
        version = version_of(name) or "missing"
        if version.partition("+")[0] != pin:  # a vendor adds to it, as in 2.10.0+cu128
            others.append(f"{name} {version} (tested: {pin})")
    if not others:
        return f"{len(wanted)} as they were tested together"
    return (
        f"{len(wanted) - len(others)} as they were tested together, others: {', '.join(others)}; "
        "bash cluster/local.sh setup installs those tested"
    )
