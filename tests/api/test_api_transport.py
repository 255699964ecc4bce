"""What holds for every request: envelopes, ids, keys, limits, and nothing for web pages (E2, E3, E7)."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import anthropic
import pytest
from apikit_raw import RawAnswer, send
from apikit_server import ORGANIZATION, Access, RunningServer

from hostler.domain.errors import Busy
from hostler.store.keys import create_key, list_keys, revoke_key

AGENT = json.dumps({"name": "n", "model": "claude-opus-5-5"}).encode()


def test_bearer_and_x_api_key_both_open_the_workspace(access: Access) -> None:
    for headers in ({"authorization": f"Bearer {access.key}"}, {"x-api-key": access.key}):
        answer = send(access.base_url, "GET", "/v1/agents", headers=headers)
        assert (answer.status, answer.json) == (200, {"data": [], "next_page": None})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": "hk-wrong"},
        {"authorization": "Bearer hk-wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Basic aGs6aGs="},
        {"x-api-key": "\u00ff\u00fe"},
    ],
)
def test_without_a_known_key_every_path_is_401(access: Access, headers: dict[str, str]) -> None:
    for verb, path in (("GET", "/v1/agents"), ("POST", "/v1/sessions"), ("GET", "/v1/nowhere"), ("GET", "/v1/files")):
        answer = send(access.base_url, verb, path, headers=headers)
        assert answer.status == 401
        assert answer.error["type"] == "authentication_error"


def test_wrong_key_raises_the_clients_own_error_with_the_request_id(access: Access) -> None:
    with anthropic.Anthropic(base_url=access.base_url, api_key="hk-wrong", max_retries=0) as client:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            client.beta.agents.list()
    assert caught.value.request_id is not None
    assert caught.value.request_id.startswith("req_")


def test_two_different_keys_in_one_request_are_refused(access: Access, stranger: Access) -> None:
    headers = {"authorization": f"Bearer {access.key}", "x-api-key": stranger.key}
    assert send(access.base_url, "GET", "/v1/agents", headers=headers).status == 401


def test_revoked_key_stops_working_within_two_seconds(server: RunningServer, access: Access) -> None:
    def make(conn):  # type: ignore[no-untyped-def]
        return create_key(conn, server.database.now(conn), access.workspace, "soon gone")

    key, secret = server.write(make)
    assert send(access.base_url, "GET", "/v1/agents", key=secret).status == 200
    server.write(lambda conn: revoke_key(conn, server.database.now(conn), key.id))
    deadline, asked = time.monotonic() + 2.0, 0.0
    while send(access.base_url, "GET", "/v1/agents", key=secret).status != 401:
        assert asked < deadline, "asked after two seconds, and let in"
        asked = time.monotonic()


def test_use_of_a_key_is_noted(server: RunningServer, access: Access) -> None:
    assert send(access.base_url, "GET", "/v1/agents", key=access.key).status == 200
    (key,) = server.call(server.database.read(lambda conn: list_keys(conn, access.workspace)))
    assert key.last_used_at is not None


def test_other_workspaces_things_are_not_found(client: anthropic.Anthropic, stranger: Access) -> None:
    agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
    environment = client.beta.environments.create(name="e")
    session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
    with stranger.client() as other:
        theirs = other.beta.environments.create(name="e")
        mine = other.beta.agents.create(name="n", model="claude-opus-5-5")
        thread = next(iter(client.beta.sessions.threads.list(session.id))).id
        for attempt in (
            lambda: other.beta.agents.retrieve(agent.id),
            lambda: other.beta.agents.update(agent.id, name="x"),
            lambda: other.beta.agents.archive(agent.id),
            lambda: other.beta.agents.versions.list(agent.id),
            lambda: other.beta.environments.retrieve(environment.id),
            lambda: other.beta.environments.update(environment.id, name="x"),
            lambda: other.beta.environments.archive(environment.id),
            lambda: other.beta.environments.delete(environment.id),
            lambda: other.beta.sessions.create(agent=agent.id, environment_id=theirs.id),
            lambda: other.beta.sessions.create(agent=mine.id, environment_id=environment.id),
            lambda: other.beta.sessions.retrieve(session.id),
            lambda: other.beta.sessions.update(session.id, title="x"),
            lambda: other.beta.sessions.archive(session.id),
            lambda: other.beta.sessions.delete(session.id),
            lambda: other.beta.sessions.events.list(session.id),
            lambda: other.beta.sessions.events.send(session.id, events=[{"type": "user.interrupt"}]),
            lambda: other.beta.sessions.events.stream(session.id),
            lambda: other.beta.sessions.threads.list(session.id),
            lambda: other.beta.sessions.threads.retrieve(thread, session_id=session.id),
            lambda: other.beta.sessions.threads.archive(thread, session_id=session.id),
            lambda: other.beta.sessions.threads.events.list(thread, session_id=session.id),
            lambda: other.beta.sessions.threads.events.stream(thread, session_id=session.id),
        ):
            with pytest.raises(anthropic.NotFoundError):
                attempt()  # type: ignore[no-untyped-call]
    assert client.beta.agents.retrieve(agent.id).name == "n"


def test_workspace_header_must_match_the_key(access: Access, stranger: Access) -> None:
    with access.client() as client:
        assert list(client.beta.agents.list(workspace_id=access.workspace)) == []
        with pytest.raises(anthropic.PermissionDeniedError):
            client.beta.agents.list(workspace_id=stranger.workspace)


def test_ids_are_on_every_answer(access: Access) -> None:
    with access.client() as client:
        agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
        environment = client.beta.environments.create(name="e")
        session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
        with client.beta.sessions.events.stream(session.id) as stream:
            answers = [stream.response.headers]
    for verb, path in (("GET", "/v1/agents"), ("GET", "/v1/nowhere"), ("PUT", "/v1/agents"), ("GET", "/v1/files")):
        answers.append(send(access.base_url, verb, path, key=access.key).headers)  # type: ignore[arg-type]
    for headers in answers:
        assert headers["request-id"].startswith("req_")
        assert headers["anthropic-organization-id"] == ORGANIZATION
        assert headers["anthropic-workspace-id"] == access.workspace
    assert len({headers["request-id"] for headers in answers}) == len(answers)


@pytest.mark.parametrize(
    ("verb", "path", "body", "status", "kind"),
    [
        ("GET", "/v1/nowhere", None, 404, "not_found_error"),
        ("GET", "/", None, 404, "not_found_error"),
        ("GET", "/v1/agents/", None, 404, "not_found_error"),
        ("GET", "/v1/agents/agent_x", None, 404, "not_found_error"),
        ("GET", "/v1/agents/%00", None, 404, "not_found_error"),
        ("GET", "/v1/agents/" + "a" * 4000, None, 404, "not_found_error"),
        ("PUT", "/v1/agents", None, 405, "invalid_request_error"),
        ("DELETE", "/v1/agents/agent_x", None, 405, "invalid_request_error"),
        ("POST", "/v1/agents", b"{", 400, "invalid_request_error"),
        ("POST", "/v1/agents", b"[]", 400, "invalid_request_error"),
        ("POST", "/v1/agents", b"null", 400, "invalid_request_error"),
        ("POST", "/v1/agents", b'"\xff"', 400, "invalid_request_error"),
        ("POST", "/v1/agents", b'{"name": "\\ud800", "model": "m"}', 400, "invalid_request_error"),
        ("POST", "/v1/agents", b'{"name": NaN}', 400, "invalid_request_error"),
        ("POST", "/v1/agents", b'{"name": 1e999}', 400, "invalid_request_error"),
        ("POST", "/v1/agents", b'{"version": ' + b"9" * 5000 + b"}", 400, "invalid_request_error"),
        ("POST", "/v1/agents", b'{"a":' * 101 + b"1" + b"}" * 101, 400, "invalid_request_error"),
        ("POST", "/v1/agents", b"[" * 500_000, 400, "invalid_request_error"),
    ],
)
def test_every_failure_has_the_envelope(
    access: Access, verb: str, path: str, body: bytes | None, status: int, kind: str
) -> None:
    answer = send(access.base_url, verb, path, key=access.key, body=body)
    assert (answer.status, answer.error["type"]) == (status, kind)


def test_depth_of_one_hundred_is_still_read(access: Access) -> None:
    body = b'{"name":"n","model":"m","a":' + b"[" * 98 + b"]" * 98 + b"}"
    assert "is not a field" in send(access.base_url, "POST", "/v1/agents", key=access.key, body=body).error["message"]


def test_bodies_over_32_mib_are_413_announced_or_not(access: Access) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"name": "'
        for _ in range(33):
            yield b"x" * (1 << 20)

    for body in (b" " * ((32 << 20) + 1), chunks()):
        answer = send(access.base_url, "POST", "/v1/agents", key=access.key, body=body)
        assert (answer.status, answer.error["type"]) == (413, "request_too_large")


def test_a_bug_is_a_500_that_tells_nothing(server: RunningServer, access: Access) -> None:
    with server.failing_agents(RuntimeError("secret /etc/path")):
        answer = send(access.base_url, "GET", "/v1/agents/agent_1", key=access.key)
    assert (answer.status, answer.error["type"]) == (500, "api_error")
    assert "secret" not in answer.body.decode()


def test_busy_is_retried_and_then_succeeds(server: RunningServer, access: Access) -> None:
    with access.client(max_retries=2) as client:
        agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
        with server.failing_agents(*[Busy("full", retry_after_seconds=0.05)] * 2):
            before = len(server.requests)
            assert client.beta.agents.retrieve(agent.id).id == agent.id
    assert len(server.requests) - before == 3


def test_body_that_trickles_in_is_given_up(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hostler.api.body.READ_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", int(access.base_url.rpartition(":")[2])), timeout=60) as connection:
        head = f"POST /v1/agents HTTP/1.1\r\nhost: localhost\r\nx-api-key: {access.key}\r\ncontent-length: 9\r\n"
        connection.sendall(f"{head}content-type: application/json\r\n\r\n{{".encode())
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"timeout_error"' in received


@pytest.mark.endpoint("agents.archive")
def test_posts_without_a_body_are_accepted(access: Access) -> None:
    made = send(access.base_url, "POST", "/v1/agents", key=access.key, body=AGENT).json
    for headers in ({"content-type": "application/json"}, {"content-type": "text/plain"}, {}):
        answer = send(access.base_url, "POST", f"/v1/agents/{made['id']}/archive", key=access.key, headers=headers)
        assert answer.status == 200
    path = f"/v1/agents/{made['id']}/archive"
    assert send(access.base_url, "POST", path, key=access.key, body=b"{}").status == 200
    assert send(access.base_url, "POST", path, key=access.key, body=b'{"force":true}').status == 400


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_bodies_a_web_page_can_send_unasked_are_refused(access: Access, kind: str) -> None:
    answer = send(access.base_url, "POST", "/v1/agents", key=access.key, body=AGENT, headers={"content-type": kind})
    assert answer.status == 400
    assert "application/json" in answer.error["message"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1:1", "null", "http://localhost", "", "http://["]
)
def test_web_pages_of_other_origins_are_refused(access: Access, origin: str) -> None:
    for verb, body in (("GET", None), ("POST", AGENT), ("OPTIONS", None)):
        answer = send(access.base_url, verb, "/v1/agents", key=access.key, body=body, headers={"origin": origin})
        assert (answer.status, answer.error["type"]) == (403, "permission_error")
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_own_origin_is_let_through_and_cross_site_is_not(access: Access) -> None:
    answer = send(access.base_url, "GET", "/v1/agents", key=access.key, headers={"origin": access.base_url})
    assert answer.status == 200
    headers = {"sec-fetch-site": "cross-site"}
    assert send(access.base_url, "GET", "/v1/agents", key=access.key, headers=headers).status == 403


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8420", "127.0.0.1.evil.example", "localhost@evil.example", "0.0.0.0", ""]
)
def test_foreign_host_names_are_refused(access: Access, host: str) -> None:
    for path in ("/v1/agents", "/healthz"):
        assert send(access.base_url, "GET", path, key=access.key, headers={"host": host}).status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8420", "127.0.0.2"])
def test_loopback_names_are_answered(access: Access, host: str) -> None:
    assert send(access.base_url, "GET", "/v1/agents", key=access.key, headers={"host": host}).status == 200


def test_health_needs_no_key_and_tells_nothing(access: Access) -> None:
    answer = send(access.base_url, "GET", "/healthz")
    assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=-1", "limit=101", "limit=1000000", "limit=9" + "9" * 400, "limit=x", "limit=1e3", "limit=1.0",
        "limit=1&limit=2", "page=x", "page=" + "A" * 4000, "page=%00", "page=bnVsbA", "page=WzEsImFnZW50cyJd",
        "include_archived=1", "include_archived=True", "created_at[gte]=yesterday", "created_at[gte]=2026-01-02",
        "created_at[gt]=2026-01-02T00:00:00Z", "unknown=1", "created_at[gte]=%ff",
        "created_at[gte]=99999-01-01T00:00:00Z",
        "&".join(f"a{n}=1" for n in range(2000)),
    ],
)  # fmt: skip
def test_absurd_queries_are_400(access: Access, query: str) -> None:
    answer = send(access.base_url, "GET", f"/v1/agents?{query}", key=access.key)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    "query",
    [
        "statuses[]=idle&statuses[]=running",
        "statuses%5B%5D=idle&statuses%5B%5D=running",
        "statuses=idle&statuses=running",
        "statuses[0]=idle&statuses[1]=running",
        "created_at[gte]=2026-01-02T00:00:00%2B00:00",
        "created_at[gte]=2026-01-02T00:00:00+00:00",
        "created_at%5Bgt%5D=2026-01-02T00:00:00Z&beta=true&include_archived=true&order=asc",
        "limit=&page=",
    ],
)
def test_every_encoding_of_the_clients_is_understood(access: Access, query: str) -> None:
    assert send(access.base_url, "GET", f"/v1/sessions?{query}", key=access.key).status == 200


def test_array_values_are_really_read(access: Access) -> None:
    for query in ("statuses[]=idle&statuses[]=lazy", "statuses%5B%5D=lazy", "statuses=lazy"):
        answer = send(access.base_url, "GET", f"/v1/sessions?{query}", key=access.key)
        assert (answer.status, "lazy" in answer.error["message"]) == (400, True)


def test_page_tokens_do_not_cross_lists(client: anthropic.Anthropic, access: Access) -> None:
    for name in ("a", "b"):
        client.beta.agents.create(name=name, model="claude-opus-5-5")
        client.beta.environments.create(name=name)
    agents = client.beta.agents.list(limit=1).next_page
    environments = client.beta.environments.list(limit=1).next_page
    for path, token in (("agents", environments), ("environments", agents), ("sessions", agents)):
        answer = send(access.base_url, "GET", f"/v1/{path}?page={token}", key=access.key)
        assert answer.status == 400
        assert answer.error["message"].startswith("page:")
    late = f"/v1/agents?page={agents}&created_at[gte]=2999-01-01T00:00:00Z"
    assert "outside the created_at filter" in send(access.base_url, "GET", late, key=access.key).error["message"]


def test_a_request_under_way_when_the_server_stops_gets_the_envelope(tmp_path: Path) -> None:
    with RunningServer(f"sqlite:///{tmp_path / 'hostler.db'}") as running:
        _, key = running.new_workspace()
        connection = http.client.HTTPConnection(urlsplit(running.base_url).netloc, timeout=60)
        connection.putrequest("POST", "/v1/sessions")
        connection.putheader("authorization", f"Bearer {key}")
        connection.putheader("content-length", "100")
        connection.endheaders(b"{")  # and never the rest
        deadline = time.monotonic() + 30
        while ("POST", "/v1/sessions") not in running.requests:
            assert time.monotonic() < deadline
    answer = connection.getresponse()
    found = RawAnswer(answer.status, answer.headers, answer.read())
    connection.close()
    assert (found.status, found.error["type"]) == (503, "api_error")
    assert found.headers["x-should-retry"] == "false", "it may have been carried out"
