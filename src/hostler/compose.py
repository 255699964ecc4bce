"""How are the parts put together, started and stopped? The composition root: settings in, a running Hostler out.

Order of start: lock, store, sweep of an earlier life, roads, worker, API. Order of stop: the reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import hashlib
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import Connection

from hostler.api.app import create_app
from hostler.api.connections import BoundedHttpProtocol
from hostler.api.services import LOOPBACK_HOSTS, ApiServices
from hostler.config import Settings
from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.domain.prices import Prices, read_prices
from hostler.domain.quotas import PRESETS, Quotas
from hostler.egress.cloning import CloneLimits, GitCloner
from hostler.egress.outgoing import OutgoingClient
from hostler.egress.proxy import EgressProxy
from hostler.egress.webhooks import HttpWebhookSender, WebhookRules
from hostler.engine.administration import Administration
from hostler.engine.agents import Agents
from hostler.engine.attachments import Attachments
from hostler.engine.bearers import VaultBroker
from hostler.engine.budget import priced
from hostler.engine.content import FileContent
from hostler.engine.credentials import Credentials
from hostler.engine.egress_port import EgressDecision, McpCredentials
from hostler.engine.environment_keys import EnvironmentKeys
from hostler.engine.environments import Environments
from hostler.engine.files import Files, FileTerms
from hostler.engine.hub import Hub
from hostler.engine.keys import StoredKeys
from hostler.engine.memory import Ledger
from hostler.engine.memory_files import MemoryFiles
from hostler.engine.memory_resource import MemoryKind, memory_section
from hostler.engine.memory_stores import MemoryStores
from hostler.engine.models import CATALOGUE, Models, read_catalogue
from hostler.engine.mounted_files import FileKind, MountedFiles
from hostler.engine.mounted_skills import MountedSkills, skills_section
from hostler.engine.neighbours import Neighbours
from hostler.engine.outputs import OutputLimits, Outputs
from hostler.engine.oversight import Oversight
from hostler.engine.ports import ModelRequestRecord
from hostler.engine.probes import CredentialProbe
from hostler.engine.process import Homes, Surroundings, remove_tree
from hostler.engine.profile import Profile, TurnLimits, profile
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.reach import StoredReach
from hostler.engine.records import Records
from hostler.engine.repositories import Repositories, RepositoryKind
from hostler.engine.resources import ResourceKinds
from hostler.engine.runner import LeaseTerms, RunnerParts
from hostler.engine.sandbox_port import IsolationLabel, SandboxLimits
from hostler.engine.session_resources import SessionResources
from hostler.engine.sessions import Sessions
from hostler.engine.skills import Skills
from hostler.engine.vaults import Vaults
from hostler.engine.webhook_courier import Courier, CourierSettings
from hostler.engine.webhook_dispatcher import DispatcherSettings, WebhookDispatcher
from hostler.engine.webhooks import Webhooks
from hostler.engine.work_items import Terms
from hostler.engine.work_queue import WorkQueue
from hostler.engine.worker import Worker, WorkerSettings
from hostler.gateway.roads import ModelGateway
from hostler.gateway.upstream import Upstream
from hostler.harness.claude import ClaudeHarness
from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.sealing.envelope import EnvelopeSealer
from hostler.sealing.masterkeys import GivenKeys, KeyFile, KeyGuard, MasterKeys, parse_key
from hostler.store import eventlog, keys, ledger, work
from hostler.store import sessions as session_rows
from hostler.store.blobs import Blobs
from hostler.store.database import Database
from hostler.store.files import files_bytes
from hostler.store.memory_stores import memory_bytes
from hostler.store.sequences import load_sequence, save_sequence
from hostler.store.sessions import SessionRow
from hostler.store.skills import skill_bytes, used_archives
from hostler.store.transcripts import TranscriptStore
from hostler.store.webhooks import emit
from hostler.store.work import Lease
from hostler.store.work_items import session_of_work
from hostler.testing.rehearsal import RehearsalModel

log = logging.getLogger("hostler")


@dataclass(frozen=True, slots=True)
class Hostler:
    """A running server."""

    settings: Settings
    base_url: str
    database: Database
    label: IsolationLabel
    rehearsing: bool
    worker: Worker
    broker: VaultBroker
    hub: Hub
    swept: tuple[str, ...]
    """What was left of an earlier life and is gone now."""


# ------------------------------------------------------------------------------------------------------- the parts


def sandbox_provider(settings: Settings) -> BubblewrapProvider:
    box = settings.sandbox
    return BubblewrapProvider(settings.state_dir / "sandbox", uid_range=range(box.first_uid, box.first_uid + box.uids))


def homes(settings: Settings) -> Homes:
    """Sockets need short paths, so they are not in the state folder when that lies too deep."""
    sockets = settings.state_dir / "run"
    if len(str(sockets)) > 60:
        name = f"hostler-{hashlib.sha256(str(settings.state_dir).encode()).hexdigest()[:10]}"
        sockets = Path("/run" if os.access("/run", os.W_OK) else "/tmp") / name
    return Homes(settings.state_dir / "sessions", sockets)


def file_terms(settings: Settings) -> FileTerms:
    return FileTerms(
        most_bytes=settings.files.max_file_mb << 20, uploads_downloadable=settings.files.uploads_downloadable
    )


def output_limits(settings: Settings) -> OutputLimits:
    limits = settings.files
    return OutputLimits(
        files=limits.max_outputs, file_bytes=limits.max_file_mb << 20, total_bytes=limits.max_outputs_mb << 20
    )


def repository_cloner(settings: Settings) -> GitCloner:
    """Its users are those right behind the sandboxes' own."""
    first, limits = settings.sandbox.first_uid + settings.sandbox.uids, CloneLimits()
    return GitCloner(
        uids=range(first, first + limits.at_once),
        private_allowed=frozenset(settings.egress.private_allowed),
        limits=CloneLimits(settings.files.clone_seconds, settings.files.clone_mb << 20, limits.at_once),
    )


