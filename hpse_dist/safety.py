"""What every process of the system sets before it reads a file of somebody else's."""

from __future__ import annotations

import os


def read_weights_only() -> None:
    """From here on no `torch.load` of this process and its children runs code that a file brings.

    Our own loads say so themselves; this is for those in other people's packages.
    """
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch refuses to have both
