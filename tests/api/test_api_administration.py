"""Keys, workspaces, quotas and the audit, over HTTP."""

from __future__ import annotations

import json
import time
from typing import Any

import anthropic
import pytest
from apikit_raw import RawAnswer, send
from apikit_server import Access, RunningServer
from sqlalchemy import Connection

from hostler.api.throttle import Throttle
from hostler.domain.errors import Busy
from hostler.domain.principals import DEFAULT_WORKSPACE, Principal
from hostler.domain.quotas import CONTRACT, UNLIMITED, Quotas
from hostler.store.keys import create_key


def call(access: Access, verb: str, path: str, body: Any = None, key: str | None = None) -> RawAnswer:
    raw = None if verb == "GET" else b"" if body is None else json.dumps(body).encode()
    return send(access.base_url, verb, f"/hostler/v1{path}", key=key or access.key, body=raw)


def ok(answer: RawAnswer) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


@pytest.fixture
def installer(server: RunningServer) -> Access:
    """An admin key of the default workspace."""

    def make(conn: Connection) -> str:
        return create_key(conn, server.database.now(conn), DEFAULT_WORKSPACE, "installer")[1]

    return Access(server.base_url, DEFAULT_WORKSPACE, server.write(make))


# ------------------------------------------------------------------------------------------------------------ keys


def test_key_is_made_used_listed_and_revoked(access: Access) -> None:
    made = ok(call(access, "POST", "/keys", {"name": "ci"}))
    secret = made.pop("secret")
    assert made["type"] == "api_key"
    assert made["scopes"] == ["admin", "operate", "read"]
    assert made["workspace_id"] == access.workspace
    assert made["expires_at"] is None
    assert secret.endswith(made["hint"])
    assert send(access.base_url, "GET", "/v1/agents", key=secret).status == 200
    listed = ok(call(access, "GET", "/keys"))["data"]
    assert [row["name"] for row in listed] == ["ci", "test"]
    assert secret not in json.dumps(listed)
    assert ok(call(access, "GET", f"/keys/{made['id']}"))["last_used_at"] is not None
    revoked = ok(call(access, "POST", f"/keys/{made['id']}/revoke"))
    assert revoked["revoked_at"] is not None
    assert ok(call(access, "POST", f"/keys/{made['id']}/revoke"))["revoked_at"] == revoked["revoked_at"]
    error = until_refused(access, secret)
    assert "was revoked" in error["message"]


def until_refused(access: Access, secret: str) -> dict[str, Any]:
    """A server remembers a key for a second. The error, once it looks again."""
    deadline, asked = time.monotonic() + 3, 0.0
    while (answer := send(access.base_url, "GET", "/v1/agents", key=secret)).status != 401:
        assert asked < deadline
        asked = time.monotonic()
    assert answer.error["type"] == "authentication_error"
    return answer.error


def test_expired_key_is_refused_with_the_reason(access: Access) -> None:
    made = ok(call(access, "POST", "/keys", {"name": "short", "expires_in_seconds": 1, "scopes": ["read"]}))
    assert made["expires_at"] > made["created_at"]
    assert "expired at" in until_refused(access, made["secret"])["message"]
    with anthropic.Anthropic(base_url=access.base_url, api_key=made["secret"], max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError, match="expired"):
            client.beta.agents.list()


@pytest.mark.parametrize(
    ("scopes", "held"),
    [(["read"], ["read"]), (["operate"], ["operate", "read"]), (["admin"], ["admin", "operate", "read"])],
)
def test_scopes_include_those_below(access: Access, scopes: list[str], held: list[str]) -> None:
    made = ok(call(access, "POST", "/keys", {"name": "k", "scopes": scopes}))
    assert made["scopes"] == held
    agent = send(
        access.base_url, "POST", "/v1/agents", key=made["secret"], body=b'{"name":"n","model":"claude-opus-5-5"}'
    )
    assert agent.status == (403 if held == ["read"] else 200)
    assert call(access, "POST", "/keys", {"name": "more"}, key=made["secret"]).status == (
        200 if "admin" in held else 403
    )
    assert call(access, "GET", "/keys", key=made["secret"]).status == 200


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "name: is required"),
        ({"name": " "}, "name: must not be blank"),
        ({"name": "k\x00"}, "NUL"),
        ({"name": "k", "scopes": []}, "scopes: must have at least 1"),
        ({"name": "k", "scopes": ["root"]}, "scopes[0]: must be"),
        ({"name": "k", "expires_in_seconds": 0}, "expires_in_seconds: must be at least 1"),
        ({"name": "k", "expires_in_seconds": "1"}, "expires_in_seconds: must be an integer"),
        ({"name": "k", "secret": "mine"}, "secret: is not a field"),
    ],
)
def test_wrong_keys_are_refused_with_advice(access: Access, body: Any, says: str) -> None:
    answer = call(access, "POST", "/keys", body)
    assert answer.status == 400
    assert says in answer.error["message"]


