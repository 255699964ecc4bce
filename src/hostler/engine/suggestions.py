"""Which is the smallest list of hosts that covers what was used? Pure: uses in, `networking` out.

Only exact names make a list smallest. Many names below one, as content networks have them, are taken together as a
wildcard, and that is said: never where the name belongs to many customers, each of whom could be anybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import PydanticCustomError

from hostler.domain.networking import host_rule

FOLD_FROM: Final = 5
"""So many names right below one are taken together."""
WEB_PORTS: Final = frozenset({80, 443})
SHARED: Final = frozenset(
    {
        "amazonaws.com",
        "appspot.com",
        "azureedge.net",
        "azurewebsites.net",
        "cloudapp.net",
        "cloudfront.net",
        "core.windows.net",
        "digitaloceanspaces.com",
        "edgekey.net",
        "fastly.net",
        "firebaseapp.com",
        "fly.dev",
        "github.io",
        "gitlab.io",
        "googleusercontent.com",
        "herokuapp.com",
        "myshopify.com",
        "netlify.app",
        "ngrok.io",
        "onrender.com",
        "pages.dev",
        "r2.dev",
        "repl.co",
        "run.app",
        "s3.amazonaws.com",
        "trycloudflare.com",
        "vercel.app",
        "web.app",
        "workers.dev",
    }
)
"""Names below which anybody can have one."""


@dataclass(frozen=True, slots=True)
class Used:
    """A host that was reached on a port. `reason` is that of the recorded decision."""

    host: str
    port: int
    reason: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    networking: dict[str, Any]
    """As a request's `config.networking` takes it."""
    folded: tuple[tuple[str, tuple[str, ...]], ...]
    """Each wildcard, and the names that it stands for."""
    unlisted: tuple[str, ...]
    """Hosts that were used and that no list can hold: addresses, names of a private network."""


def suggest(used: Iterable[Used], *, fold: bool) -> Suggestion:
    hosts: set[str] = set()
    ports: defaultdict[str, set[int]] = defaultdict(set)
    unlisted: set[str] = set()
    servers = packages = False
    for use in used:
        if use.reason == "mcp_server":
            servers = True
        elif use.reason == "package_host":
            packages = True
        elif not _listable(use.host):
            unlisted.add(use.host)
        elif use.port in WEB_PORTS:
            hosts.add(use.host)
        else:
            ports[use.host].add(use.port)
    folded = _folded(hosts) if fold else {}
    covered = {name for names in folded.values() for name in names}
    networking: dict[str, Any] = {
        "type": "limited",
        "allowed_hosts": sorted({*(hosts - covered), *folded}, key=lambda host: host.removeprefix("*.")),
        "allow_mcp_servers": servers,
    }
    if packages:
        networking["allow_package_managers"] = True
    if ports:
        networking["rules"] = [{"host": host, "ports": sorted(ports[host])} for host in sorted(ports)]
    return Suggestion(
        networking, tuple((card, tuple(names)) for card, names in sorted(folded.items())), tuple(sorted(unlisted))
    )


def _folded(hosts: Collection[str]) -> dict[str, list[str]]:
    """Wildcards, with the names right below each."""
    below: defaultdict[str, list[str]] = defaultdict(list)
    for host in sorted(hosts):
        below[host.partition(".")[2]].append(host)
    return {f"*.{name}": names for name, names in below.items() if len(names) >= FOLD_FROM and _one_owner(name)}


def _one_owner(name: str) -> bool:
    """Whether all names below are likely to be of one owner."""
    labels = name.split(".")
    if len(labels) < 2 or any(name == shared or name.endswith("." + shared) for shared in SHARED):
        return False
    # `co.uk`, `com.au`: a short word below a country is where a country's names begin.
    return not (len(labels) == 2 and len(labels[1]) == 2 and len(labels[0]) <= 3)


def _listable(host: str) -> bool:
    try:
        host_rule(host)
    except PydanticCustomError:
        return False
    return True