def profile_reader(settings: Settings) -> Callable[[SessionRow], Profile]:
    box, turns = settings.sandbox, settings.turns
    limits = SandboxLimits(memory_bytes=box.memory_mb << 20, cpus=box.cpus, pids=box.pids)

    def read(row: SessionRow) -> Profile:
        environment = row.environment
        return profile(
            row.agent,
            environment,
            idle_timeout_seconds=turns.idle_timeout_seconds,
            sandbox_limits=limits,
            turn_limits=TurnLimits(turns.max_turns, turns.turn_seconds),
            attached=row.resources_json + json.dumps(environment.get("skills") or []),
            told="\n\n".join(text for text in (memory_section(row.resources), skills_section(environment)) if text),
        )

    return read


def model_catalogue(settings: Settings) -> Models:
    """Raises InvalidRequest for a file that is not a catalogue."""
    return Models(read_catalogue(Path(settings.models.file).expanduser()) if settings.models.file else CATALOGUE)


def price_table(settings: Settings) -> Prices:
    """Raises InvalidRequest for a file that is not a price table."""
    return read_prices(Path(settings.prices.file).expanduser()) if settings.prices.file else Prices()


def quota_defaults(settings: Settings) -> Quotas:
    """The limits of a workspace that has none of its own: the preset's, where no number is set."""
    preset = PRESETS[settings.quotas.preset]
    return {name: getattr(settings.quotas, name) or preset[name] for name in preset}


class StoredSequence:
    """Held calls of one session, fenced by its lease. Implements `SequenceStore`."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    async def load(self) -> str | None:
        return await self._database.read(lambda c: load_sequence(c, self._lease.session_id))

    async def save(self, state: str) -> None:
        await self._database.write(
            lambda c: save_sequence(c, self._database.now(c), self._lease.session_id, state, lease=self._lease)
        )


class StoredDecisions:
    """Implements `EgressRecorder`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, decision: EgressDecision) -> None:
        await self._database.write(
            lambda c: ledger.record_egress(
                c,
                self._database.now(c),
                session_id=decision.session_id,
                method=decision.method,
                host=decision.host,
                port=decision.port,
                allowed=decision.allowed,
                reason=decision.reason,
            )
        )


