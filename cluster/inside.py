"""What Ray has no switch for, changed inside it."""

from __future__ import annotations

import logging
from typing import Any

_DATASETS, _PLACES = "DatasetsCallback", "PlacementGroupCleanerCallback"


def read_authentication_again() -> None:
    """Let Ray see the mode and the token as they are now.

    It reads the mode when it is imported and the token when it first needs one, and either may lie
    before us: in a caller's `import ray`, or in another cluster of this process.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def lean_trainer(own: bool) -> Any:
    """Ray's TorchTrainer without the processes that no run here needs.

    One deals out Ray's datasets, anew at every start of the trainers. The other frees a lost
    controller's places in a cluster that outlives it, which one of our `own` does not.
    """
    from ray.train.torch import TorchTrainer

    base: Any = TorchTrainer
    needless = {_DATASETS, _PLACES} if own else {_DATASETS}

    class Lean(base):
        def _create_default_callbacks(self) -> list[Any]:
            made = super()._create_default_callbacks()
            return [one for one in made if type(one).__name__ not in needless]

    return Lean


def hush() -> None:
    """Keep Ray's paragraphs about lost processes and failed trials off the terminal.

    What happened is said in a sentence instead, and `debug` shows all of it. The first has no
    switch in Ray: the driver's thread for it prints whatever it receives.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *_, **__: None
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
