"""Event streams as bytes and as the official clients see them."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import anthropic
import pytest
from apikit_raw import send
from apikit_server import Access, RunningServer
from apikit_sessions import message

from hostler.domain.errors import Busy
from hostler.domain.sessions import Frame


@pytest.fixture
def session_id(client: anthropic.Anthropic) -> str:
    agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
    environment = client.beta.environments.create(name="e")
    return client.beta.sessions.create(agent=agent.id, environment_id=environment.id).id


@contextmanager
def reading(access: Access, session_id: str, query: str = "", **headers: str) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(access.base_url).netloc, timeout=60)
    sent = {"authorization": f"Bearer {access.key}"} | {name.replace("_", "-"): text for name, text in headers.items()}
    connection.request("GET", f"/v1/sessions/{session_id}/events/stream{query}", headers=sent)
    try:
        yield connection.getresponse()
    finally:
        connection.close()


def frame(response: http.client.HTTPResponse) -> list[str]:
    """The lines of the next frame."""
    lines = []
    while line := response.readline().decode().rstrip("\n"):
        lines.append(line)
    return lines


def test_headers_and_a_comment_come_at_once(access: Access, session_id: str) -> None:
    began = time.monotonic()
    with reading(access, session_id) as response:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert frame(response) == [": connected"]
        assert time.monotonic() - began < 10.0


def test_frames_carry_sequence_type_and_one_line_of_json(access: Access, session_id: str) -> None:
    with reading(access, session_id) as response, access.client() as client:
        frame(response)
        client.beta.sessions.events.send(session_id, events=[message("line one\nline two\u2028\r\n")])
        number, name, data = frame(response)
        assert (number, name) == ("id: 1", "event: user.message")
        assert json.loads(data.removeprefix("data: "))["content"][0]["text"] == "line one\nline two\u2028\r\n"


def test_official_client_reads_what_it_sends(client: anthropic.Anthropic, session_id: str) -> None:
    with client.beta.sessions.events.stream(session_id) as stream:
        sent = client.beta.sessions.events.send(session_id, events=[message("a"), message("b")])
        seen = [next(stream).to_dict(), next(stream).to_dict()]
    assert seen == [event.to_dict() for event in sent.data or []]


def test_replay_begins_behind_the_last_event_id(access: Access, client: anthropic.Anthropic, session_id: str) -> None:
    client.beta.sessions.events.send(session_id, events=[message(text) for text in "abc"])
    with reading(access, session_id, last_event_id="1") as response:
        frame(response)
        assert [frame(response)[0] for _ in "bc"] == ["id: 2", "id: 3"]
        client.beta.sessions.events.send(session_id, events=[message("d")])
        assert frame(response)[0] == "id: 4"
    for value in ("x", "-1", "1.5", "9" * 19, "\u0661".encode().decode("latin-1")):
        with reading(access, session_id, last_event_id=value) as response:
            assert response.status == 400


def test_previews_are_for_those_who_ask_and_have_no_sequence(access: Access, session_id: str) -> None:
    with reading(access, session_id, "?event_deltas[]=agent.message&event_deltas[]=agent.thinking") as response:
        assert [frame(response)[0] for _ in range(3)] == [": connected", "event: event_start", "event: event_start"]
    for query in ("?event_deltas[]=user.message", "?" + "event_deltas[]=agent.message&" * 101):
        path = f"/v1/sessions/{session_id}/events/stream{query}"
        assert send(access.base_url, "GET", path, key=access.key).status == 400


def test_deleted_session_ends_its_streams(client: anthropic.Anthropic, session_id: str) -> None:
    with client.beta.sessions.events.stream(session_id) as stream:
        thread = next(iter(client.beta.sessions.threads.list(session_id))).id
        with client.beta.sessions.threads.events.stream(thread, session_id=session_id) as of_thread:
            client.beta.sessions.delete(session_id)
            assert [event.type for event in stream] == ["session.deleted"]
            assert [event.type for event in of_thread] == ["session.deleted"]


@pytest.mark.parametrize(
    ("failure", "kind"), [(RuntimeError("secret"), "api_error"), (Busy("too slow"), "overloaded_error")]
)
def test_failure_in_the_middle_is_told_in_the_stream(
    server: RunningServer, client: anthropic.Anthropic, session_id: str, failure: Exception, kind: str
) -> None:
    with client.beta.sessions.events.stream(session_id) as stream:
        server.call(server.sessions.publish(session_id, failure))
        with pytest.raises(anthropic.APIStatusError) as caught:
            next(stream)
        assert caught.value.status_code == 200
        assert caught.value.body["error"]["type"] == kind  # type: ignore[index]
        assert caught.value.body["request_id"] == stream.response.headers["request-id"]  # type: ignore[index]
        assert "secret" not in str(caught.value)


def test_reader_that_hangs_up_is_forgotten_at_once(server: RunningServer, access: Access, session_id: str) -> None:
    with reading(access, session_id) as response:
        frame(response)
        (reader,) = server.call(server.sessions.readers(session_id))
    server.call(asyncio.wait_for(reader.closed.wait(), 30.0))
    assert server.call(server.sessions.readers(session_id)) == []


def test_unknown_session_is_404_before_any_stream(access: Access) -> None:
    path = "/v1/sessions/sesn_none/events/stream"
    assert send(access.base_url, "GET", path, key=access.key).error["type"] == "not_found_error"


# ------------------------------------------------------------------- silence and slowness, with a short patience


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    url = f"sqlite:///{tmp_path_factory.mktemp('streams') / 'hostler.db'}"
    with RunningServer(url, keep_alive_seconds=0.2, slow_reader_seconds=0.5) as running:
        yield running


def session_on(server: RunningServer) -> tuple[Access, str]:
    access = Access(server.base_url, *server.new_workspace())
    with access.client() as client:
        agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
        environment = client.beta.environments.create(name="e")
        return access, client.beta.sessions.create(agent=agent.id, environment_id=environment.id).id


def test_silence_is_filled_with_comments(impatient: RunningServer) -> None:
    access, session_id = session_on(impatient)
    with reading(access, session_id) as response:
        assert [frame(response) for _ in range(3)] == [[": connected"], [": keep-alive"], [": keep-alive"]]


def test_reader_that_takes_nothing_is_dropped(impatient: RunningServer) -> None:
    access, session_id = session_on(impatient)
    big = Frame("agent.message", json.dumps({"text": "x" * (1 << 20)}), 1)
    with reading(access, session_id) as response:
        frame(response)
        (reader,) = impatient.call(impatient.sessions.readers(session_id))
        for _ in range(32):
            impatient.call(impatient.sessions.publish(session_id, big))
        impatient.call(asyncio.wait_for(reader.closed.wait(), 30.0))