def runner_ledger(database: Database, terms: LeaseTerms, prices: Prices) -> Ledger:
    async def extend(lease: Lease) -> bool:
        return await database.write(lambda c: work.extend(c, database.now(c), lease, ttl=terms.seconds))

    async def read_state(session_id: str) -> SessionRow:
        return await database.read(lambda c: session_rows.get_session(c, None, session_id))

    async def read_event(session_id: str, event_id: str) -> dict[str, Any] | None:
        found = await database.read(lambda c: eventlog.find_event(c, session_id, event_id))
        return None if found is None else json.loads(found.body)

    async def messages_since(session_id: str, event_id: str) -> int:
        return await database.read(lambda c: eventlog.count_since(c, session_id, event_id, "agent.message"))

    async def record_request(record: ModelRequestRecord) -> None:
        def unit(connection: Connection) -> Any:
            return ledger.record_model_request(
                connection,
                database.now(connection),
                session_id=record.session_id,
                model=record.model,
                status=record.status,
                usage=priced(prices, record.model, record.usage),
                stop_reason=record.stop_reason,
                duration_ms=record.duration_ms,
                first_byte_ms=record.first_byte_ms,
            )

        await database.write(unit)

    return Ledger(
        extend=extend,
        read_state=read_state,
        messages_since=messages_since,
        read_event=read_event,
        record_request=record_request,
        transcripts=lambda lease: TranscriptStore(database, session_id=lease.session_id, lease=lease),
        sequence=lambda lease: StoredSequence(database, lease),
    )


# ------------------------------------------------------------------------------------------------------- the store


async def open_database(settings: Settings) -> Database:
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    return await Database.open(settings.store_url, durable=settings.store.durable, pool_size=settings.store.pool_size)


async def create_key(database: Database, name: str) -> tuple[keys.KeyRow, str]:
    """A new API key of the default workspace. The secret is shown here and never again."""
    return await database.write(lambda c: keys.create_key(c, database.now(c), keys.DEFAULT_WORKSPACE, name))


async def has_key(database: Database) -> bool:
    now, rows = await database.read(lambda c: (database.now(c), keys.list_keys(c)))
    return any(row.valid(now) for row in rows)


# ----------------------------------------------------------------------------------------------------------- secrets


def master_keys(settings: Settings) -> MasterKeys:
    """Nothing is read or made before the first use. Raises InvalidRequest for settings that contradict each other."""
    chosen = settings.secrets
    if chosen.key.get_secret_value():
        if chosen.key_file or chosen.command:
            raise InvalidRequest("secrets.key: can't be used together with secrets.key_file or secrets.command")
        previous = [parse_key(key.get_secret_value(), "secrets.previous_keys") for key in chosen.previous_keys]
        return GivenKeys(parse_key(chosen.key.get_secret_value(), "secrets.key"), previous)
    if chosen.previous_keys:
        raise InvalidRequest("secrets.previous_keys: needs secrets.key; a key file keeps its older keys itself")
    path = Path(chosen.key_file) if chosen.key_file else settings.state_dir / "secrets" / "master-keys.json"
    return KeyFile(path.expanduser(), KeyGuard(chosen.command) if chosen.command else None)


def open_sealer(settings: Settings) -> EnvelopeSealer:
    return EnvelopeSealer(master_keys(settings))


def webhook_rules(settings: Settings) -> WebhookRules:
    wanted = settings.webhooks
    return WebhookRules(
        allow_http=wanted.allow_http,
        private_allowed=wanted.private_allowed,
        deadline_seconds=wanted.deadline_seconds,
    )


def webhook_lease_seconds(settings: Settings) -> float:
    """Longer than any attempt takes: a lease that ends in the middle of one has the same event sent again and again."""
    return settings.webhooks.deadline_seconds + 45.0


def courier_settings(settings: Settings) -> CourierSettings:
    return CourierSettings(settings.webhooks.retry_seconds, settings.webhooks.disable_after)


