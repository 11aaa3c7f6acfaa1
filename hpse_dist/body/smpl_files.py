from __future__ import annotations

import numpy as np


def read_body_file(path):
    with np.load(path, allow_pickle=False) as z:
        return {k: z[k] for k in z.files}
