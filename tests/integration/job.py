"""What a submitted job runs: `python -m tests.integration.job <folder>`, two workers that count."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.launch import launch

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    launch("tests.cluster.targets:count", {"steps": 5}, folder, workers=2, cpus_per_worker=1)
    print(f"done: {folder}")
