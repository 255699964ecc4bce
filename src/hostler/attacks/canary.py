"""What does an attack run into when it gets through? Servers on this host's loopback that remember whom they met.

Nothing here leaves the host: names resolve to loopback addresses, and those that stand for the private network are
loopback addresses too, which the proxy under attack was not told to allow.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hostler.engine.egress_port import EgressDecision

ALLOWED_ADDRESS = "127.0.0.1"
PRIVATE_ADDRESS = "127.0.0.2"
"""Both are loopback; only the first is in the proxy's list of private addresses that are allowed all the same."""

HEAD_LIMIT = 1 << 20


@dataclass
class Met:
    """One connection to a canary."""

    address: str
    data: bytearray = field(default_factory=bytearray)


Answer = Callable[[Met, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""Told of a connection once the head of a request has come; writes the answer."""


async def plain_ok(met: Met, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\ncanary")


class Canaries:
    """One server on both addresses and on `::1`, all at the same port."""

    def __init__(self) -> None:
        self.met: list[Met] = []
        self.port = 0
        self.other_port = 0
        """Another port of the allowed address, which the proxy was not told to open."""
        self.raw_port = 0
        """For TLS that the proxy passes through: what arrives is kept as it is."""
        self.tls_port = 0
        """Ends TLS as `allowed.example`. 0: there is none, because nobody gave it a certificate."""
        self.false_port = 0
        """Ends TLS as another host. 0: see above."""
        self.answer: Answer = plain_ok
        self.has_ipv6 = False
        self._servers: list[asyncio.Server] = []
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def tls_ports(self) -> frozenset[int]:
        return frozenset({self.raw_port, self.tls_port, self.false_port} - {0})

    async def open(self, tls: Callable[[str], ssl.SSLContext] | None = None) -> None:
        """`tls` makes certificates: then there are servers that end TLS, too."""
        for _ in range(20):
            first = await self._listen(ALLOWED_ADDRESS, 0)
            self.port = first.sockets[0].getsockname()[1]
            try:
                self._servers = [first, await self._listen(PRIVATE_ADDRESS, self.port)]
                break
            except OSError:
                first.close()
        else:
            raise OSError("no port is free on both loopback addresses")
        with contextlib.suppress(OSError):
            self._servers.append(await self._listen("::1", self.port))
            self.has_ipv6 = True
        self.other_port = await self._another()
        self.raw_port = await self._another()
        if tls is not None:
            self.tls_port = await self._another(tls("allowed.example"))
            self.false_port = await self._another(tls("evil.tld"))

    async def _another(self, tls: ssl.SSLContext | None = None) -> int:
        server = await self._listen(ALLOWED_ADDRESS, 0, tls)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _listen(self, address: str, port: int, tls: ssl.SSLContext | None = None) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(address, reader, writer)

        return await asyncio.start_server(serve, address, port, ssl=tls, limit=HEAD_LIMIT)

    async def _serve(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met = Met(address)
        self.met.append(met)
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while b"\r\n\r\n" not in met.data and len(met.data) < HEAD_LIMIT:
                piece = await reader.read(65536)
                if not piece:
                    return
                met.data += piece
            await self.answer(met, reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled only by `close`, which waits for the end of this task and of nothing else
        finally:
            self._serving.discard(task)
            writer.close()

    def forget(self) -> None:
        """Before each attack."""
        self.met = []
        self.answer = plain_ok

    @property
    def seen(self) -> bytes:
        return b"\n".join(bytes(met.data) for met in self.met)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(list(self._serving))
        for server in self._servers:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    await server.wait_closed()


@dataclass
class Names:
    """The resolver of the proxy under attack. Each question for a scripted name takes its next answer.

    A name without a script has the allowed address: should the rules let a wrong name through, a canary answers.
    """

    scripted: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        earlier = self.asked.count(host)
        self.asked.append(host)
        script = self.scripted.get(host)
        if script is None:
            return [ALLOWED_ADDRESS]
        return script[min(earlier, len(script) - 1)]


@dataclass
class Decisions:
    """Where the proxy under attack writes its decisions."""

    made: list[EgressDecision] = field(default_factory=list)
    fails: bool = False

    async def record(self, decision: EgressDecision) -> None:
        if self.fails:
            raise OSError("the record of the attack can't be written, as wished")
        self.made.append(decision)

    def denials(self) -> list[EgressDecision]:
        return [decision for decision in self.made if not decision.allowed]