# ------------------------------------------------------------------------------------------------------- start, stop


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Two servers must not share a state folder: they would take each other's sandboxes for left-overs."""
    settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o711)
    with (settings.state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidRequest(
                f"another Hostler uses {settings.state_dir}; stop it, or choose another folder with --state-dir"
            ) from None
        yield


def worker_name(settings: Settings) -> str:
    """The name under which this state folder's worker holds leases: the same in its next life, and nobody else's."""
    if settings.worker.name:
        return settings.worker.name
    file = settings.state_dir / "worker-name"
    if not file.exists():
        file.write_text(new_id("worker"))
    return file.read_text().strip()


def is_loopback(host: str) -> bool:
    return host in LOOPBACK_HOSTS or host.startswith("127.")


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: the order of stopping is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def running(settings: Settings, *, mcp_credentials: McpCredentials | None = None) -> AsyncIterator[Hostler]:
    """A server that listens and works until the block is left. Leaving it ends every process.

    `mcp_credentials` holds the secrets for MCP servers; None: the vaults do.
    """
    with only_one(settings):
        async with contextlib.AsyncExitStack() as stack:
            database = await open_database(settings)
            stack.push_async_callback(database.close)
            if not is_loopback(settings.server.host) and not await has_key(database):
                raise InvalidRequest(
                    f"refusing to listen on {settings.server.host} without an API key; "
                    "make one first: hostler key create"
                )
            provider = sandbox_provider(settings)
            stack.callback(provider.close)
            label = await provider.probe()
            swept = tuple(await provider.sweep())
            places = homes(settings)
            remove_tree(places.sockets)
            places.sockets.mkdir(parents=True, mode=0o711)
            upstream = await _upstream(settings, stack)
            gateway = ModelGateway(upstream)
            stack.push_async_callback(gateway.close)
            blobs = Blobs(settings.state_dir / "blobs")
            storage = (lambda c, workspace: files_bytes(c, workspace, database.now(c)), memory_bytes, skill_bytes)
            quotas = WorkspaceQuotas(database, quota_defaults(settings), storage=storage)
            files = Files(database, blobs, file_terms(settings), quotas.admit_bytes, also_used=[used_archives])
            outputs = Outputs(database, blobs, output_limits(settings), quotas.admit_bytes)
            sealer = open_sealer(settings)
            cloner = repository_cloner(settings)
            stack.callback(cloner.close)
            repositories = RepositoryKind(sealer)
            kinds = ResourceKinds({"file": FileKind(), "github_repository": repositories, "memory_store": MemoryKind()})
            private_allowed = frozenset(settings.egress.private_allowed)
            outgoing = OutgoingClient(private_allowed=private_allowed)
            stack.callback(outgoing.close)
            broker = VaultBroker(database, sealer, outgoing, emit)
            stack.push_async_callback(broker.close)
            egress = EgressProxy(
                StoredDecisions(database),
                private_allowed=private_allowed,
                credentials=mcp_credentials or broker,
            )
            stack.push_async_callback(egress.close)
            sender = HttpWebhookSender(webhook_rules(settings))
            stack.callback(sender.close)
            owner = worker_name(settings)
            courier = Courier(database, sealer, sender, settings.organization_id, courier_settings(settings))
            dispatcher = WebhookDispatcher(
                owner, database, courier, DispatcherSettings(lease_seconds=webhook_lease_seconds(settings))
            )
            hub, models, prices = Hub(), model_catalogue(settings), price_table(settings)
            records = Records(database, hub)
            terms = LeaseTerms(settings.worker.lease_seconds, min(3.0, settings.worker.lease_seconds / 5))
            memory_files = MemoryFiles(database, quotas.admit_bytes)
            mounted_skills = MountedSkills(database, blobs, settings.state_dir / "skills")
            mounted_skills.clear()
            parts = RunnerParts(
                records=records,
                hub=hub,
                ledger=runner_ledger(database, terms, prices),
                around=Surroundings(
                    harness=ClaudeHarness(),
                    sandboxes=provider,
                    model_roads=gateway,
                    egress_roads=egress,
                    homes=places,
                    settings={"CLAUDE_CODE_MAX_RETRIES": str(settings.model.retries)},
                    allowed_models=models.helpers(),
                ),
                profile_of=profile_reader(settings),
                attachments=Attachments(
                    (
                        Repositories(database, cloner, sealer),
                        MountedFiles(database, blobs),
                        mounted_skills,
                        memory_files,
                        outputs,
                    )
                ),
                content=FileContent(database, blobs),
                terms=terms,
                interrupt_grace_seconds=settings.turns.interrupt_grace_seconds,
            )

            async def forget(session_id: str) -> None:
                await asyncio.to_thread(places.remove, session_id)

            worker = Worker(
                owner, database, hub, parts, forget, WorkerSettings(settings.worker.slots, settings.worker.poll_seconds)
            )
            await worker.release_own()
            neighbours = Neighbours(database, hub)
            services = ApiServices(
                organization_id=settings.organization_id,
                keys=StoredKeys(database),
                agents=Agents(database, models),
                environments=Environments(database),
                environment_keys=EnvironmentKeys(database),
                work_queue=WorkQueue(
                    database, hub, Terms(settings.queue.lease_seconds, settings.queue.release_idle_seconds)
                ),
                models=models,
                sessions=Sessions(database, hub, records, models, kinds, quotas, prices),
                files=files,
                skills=Skills(database, blobs, quotas.admit_bytes),
                session_resources=SessionResources(database, kinds, repositories),
                memory_stores=MemoryStores(database, admit=quotas.admit_bytes),
                administration=Administration(database, quotas),
                oversight=Oversight(database, label, worker.takes_sessions, neighbours.hears_others),
                quotas=quotas,
                reach=StoredReach(database, session_of_work),
                vaults=Vaults(database, emit),
                credentials=Credentials(database, sealer, plain_http=bool(private_allowed)),
                credential_probe=CredentialProbe(database, sealer, broker, outgoing),
                webhooks=Webhooks(
                    database,
                    sealer,
                    sender,
                    courier,
                    most=settings.webhooks.most_endpoints,
                    lease_seconds=webhook_lease_seconds(settings),
                ),
                allowed_hosts=LOOPBACK_HOSTS
                | {h.lower() for h in (settings.server.host, *settings.server.allowed_hosts)},
            )
            listener = _listen(settings)
            stack.callback(listener.close)
            server = _Server(
                uvicorn.Config(
                    create_app(services),
                    loop="none",
                    http=BoundedHttpProtocol,
                    log_config=None,
                    access_log=False,
                    server_header=False,
                    timeout_graceful_shutdown=2,
                    timeout_keep_alive=75,
                    lifespan="off",
                )
            )
            async with asyncio.TaskGroup() as tasks:
                working = tasks.create_task(worker.run())
                keeping = [
                    tasks.create_task(files.keep_swept()),
                    tasks.create_task(outputs.collect_left(places.kept)),
                    tasks.create_task(memory_files.collect_left(places.kept)),
                    tasks.create_task(mounted_skills.keep_swept()),
                    tasks.create_task(dispatcher.run()),
                    tasks.create_task(neighbours.run()),
                ]
                serving = tasks.create_task(server.serve(sockets=[listener]))
                gc.collect()
                gc.freeze()
                gc.set_threshold(50_000, 20, 100)
                host, port = listener.getsockname()[:2]
                base_url = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
                try:
                    yield Hostler(settings, base_url, database, label, settings.rehearsing, worker, broker, hub, swept)
                finally:
                    worker.drain()
                    hub.close()
                    server.should_exit = True
                    for task in (working, *keeping):
                        task.cancel()
                    await asyncio.wait([serving, working])


async def _upstream(settings: Settings, stack: contextlib.AsyncExitStack) -> Upstream:
    if not settings.rehearsing:
        return Upstream(settings.model.base_url, settings.upstream_key or "none", auth=settings.model.auth)
    rehearsal = await stack.enter_async_context(RehearsalModel())
    return Upstream(rehearsal.url, "rehearsal")


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # else asyncio leaves Nagle on
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InvalidRequest(
            f"can't listen on {host} port {port}: {error.strerror}; choose another with --port"
        ) from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener


async def until_signal(hostler: Hostler, draining: Callable[[int], None] | None = None) -> None:
    """Return on SIGINT or SIGTERM. Idle sessions are given back, running turns may finish; a second one cuts short.

    `draining` is told at the first one how many sessions have a process.
    """
    loop = asyncio.get_running_loop()
    first, second = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (second if first.is_set() else first).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    await first.wait()
    log.info("draining", extra={"sessions": hostler.worker.live()})
    if draining is not None:
        draining(hostler.worker.live())
    hostler.worker.drain()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(hostler.settings.worker.drain_seconds):
            while hostler.worker.live() and not second.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await second.wait()
