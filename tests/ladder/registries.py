"""Where are the package registries, for tests that install from them?"""

from __future__ import annotations

import socket

from hostler.egress.policy import PACKAGE_HOSTS


def registry_addresses() -> frozenset[str]:
    """On a machine with a mirror of its own the registries' names lead to addresses that are not public."""
    found: set[str] = set()
    for host in PACKAGE_HOSTS:
        try:
            found |= {str(entry[4][0]) for entry in socket.getaddrinfo(host, 443)}
        except OSError:
            continue
    return frozenset(found)
