"""What Ray has no switch for, changed inside it."""

from __future__ import annotations

import logging


def read_authentication_again() -> None:
    """Let Ray see the mode and the token as they are now.

    It reads the mode when it is imported and the token when it first needs one, and either may lie
    before us: in a caller's `import ray`, or in another cluster of this process.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def hush() -> None:
    """Keep Ray's paragraphs about lost processes and failed trials off the terminal.

    What happened is said in a sentence instead, and `debug` shows all of it. The first has no
    switch in Ray: the driver's thread for it prints whatever it receives.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *_, **__: None
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
