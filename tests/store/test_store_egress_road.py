"""A road that writes into a real database: nothing is connected, and nothing passed on, before its decision is
committed, however many requests there are at once and whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from storekit import add_session

from hostler.compose.stored import MOST_DECISIONS, StoredDecisions
from hostler.domain.errors import Busy, QuotaExceeded
from hostler.egress import EgressProxy
from hostler.engine.denials import Denials
from hostler.engine.egress_port import EgressDecision, EgressRules
from hostler.store import ledger
from hostler.store.database import Database
from hostler.store.sessions import SessionRow

DEADLINE = 120.0
AT_ONCE = 20
ROUNDS = 5


class Here:
    """Every name is this machine."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1"]


@dataclass
class Server:
    """Answers each request once `look` has been told its path. Counts connections."""

    look: Callable[[str], Awaitable[None]] | None = None
    port: int = 0
    connections: int = 0
    paths: list[str] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.paths.append(head.split(b" ")[1].decode())
                if self.look is not None:
                    await self.look(self.paths[-1])
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        writer.close()


@asynccontextmanager
async def listening(server: Server) -> AsyncIterator[Server]:
    running = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = running.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        running.close()
        for writer in server.writers:
            writer.transport.abort()
        await running.wait_closed()


@asynccontextmanager
async def road(db: Database, server: Server, socket: Path, most: int = MOST_DECISIONS) -> AsyncIterator[None]:
    recorder = StoredDecisions(db, Denials(), most)
    proxy = EgressProxy(
        recorder, resolver=Here(), private_allowed=frozenset({"127.0.0.1"}), ports=frozenset({80, 443, server.port})
    )
    await proxy.open("sesn_1", socket, EgressRules("listed", ("allowed.example",)))
    try:
        yield
    finally:
        await proxy.close()
        await recorder.close()