def test_keys_come_in_pages(access: Access) -> None:
    for number in range(4):
        ok(call(access, "POST", "/keys", {"name": f"k{number}"}))
    names, page = [], ""
    while page is not None:
        answer = ok(call(access, "GET", f"/keys?limit=2&page={page}"))
        names += [row["name"] for row in answer["data"]]
        page = answer["next_page"]
    assert names == ["k3", "k2", "k1", "k0", "test"]
    assert call(access, "GET", "/keys?limit=101").status == 400
    assert call(access, "GET", "/keys?page=x").status == 400


# ------------------------------------------------------------------------------------------------------ workspaces


def test_workspace_is_made_renamed_and_archived_by_the_installations_admin(installer: Access) -> None:
    made = ok(call(installer, "POST", "/workspaces", {"name": "team"}))
    assert made["type"] == "workspace"
    key = ok(call(installer, "POST", "/keys", {"name": "k", "workspace_id": made["id"]}))
    assert key["workspace_id"] == made["id"]
    own = Access(installer.base_url, made["id"], key["secret"])
    assert ok(call(own, "POST", f"/workspaces/{made['id']}", {"name": "new name"}))["name"] == "new name"
    assert [row["id"] for row in ok(call(own, "GET", "/workspaces"))["data"]] == [made["id"]]
    assert made["id"] in [row["id"] for row in ok(call(installer, "GET", "/workspaces?limit=100"))["data"]]
    archived = ok(call(installer, "POST", f"/workspaces/{made['id']}/archive"))
    assert archived["archived_at"] is not None
    assert ok(call(installer, "POST", f"/workspaces/{made['id']}/archive")) == archived
    assert "workspace" in until_refused(own, own.key)["message"]
    assert made["id"] not in [row["id"] for row in ok(call(installer, "GET", "/workspaces?limit=100"))["data"]]
    late = call(installer, "POST", "/keys", {"name": "k", "workspace_id": made["id"]})
    assert (late.status, "archived" in late.error["message"]) == (400, True)


def test_default_workspace_can_not_be_archived(installer: Access) -> None:
    assert call(installer, "POST", f"/workspaces/{DEFAULT_WORKSPACE}/archive").status == 400


def test_workspace_with_a_running_session_can_not_be_archived(server: RunningServer, installer: Access) -> None:
    from hostler.store.tables import sessions

    workspace, key = server.new_workspace()
    own = Access(server.base_url, workspace, key)
    with own.client() as client:
        agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
        environment = client.beta.environments.create(name="e")

    def run(conn: Connection) -> None:
        from hostler.store.sessions import NewSession, create_session

        parts = {"agent": {}, "environment": {}, "state": "{}", "thread_id": "sthr_1", "status": "running"}
        new = NewSession(id=f"sesn_{workspace}", workspace_id=workspace, agent_id=agent.id, agent_version=1,
                         environment_id=environment.id, **parts)  # type: ignore[arg-type]  # fmt: skip
        create_session(conn, server.database.now(conn), new)

    server.write(run)
    answer = call(installer, "POST", f"/workspaces/{workspace}/archive")
    assert (answer.status, "running" in answer.error["message"]) == (400, True)
    idle = sessions.update().where(sessions.c.workspace_id == workspace).values(status="idle")
    server.write(lambda conn: conn.execute(idle))
    ok(call(installer, "POST", f"/workspaces/{workspace}/archive"))


