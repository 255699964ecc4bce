"""What is kept, over HTTP: removed after a while, tried first, limited, and shown. On both databases."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from apikit_queue import QueueServer, _Sessions
from apikit_raw import RawAnswer, send
from apikit_server import PLACEMENT, Access
from sqlalchemy import Connection

from hostler.domain.prices import Prices
from hostler.domain.principals import DEFAULT_WORKSPACE
from hostler.engine.models import Models
from hostler.engine.profile import transcript_id
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.records import Records
from hostler.engine.resources import ResourceKinds
from hostler.engine.session_bounds import SessionBounds, SessionLimits
from hostler.store.keys import create_key
from hostler.store.transcripts import TranscriptStore
from hostler.testing.postgres import PostgresCluster

DAY = 86_400.0
HELLO: Any = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}


class KeptServer(QueueServer):
    """Sessions of few events; days pass when the test says so."""

    def make_sessions(self, models: Models, quotas: WorkspaceQuotas) -> Any:
        self.records = Records(self.database, self.hub)
        self.bounds = SessionBounds(SessionLimits(events=40))
        kinds = ResourceKinds({})
        return _Sessions(self.database, self.hub, self.records, models, kinds, quotas, Prices(), PLACEMENT, self.bounds)

    def works_off(self) -> None:
        """What a server does beside answering."""
        self.call(self.retention.look())


@pytest.fixture(scope="module", params=("sqlite", "postgresql"))
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptServer]:
    if request.param == "sqlite":
        with KeptServer(f"sqlite:///{tmp_path_factory.mktemp('kept') / 'hostler.db'}") as running:
            yield running
    else:
        with PostgresCluster() as cluster, KeptServer(cluster.create_database("kept")) as running:
            yield running


@pytest.fixture
def mine(kept: KeptServer) -> Iterator[Access]:
    yield Access(kept.base_url, *kept.new_workspace())
    kept.clock_skew = 0.0


@pytest.fixture
def installer(kept: KeptServer) -> Access:
    def make(conn: Connection) -> str:
        return create_key(conn, kept.database.now(conn), DEFAULT_WORKSPACE, "installer")[1]

    return Access(kept.base_url, DEFAULT_WORKSPACE, kept.write(make))


def call(access: Access, verb: str, path: str, body: Any = None) -> RawAnswer:
    raw = None if verb == "GET" else json.dumps({} if body is None else body).encode()
    return send(access.base_url, verb, f"/hostler/v1{path}", key=access.key, body=raw)


def ok(answer: RawAnswer) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def session(client: anthropic.Anthropic) -> str:
    agent = client.beta.agents.create(name="Coder", model="claude-opus-5-5").id
    environment = next(iter(client.beta.environments.list()), None) or client.beta.environments.create(name="e")
    return client.beta.sessions.create(agent=agent, environment_id=environment.id).id


def run(kept: KeptServer, access: Access, *, dry_run: bool) -> Any:
    asked = ok(call(access, "POST", "/retention/runs", {"dry_run": dry_run}))
    kept.works_off()
    done = ok(call(access, "GET", f"/retention/runs/{asked['id']}"))
    assert done["state"] == "completed", done
    return done


def figures(done: Any) -> Any:
    return [(one["policy"], one["items"], one["bytes"], one["oldest"], one["sample"]) for one in done["removed"]]


def test_sessions_go_when_they_were_archived_long_enough_ago(kept: KeptServer, mine: Access, installer: Access) -> None:
    wanted = {"workspace_id": mine.workspace, "archived_sessions": 30}
    shown = ok(call(installer, "POST", "/retention", wanted))
    assert {row["name"]: row["days"] for row in shown["policies"] if row["overridden"]} == {"archived_sessions": 30}
    with mine.client() as client:
        old, young, live = session(client), session(client), session(client)
        client.beta.sessions.archive(old)
        kept.clock_skew = 20 * DAY
        client.beta.sessions.archive(young)
        kept.clock_skew = 31 * DAY
        dry = run(kept, mine, dry_run=True)
        assert client.beta.sessions.retrieve(old).archived_at is not None
        assert dry["items"] == 1
        assert dry["removed"][0]["sample"] == [old]
        real = run(kept, mine, dry_run=False)
        assert figures(real) == figures(dry)
        with pytest.raises(anthropic.NotFoundError):
            client.beta.sessions.retrieve(old)
        assert client.beta.sessions.retrieve(young).archived_at is not None
        assert client.beta.sessions.retrieve(live).status == "idle"
    runs = ok(call(mine, "GET", "/retention/runs?limit=1"))
    assert [one["id"] for one in runs["data"]] == [real["id"]]
    assert [one["id"] for one in ok(call(mine, "GET", f"/retention/runs?page={runs['next_page']}"))["data"]] == [
        dry["id"]
    ]
    acts = [row["act"] for row in ok(call(mine, "GET", "/audit"))["data"]]
    assert [act for act in acts if act.startswith("retention.")] == ["retention.run", "retention.set"]
    assert acts.count("session.delete") == 1


def test_the_log_of_an_archived_session_goes_and_the_session_stays(
    kept: KeptServer, mine: Access, installer: Access
) -> None:
    ok(call(installer, "POST", "/retention", {"workspace_id": mine.workspace, "archived_logs": 5}))
    with mine.client() as client:
        id_ = session(client)
        client.beta.sessions.events.send(id_, events=[HELLO, {"type": "user.interrupt"}])
        kept.begins(id_)
        kept.ends(id_)
        client.beta.sessions.archive(id_)
        kept.clock_skew = 6 * DAY
        dry, real = run(kept, mine, dry_run=True), run(kept, mine, dry_run=False)
        assert figures(real) == figures(dry)
        assert real["bytes"] > 0
        assert client.beta.sessions.retrieve(id_).status == "terminated"
        assert list(client.beta.sessions.events.list(id_)) == []


@pytest.mark.parametrize(("days", "left"), [(None, True), (0, True), (1, False)])
def test_a_workspace_has_its_own_days_or_the_servers(
    kept: KeptServer, mine: Access, installer: Access, days: int | None, left: bool
) -> None:
    ok(call(installer, "POST", "/retention", {"workspace_id": mine.workspace, "archived_sessions": days}))
    with mine.client() as client:
        id_ = session(client)
        client.beta.sessions.archive(id_)
    kept.clock_skew = 2 * DAY
    assert run(kept, mine, dry_run=True)["items"] == (0 if left else 1)


def test_who_may_set_days_and_remove(kept: KeptServer, mine: Access, installer: Access) -> None:
    refused = call(mine, "POST", "/retention", {"previews": 1})
    assert refused.status == 403
    assert b"admin key of the default workspace" in refused.body

    def reader(conn: Connection) -> str:
        return create_key(conn, kept.database.now(conn), mine.workspace, "r", scopes=frozenset({"operate"}))[1]

    operator = Access(mine.base_url, mine.workspace, kept.write(reader))
    assert call(operator, "POST", "/retention/runs", {"dry_run": True}).status == 403
    assert call(operator, "GET", "/retention").status == 200
    for wrong in ({"previews": -1}, {"model_requests": 1}, {"previews": 1.5}, {"archived_sessions": 40_000}):
        answer = call(installer, "POST", "/retention", wrong)
        assert answer.status == 400, wrong


def test_a_second_run_is_refused_while_one_removes(kept: KeptServer, mine: Access) -> None:
    first = ok(call(mine, "POST", "/retention/runs", {}))
    assert first["state"] == "running"
    second = call(mine, "POST", "/retention/runs", {})
    assert second.status == 409
    assert first["id"].encode() in second.body
    assert ok(call(mine, "POST", "/retention/runs", {"dry_run": True}))["state"] == "running"
    kept.works_off()
    assert ok(call(mine, "GET", f"/retention/runs/{first['id']}"))["state"] == "completed"


def test_a_session_that_is_used_does_not_notice_a_run(kept: KeptServer, mine: Access, installer: Access) -> None:
    every = {"archived_sessions": 1, "archived_logs": 1, "archived_files": 1, "cut_entries": 1, "outputs": 1}
    ok(call(installer, "POST", "/retention", {"workspace_id": mine.workspace, **every}))
    with mine.client() as client:
        for _ in range(3):
            client.beta.sessions.archive(session(client))
        used = session(client)
        kept.clock_skew = 2 * DAY
        begun = threading.Event()

        def talk() -> None:
            with mine.client() as own:
                for _ in range(4):
                    own.beta.sessions.events.send(used, events=[HELLO])
                    kept.begins(used)
                    kept.ends(used)
                    begun.set()

        talking = threading.Thread(target=talk)
        talking.start()
        assert begun.wait(20)
        assert run(kept, mine, dry_run=False)["items"] == 3
        talking.join(20)
        assert not talking.is_alive()
        said = [event.type for event in client.beta.sessions.events.list(used)]
        assert said.count("user.message") == 4
        assert said.count("session.status_idle") == 4


def test_a_full_session_takes_no_more_messages_and_says_how_to_go_on(kept: KeptServer, mine: Access) -> None:
    with mine.client() as client:
        id_ = session(client)
        while len(list(client.beta.sessions.events.list(id_))) < 40:
            client.beta.sessions.events.send(id_, events=[HELLO])
            kept.begins(id_)
            kept.ends(id_)
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.beta.sessions.events.send(id_, events=[HELLO])
        error: Any = caught.value.body
        assert error["error"]["details"]["error_code"] == "session_full"
        assert "sessions.max_events" in error["error"]["message"]
        assert "in a new session" in error["error"]["message"]
        before = list(client.beta.sessions.events.list(id_))
        assert 40 <= len(before) < 50
        client.beta.sessions.events.send(id_, events=[{"type": "user.interrupt"}])
        assert client.beta.sessions.retrieve(id_).status == "idle"
        kept.bounds.limits = SessionLimits(events=1000)
        try:
            client.beta.sessions.events.send(id_, events=[HELLO])
        finally:
            kept.bounds.limits = SessionLimits(events=40)


@pytest.mark.parametrize(
    ("limits", "setting"),
    [(SessionLimits(log_bytes=100), "max_log_mb"), (SessionLimits(transcript_bytes=1), "max_transcript_mb")],
)
def test_bytes_fill_a_session_as_well(kept: KeptServer, mine: Access, limits: SessionLimits, setting: str) -> None:
    with mine.client() as client:
        id_ = session(client)
        client.beta.sessions.events.send(id_, events=[HELLO])
        kept.begins(id_)
        kept.ends(id_)
        store = TranscriptStore(kept.database, session_id=id_)
        key: Any = {"project_key": "p", "session_id": transcript_id(id_)}
        kept.call(store.append(key, [{"type": "user", "uuid": "u"}]))
        before = kept.bounds.limits
        kept.bounds.limits = limits
        try:
            with pytest.raises(anthropic.BadRequestError, match=setting):
                client.beta.sessions.events.send(id_, events=[HELLO])
        finally:
            kept.bounds.limits = before


def test_figures_are_of_the_workspace_and_say_when_they_were_taken(
    kept: KeptServer, mine: Access, installer: Access
) -> None:
    with mine.client() as client:
        id_ = session(client)
        client.beta.sessions.events.send(id_, events=[HELLO])
        kept.begins(id_)
        kept.ends(id_)
        bodies = list(client.beta.sessions.events.list(id_))
    shown = ok(call(mine, "GET", "/storage"))
    stores = {one["store"]: one for one in shown["stores"]}
    assert stores["sessions"]["rows"] == 1
    assert stores["events"]["rows"] == len(bodies)
    assert stores["events"]["bytes"] > 100 * len(bodies)
    assert stores["events"]["largest_session"] == id_
    assert shown["installation"] is None
    kept.clock_skew = 60.0
    with mine.client() as client:
        session(client)
    assert ok(call(mine, "GET", "/storage")) == shown, "taken before, and shown with that time"
    fresh = ok(call(mine, "GET", "/storage?fresh=true"))
    assert {one["store"]: one["rows"] for one in fresh["stores"]}["sessions"] == 2
    assert fresh["measured_at"] > shown["measured_at"]
    whole = ok(call(installer, "GET", f"/storage?workspace_id={mine.workspace}"))
    assert whole["stores"] == fresh["stores"]
    assert {one["store"]: one["rows"] for one in whole["installation"]["stores"]}["sessions"] >= 2
