"""What DeepSpeed costs before the first step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = """
import os, sys, torch
from hpse_dist.engine.zero import _import
from hpse_dist.world import World
_import(torch.device("cpu"), World())
import deepspeed.runtime.zero.muon.muon_optimizer  # as `deepspeed.initialize` does
assert "torch._inductor.compile_fx" not in sys.modules
assert "TORCHDYNAMO_DISABLE" not in os.environ
"""


def test_torchs_compiler_is_not_imported_for_an_optimizer_that_nobody_asked_for() -> None:
    subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, check=True)