def test_admin_of_another_workspace_administers_only_that_one(access: Access, installer: Access) -> None:
    assert call(access, "POST", "/workspaces", {"name": "mine"}).status == 403
    assert call(access, "POST", f"/workspaces/{access.workspace}/archive").status == 403
    assert call(access, "POST", f"/workspaces/{access.workspace}/quotas", {"live_sessions": 0}).status == 403
    for path in (f"/workspaces/{DEFAULT_WORKSPACE}", f"/workspaces/{DEFAULT_WORKSPACE}/quotas"):
        assert call(access, "GET", path).status == 404
    assert call(access, "GET", f"/keys?workspace_id={DEFAULT_WORKSPACE}").status == 404
    reader = ok(call(installer, "POST", "/keys", {"name": "r", "scopes": ["read"]}))["secret"]
    assert [row["id"] for row in ok(call(installer, "GET", "/workspaces", key=reader))["data"]] == [DEFAULT_WORKSPACE]
    assert call(installer, "GET", f"/workspaces/{access.workspace}", key=reader).status == 404


# ---------------------------------------------------------------------------------------------------------- quotas


def test_quotas_are_the_servers_until_a_workspace_has_its_own(access: Access, installer: Access) -> None:
    path = f"/workspaces/{access.workspace}/quotas"
    assert ok(call(access, "GET", path))["limits"] == UNLIMITED
    assert ok(call(access, "GET", path))["overrides"] == {}
    ok(call(installer, "POST", path, {"live_sessions": 3, "storage_bytes": 10}))
    after = ok(call(installer, "POST", path, {"storage_bytes": None, "sessions_per_day": 0}))
    assert after["overrides"] == {"live_sessions": 3, "sessions_per_day": 0}
    assert after["limits"] == {**UNLIMITED, "live_sessions": 3}
    assert after["used"] == {"sessions_per_day": 0, "live_sessions": 0, "storage_bytes": 0}
    for wrong in ({"live_sessions": -1}, {"live_sessions": "1"}, {"live_session": 1}, {"live_sessions": 2**60}):
        assert call(installer, "POST", path, wrong).status == 400
    assert call(installer, "POST", "/workspaces/wrkspc_none/quotas", {"live_sessions": 1}).status == 404


def test_too_many_requests_are_429_with_small_waits(access: Access, installer: Access) -> None:
    ok(call(installer, "POST", f"/workspaces/{access.workspace}/quotas", {"create_requests_per_minute": 600}))
    body = b'{"name":"n"}'
    deadline = time.monotonic() + 60
    while (answer := send(access.base_url, "POST", "/v1/agents", key=access.key, body=body)).status != 429:
        assert (answer.status, time.monotonic() < deadline) == (400, True)
    assert answer.error["type"] == "rate_limit_error"
    assert answer.headers["retry-after"] == "1"
    assert 0 < int(answer.headers["retry-after-ms"]) <= 100
    # Reading has a bucket of its own, and another workspace has its own too.
    assert send(access.base_url, "GET", "/v1/agents", key=access.key).status == 200
    assert send(installer.base_url, "POST", "/v1/agents", key=installer.key, body=body).status == 400
    with access.client(max_retries=8) as client:
        assert client.beta.agents.create(name="n", model="claude-opus-5-5").name == "n"


def test_client_raises_rate_limit_error(access: Access, installer: Access) -> None:
    ok(call(installer, "POST", f"/workspaces/{access.workspace}/quotas", {"read_requests_per_minute": 1}))
    with access.client() as client:
        client.beta.agents.list()
        with pytest.raises(anthropic.RateLimitError) as caught:
            client.beta.agents.list()
        assert int(caught.value.response.headers["retry-after"]) <= 30
        assert caught.value.response.headers["anthropic-workspace-id"] == access.workspace


