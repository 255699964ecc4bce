"""How does a whole server start and stop?

Order of start: lock, store, sweep of an earlier life, roads, worker, API. Order of stop: the reverse.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hostler.api.app import create_app
from hostler.api.services import LOOPBACK_HOSTS, ApiServices
from hostler.compose.admission import guards, memory_use, wait_terms, worker_settings
from hostler.compose.attack_gate import AttackGate
from hostler.compose.attempts import harness_settings
from hostler.compose.audit import audit_log
from hostler.compose.authorities import own_authorities
from hostler.compose.bounds import retention_terms, session_limits, shown_limits
from hostler.compose.bundles import session_bundles
from hostler.compose.database import has_key, open_database
from hostler.compose.gateway import MakeDesk, open_desk, open_gateway
from hostler.compose.hibernation import home_copies, home_keeping
from hostler.compose.listening import api_server, is_loopback, listen
from hostler.compose.metrics import watch
from hostler.compose.objects import open_blobs, open_objects, snapshot_sweep, stored_snapshots
from hostler.compose.packages import layer_folder, package_layers
from hostler.compose.placement import open_placement
from hostler.compose.previews import preview_link, preview_listener
from hostler.compose.roads import egress_proxy
from hostler.compose.rooms import open_rooms
from hostler.compose.routing import operator_routing, routed_catalogue
from hostler.compose.sandboxes import (
    homes,
    profile_reader,
    repository_cloner,
    sandbox_provider,
    volume_trial,
    volumes,
)
from hostler.compose.secrets import open_sealer
from hostler.compose.spares import spare_sandboxes
from hostler.compose.state_folder import only_one, worker_name
from hostler.compose.stored import StoredDecisions, runner_ledger
from hostler.compose.telemetry import open_traces
from hostler.compose.terms import (
    archive_limits,
    courier_settings,
    file_terms,
    output_limits,
    price_table,
    quota_defaults,
    runtime_price,
    webhook_lease_seconds,
    webhook_rules,
)
from hostler.compose.upstreams import reaches_clouds
from hostler.config import Settings
from hostler.domain.clock import SystemClock
from hostler.domain.errors import InvalidRequest
from hostler.egress.injection import InjectingSecrets
from hostler.egress.outgoing import OutgoingClient
from hostler.egress.resolve import Resolver
from hostler.egress.trial import PolicyTrials
from hostler.egress.webhooks import HttpWebhookSender
from hostler.engine.administration import Administration
from hostler.engine.agents import Agents
from hostler.engine.archives import Archives
from hostler.engine.attachments import Attachments
from hostler.engine.bearers import VaultBroker
from hostler.engine.boundary import Boundary
from hostler.engine.budget_keeper import BudgetKeeper
from hostler.engine.budgets import Budgets
from hostler.engine.checkpoints import Checkpoints
from hostler.engine.compaction import CompactionCares
from hostler.engine.compaction_clock import CompactionClock
from hostler.engine.compactions import Compactions
from hostler.engine.content import FileContent
from hostler.engine.credentials import Credentials
from hostler.engine.denials import Allowing, Denials
from hostler.engine.diffs import Diffs
from hostler.engine.egress_port import McpCredentials
from hostler.engine.environment_keys import EnvironmentKeys
from hostler.engine.environments import Environments
from hostler.engine.files import Files
from hostler.engine.forks import Forks
from hostler.engine.homes import remove_tree
from hostler.engine.hub import Hub
from hostler.engine.keys import StoredKeys
from hostler.engine.measures import Measures
from hostler.engine.memory_files import MemoryFiles
from hostler.engine.memory_resource import MemoryKind
from hostler.engine.memory_stores import MemoryStores
from hostler.engine.mounted_files import FileKind, MountedFiles
from hostler.engine.mounted_skills import MountedSkills
from hostler.engine.neighbours import Neighbours
from hostler.engine.object_port import Objects
from hostler.engine.outputs import Outputs
from hostler.engine.oversight import Oversight
from hostler.engine.placement import Verified
from hostler.engine.places import Places
from hostler.engine.points import Points
from hostler.engine.policies import Policies
from hostler.engine.previews import Previews
from hostler.engine.probes import CredentialProbe
from hostler.engine.process import Surroundings
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.rate_limits import RateLimits
from hostler.engine.reach import StoredReach
from hostler.engine.reconciling import Reconciler
from hostler.engine.records import Records
from hostler.engine.repositories import Repositories, RepositoryKind
from hostler.engine.resources import ResourceKinds
from hostler.engine.retention import Retention
from hostler.engine.room_list import RoomList
from hostler.engine.routing_reports import RoutingReports
from hostler.engine.runner_parts import LeaseTerms, RunnerParts
from hostler.engine.sandbox_port import IsolationLabel
from hostler.engine.session_bounds import SessionBounds
from hostler.engine.session_resources import SessionResources
from hostler.engine.sessions import Sessions
from hostler.engine.skills import Skills
from hostler.engine.spares import Spares
from hostler.engine.usage_reports import UsageReports
from hostler.engine.variables import VariableBroker
from hostler.engine.vaults import Vaults
from hostler.engine.webhook_courier import Courier
from hostler.engine.webhook_dispatcher import DispatcherSettings, WebhookDispatcher
from hostler.engine.webhooks import Webhooks
from hostler.engine.work_items import Terms
from hostler.engine.work_queue import WorkQueue
from hostler.engine.worker import Worker
from hostler.harness.claude import ClaudeHarness
from hostler.previews.door import PreviewDoor
from hostler.sandbox.joining import make_haste
from hostler.store.checkpoints import needed_snapshots
from hostler.store.database import Database
from hostler.store.files import files_bytes
from hostler.store.memory_stores import memory_bytes
from hostler.store.skills import skill_bytes, used_archives
from hostler.store.webhooks import emit
from hostler.store.work_items import session_of_work


@dataclass(frozen=True, slots=True)
class Hostler:
    """A running server."""

    settings: Settings
    base_url: str
    database: Database
    label: IsolationLabel
    rehearsing: bool
    worker: Worker
    spares: Spares
    broker: VaultBroker
    hub: Hub
    reconciler: Reconciler
    swept: tuple[str, ...]
    """What was left of an earlier life and is gone now."""


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    mcp_credentials: McpCredentials | None = None,
    verified: Verified | None = None,
    resolver: Resolver | None = None,
    objects: Objects | None = None,
    desks: MakeDesk = open_desk,
) -> AsyncIterator[Hostler]:
    """A server that listens and works until the block is left. Leaving it ends every process.

    `mcp_credentials` holds the secrets for MCP servers; None: the vaults do. `verified` knows what the attack corpus
    has shown here; None: what `hostler doctor --attack` has kept. `resolver` turns the names that sessions ask for
    into addresses; None: the system does. `objects` keeps what must outlive every host; None: what is configured.
    `desks` says what the gateway asks around a request, and whom.
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
            objects = objects or await open_objects(settings)
            snapshots = stored_snapshots(settings, database, objects, held=(needed_snapshots,))
            trial = volume_trial(settings)
            provider = sandbox_provider(settings, trial)
            stack.callback(provider.close)
            label = await provider.probe()
            swept = list(await provider.sweep())
            kept_on, unmounted = await asyncio.to_thread(volumes, settings, trial)
            stack.callback(kept_on.close)
            swept += unmounted
            places = homes(settings, kept_on)
            remove_tree(places.sockets)
            places.sockets.mkdir(parents=True, mode=0o711)
            owner = worker_name(settings)
            traces = open_traces(settings, owner, stack)
            prices = price_table(settings)
            gateway = await open_gateway(settings, database, prices, traces, desks, stack)
            metrics = gateway.metrics
            blobs = open_blobs(settings, database, objects)
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
            denials = Denials()
            variables = VariableBroker(database, sealer)
            stack.push_async_callback(variables.close)
            decisions = StoredDecisions(database, denials, settings.sessions.max_egress_decisions)
            stack.push_async_callback(decisions.close)
            egress = egress_proxy(
                settings, traces.recording(decisions), mcp_credentials or broker, resolver, traces.intake
            )
            stack.push_async_callback(egress.close)
            trials = PolicyTrials(egress.policy)
            allowing = Allowing(trials)
            sender = HttpWebhookSender(webhook_rules(settings))
            stack.callback(sender.close)
            courier = Courier(database, sealer, sender, settings.organization_id, courier_settings(settings))
            dispatcher = WebhookDispatcher(
                owner, database, courier, DispatcherSettings(lease_seconds=webhook_lease_seconds(settings))
            )
            harness = ClaudeHarness(only_what_clouds_take=reaches_clouds(settings))
            gate = AttackGate(settings)
            placement = await open_placement(settings, provider, harness, verified or gate)
            layers = await stack.enter_async_context(package_layers(settings, places.sockets, resolver))
            swept += tuple(await asyncio.to_thread(layer_folder(settings).sweep))
            hub, models = Hub(), routed_catalogue(settings)
            records = Records(database, hub, metrics.happened, runtime_price(settings))
            reconciler = Reconciler(database, prices)
            budget_keeper = BudgetKeeper(database, records, gateway.purse)
            terms = LeaseTerms(settings.worker.lease_seconds, min(3.0, settings.worker.lease_seconds / 5))
            memory_files = MemoryFiles(database, quotas.admit_bytes)
            mounted_files = MountedFiles(database, blobs, settings.state_dir / "attached")
            mounted_skills = MountedSkills(database, blobs, settings.state_dir / "skills")
            mounted_skills.clear()
            bounds = SessionBounds(session_limits(settings))
            points = Points(records, snapshots, quotas.admit_bytes, bounds)
            checkpoints = Checkpoints(database, hub)
            copies = home_copies(settings, database, snapshots, places, mounted_files)
            rooms = await open_rooms(settings, owner, database, snapshots, places)
            archives = Archives(database, archive_limits(settings))
            clock = CompactionClock(database, records, look_seconds=settings.compaction.look_seconds)
            around = Surroundings(
                harness=harness,
                sandboxes=provider,
                model_roads=gateway.roads,
                egress_roads=egress,
                homes=places,
                settings={**harness_settings(settings), **(traces.environment or {})},
                allowed_models=models.helpers(),
                placement=placement,
                road_secrets=InjectingSecrets,
                layers=layers,
                authorities=own_authorities(settings),
                make_haste=make_haste,
            )
            attachments = Attachments(
                (
                    Repositories(database, cloner, sealer),
                    mounted_files,
                    mounted_skills,
                    memory_files,
                    outputs,
                )
            )
            memory = memory_use(settings)
            spares = spare_sandboxes(settings, database, around, attachments, copies, memory, lambda: worker.live())
            parts = RunnerParts(
                tracing=traces.tracing,
                boundary=Boundary(database, records, points),
                records=records,
                hub=hub,
                ledger=runner_ledger(database, terms, prices, gateway.purse, metrics.recorded),
                around=around,
                variables=variables,
                profile_of=profile_reader(settings),
                attachments=attachments,
                spares=spares,
                content=FileContent(database, blobs),
                snapshots=snapshots,
                denials=denials,
                allowing=allowing,
                copies=copies,
                rooms=rooms,
                compactions=CompactionCares(database, archives),
                reconciler=reconciler,
                terms=terms,
                background_seconds=settings.turns.background_seconds,
                health_seconds=settings.turns.health_seconds,
                interrupt_grace_seconds=settings.turns.interrupt_grace_seconds,
            )

            keep_homes = home_keeping(settings, owner, database, copies, places, parts.attachments, hub, terms)
            worker = Worker(
                owner,
                database,
                hub,
                parts,
                copies.forget,
                memory,
                worker_settings(settings),
                wait_terms(settings),
            )
            await worker.release_own()
            neighbours = Neighbours(database, hub)
            listener = listen(settings)
            stack.callback(listener.close)
            preview_socket = preview_listener(settings, listener)
            if preview_socket is not None:
                stack.callback(preview_socket.close)
            previews = Previews(database, preview_link(settings, preview_socket), worker.sandbox_of, parts.awake)
            door = PreviewDoor(previews)
            if preview_socket is not None:
                await door.open(preview_socket)
            stack.push_async_callback(door.close)
            watched = guards(settings)
            metrics.show_guards(watched)
            metrics.show("hostler_sessions_live", "Sessions that have a process on this server.", lambda: worker.live())
            metrics.show_all(
                "hostler_spares",
                "Started sandboxes for new sessions.",
                "state",
                {each: lambda each=each: spares.figures()[each] for each in ("waiting", "starting")},  # type: ignore[misc]
            )
            sessions = Sessions(database, hub, records, models, kinds, quotas, prices, placement, bounds)
            audit = audit_log(settings, database)
            measures = Measures(database, quotas, shown_limits(settings))
            retention = Retention(owner, database, sessions, measures, retention_terms(settings))
            services = ApiServices(
                tracing=traces.tracing,
                organization_id=settings.organization_id,
                keys=StoredKeys(database),
                agents=Agents(database, models),
                environments=Environments(database, placement),
                policies=Policies(database, trials),
                budgets=Budgets(database),
                compactions=Compactions(database, records, archives),
                archives=archives,
                previews=previews,
                rooms=RoomList(database),
                places=Places(database, worker.admission),
                rate_limits=RateLimits(database, gateway.throttle),
                guards=watched,
                watch_requests=metrics.answered,
                environment_keys=EnvironmentKeys(database),
                work_queue=WorkQueue(
                    database, hub, Terms(settings.queue.lease_seconds, settings.queue.release_idle_seconds)
                ),
                models=models,
                sessions=sessions,
                measures=measures,
                retention=retention,
                routing=RoutingReports(database, models, prices, SystemClock(), operator_routing(settings)),
                usage=UsageReports(database, prices, runtime_price(settings)),
                audit=audit,
                checkpoints=checkpoints,
                forks=Forks(database, checkpoints, snapshots, kinds, quotas, placement),
                bundles=session_bundles(
                    settings, database, checkpoints, snapshots, blobs, sealer, kinds, quotas, placement, models, prices
                ),
                diffs=Diffs(database, checkpoints, snapshots),
                files=files,
                skills=Skills(database, blobs, quotas.admit_bytes),
                session_resources=SessionResources(database, kinds, repositories),
                memory_stores=MemoryStores(database, admit=quotas.admit_bytes),
                administration=Administration(database, quotas),
                oversight=Oversight(
                    database,
                    label,
                    worker.takes_sessions,
                    neighbours.hears_others,
                    provider,
                    allowing,
                    spares.figures,
                    watched,
                    gateway.roads.health,
                    traces.figures,
                ),
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
            server = api_server(create_app(services))
            async with asyncio.TaskGroup() as tasks:
                working = tasks.create_task(worker.run())
                keeping = [
                    tasks.create_task(files.keep_swept()),
                    tasks.create_task(snapshot_sweep(settings, database, objects).keep_swept()),
                    tasks.create_task(keep_homes()),
                    tasks.create_task(mounted_skills.keep_swept()),
                    tasks.create_task(dispatcher.run()),
                    tasks.create_task(clock.run()),
                    tasks.create_task(budget_keeper.run()),
                    tasks.create_task(retention.run()),
                    tasks.create_task(audit.run()),
                    tasks.create_task(neighbours.run()),
                    tasks.create_task(gate.run()),
                    *([tasks.create_task(rooms.run())] if rooms is not None else ()),
                    tasks.create_task(spares.run()),
                    tasks.create_task(watched.watch()),
                    tasks.create_task(watch(settings, metrics, database, gateway.upstreams, reconciler)),
                ]
                await neighbours.begun()
                serving = tasks.create_task(server.serve(sockets=[listener]))
                gc.collect()
                gc.freeze()
                gc.set_threshold(50_000, 20, 100)
                host, port = listener.getsockname()[:2]
                base_url = f"http://{host if ':' not in host else f'[{host}]'}:{port}"
                try:
                    yield Hostler(
                        settings,
                        base_url,
                        database,
                        label,
                        settings.rehearsing,
                        worker,
                        spares,
                        broker,
                        hub,
                        reconciler,
                        tuple(swept),
                    )
                finally:
                    worker.drain()
                    hub.close()
                    server.should_exit = True
                    for task in (working, *keeping):
                        task.cancel()
                    await asyncio.wait([serving, working])
