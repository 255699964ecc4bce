"""A server that listens: database, services and uvicorn in a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import anthropic
import uvicorn
from apikit_sessions import InMemorySessions
from sqlalchemy import Connection

from hostler.api.app import create_app
from hostler.api.connections import BoundedHttpProtocol
from hostler.api.services import ApiServices
from hostler.bundles.exporting import Exporter
from hostler.bundles.importing import Importer
from hostler.bundles.limits import BundleLimits
from hostler.bundles.service import StoredBundles
from hostler.domain.clock import SystemClock
from hostler.domain.prices import Prices
from hostler.domain.retention import HARMLESS
from hostler.egress.outgoing import OutgoingClient
from hostler.egress.trial import PolicyTrials
from hostler.egress.webhooks import HttpWebhookSender
from hostler.engine.administration import Administration
from hostler.engine.admission import Admission
from hostler.engine.agents import Agents
from hostler.engine.archives import Archives
from hostler.engine.audit_log import AuditLog
from hostler.engine.bearers import VaultBroker
from hostler.engine.budgets import Budgets
from hostler.engine.checkpoints import Checkpoints
from hostler.engine.compactions import Compactions
from hostler.engine.credentials import Credentials
from hostler.engine.denials import Allowing
from hostler.engine.diffs import Diffs
from hostler.engine.environment_keys import EnvironmentKeys
from hostler.engine.environments import Environments
from hostler.engine.files import Files, FileTerms
from hostler.engine.forks import Forks
from hostler.engine.guards import Guards, GuardTerms
from hostler.engine.hub import Hub
from hostler.engine.idle import Awake
from hostler.engine.keys import Keys, StoredKeys
from hostler.engine.measures import Measures
from hostler.engine.memory_stores import MemoryStores
from hostler.engine.models import Models
from hostler.engine.mounted_files import FileKind
from hostler.engine.oversight import Oversight
from hostler.engine.places import Places
from hostler.engine.policies import Policies
from hostler.engine.previews import Previews
from hostler.engine.probes import CredentialProbe
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.rate_limits import RateLimits
from hostler.engine.reach import Reach, StoredReach
from hostler.engine.records import Records
from hostler.engine.repositories import RepositoryKind
from hostler.engine.resources import ResourceKinds
from hostler.engine.retention import Retention, RetentionTerms
from hostler.engine.room_list import RoomList
from hostler.engine.routing_reports import RoutingReports
from hostler.engine.session_resources import SessionResources
from hostler.engine.sessions import Sessions
from hostler.engine.skills import Skills
from hostler.engine.throttle import RateTerms, RateThrottle
from hostler.engine.usage_reports import UsageReports
from hostler.engine.vaults import Vaults
from hostler.engine.webhook_courier import Courier
from hostler.engine.webhooks import Webhooks
from hostler.engine.work_items import Terms
from hostler.engine.work_queue import WorkQueue
from hostler.gateway import sequence
from hostler.objects.folder import FolderObjects
from hostler.sealing.envelope import EnvelopeSealer
from hostler.sealing.masterkeys import GivenKeys, KeyFile, MasterKey
from hostler.sealing.signing import AuditSigner
from hostler.snapshots.service import StoredSnapshots
from hostler.store.blobs import Blobs
from hostler.store.database import Database
from hostler.store.keys import create_key, create_workspace
from hostler.store.work_items import session_of_work
from hostler.testing.one_rung import PLACEMENT

T = TypeVar("T")

MOST_FILE_BYTES = 40 << 20
"""More than another request may have, and little enough for a test."""
ORGANIZATION = "org_of_the_tests"
RETENTION = RetentionTerms(HARMLESS, every_seconds=0.0, patience_seconds=0.05)
TRUST = ssl.create_default_context()
"""Of all clients: reading the host's authorities takes longer than most of what a client asks here."""


