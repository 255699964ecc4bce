"""Which servers do sequences run on, and how are they killed? Two of them, on one database and one object store."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Container, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from chaos_client import Api
from chaos_host import Server
from sequence_model import View, view_of
from sequence_plan import Hit

from hostler.compose import create_key
from hostler.domain.errors import HostlerError
from hostler.engine.profile import transcript_id
from hostler.store import tables
from hostler.store.database import Database
from hostler.store.homes import get_home
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import RehearsalModel
from hostler.testing.rehearsal.record import RecordedRequest, Recorder

FIRST_UID = 732_000 + os.getpid() % 100 * 512
UIDS = (range(FIRST_UID, FIRST_UID + 256), range(FIRST_UID + 256, FIRST_UID + 512))
"""Of the sandboxes of each server of this run only, so that a process that is left is known by its uid."""
LEASE_SECONDS = 30.0
"""Long enough for a machine that has much else to do: a lease that runs out without a kill looks like one."""
IDLE_SECONDS = {True: 1, False: 600}
"""How long an idle session keeps its process: of sequences that hibernate and move, and of the others."""
LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a session's main conversation."""

    step: int | None
    view: View
    at: float


class Told(Recorder):
    """Keeps of each request only what it shows of the conversation."""

    def __init__(self) -> None:
        super().__init__(limit=1)
        self._by_transcript: dict[str, list[Asked]] = {}
        self._transcripts: dict[str, str] = {}
        """By the id of a request: as what the conversation was begun that it is part of."""

    async def add(self, request: RecordedRequest) -> None:
        transcript = request.headers.get("x-claude-code-session-id", "")
        if request.path == "/v1/messages" and request.origin != "housekeeping" and request.body is not None:
            asked = Asked(request.step, view_of(request.body["messages"]), request.received_at)
            self._by_transcript.setdefault(transcript, []).append(asked)
            self._transcripts[request.request_id] = transcript
        await super().add(request)

    def transcripts(self, request_ids: Iterable[str]) -> set[str]:
        """Those that the requests are part of."""
        return {self._transcripts[request] for request in request_ids if request in self._transcripts}

    def of(self, transcripts: Iterable[str]) -> list[Asked]:
        found = [asked for name in transcripts for asked in self._by_transcript.get(name, ())]
        return sorted(found, key=lambda asked: asked.at)

    def forget_all(self) -> None:
        self._by_transcript.clear()
        self._transcripts.clear()


