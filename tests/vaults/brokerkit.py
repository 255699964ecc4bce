"""What tests of the broker arrange with: one process's database, services and broker, with a key file they share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oauthkit import FakeProvider
from sqlalchemy import Connection

from hostler.domain.agents import CreateAgent
from hostler.domain.clock import rfc3339_of
from hostler.domain.environments import CreateEnvironment
from hostler.domain.ids import new_id
from hostler.domain.values import parse
from hostler.domain.vaults import CreateCredential, CreateVault, UpdateCredential
from hostler.egress.outgoing import OutgoingClient
from hostler.engine.agents import Agents
from hostler.engine.bearers import VaultBroker
from hostler.engine.credentials import Credentials
from hostler.engine.egress_port import Bearer
from hostler.engine.environments import Environments
from hostler.engine.models import CATALOGUE, Models
from hostler.engine.variables import VariableBroker
from hostler.engine.vaults import Vaults
from hostler.sealing.envelope import EnvelopeSealer
from hostler.sealing.masterkeys import KeyFile
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.sessions import NewSession, SessionRow, create_session
from hostler.testing.one_rung import PLACEMENT

WORKSPACE = DEFAULT_WORKSPACE
URL = "https://mcp.example.com/mcp"


@dataclass
class Skew:
    """The hand on the database's clock."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Heard:
    """Every event that was announced, with what it said."""

    events: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def __call__(self, conn: Connection, now: float, workspace: str, kind: str, data: Mapping[str, str]) -> None:
        self.events.append((workspace, kind, dict(data)))

    def of(self, kind: str) -> list[dict[str, str]]:
        return [data for _, name, data in self.events if name == kind]


@dataclass
class Bench:
    """One process."""

    database: Database
    keys: KeyFile
    sealer: EnvelopeSealer
    vaults: Vaults
    credentials: Credentials
    broker: VaultBroker
    variables: VariableBroker
    agents: Agents
    environments: Environments

    async def vault(self) -> str:
        made = await self.vaults.create(WORKSPACE, CreateVault(display_name="v"))
        found: str = made["id"]
        return found

    async def static(self, vault: str, token: str, url: str = URL) -> str:
        return await self.add(vault, {"type": "static_bearer", "mcp_server_url": url, "token": token})

    async def oauth(
        self, vault: str, provider: FakeProvider, *, lives: float | None = None, auth: Any = None, **refresh: Any
    ) -> str:
        """An OAuth credential for `URL` whose token is good for that many seconds; None: nobody knows."""
        body: dict[str, Any] = {
            "type": "mcp_oauth",
            "mcp_server_url": URL,
            "access_token": "canary-access-0",
            "refresh": {
                "client_id": "me",
                "refresh_token": provider.refresh_token,
                "token_endpoint": provider.token_url,
                "token_endpoint_auth": auth or {"type": "none"},
                **refresh,
            },
        }
        if lives is not None:
            body["expires_at"] = rfc3339_of(await self.now() + lives)
        return await self.add(vault, body)

    async def variable(self, vault: str, name: str = "TOKEN", value: str = "canary-value", **auth: Any) -> str:
        """A variable for every host, unless `auth` says otherwise."""
        body = {"type": "environment_variable", "secret_name": name, "secret_value": value}
        return await self.add(vault, {**body, "networking": {"type": "unrestricted"}, **auth})

    async def agent(self) -> str:
        model = {"name": "a", "model": "claude-opus-5-5"}
        found: str = (await self.agents.create(WORKSPACE, parse(CreateAgent, model)))["id"]
        return found

    async def session(self, *vaults: str, agent: str | None = None) -> SessionRow:
        agent = agent or await self.agent()
        session_id = new_id("sesn")
        made = await self.environments.create(WORKSPACE, parse(CreateEnvironment, {"name": session_id}))

        def unit(conn: Connection) -> SessionRow:
            new = NewSession(
                id=session_id,
                workspace_id=WORKSPACE,
                agent_id=agent,
                agent_version=1,
                environment_id=made["id"],
                thread_id=new_id("sthr"),
                agent={},
                environment={},
                state="{}",
                vault_ids=vaults,
            )
            return create_session(conn, self.database.now(conn), new)

        return await self.database.write(unit)

    async def add(self, vault: str, auth: Any) -> str:
        made = await self.credentials.create(WORKSPACE, vault, parse(CreateCredential, {"auth": auth}))
        found: str = made["id"]
        return found

    async def change(self, vault: str, credential: str, auth: Any) -> dict[str, Any]:
        patch = parse(UpdateCredential, {"auth": auth})
        return await self.credentials.update(WORKSPACE, vault, credential, patch)

    async def token(self, *vaults: str, url: str = URL, workspace: str = WORKSPACE) -> str | None:
        bearer = await self.bearer(*vaults, url=url, workspace=workspace)
        return None if bearer is None else bearer.token

    async def bearer(self, *vaults: str, url: str = URL, workspace: str = WORKSPACE) -> Bearer | None:
        return await self.broker.bearer_for(workspace, vaults, url)

    async def expiry(self, vault: str, credential: str) -> str | None:
        shown = await self.credentials.retrieve(WORKSPACE, vault, credential)
        found: str | None = shown["auth"].get("expires_at")
        return found

    async def now(self) -> float:
        return await self.database.read(self.database.now)


@asynccontextmanager
async def open_bench(url: str, key_file: Path, skew: Skew, heard: Heard) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        database = await Database.open(url, clock_skew=skew)
        stack.push_async_callback(database.close)
        outgoing = OutgoingClient(private_allowed=frozenset({"127.0.0.1"}))
        stack.callback(outgoing.close)
        keys = KeyFile(key_file)
        sealer = EnvelopeSealer(keys)
        broker = VaultBroker(database, sealer, outgoing, heard)
        stack.push_async_callback(broker.close)
        credentials = Credentials(database, sealer, heard, plain_http=True)
        variables = VariableBroker(database, sealer)
        stack.push_async_callback(variables.close)
        vaults, agents = Vaults(database, heard), Agents(database, Models(CATALOGUE))
        yield Bench(
            database, keys, sealer, vaults, credentials, broker, variables, agents, Environments(database, PLACEMENT)
        )
