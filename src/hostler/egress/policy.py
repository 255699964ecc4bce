"""May this session speak with that host, and what would have to change so that it may?

Pure: names and rules in, a verdict out. Addresses are judged elsewhere (`addresses`), after the name has been resolved.
Names are compared as the wire has them: ASCII, lower case, without the trailing dot, international ones as `xn--`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hostler.engine.egress_port import EgressRules

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_PORTS = {"http": 80, "https": 443}
PACKAGE_HOSTS = (
    "pypi.org",
    "files.pythonhosted.org",
    "registry.npmjs.org",
    "registry.yarnpkg.com",
    "crates.io",
    "index.crates.io",
    "static.crates.io",
    "proxy.golang.org",
    "sum.golang.org",
    "rubygems.org",
    "index.rubygems.org",
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "security.ubuntu.com",
)
"""What `EgressRules.package_managers` allows, unless the server's settings name others."""
_SERVER = re.compile(r"(https?)://([^/?#]*)([/?][^#]*)?\Z", re.IGNORECASE)
_ABSOLUTE = re.compile(r"http://([^/?#]*)([/?][^#]*)?\Z", re.IGNORECASE)


class BadTarget(ValueError):
    """The request names its target in a way that isn't taken. The message says which."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request wants to go. `is_address`: the host is a number, in whatever notation."""

    host: str
    port: int
    is_address: bool = False

    @property
    def authority(self) -> str:
        """For a Host header: without the port when it is HTTP's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 80 else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class McpTarget:
    """Where an MCP server is."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query."""
    is_address: bool

    @property
    def authority(self) -> str:
        """For a Host header: without the port when it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is a stable word for records; `hint` tells a person, in a sentence, what would change the verdict."""

    allowed: bool
    reason: str
    hint: str = ""


def parse_authority(text: str, *, default_port: int | None = None) -> Target:
    """`host:port` of a CONNECT, or the authority of an http URL. Raises BadTarget."""
    if not text.isascii() or not text.isprintable() or any(char in text for char in " \\/?#%@,"):
        raise BadTarget("the host holds characters that no host name has")
    if text.startswith("["):
        inside, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise BadTarget("the IPv6 address is not closed by a bracket")
        try:
            host, is_address = str(IPv6Address(inside)), True
        except ValueError as error:
            raise BadTarget("the brackets don't hold an IPv6 address") from error
        port = port[1:]
    else:
        name, colon, port = text.partition(":")
        if colon and not port:
            raise BadTarget("the port is empty")
        host, is_address = normalise(name)
    if not port:
        if default_port is None:
            raise BadTarget("the port is missing")
        return Target(host, default_port, is_address)
    if not _PORT.match(port) or not 0 < int(port) < 65536:
        raise BadTarget("the port is not a number from 1 to 65535")
    return Target(host, int(port), is_address)


def parse_absolute(url: str) -> tuple[Target, str]:
    """Target and path (with query) of a plain request's `http://…`. Raises BadTarget."""
    found = _ABSOLUTE.match(url)
    if found is None:
        raise BadTarget("a plain request names its target as http://host/path; use CONNECT for anything else")
    path = found.group(2) or "/"
    return parse_authority(found.group(1), default_port=80), path if path.startswith("/") else "/" + path


def parse_server(url: str) -> McpTarget:
    """The URL of an MCP server. Raises BadTarget."""
    found = _SERVER.match(url)
    if found is None:
        raise BadTarget("it is not an http or https URL")
    scheme, path = found.group(1).lower(), found.group(3) or "/"
    at = parse_authority(found.group(2), default_port=_PORTS[scheme])
    return McpTarget(scheme, at.host, at.port, path if path.startswith("/") else "/" + path, at.is_address)


def normalise(name: str) -> tuple[str, bool]:
    """The name in its one form, and whether it is an IPv4 address in any notation. Raises BadTarget."""
    host = name.lower()
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError as error:
            raise BadTarget("the name can't be written as an international domain name") from error
    host = host.removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.match(label) for label in labels):
        raise BadTarget("the host is not a host name")
    # As browsers and inet_aton read it: a name whose last label is a number is an IPv4 address.
    return host, _NUMBER.match(labels[-1]) is not None


class Policy:
    """The rules of one session, ready to be asked."""

    def __init__(self, rules: EgressRules, ports: frozenset[int] = frozenset({80, 443})) -> None:
        """Raises ValueError, naming the entry, when a rule isn't a host name, `*.` and a host name, or an address."""
        self._public = rules.allow == "public"
        self._mcp_servers = rules.mcp_servers
        self._ports = ports
        self._exact: set[str] = set()
        self._below: set[str] = set()
        for entry in rules.hosts:
            below = entry.startswith("*.")
            try:
                host, is_address = _rule_host(entry[2:] if below else entry)
            except BadTarget as error:
                raise ValueError(f"allowed host {entry!r}: {error}") from error
            if below and is_address:
                raise ValueError(f"allowed host {entry!r}: an address has no names below it")
            (self._below if below else self._exact).add(host)

    def judge(self, target: Target) -> Verdict:
        """The verdict on the name and the port; an allowed name's addresses are still to be judged."""
        host = target.host
        hint = f'To allow it, add "{host}" to the allowed hosts of the environment.'
        if host in self._exact:
            verdict = Verdict(True, "allowed_host")
        elif target.is_address:
            return Verdict(False, "address_literal", "Name the host: rules are for names, not for addresses.")
        elif any(host.endswith("." + base) for base in self._below):
            verdict = Verdict(True, "allowed_host")
        elif self._public:
            verdict = Verdict(True, "public_host")
        else:
            return Verdict(False, "host_not_allowed", hint)
        if target.port not in self._ports:
            ports = ", ".join(str(port) for port in sorted(self._ports))
            return Verdict(False, "port_blocked", f"Only these ports are open: {ports}.")
        return verdict

    def judge_server(self, target: McpTarget) -> Verdict:
        """The verdict on one of the session's own MCP servers, on whatever port: its address was given by the agent's
        owner, not by the session. The addresses are still to be judged."""
        listed = target.host in self._exact or any(target.host.endswith("." + base) for base in self._below)
        if self._public or self._mcp_servers or listed:
            return Verdict(True, "mcp_server")
        hint = "set allow_mcp_servers in the environment's networking, or add the host to its allowed_hosts"
        return Verdict(False, "host_not_allowed", hint)


def _rule_host(text: str) -> tuple[str, bool]:
    for kind in (IPv4Address, IPv6Address):
        try:
            return str(kind(text)), True
        except ValueError:
            continue
    host, is_address = normalise(text)
    if is_address:
        raise BadTarget("write an IPv4 address as four decimal numbers")
    return host, False
