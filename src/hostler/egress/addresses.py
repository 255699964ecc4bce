"""Which addresses may a session's packets go to?

The public Internet, by exclusion of everything in the special-purpose registries (IANA, IPv4 and IPv6), of addresses
that carry such a one inside (mapped, NAT64, 6to4, Teredo), of the metadata services that hide on public-looking
addresses, and of this host itself under whatever address it has. The tables are written out because the standard
library's opinion of what is global has changed between patch releases.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

_V4_SPECIAL = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network; 0.0.0.0 reaches this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; holds Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host agent, public by registry only
        "169.254.0.0/16",  # link-local; metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relay
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_V6_GLOBAL = IPv6Network("2000::/3")
_V6_SPECIAL = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarking, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "3fff::/20",  # documentation
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether this numeric address is on the public Internet. False for what isn't an address."""
    try:
        value = ip_address(address)
    except ValueError:
        return False
    if isinstance(value, IPv4Address):
        return not any(value in network for network in _V4_SPECIAL)
    if value.scope_id is not None:
        return False
    if value in _NAT64:  # What a DNS64 resolver gives on a host without IPv4; the translated address counts.
        return is_public(str(IPv4Address(int(value) & 0xFFFFFFFF)))
    return value in _V6_GLOBAL and not any(value in network for network in _V6_SPECIAL)


def is_this_host(address: str) -> bool:
    """Whether packets to `address` would stay on this host: the kernel would send them from that same address.

    Asks the routing table only; nothing is sent.
    """
    try:
        value = ip_address(address)
        family = socket.AF_INET6 if isinstance(value, IPv6Address) else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((address, 9))
            return bool(probe.getsockname()[0] == address)
    except (OSError, ValueError):
        return False
