"""What Ray has no switch for, changed inside it."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any


def read_authentication_again() -> None:
    """Let Ray see the mode and the token as they are now.

    It reads the mode when it is imported and the token when it first needs one, and either may lie
    before us: in a caller's `import ray`, or in another cluster of this process.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def lean_node(follow_logs: bool) -> Iterator[None]:
    """A node started in this block has only what it needs for a command alone.

    No autoscaler, which has no machines to ask for; no web server, which without the dashboard
    still starts; and its workers' logs are read only if they are to be followed here.
    """
    from ray._private import node, parameter

    full: Any = parameter.RayParams
    lean = functools.partial(full, no_monitor=True, include_log_monitor=follow_logs)
    with (
        _instead(parameter, "RayParams", lean),
        _instead(node.Node, "start_api_server", _no_server),
    ):
        yield


def _no_server(self: Any, **_: Any) -> None:
    self._webui_url = ""


@contextlib.contextmanager
def _instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def hush() -> None:
    """Keep Ray's paragraphs about lost processes and failed trials off the terminal.

    What happened is said in a sentence instead, and `debug` shows all of it. The first has no
    switch in Ray: the driver's thread for it prints whatever it receives.
    """
    from ray._private import worker

    worker.print_to_stdstream = lambda *_, **__: None
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
