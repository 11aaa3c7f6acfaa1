"""Named protocols: exactly how a number was measured, so that only like is compared with like."""

from __future__ import annotations

from hpse_dist.protocols.base import Protocol
from hpse_dist.protocols.table import PROTOCOLS

__all__ = ["PROTOCOLS", "Protocol", "named"]


def named(name: str) -> Protocol:
    """The protocol of that name; ValueError with all names for any other."""
    if name not in PROTOCOLS:
        raise ValueError(f"no protocol is called {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
