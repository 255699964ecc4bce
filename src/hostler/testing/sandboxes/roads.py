"""What can be reached from inside? The two roads, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from hostler.testing.sandboxes.ground import Ground

_ASK = """
import json, socket, sys
def ask(where):
    s = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET)
    s.settimeout(20)
    s.connect(where)
    s.sendall(b"ping")
    s.shutdown(socket.SHUT_WR)
    got = b""
    while piece := s.recv(65536):
        got += piece
    return len(got), got[:20].decode()
print(json.dumps([ask(json.loads(w)) for w in WHERE]))
"""


@asynccontextmanager
async def _answering(listener: socket.socket, word: bytes) -> AsyncIterator[list[bytes]]:
    """Answers every connection, once its input has ended, with the word and a megabyte."""
    heard: list[bytes] = []
    busy: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        busy.add(task)
        try:
            if said := await reader.read():  # who only looks whether somebody listens says nothing
                heard.append(said)
                writer.write(word.ljust(20) + b"x" * (1 << 20))
                await writer.drain()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            busy.discard(task)

    server = await asyncio.start_unix_server(answer, sock=listener.dup())
    try:
        yield heard
    finally:
        server.close()
        if busy:
            await asyncio.wait(busy)


async def the_model_road_is_a_socket(ground: Ground) -> None:
    spec = ground.spec()
    sandbox = await ground.create()
    async with _answering(ground.listener(spec.model_socket), b"model") as heard:
        got = await ground.python(sandbox.launcher, _ASK.replace("WHERE", "['\"/run/hostler/model.sock\"']"))
    assert got == [[20 + (1 << 20), "model".ljust(20)]], got
    assert heard == [b"ping"]


async def the_egress_road_is_a_socket_and_a_port(ground: Ground) -> None:
    spec = ground.spec()
    sandbox = await ground.create()
    where = "['\"/run/hostler/egress.sock\"', '[\"127.0.0.1\", 3128]']"
    code = _ASK.replace("json.loads(w)", "(lambda v: v if isinstance(v, str) else tuple(v))(json.loads(w))")
    async with _answering(ground.listener(spec.egress_socket), b"egress") as heard:
        got = await ground.python(sandbox.launcher, _WAIT + code.replace("WHERE", where))
    assert got == [[20 + (1 << 20), "egress".ljust(20)]] * 2, got
    assert heard == [b"ping"] * 2


_WAIT = """
import socket, time
end = time.monotonic() + 20
while time.monotonic() < end:
    s = socket.socket()
    if s.connect_ex(("127.0.0.1", 3128)) == 0:
        break
    time.sleep(0.02)
s.close()
"""
"""The forwarder of the port starts beside the program, and may be a moment later than it."""


async def there_is_no_other_network(ground: Ground) -> None:
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    sandbox = await ground.create()
    try:
        seen = await ground.python(sandbox.launcher, _REACH.replace("PORT", str(port)))
    finally:
        server.close()
    assert seen["reached"] == [], seen
    assert [name for name in seen["links"] if name not in ("lo", "sit0", "tunl0", "ip6tnl0")] == [], seen


_REACH = """
import json, os, socket
reached = []
def attempt(name, family, kind, where):
    try:
        s = socket.socket(family, kind)
        s.settimeout(2)
        s.connect(where)
        if kind == socket.SOCK_DGRAM:
            s.send(b"x")
            s.recv(1)
        reached.append(name)
    except (OSError, ValueError):
        pass
attempt("the host's loopback", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", PORT))
attempt("a public address", socket.AF_INET, socket.SOCK_STREAM, ("1.1.1.1", 443))
attempt("a resolver", socket.AF_INET, socket.SOCK_DGRAM, ("8.8.8.8", 53))
attempt("metadata", socket.AF_INET, socket.SOCK_STREAM, ("169.254.169.254", 80))
attempt("IPv6", socket.AF_INET6, socket.SOCK_STREAM, ("2606:4700:4700::1111", 443))
attempt("an abstract socket", socket.AF_UNIX, socket.SOCK_STREAM, "\\0/tmp/dbus")
try:
    socket.getaddrinfo("example.com", 443)
    reached.append("names")
except OSError:
    pass
try:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    reached.append("raw packets")
except (OSError, AttributeError):
    pass
try:
    links = os.listdir("/sys/class/net")
except OSError:
    links = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
print(json.dumps({"reached": reached, "links": links}))
"""


async def a_dead_road_means_no_network(ground: Ground) -> None:
    spec = ground.spec()
    sandbox = await ground.create()
    holding = await ground.holding(sandbox)
    ground.listener(spec.egress_socket).close()
    Path(spec.egress_socket).unlink()
    seen = await ground.python(
        sandbox.entrance, _REACH.replace("PORT", "3128").replace('"the host\'s loopback"', '"port"')
    )
    # The forwarder may still take the connection; what counts is that nothing answers behind it.
    assert set(seen["reached"]) <= {"port"}, seen
    await holding.communicate(b"")


PROMISES = (
    the_model_road_is_a_socket,
    the_egress_road_is_a_socket_and_a_port,
    there_is_no_other_network,
    a_dead_road_means_no_network,
)
