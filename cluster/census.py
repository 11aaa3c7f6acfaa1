"""Who lives in a Ray cluster: `python -m cluster.census ADDRESS` prints it as one line of JSON.

For a cluster of this machine that somebody else started; RAY_AUTH_TOKEN must be that cluster's.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from typing import Any


def census(address: str) -> dict[str, Any]:
    """Living actors by class, dead ones, placement groups by state; of the cluster at `address`."""
    import ray
    from ray._private.state import actors
    from ray.util import placement_group_table

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        found = list(actors().values())
        groups = list(placement_group_table().values())
    finally:
        ray.shutdown()
    alive = [one["ActorClassName"] for one in found if one["State"] != "DEAD"]
    return {
        "actors": dict(Counter(alive)),
        "dead_actors": len(found) - len(alive),
        "placement_groups": dict(Counter(one["state"] for one in groups)),
    }


if __name__ == "__main__":
    print(json.dumps(census(sys.argv[1])))