class Hand:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_bucket_holds_a_minute_and_fills_evenly() -> None:
    clock = Hand()
    limits: Quotas = CONTRACT

    async def limits_of(workspace: str) -> Quotas:
        return limits

    throttle = Throttle(limits_of, clock=clock)
    key = Principal("api_key", "apikey_1", "wrkspc_1")
    for _ in range(300):
        await throttle.admit(key, "POST")
    for verb in ("POST", "DELETE", "PUT"):
        with pytest.raises(Busy) as caught:
            await throttle.admit(key, verb)
        assert caught.value.retry_after_seconds == pytest.approx(0.2)
    await throttle.admit(key, "GET")
    worker = Principal("session_token", "sesn_1", "wrkspc_1", session_id="sesn_1")
    await throttle.admit(worker, "POST")
    with pytest.raises(Busy):
        await throttle.admit(Principal("api_key", "apikey_2", "wrkspc_1"), "POST")
    clock.now += 0.2
    await throttle.admit(key, "POST")
    with pytest.raises(Busy):
        await throttle.admit(key, "POST")
    clock.now += 3600
    for _ in range(300):
        await throttle.admit(key, "POST")
    with pytest.raises(Busy):
        await throttle.admit(key, "POST")
    limits = UNLIMITED
    clock.now += 1.0
    for _ in range(1_000):
        await throttle.admit(key, "POST")


# ----------------------------------------------------------------------------------------------------------- audit


def test_acts_are_in_the_audit_with_who_what_and_on_which(access: Access, installer: Access) -> None:
    me = ok(call(access, "GET", "/keys"))["data"][0]["id"]
    made = ok(call(access, "POST", "/keys", {"name": "ci", "scopes": ["read"]}))
    ok(call(access, "POST", f"/keys/{made['id']}/revoke"))
    ok(call(access, "POST", f"/keys/{made['id']}/revoke"))
    ok(call(access, "POST", f"/workspaces/{access.workspace}", {"name": "new"}))
    ok(call(installer, "POST", f"/workspaces/{access.workspace}/quotas", {"live_sessions": 2}))
    assert call(access, "POST", "/keys", {"name": ""}).status == 400
    rows = ok(call(access, "GET", "/audit"))["data"]
    assert [row["act"] for row in rows] == ["quotas.set", "workspace.rename", "key.revoke", "key.create"]
    created = rows[-1]
    assert created["actor"] == {"type": "api_key", "id": me}
    assert created["target_id"] == made["id"]
    assert created["workspace_id"] == access.workspace
    assert created["details"] == {"name": "ci", "scopes": ["read"], "expires_at": None}
    assert rows[0]["actor"]["id"] != me
    assert rows[0]["details"] == {"overrides": {"live_sessions": 2}, "before": {}}
    assert made["secret"] not in json.dumps(rows)
    # Filters and pages.
    for query in ("act=key.create", f"target_id={made['id']}&limit=1", f"actor_id={me}&limit=2"):
        found = ok(call(access, "GET", f"/audit?{query}"))["data"]
        assert found
        assert all(row["target_id"] in (made["id"], access.workspace) for row in found)
    assert ok(call(access, "GET", "/audit?created_at[gte]=2999-01-01T00:00:00Z"))["data"] == []
    first = ok(call(access, "GET", "/audit?limit=3"))
    second = ok(call(access, "GET", f"/audit?limit=3&page={first['next_page']}"))
    assert [row["id"] for row in (*first["data"], *second["data"])] == [row["id"] for row in rows]
    assert second["next_page"] is None
    assert ok(call(installer, "GET", f"/audit?workspace_id={access.workspace}"))["data"] == rows
    assert call(access, "GET", "/audit?who=me").status == 400


def test_health_says_how_it_stands_and_no_secrets(access: Access) -> None:
    health = ok(call(access, "GET", "/health"))
    assert (health["status"], health["reasons"], health["database"]["ok"]) == ("ok", [], True)
    said = {"type", "status", "reasons", "database", "sandbox", "rungs", "worker", "spares", "guards"}
    assert set(health) == said | {"upstreams", "traces"}
    assert send(access.base_url, "GET", "/hostler/v1/health").status == 401


def test_own_endpoints_answer_in_the_envelope(access: Access) -> None:
    for verb, path, status in (("GET", "/nowhere", 404), ("DELETE", "/keys", 405), ("GET", "/keys/apikey_none", 404)):
        answer = call(access, verb, path)
        assert answer.status == status
        assert answer.error
        assert answer.headers["anthropic-workspace-id"] == access.workspace
