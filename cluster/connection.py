"""The Ray cluster that a command works on: one that RAY_ADDRESS names, or one of its own.

Ray is imported inside functions: it reads its RAY_* switches when imported, and `--help` need not
wait for it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.guardian import Known, end, family, guarded
from cluster.head import bound_to_head
from cluster.inside import hush, lean_node, read_authentication_again
from cluster.resources import Node, nodes_of
from cluster.worker import sentence
from hpse_dist.safety import read_weights_only

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 128 << 20  # for all but data workers, whose batches get Ray's 30 % of memory
STARTS = 3  # Ray gives a node 30 s to start, fixed in its code: a busy machine needs longer
SWITCHES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing reaches the network
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a worker that asked for no GPU sees none
}


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to."""

    nodes: tuple[Node, ...]
    own: bool
    """True when this process started it: then no other node will ever join."""


def prepare_environment() -> None:
    """Set Ray's switches, the user's own settings first; authentication is always explicit."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    read_weights_only()  # workers on this machine inherit it; others set it when they start
    if "RAY_AUTH_MODE" in os.environ:
        return
    own = _address() is None
    os.environ["RAY_AUTH_MODE"] = "token" if own or _has_token() else "disabled"
    if own and not _has_token():
        # Kept in this process tree; Ray would write a file that the umask may leave readable.
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _warn_of_open_doors() -> None:
    """Say what it means that the cluster asks nobody who he is."""
    if os.environ["RAY_AUTH_MODE"] != "token":
        logger.warning(
            "the Ray cluster at RAY_ADDRESS=%s is used without authentication: whoever reaches its "
            "ports can run any code as its user, and read and change what its runs read and write; "
            "start it with RAY_AUTH_MODE=token and give RAY_AUTH_TOKEN here (see SECURITY.md)",
            _address(),
        )


def _has_token() -> bool:
    """Whether Ray would find a token: environment, a named file, or the one in the home folder."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return True
    with contextlib.suppress(RuntimeError):  # no home folder
        return (Path.home() / ".ray" / "auth_token").is_file()
    return False


@contextlib.contextmanager
def connected(*, debug: bool = False, batches: bool = False) -> Iterator[Cluster]:
    """A connection to the cluster that RAY_ADDRESS names, as in a Ray job, or to one of our own.

    Inside another `connected` block, or with Ray already started, that connection is used. Our own
    asks for a token that only this process tree has, has room for `batches`, ends with the block.
    """
    prepare_environment()
    import ray

    own = _address() is None
    if own:  # a machine of one's own is not taken away: one process less to start
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # its head does not come back: Ray would wait a minute for it
        os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "5")
        # workers that it would start ahead fit none of a run's: each has an environment of its own
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    if ray.is_initialized():
        yield Cluster(nodes_of(ray.nodes()), own)
        return
    options: dict[str, Any] = {
        "address": _address(),
        "runtime_env": {"worker_process_setup_hook": "cluster.network.use_own_interface"},
    }
    if not own:
        _warn_of_open_doors()
    if own:
        options = {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": None if batches else OBJECT_STORE_BYTES,
        }
    if not debug:
        hush()
    read_authentication_again()
    options |= {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    sigterm = signal.getsignal(signal.SIGTERM)
    with guarded() if own else contextlib.nullcontext():
        with lean_node(follow_logs=debug) if own else contextlib.nullcontext():
            _start(options, STARTS if own else 1)
        # Ray's own answer is to print where its C++ stands and to abort: instead one who listens
        # goes on listening, and without one the command ends as it does by Ctrl-C
        _answer(signal.default_int_handler if sigterm == signal.SIG_DFL else sigterm)
        try:
            with bound_to_head() if own else contextlib.nullcontext():
                yield Cluster(nodes_of(ray.nodes()), own)
        finally:
            ray.shutdown()
            _answer(sigterm)


def _answer(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _start(options: dict[str, Any], starts: int) -> None:
    """`ray.init`, again where a node of our own came too late; ConnectionError when in vain."""
    import ray

    while True:
        before = _descendants()
        try:
            ray.init(**options)
            return
        except Exception as error:  # plain ones too, as when a node starts too slowly
            failed = error
        starts -= 1
        # Ray itself would keep what it has started until this process ends
        end(_descendants() - before, lambda _: True)
        if not starts or "timed out" not in str(failed):
            raise ConnectionError(_unreachable(failed)) from failed
        with warnings.catch_warnings():  # of processes that Ray started and did not wait for
            warnings.simplefilter("ignore", ResourceWarning)
            del failed
            gc.collect()
        logger.warning("this machine is so busy that Ray did not start in time: trying again")


def _descendants() -> set[Known]:
    return family(set(), {os.getpid()})


def _address() -> str | None:
    """The cluster that RAY_ADDRESS names; None for one of our own."""
    address = os.environ.get("RAY_ADDRESS", "")
    return None if address in ("", "local") else address


def _unreachable(error: Exception) -> str:
    place = _address()
    if place is None:
        return f"Ray could not start on this machine: {sentence(error)}"
    return (
        f"no connection to the Ray cluster at RAY_ADDRESS={place}: {sentence(error)}; start it, "
        "unset RAY_ADDRESS to use this machine alone, or give RAY_AUTH_TOKEN if it asks for one"
    )