class Connections(anthropic.DefaultHttpxClient):
    """Closed when nobody has them any more. Not by `__del__`: of what goes together, a socket may be told first that it
    goes, and says then that nobody has closed it, in whatever test runs just now."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for transport in {self._transport, *self._mounts.values()} - {None}:
            weakref.finalize(self, transport.close)


@dataclass(frozen=True)
class Access:
    """One workspace and its key."""

    base_url: str
    workspace: str
    key: str

    def client(self, **options: object) -> anthropic.Anthropic:
        settings = {"max_retries": 0, "_strict_response_validation": True} | options
        if "http_client" not in settings:
            settings["http_client"] = Connections(verify=TRUST)
        return anthropic.Anthropic(base_url=self.base_url, api_key=self.key, **settings)  # type: ignore[arg-type]


class AgentsThatFail(Agents):
    """The real agents, except that a retrieval raises whatever waits in `failures`."""

    def __init__(self, database: Database, models: Models) -> None:
        super().__init__(database, models)
        self.failures: deque[Exception] = deque()

    async def retrieve(self, workspace: str, agent_id: str, version: int | None = None) -> dict[str, Any]:
        if self.failures:
            raise self.failures.popleft()
        return await super().retrieve(workspace, agent_id, version)


class RunningServer:
    """Started and stopped as a context manager. `sessions` is the session service behind the API."""

    def __init__(self, database_url: str, **settings: Any) -> None:
        self._database_url = database_url
        self._settings = settings
        self._ready: threading.Event = threading.Event()
        self._thread = threading.Thread(target=self._run, name="api-server")
        self._failure: BaseException | None = None
        self.hub = Hub()
        self.free: dict[str, int | None] = {"disk": 1 << 40, "memory": 1 << 40}
        """What is left on the host, in bytes, as the guards see it when they are told to `look`."""
        self.guards = Guards(GuardTerms(), lambda: self.free["disk"], lambda: self.free["memory"])
        self.terms = Terms()
        self.clock_skew = 0.0
        """Seconds that the database's clock is ahead."""
        self.base_url = ""
        self.requests: list[tuple[str, str]] = []
        """Verb and path of every request that came in."""

    def __enter__(self) -> RunningServer:
        self._thread.start()
        assert self._ready.wait(60), "the server did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the server did not stop"

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def write(self, fn: Callable[[Connection], T]) -> T:
        return self.call(self.database.write(fn))

    def new_workspace(self) -> tuple[str, str]:
        """A fresh workspace and the secret of its key."""

        def make(conn: Connection) -> tuple[str, str]:
            now = self.database.now(conn)
            workspace = create_workspace(conn, now, "of one test")
            return workspace.id, create_key(conn, now, workspace.id, "test")[1]

        return self.write(make)

    @contextmanager
    def failing_agents(self, *failures: Exception) -> Iterator[None]:
        """The next retrievals of agents raise these, one each."""
        self.agents.failures.extend(failures)
        yield
        assert not self.agents.failures, "not every failure was met"

    # -- parts that a test may have of another kind

    def make_keys(self) -> Keys:
        return StoredKeys(self.database)

    def make_reach(self) -> Reach:
        return StoredReach(self.database, session_of_work)

    def make_sessions(self, models: Models, quotas: WorkspaceQuotas) -> Any:
        """A session service with `close`."""
        return InMemorySessions(self.database, models)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.database = await Database.open(self._database_url, clock_skew=lambda: self.clock_skew)
        blobs = tempfile.TemporaryDirectory(prefix="apikit-blobs-")
        try:
            repositories = RepositoryKind(EnvelopeSealer(KeyFile(Path(blobs.name) / "keys.json")))
            kinds = ResourceKinds({"file": FileKind(), "github_repository": repositories})
            models = Models()
            self.agents = AgentsThatFail(self.database, models)
            quotas = WorkspaceQuotas(self.database)
            self.sessions = self.make_sessions(models, quotas)
            outgoing = OutgoingClient(private_allowed=frozenset({"127.0.0.1"}))
            sealer = EnvelopeSealer(GivenKeys(MasterKey(b"k" * 32)))
            self.broker = VaultBroker(self.database, sealer, outgoing)
            sender = HttpWebhookSender()
            snapshots = StoredSnapshots(
                self.database, FolderObjects(Path(blobs.name) / "objects"), Path(blobs.name) / "snapshots"
            )
            # There is no worker that could do anything between two turns.
            checkpoints = Checkpoints(self.database, self.hub, patience_seconds=0.05)
            blob_store, folder, limits = Blobs(Path(blobs.name)), Path(blobs.name) / "bundles", BundleLimits()
            exporter = Exporter(self.database, checkpoints, snapshots, blob_store, sealer, folder, limits, "test", {})
            importer = Importer(
                self.database,
                snapshots,
                blob_store,
                kinds,
                quotas,
                PLACEMENT,
                models,
                Prices(),
                sequence.load,
                folder,
                limits,
                MOST_FILE_BYTES,
            )
            records = Records(self.database, self.hub)
            measures = Measures(self.database, quotas, {})
            # Nobody carries out what is asked for, unless a test does (`self.retention.look`).
            deleting = Sessions(self.database, self.hub, records, models, kinds, quotas, Prices(), PLACEMENT)
            audit = AuditLog(self.database, AuditSigner(GivenKeys(MasterKey(bytes(32)))))
            retention = Retention("api", self.database, deleting, measures, RETENTION)
            services = ApiServices(
                organization_id=ORGANIZATION,
                keys=self.make_keys(),
                agents=self.agents,
                environments=Environments(self.database, PLACEMENT),
                budgets=Budgets(self.database),
                policies=Policies(self.database, PolicyTrials()),
                compactions=Compactions(self.database, Records(self.database, self.hub), Archives(self.database)),
                archives=Archives(self.database),
                previews=Previews(self.database, lambda label: f"http://{label}.localhost:1", lambda _: None, Awake()),
                rooms=RoomList(self.database),
                places=Places(self.database, Admission()),
                guards=self.guards,
                environment_keys=EnvironmentKeys(self.database),
                work_queue=WorkQueue(self.database, self.hub, self.terms),
                models=models,
                sessions=self.sessions,
                administration=Administration(self.database, quotas),
                oversight=Oversight(self.database, allowing=Allowing(PolicyTrials()), guards=self.guards),
                quotas=quotas,
                reach=self.make_reach(),
                memory_stores=MemoryStores(self.database),
                files=Files(self.database, Blobs(Path(blobs.name)), FileTerms(most_bytes=MOST_FILE_BYTES)),
                skills=Skills(self.database, Blobs(Path(blobs.name))),
                session_resources=SessionResources(self.database, kinds, repositories),
                checkpoints=checkpoints,
                forks=Forks(self.database, checkpoints, snapshots, kinds, quotas, PLACEMENT),
                diffs=Diffs(self.database, checkpoints, snapshots),
                bundles=StoredBundles(exporter, importer),
                measures=measures,
                retention=retention,
                routing=RoutingReports(self.database, models, Prices(), SystemClock()),
                usage=UsageReports(self.database, Prices()),
                rate_limits=RateLimits(self.database, RateThrottle(self.database, RateTerms(), "api")),
                audit=audit,
                vaults=Vaults(self.database),
                credentials=Credentials(self.database, sealer, plain_http=True),
                credential_probe=CredentialProbe(self.database, sealer, self.broker, outgoing),
                webhooks=Webhooks(
                    self.database, sealer, sender, Courier(self.database, sealer, sender, ORGANIZATION), most=20
                ),
                **self._settings,
            )
            self.retention = services.retention
            app = create_app(services)

            async def counted(scope: Any, receive: Any, send: Any) -> None:
                if scope["type"] == "http":
                    self.requests.append((scope["method"], scope["path"]))
                await app(scope, receive, send)

            config = uvicorn.Config(
                counted,
                http=BoundedHttpProtocol,
                lifespan="off",
                log_config=None,
                timeout_graceful_shutdown=1,
            )
            server = uvicorn.Server(config)
            # Listening before uvicorn accepts: early callers wait in the backlog.
            # With the protocol named: asyncio only turns Nagle's delay off for sockets that say they are TCP.
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve(sockets=[listener]))
                self.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
                self._ready.set()
                await self._stop.wait()
                self.hub.close()
                await self.sessions.close()
                await self.broker.close()
                outgoing.close()
                server.should_exit = True
        finally:
            blobs.cleanup()
            await self.database.close()
