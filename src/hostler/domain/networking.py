"""What may an environment's sessions reach? The `networking` of its configuration."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from hostler.domain.values import Items, Value, problem

MAX_ALLOWED_HOSTS: Final = 256

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PRIVATE_SUFFIXES = ("localhost", "local", "internal", "lan", "home.arpa", "localdomain")


def host_rule(rule: str) -> str:
    """`rule` in the one form that is compared: lower case. Raises a problem when it is not a plain name or `*.name`.

    A rule that could be read in two ways is refused rather than repaired (A2, A3): ports, paths, addresses, a
    trailing dot and characters outside ASCII have each been a way around somebody's allow-list.
    """
    name = rule.lower()
    if "://" in name:
        raise problem(f"has {rule!r}, which names a scheme; give the bare host name")
    if "/" in name or "?" in name or "#" in name:
        raise problem(f"has {rule!r}, which names a path; give the bare host name")
    if "@" in name:
        raise problem(f"has {rule!r}, which names a user; give the bare host name")
    bare = name.removeprefix("*.")
    try:
        ipaddress.ip_address(bare.strip("[]"))
    except ValueError:
        pass
    else:
        raise problem(f"has {rule!r}, which is an address; give a host name")
    if ":" in name:
        raise problem(f"has {rule!r}, which names a port; give the bare host name")
    if not name.isascii():
        raise problem(f"has {rule!r}; write international names in their xn-- form")
    if "*" in bare:
        raise problem(f"has {rule!r}; a wildcard is only allowed as *. at the start")
    labels = bare.split(".")
    if len(bare) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise problem(f"has {rule!r}, which is not a host name")
    if len(labels) < 2 or labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):
        raise problem(f"has {rule!r}, which is not a public host name; give one such as api.example.com")
    if any(bare == suffix or bare.endswith("." + suffix) for suffix in _PRIVATE_SUFFIXES):
        raise problem(f"has {rule!r}, which is a private name; sandboxes reach public hosts only")
    return name


def _host_rules(rules: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(host_rule(rule) for rule in rules))


class Unrestricted(Value):
    """Every public host."""

    type: Literal["unrestricted"] = "unrestricted"


class Limited(Value):
    """The listed hosts, and no other."""

    type: Literal["limited"] = "limited"
    allowed_hosts: tuple[str, ...] = ()
    allow_mcp_servers: bool = False
    allow_package_managers: bool = False
    """Whether the registries of package managers may be reached too."""


class LimitedRequest(Value):
    type: Literal["limited"]
    allowed_hosts: Annotated[Items[str], Field(max_length=MAX_ALLOWED_HOSTS), AfterValidator(_host_rules)] | None = None
    allow_mcp_servers: bool | None = None
    allow_package_managers: bool | None = None


class UnrestrictedRequest(Value):
    type: Literal["unrestricted"]
