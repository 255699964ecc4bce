"""What may an environment's sessions reach? The `networking` of its configuration.

`rules` is our extension: a host for some ports, methods or paths only.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field

from hostler.domain.values import Items, Value, problem

MAX_ALLOWED_HOSTS: Final = 256
MAX_RULES: Final = 256
MAX_RULE_ITEMS: Final = 32
MAX_PATH: Final = 512

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_~!$&'()+,=:@-][A-Za-z0-9_~!$&'()+,=:@.-]*)*/?")
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


def _method(text: str) -> str:
    method = text.upper()
    if method == "CONNECT":
        raise problem("has CONNECT, which is how a tunnel is asked for and says nothing; name what may be done inside")
    if not re.fullmatch(r"[A-Z]{1,32}", method):
        raise problem(f"has {text!r}, which is not a method; give one such as GET")
    return method


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise problem(f"has {text!r}; a path begins with /")
    if not _PLAIN_PATH.fullmatch(text):
        # What two servers could read differently would allow one thing and be taken for another.
        raise problem(
            f"has {text!r}; give the plain beginning of a path: no query, wildcard or % escape, no empty segment and "
            "none that begins with a dot"
        )
    return text


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


Ports = Annotated[
    Items[Annotated[int, Field(ge=1, le=65_535)]], Field(max_length=MAX_RULE_ITEMS), AfterValidator(_once)
]
Methods = Annotated[
    Items[Annotated[str, AfterValidator(_method)]], Field(max_length=MAX_RULE_ITEMS), AfterValidator(_once)
]
Paths = Annotated[
    Items[Annotated[str, Field(max_length=MAX_PATH), AfterValidator(_path)]],
    Field(max_length=MAX_RULE_ITEMS),
    AfterValidator(_once),
]


class Rule(Value):
    """A host, and what for. An empty list says: anything."""

    host: Annotated[str, AfterValidator(host_rule)]
    ports: Ports = ()
    """Other ports than those of http and https, too."""
    methods: Methods = ()
    """In upper case."""
    paths: Paths = ()
    """Beginnings, by whole segments: `/v1/files` allows `/v1/files/x`, not `/v1/filesystem`."""

    def wire(self) -> dict[str, Any]:
        shown = self.model_dump(mode="json")
        return {name: value for name, value in shown.items() if value}


class Unrestricted(Value):
    """Every public host."""

    type: Literal["unrestricted"] = "unrestricted"

    def wire(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class Limited(Value):
    """The listed hosts, and no other."""

    type: Literal["limited"] = "limited"
    allowed_hosts: tuple[str, ...] = ()
    allow_mcp_servers: bool = False
    allow_package_managers: bool = False
    """Whether the registries of package managers may be reached too."""
    rules: Items[Rule] = ()

    def wire(self) -> dict[str, Any]:
        """The wire's object; our `rules` appear where there are any."""
        shown = self.model_dump(mode="json", exclude={"rules"})
        return {**shown, "rules": [rule.wire() for rule in self.rules]} if self.rules else shown


class LimitedRequest(Value):
    type: Literal["limited"]
    allowed_hosts: Annotated[Items[str], Field(max_length=MAX_ALLOWED_HOSTS), AfterValidator(_host_rules)] | None = None
    allow_mcp_servers: bool | None = None
    allow_package_managers: bool | None = None
    rules: Annotated[Items[Rule], Field(max_length=MAX_RULES), AfterValidator(_once)] | None = None


class UnrestrictedRequest(Value):
    type: Literal["unrestricted"]


Networking = Annotated[Unrestricted | Limited, Field(discriminator="type")]
NetworkingRequest = Annotated[UnrestrictedRequest | LimitedRequest, Field(discriminator="type")]


def changed_networking(
    stored: Unrestricted | Limited, request: UnrestrictedRequest | LimitedRequest
) -> Unrestricted | Limited:
    """`stored` with what `request` says. What a limited request leaves out stays; null too, but for our `rules`."""
    if isinstance(request, UnrestrictedRequest):
        return Unrestricted()
    kept = stored if isinstance(stored, Limited) else Limited()
    return Limited(
        allowed_hosts=kept.allowed_hosts if request.allowed_hosts is None else request.allowed_hosts,
        allow_mcp_servers=kept.allow_mcp_servers if request.allow_mcp_servers is None else request.allow_mcp_servers,
        allow_package_managers=(
            kept.allow_package_managers if request.allow_package_managers is None else request.allow_package_managers
        ),
        rules=(request.rules or ()) if "rules" in request.model_fields_set else kept.rules,
    )