class Client:
    """One kept connection to the road."""

    def __init__(self, socket: Path, port: int) -> None:
        self._socket, self._port = socket, port
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> bytes:
        """The head of the answer; its body is read."""
        async with asyncio.timeout(DEADLINE):
            if self._ends is None:
                self._ends = await asyncio.open_unix_connection(str(self._socket))
            reader, writer = self._ends
            writer.write(f"GET http://allowed.example:{self._port}{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            return head

    async def close(self) -> None:
        if self._ends is not None:
            self._ends[1].transport.abort()
            with contextlib.suppress(OSError):
                await self._ends[1].wait_closed()


async def paths_of(db: Database) -> list[str]:
    return [row.path for row in await db.read(lambda c: ledger.list_egress(c, "sesn_1"))]


async def test_twenty_requests_at_once_are_each_committed_before_the_server_hears_of_them(
    db: Database, session: SessionRow, tmp_path: Path
) -> None:
    early: list[str] = []

    async def look(path: str) -> None:
        if path not in await paths_of(db):  # Another connection to the database: it sees what is committed.
            early.append(path)

    async with listening(Server(look)) as server, road(db, server, tmp_path / "s"):
        clients = [Client(tmp_path / "s", server.port) for _ in range(AT_ONCE)]

        async def ask(number: int) -> None:
            for turn in range(ROUNDS):
                assert (await clients[number].get(f"/{number}/{turn}")).startswith(b"HTTP/1.1 200 ")

        async with asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(ask(number))
        for client in clients:
            await client.close()
    assert early == []
    rows = await db.read(lambda c: ledger.list_egress(c, "sesn_1"))
    assert sorted(row.path for row in rows) == sorted(f"/{n}/{turn}" for n in range(AT_ONCE) for turn in range(ROUNDS))
    for number in range(AT_ONCE):
        mine = [row.path for row in rows if row.path.startswith(f"/{number}/")]
        assert mine == [f"/{number}/{turn}" for turn in range(ROUNDS)]
    assert len({row.created_at for row in rows}) == len(rows)


async def test_what_one_turn_of_the_loop_brings_is_one_transaction_in_its_order(
    db: Database, session: SessionRow
) -> None:
    recorder = StoredDecisions(db, Denials())
    wanted = [EgressDecision("sesn_1", "GET", "allowed.example", 80, True, "r", path=f"/{n}") for n in range(AT_ONCE)]
    async with asyncio.TaskGroup() as group:
        for decision in wanted:
            group.create_task(recorder.record(decision))
    rows = await db.read(lambda c: ledger.list_egress(c, "sesn_1"))
    assert [row.path for row in rows] == [decision.path for decision in wanted]
    # A moment is read once for each transaction, and counted on by two microseconds; as a float it is exact to one.
    first, *later = [datetime.fromisoformat(row.created_at) for row in rows]
    apart = [(moment - first) // timedelta(microseconds=1) for moment in later]
    assert all(abs(got - 2 * place) <= 1 for place, got in enumerate(apart, start=1)), apart
    assert {row.id[:13] for row in rows} == {rows[0].id[:13]}
    await recorder.close()


async def test_a_commit_that_fails_refuses_every_request_of_its_group_and_the_next_ones_pass(
    db: Database, session: SessionRow, tmp_path: Path
) -> None:
    async with listening(Server()) as server, road(db, server, tmp_path / "s"):

        async def refused(number: int) -> bytes:
            client = Client(tmp_path / "s", server.port)
            try:
                return await client.get(f"/{number}")
            finally:
                await client.close()

        async def all_at_once() -> list[bytes]:
            async with asyncio.TaskGroup() as group:
                asked = [group.create_task(refused(number)) for number in range(AT_ONCE)]
            return [task.result() for task in asked]

        await db.write(lambda c: c.execute(sa.text("ALTER TABLE egress_decisions RENAME TO elsewhere")) and None)
        answers = await all_at_once()
        assert all(answer.startswith(b"HTTP/1.1 503 ") and b"reason=not_recorded" in answer for answer in answers)
        assert (server.connections, server.paths) == (0, [])
        await db.write(lambda c: c.execute(sa.text("ALTER TABLE elsewhere RENAME TO egress_decisions")) and None)
        assert await paths_of(db) == []
        assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in await all_at_once())
        assert sorted(await paths_of(db)) == sorted(f"/{number}" for number in range(AT_ONCE))


async def test_a_recorder_that_is_closed_leaves_nobody_waiting(db: Database, session: SessionRow) -> None:
    recorder = StoredDecisions(db, Denials())
    decision = EgressDecision("sesn_1", "GET", "allowed.example", 80, True, "r", path="/last")
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        waiting = group.create_task(recorder.record(decision))
        await asyncio.sleep(0)
        await recorder.close()
        await waiting
    assert await paths_of(db) == ["/last"]


@pytest.mark.parametrize(("when", "recorded", "heard"), [("before", 0, 0), ("after", 1, 0), ("never", 1, 1)])
async def test_a_crash_leaves_a_record_of_everything_that_was_connected(
    db: Database, session: SessionRow, url: str, tmp_path: Path, when: str, recorded: int, heard: int
) -> None:
    async with listening(Server()) as server:
        command = [str(Path(__file__).with_name("dying_road.py")), url, str(tmp_path / "s"), str(server.port), when]
        running = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        assert running.stdout is not None
        try:
            async with asyncio.timeout(DEADLINE):
                assert await running.stdout.readline() == b"ready\n"
            client = Client(tmp_path / "s", server.port)
            if when == "never":
                assert (await client.get("/asked")).startswith(b"HTTP/1.1 200 ")
            else:
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await client.get("/asked")
                async with asyncio.timeout(DEADLINE):
                    assert await running.wait() == -signal.SIGKILL
            await client.close()
        finally:
            if running.returncode is None:
                running.kill()
            await running.wait()
    assert len(await paths_of(db)) == recorded
    assert (server.connections, len(server.paths)) == (heard, heard)


async def test_a_database_that_another_process_holds_is_busy_and_not_a_bug(
    db: Database, session: SessionRow, url: str, dialect: str
) -> None:
    """The first statement of a transaction goes around SQLAlchemy; its errors are translated all the same."""
    if dialect != "sqlite":
        pytest.skip("PostgreSQL has many writers")
    await db.write(lambda c: c.exec_driver_sql("PRAGMA busy_timeout=1").close())
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy, match="locked by another process"):
            await db.write(lambda c: None)
    finally:
        other.rollback()
        other.close()
    await db.write(lambda c: None)


async def test_a_session_that_has_made_all_its_requests_gets_no_more(
    db: Database, session: SessionRow, tmp_path: Path
) -> None:
    """Nothing is connected that can't be written down, also after a restart; another session is not concerned."""

    def decision(session_id: str) -> EgressDecision:
        return EgressDecision(session_id, "GET", "example.com", 443, True, "allowed", "")

    await add_session(db, "sesn_2")
    for most in (2, 3):  # the second life allows one more
        recorder = StoredDecisions(db, Denials(), most=most)
        while len(await paths_of(db)) < most:
            await recorder.record(decision("sesn_1"))
        with pytest.raises(QuotaExceeded, match="max_egress_decisions"):
            await recorder.record(decision("sesn_1"))
        await recorder.record(decision("sesn_2"))
        assert len(await paths_of(db)) == most
        await recorder.close()
    server = Server()
    async with listening(server), road(db, server, tmp_path / "s", most=3):
        client = Client(tmp_path / "s", server.port)
        assert (await client.get("/4")).startswith(b"HTTP/1.1 503 ")
        await client.close()
    assert server.connections == 0