class Hosts:
    """The two servers. An operation names the one that it is asked of; a server that is away is stood in for."""

    def __init__(
        self,
        folder: Path,
        servers: list[Server],
        apis: list[Api],
        database: Database,
        told: Told,
        cluster: PostgresCluster,
    ) -> None:
        self.folder = folder
        self.servers = servers
        self.apis = apis
        self.told = told
        self.cluster = cluster
        self._database = database

    async def begin(self) -> None:
        for server in self.servers:
            await server.spawn()
        for server in self.servers:
            await server.ready()

    def api(self, home: int) -> Api:
        """Of the server that is asked for, or of the other while that is away."""
        return self.apis[home if self.servers[home].address.up.is_set() else 1 - home]

    async def one_is_up(self) -> None:
        while not any(server.address.up.is_set() for server in self.servers):  # noqa: ASYNC110 - either of two events
            await asyncio.sleep(LOOK_SECONDS)

    # -- what only the database says

    async def until_hibernated(self, session_id: str) -> str | None:
        """Until nobody serves the session; the worker that has its files."""

        while True:
            rests, worker = await self._look(session_id)
            if rests:
                return worker
            await asyncio.sleep(LOOK_SECONDS)

    async def worker_of(self, session_id: str) -> str | None:
        """The worker that has the session's files, as it has them; None: none has."""
        return (await self._look(session_id))[1]

    async def _look(self, session_id: str) -> tuple[bool, str | None]:
        def unit(conn: sa.Connection) -> tuple[bool, str | None]:
            work = tables.work.c
            row = conn.execute(sa.select(work.wanted, work.owner).where(work.session_id == session_id)).one_or_none()
            home = get_home(conn, session_id)
            return row is None or (not row.wanted and row.owner is None), None if home is None else home.worker

        while True:
            with contextlib.suppress(HostlerError, OSError, sa.exc.DBAPIError):
                return await self._database.read(unit)
            await asyncio.sleep(LOOK_SECONDS)

    async def asked(self, session_id: str) -> tuple[list[Asked], int]:
        """What the model was asked for a session, and how many of its processes were spares."""
        transcripts = await self._transcripts(session_id)
        return self.told.of(transcripts), len(transcripts) - 1

    async def _transcripts(self, session_id: str) -> set[str]:
        """As what its processes name their conversation: those that began as spares each in a way of their own.

        Whose a request is the ledger says. What a killed server has not written down there is found as well, if
        anything of the same process was, or if the process was none that began as a spare.
        """
        rows = tables.model_requests.c

        def unit(conn: sa.Connection) -> list[str]:
            return list(conn.scalars(sa.select(rows.upstream_request_id).where(rows.session_id == session_id)))

        while True:
            with contextlib.suppress(HostlerError, OSError, sa.exc.DBAPIError):
                return {transcript_id(session_id)} | self.told.transcripts(await self._database.read(unit))
            await asyncio.sleep(LOOK_SECONDS)

    # -- hits

    async def strike(self, hit: Hit, session_id: str) -> bool:
        """Returns when everything runs again: whether anybody was there to be killed."""
        match hit.who:
            case "agent":
                return self._kill_agent(await self._transcripts(session_id), hit.victim)
            case "database":
                await asyncio.to_thread(self.cluster.stop, "immediate")
                await asyncio.to_thread(self.cluster.start)
            case "stop":
                server = self.servers[hit.victim]
                status = await server.stop()
                if status != 0:
                    raise AssertionError(f"a server that was told to stop ended with {status}; see {self.folder}")
                await self._again([server], hit.late)
            case "server":
                server = self.servers[hit.victim]
                await server.kill()
                await self._again([server], hit.late)
            case "servers":
                first = self.servers[hit.victim]
                other = self.servers[1 - hit.victim]
                await first.kill()
                await other.kill()
                await self._again([first, other], hit.late)
        return True

    async def _again(self, servers: list[Server], late: float) -> None:
        for server in servers:
            await asyncio.sleep(late)
            await server.spawn()
        for server in servers:
            await server.ready()

    def _kill_agent(self, transcripts: Container[str], victim: int) -> bool:
        """`claude`, or the bubblewrap around it; neither is there when the session has no process."""
        for server in self.servers:
            for trace in server.sandboxes():
                if transcript_id(trace.session_id) not in transcripts:
                    continue
                named = [(pid, _comm(pid)) for pid, _ in trace.processes]
                victims = [pid for pid, name in named if name == "bwrap"]
                victims += sorted(pid for pid, name in named if name == "claude")[:1]
                if victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victims[victim % len(victims)], signal.SIGKILL)
                        return True
        return False

    async def end(self) -> list[str]:
        """Stop both as an operator does. What is left of them."""
        left: list[str] = []
        for server, uids in zip(self.servers, UIDS, strict=True):
            traces = server.sandboxes()
            status = await server.stop()
            left += [f"exit status {status}"] * (status != 0)
            left += [*server.left_of(traces), *server.left_at_all(uids)]
        return left


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@asynccontextmanager
async def two_hosts() -> AsyncIterator[Hosts]:
    """Running. Their folder is removed at the end, unless something broke."""
    folder = Path(tempfile.mkdtemp(prefix="hostler-sequences-"))
    folder.chmod(0o711)
    async with contextlib.AsyncExitStack() as stack:
        cluster = stack.enter_context(PostgresCluster(durable=True))
        url = cluster.create_database("sequences")
        database = await Database.open(url)
        stack.push_async_callback(database.close)
        _, key = await create_key(database, "sequences")
        told = Told()
        model = await stack.enter_async_context(RehearsalModel(recorder=told))
        servers, apis = [], []
        for name, uids in zip("ab", UIDS, strict=True):
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(folder),
                "HOSTLER_SANDBOX__TECHNOLOGY": "bubblewrap",
                "HOSTLER_SANDBOX__FIRST_UID": str(uids.start),
                "HOSTLER_SANDBOX__UIDS": str(len(uids)),
                "HOSTLER_STATE_DIR": str(folder / name),
                "HOSTLER_STORE__URL": url,
                "HOSTLER_OBJECTS__URL": f"file://{folder}/objects",
                "HOSTLER_SECRETS__KEY_FILE": str(folder / "keys.json"),
                "HOSTLER_SERVER__PORT": "0",
                "HOSTLER_MODEL__BASE_URL": model.url,
                "HOSTLER_WORKER__LEASE_SECONDS": str(LEASE_SECONDS),
                "HOSTLER_WORKER__POLL_SECONDS": "0.5",
                "HOSTLER_WORKER__SLOTS": "32",
            }
            server = Server(folder / name, environment, folder / f"{name}.log")
            servers.append(server)
            stack.push_async_callback(server.kill)
            apis.append(Api(server.address, key))
            stack.push_async_callback(apis[-1].close)
        hosts = Hosts(folder, servers, apis, database, told, cluster)
        await hosts.begin()
        try:
            yield hosts
        except BaseException:
            with contextlib.suppress(Exception):
                await hosts.end()  # so that nothing stays mounted
            raise
        left = await hosts.end()
        if left:
            raise AssertionError(f"after a stop there is still: {left}; see {folder}")
    shutil.rmtree(folder, ignore_errors=True)
