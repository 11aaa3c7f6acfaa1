"""What holds for every test: torch computes with one thread, as in Ray's workers.

Sums over several threads round differently, and how many there are is the machine's affair.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; processes that tests start too
