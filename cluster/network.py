"""Which of a machine's network interfaces the workers of a run speak through."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

_ASK_ADDRESS = 0x8915  # SIOCGIFADDR of Linux


def use_own_interface() -> None:
    """Run in every worker process before its group is made: gloo takes Ray's way to this node.

    Left alone, gloo listens where the host's name leads, which on Debian's machines is the
    loopback, and the workers of several machines never meet. NCCL looks at the interfaces itself.
    """
    import ray

    found = interface_of(ray.util.get_node_ip_address())
    if found is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", found)


def interface_of(address: str) -> str | None:
    """The interface that has this IPv4 address; None where none has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            question = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(asking, _ASK_ADDRESS, question)
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
