"""Who may call what: every kind of credential, every scope, every endpoint.

The table here is written from the contract's words, and knows nothing of `hostler.api.access`. What an environment key
or a session's token is comes from the seam of `engine.keys.Keys`; everything behind it is real.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import anthropic
import pytest
from apikit_raw import send
from apikit_server import RunningServer
from fastapi import FastAPI
from sqlalchemy import Connection
from starlette.responses import PlainTextResponse

from hostler.api.access import RULES
from hostler.api.contract import CONTRACT, Endpoint
from hostler.api.own_contract import OWN_CONTRACT, OwnEndpoint
from hostler.api.routing import refuse_unguarded
from hostler.domain.prices import Prices
from hostler.domain.principals import Principal
from hostler.engine.hub import Hub
from hostler.engine.keys import Keys, StoredKeys
from hostler.engine.models import Models
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.reach import Reach, StoredReach
from hostler.engine.records import Records
from hostler.engine.resources import ResourceKinds
from hostler.engine.sessions import Sessions
from hostler.store.catalog import create_agent, create_environment
from hostler.store.keys import create_key, create_workspace
from hostler.store.sessions import NewSession, create_session
from hostler.testing.one_rung import PLACEMENT

# ------------------------------------------------------------------- the contract's words (section 1.2), as sets

NOT_FOR_API_KEYS = {"environments.work.list", "environments.work.poll", "environments.work.ack"}
SAME_SESSION_ENDPOINTS = {
    "sessions.retrieve",
    "sessions.events.list",
    "sessions.events.send",
    "sessions.events.stream",
    "sessions.threads.list",
    "sessions.threads.retrieve",
    "sessions.threads.events.list",
    "sessions.threads.events.stream",
}
SKILLS_READ = {
    "skills.list",
    "skills.retrieve",
    "skills.versions.list",
    "skills.versions.retrieve",
    "skills.versions.download",
}
OWN_WORK = {"environments.work.heartbeat", "environments.work.stop"}
FOR_ENVIRONMENT_KEYS = NOT_FOR_API_KEYS | OWN_WORK | {"environments.work.stats"} | SAME_SESSION_ENDPOINTS | SKILLS_READ
ATTACHED_STORES = {
    "memory_stores.retrieve",
    "memory_stores.memories.create",
    "memory_stores.memories.retrieve",
    "memory_stores.memories.update",
    "memory_stores.memories.list",
    "memory_stores.memories.delete",
}
FOR_SESSION_TOKENS = SAME_SESSION_ENDPOINTS | OWN_WORK | (SKILLS_READ - {"skills.list"}) | ATTACHED_STORES

ONLY_ASK = {"hostler.policy.test", "hostler.policy.suggest", "hostler.routing.explain", "hostler.routing.compare"}
"""Sent as POST because of their bodies; they change nothing."""
TAKE_ALL = {"hostler.sessions.bundle"}
"""They read, and need more than that: a whole session with its files can be run elsewhere."""
SCOPES: dict[str, Callable[[Any], bool]] = {
    "read": lambda row: (row.verb == "GET" and name_of(row) not in TAKE_ALL) or name_of(row) in ONLY_ASK,
    "operate": lambda row: (
        row.path.startswith(("/v1/", "/hostler/v1/sessions/")) or row.verb == "GET" or name_of(row) in ONLY_ASK
    ),
    "admin": lambda row: True,
}
ROWS: list[Endpoint | OwnEndpoint] = [*CONTRACT, *OWN_CONTRACT]


def name_of(row: Endpoint | OwnEndpoint) -> str:
    return row.method if isinstance(row, Endpoint) else row.route


# ------------------------------------------------------------------------------------------------- a server for it


class KeysAndWorkers:
    """The stored keys, and the secrets of workers that a test names."""

    def __init__(self, keys: StoredKeys) -> None:
        self._keys = keys
        self.workers: dict[str, Principal] = {}

    async def principal_of(self, secret: str) -> Principal | None:
        return self.workers.get(secret) or await self._keys.principal_of(secret)


class QuietSessions(Sessions):
    """The real sessions, with nobody who runs them."""

    async def close(self) -> None:
        self._hub.close()


class WorkersServer(RunningServer):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.work_items: dict[tuple[str, str, str], str] = {}

    def make_keys(self) -> Keys:
        self.keys = KeysAndWorkers(StoredKeys(self.database))
        return self.keys

    def make_reach(self) -> Reach:
        return StoredReach(self.database, lambda conn, *item: self.work_items.get(item))

    def make_sessions(self, models: Models, quotas: WorkspaceQuotas) -> Any:
        hub = Hub()
        return QuietSessions(
            self.database, hub, Records(self.database, hub), models, ResourceKinds({}), quotas, Prices(), PLACEMENT
        )


@dataclass
class Place:
    """A workspace with two environments, a session in each, keys of each scope, and a worker's two credentials."""

    server: WorkersServer
    workspace: str
    keys: dict[str, str] = field(default_factory=dict)
    environment_key: str = "hek-of-the-tests"
    token: str = "hst-of-the-tests"

    ids = {  # noqa: RUF012 - the same in every place
        "environment_id": "env_own",
        "session_id": "sesn_own",
        "thread_id": "sthr_own",
        "work_id": "work_own",
        "skill_id": "skill_own",
        "memory_store_id": "memstore_own",
    }
    foreign = {  # noqa: RUF012
        "environment_id": "env_other",
        "session_id": "sesn_other",
        "work_id": "work_other",
        "skill_id": "skill_other",
        "memory_store_id": "memstore_other",
    }

    def status(self, row: Endpoint | OwnEndpoint, secret: str, ids: dict[str, str]) -> int:
        """The status of the answer; an open stream is left alone after its headers."""
        path = re.sub(r"\{(\w+)\}", lambda part: ids.get(part[1], "x_1"), row.path)
        connection = http.client.HTTPConnection(urlsplit(self.server.base_url).netloc, timeout=60)
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        try:
            connection.request(row.verb, path, body=b"{}" if row.verb == "POST" else None, headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with WorkersServer(f"sqlite:///{tmp_path_factory.mktemp('access') / 'hostler.db'}") as server:

        def fill(conn: Connection) -> Place:
            now = server.database.now(conn)
            place = Place(server, create_workspace(conn, now, "w").id)
            for scope in ("read", "operate", "admin"):
                place.keys[scope] = create_key(conn, now, place.workspace, scope, scopes=[scope])[1]  # type: ignore[list-item]
            create_agent(conn, now, id="agent_1", workspace_id=place.workspace, name="A", body={})
            for name in ("own", "other", "sister"):
                environment = "env_other" if name == "other" else "env_own"
                if name != "sister":
                    create_environment(
                        conn, now, id=environment, workspace_id=place.workspace, name=environment, body={}
                    )
                store = {"type": "memory_store", "memory_store_id": f"memstore_{name}", "access": "read_write"}
                shut = {"type": "memory_store", "memory_store_id": "memstore_shut", "access": "read_only"}
                create_session(
                    conn,
                    now,
                    NewSession(
                        id=f"sesn_{name}",
                        workspace_id=place.workspace,
                        agent_id="agent_1",
                        agent_version=1,
                        environment_id=environment,
                        thread_id=f"sthr_{name}",
                        agent={"name": "A", "skills": [{"type": "custom", "skill_id": f"skill_{name}"}]},
                        environment={"config": {}},
                        state=f'{{"thread_id":"sthr_{name}","agent_name":"A"}}',
                        resources=[store, shut],
                    ),
                )
                server.work_items[place.workspace, environment, f"work_{name}"] = f"sesn_{name}"
            return place

        made = server.write(fill)
        server.keys.workers[made.environment_key] = Principal(
            "environment_key", "envkey_1", made.workspace, frozenset(), environment_id="env_own"
        )
        server.keys.workers[made.token] = Principal(
            "session_token",
            "sesn_own",
            made.workspace,
            frozenset(),
            environment_id="env_own",
            session_id="sesn_own",
        )
        yield made


# ---------------------------------------------------------------------------------------------------- the whole table


@pytest.mark.parametrize("scope", sorted(SCOPES))
@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_api_key_of_each_scope_opens_what_the_contract_says(
    place: Place, row: Endpoint | OwnEndpoint, scope: str
) -> None:
    may = SCOPES[scope](row) and name_of(row) not in NOT_FOR_API_KEYS
    # This workspace may not make others, or set quotas: said by the act, not by the table (see the administration).
    of_the_installation = {
        "hostler.workspaces.create",
        "hostler.workspaces.archive",
        "hostler.workspaces.quotas.update",
        "hostler.retention.update",
        "hostler.rate_limits.update",
    }
    answer = place.status(row, place.keys[scope], {})
    if may and name_of(row) in of_the_installation:
        assert answer in (400, 403, 404)
    else:
        assert (answer != 403) == may, answer


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_environment_key_opens_its_own_environments_work_and_sessions(
    place: Place, row: Endpoint | OwnEndpoint
) -> None:
    may = name_of(row) in FOR_ENVIRONMENT_KEYS
    answer = place.status(row, place.environment_key, place.ids)
    if not may:
        assert answer == 403
        return
    assert answer not in (401, 403)
    if row.path.startswith("/v1/sessions"):
        assert answer == 200 or row.verb == "POST"
        assert place.status(row, place.environment_key, {**place.ids, "session_id": "sesn_sister"}) != 403
    if not row.path.startswith("/v1/skills"):
        assert place.status(row, place.environment_key, {**place.ids, **place.foreign}) == 404


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_session_token_opens_its_own_session_and_what_belongs_to_it(place: Place, row: Endpoint | OwnEndpoint) -> None:
    may = name_of(row) in FOR_SESSION_TOKENS
    answer = place.status(row, place.token, place.ids)
    if not may:
        assert answer == 403
    else:
        assert answer not in (401, 403)
        assert place.status(row, place.token, {**place.ids, **place.foreign}) == 404
        if row.path.startswith("/v1/sessions"):
            # Not another session of its environment either.
            assert place.status(row, place.token, {"session_id": "sesn_sister", "thread_id": "sthr_sister"}) == 404


@pytest.mark.parametrize("row", [row for row in CONTRACT if row.method in ATTACHED_STORES], ids=name_of)
def test_read_only_store_is_read_only_for_the_token(place: Place, row: Endpoint) -> None:
    answer = place.status(row, place.token, {**place.ids, "memory_store_id": "memstore_shut"})
    assert (answer == 403) == (row.verb != "GET")


def test_ids_that_no_id_can_look_like_are_not_found(place: Place) -> None:
    for secret in (place.environment_key, place.token):
        for path in ("/v1/sessions/%00", "/v1/environments/%00/work/stats", "/v1/sessions/" + "a" * 3000):
            answer = send(place.server.base_url, "GET", path, key=secret)
            assert answer.status in (403, 404), path
            assert answer.status == 404 or "stats" in path


# --------------------------------------------------------------------------------------------------- default deny


def test_every_row_of_the_contract_has_exactly_one_rule() -> None:
    assert set(RULES) == {row.method for row in CONTRACT}


def test_route_without_a_rule_is_not_served() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_route("/v1/secrets", lambda request: PlainTextResponse("all of them"), methods=["GET"])
    with pytest.raises(TypeError, match="no rule"):
        refuse_unguarded(app.router.routes, {"/healthz"})
    refuse_unguarded(app.router.routes, {"/v1/secrets"})


def test_wrong_class_of_credential_raises_the_clients_permission_error(place: Place) -> None:
    with anthropic.Anthropic(base_url=place.server.base_url, api_key=place.environment_key, max_retries=0) as client:
        with pytest.raises(anthropic.PermissionDeniedError, match="API key"):
            client.beta.agents.list()
        assert client.beta.sessions.retrieve("sesn_own").id == "sesn_own"
        with pytest.raises(anthropic.NotFoundError):
            client.beta.sessions.retrieve("sesn_other")
    with anthropic.Anthropic(base_url=place.server.base_url, api_key=place.keys["read"], max_retries=0) as client:
        with pytest.raises(anthropic.PermissionDeniedError, match="`operate`"):
            client.beta.agents.create(name="n", model="claude-opus-5-5")
        with pytest.raises(anthropic.PermissionDeniedError, match="environment key"):
            client.beta.environments.work.list("env_own")
