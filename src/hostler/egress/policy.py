"""May this session speak with that host, and what would have to change so that it may?

Pure: names and rules in, a verdict out. Addresses are judged elsewhere (`addresses`), after the name has been resolved.
Names are compared as the wire has them: ASCII, lower case, without the trailing dot, international ones as `xn--`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hostler.egress.paths import below, is_prefix
from hostler.engine.egress_port import EgressRules

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_PORTS = {"http": 80, "https": 443}

WEB_PORTS = frozenset({80, 443})
BLOCKED_PORTS = frozenset({23, 25, 53, 135, 137, 138, 139, 445, 853})
"""Telnet, mail relays, name servers, Windows networking: what a sandbox has no business with on the public Internet."""
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
    inside: bool = False
    """Allowed for some requests only: what is said to the host has to be read."""
    opened: bool = False
    """Allowed by a rule that opens a port which is closed otherwise, for whatever protocol."""


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

    def __init__(
        self,
        rules: EgressRules,
        ports: frozenset[int] = WEB_PORTS,
        *,
        package_hosts: Sequence[str] = PACKAGE_HOSTS,
        blocked_ports: frozenset[int] = BLOCKED_PORTS,
    ) -> None:
        """`ports` are open wherever a rule names no ports; `blocked_ports` are closed whatever a rule says.

        Raises ValueError, naming the entry, when a rule isn't a host name, `*.` and a host name, or an address, or
        when a path of a rule can be read in several ways.
        """
        self._public = rules.allow == "public"
        self._mcp_servers = rules.mcp_servers
        self._ports = ports - blocked_ports
        self._blocked = blocked_ports
        self._hosts = _Names(rules.hosts, "allowed host")
        self._packages = _Names(package_hosts if rules.package_managers else (), "package host")
        self._rules = [(_Names((rule.host,), "rule for host"), rule) for rule in rules.rules]
        for rule in rules.rules:
            for path in rule.paths:
                if not is_prefix(path):
                    raise ValueError(f"rule for host {rule.host!r}: {path!r} is not a plain path that begins with /")

    @property
    def looks_inside(self) -> bool:
        """Whether there is a rule for which TLS has to be ended."""
        return any(rule.looks_inside for _, rule in self._rules)

    @property
    def hides_nothing(self) -> bool:
        """Whether every public name is allowed, so that a hidden one wins nobody anything."""
        return self._public

    @property
    def inspected_names(self) -> tuple[str, ...]:
        """The exact names among the rules for which TLS has to be ended."""
        return tuple(name for names, rule in self._rules if rule.looks_inside for name in names.exact)

    def judge(self, target: Target) -> Verdict:
        """The verdict on the name and the port; an allowed name's addresses are still to be judged.

        `inside` of the verdict: it holds for some requests only, so each one is to be judged with `judge_request`.
        """
        port_open = target.port in self._ports
        if (reason := self._reason_of_host(target)) is not None and port_open:
            return Verdict(True, reason)
        narrow = None
        named = reason is not None
        for names, rule in self._rules:
            if not names.match(target):
                continue
            named = True
            if target.port not in self._blocked and (target.port in rule.ports if rule.ports else port_open):
                if not rule.looks_inside:
                    return Verdict(True, "allowed_rule", opened=target.port not in self._ports)
                narrow = Verdict(True, "allowed_rule", inside=True)
        if narrow is not None:
            return narrow
        return self._denied(target, named)

    def judge_request(self, target: Target, method: str, path: str) -> Verdict:
        """The verdict on one request whose method and path are known (`path` with or without the query)."""
        verdict = self.judge(target)
        if not verdict.inside:
            return verdict
        method_fits = False
        for names, rule in self._rules:
            if not names.match(target) or (rule.ports and target.port not in rule.ports):
                continue
            if rule.methods and method not in rule.methods:
                continue
            method_fits = True
            if not rule.paths or below(path, rule.paths):
                return verdict
        shown = path.partition("?")[0]
        if not method_fits:
            hint = f'To allow it, add {method} to the methods of a rule for "{target.host}".'
            return Verdict(False, "method_not_allowed", hint)
        hint = f'To allow it, add "{shown[:200]}" or a beginning of it to the paths of a rule for "{target.host}".'
        return Verdict(False, "path_not_allowed", hint)

    def judge_server(self, target: McpTarget) -> Verdict:
        """The verdict on one of the session's own MCP servers, on whatever port: its address was given by the agent's
        owner, not by the session. The addresses are still to be judged."""
        listed = self._hosts.match(Target(target.host, target.port, target.is_address))
        if self._public or self._mcp_servers or listed:
            return Verdict(True, "mcp_server")
        hint = "set allow_mcp_servers in the environment's networking, or add the host to its allowed_hosts"
        return Verdict(False, "host_not_allowed", hint)

    def _reason_of_host(self, target: Target) -> str | None:
        if self._hosts.match(target):
            return "allowed_host"
        if self._packages.match(target):
            return "package_host"
        return "public_host" if self._public and not target.is_address else None

    def _denied(self, target: Target, named: bool) -> Verdict:
        if named:
            ports = ", ".join(str(port) for port in sorted(self._ports))
            hint = f"These ports are open: {ports}; others by a rule that names the port."
            if target.port in self._blocked:
                hint = f"No rule opens port {target.port}: the operator's setting egress.blocked_ports closes it."
            return Verdict(False, "port_blocked", hint)
        if target.is_address:
            return Verdict(False, "address_literal", "Name the host: rules are for names, not for addresses.")
        hint = f'To allow it, add "{target.host}" to the allowed hosts of the environment.'
        return Verdict(False, "host_not_allowed", hint)


class _Names:
    """Exact names, and names below which everything is meant."""

    def __init__(self, entries: Sequence[str], what: str) -> None:
        exact: set[str] = set()
        self._below: set[str] = set()
        for entry in entries:
            below_it = entry.startswith("*.")
            try:
                host, is_address = _rule_host(entry[2:] if below_it else entry)
            except BadTarget as error:
                raise ValueError(f"{what} {entry!r}: {error}") from error
            if below_it and is_address:
                raise ValueError(f"{what} {entry!r}: an address has no names below it")
            (self._below if below_it else exact).add(host)
        self.exact = frozenset(exact)

    def match(self, target: Target) -> bool:
        if target.host in self.exact:
            return True
        if target.is_address or not self._below:
            return False
        _, _, above = target.host.partition(".")
        while above:
            if above in self._below:
                return True
            _, _, above = above.partition(".")
        return False


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
