"""A session's resources over HTTP: whose they are, how they are paged, and what can't be done with them."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from apikit_server import Access, RunningServer

from hostler.domain.ids import new_id
from hostler.store.sessions import NewSession, SessionUpdate, create_session, update_session_fields


@pytest.fixture
def session(server: RunningServer, access: Access, client: anthropic.Anthropic) -> str:
    """A session of the workspace, as the store has it."""
    agent = client.beta.agents.create(name="n", model="claude-opus-5-5")
    new = NewSession(
        id=new_id("sesn"),
        workspace_id=access.workspace,
        agent_id=agent.id,
        agent_version=1,
        environment_id=client.beta.environments.create(name="e").id,
        thread_id=new_id("sthr"),
        agent={},
        environment={"config": {"type": "cloud"}},
        state="{}",
    )
    server.write(lambda c: create_session(c, server.database.now(c), new))
    return new.id


def change(server: RunningServer, session: str, **fields: Any) -> None:
    server.write(lambda c: update_session_fields(c, server.database.now(c), None, session, SessionUpdate(**fields)))


def test_resources_are_listed_in_order_page_by_page(client: anthropic.Anthropic, session: str) -> None:
    uploaded = client.beta.files.upload(file=("a.txt", b"x")).id
    made = [
        client.beta.sessions.resources.add(session, type="file", file_id=uploaded, mount_path=f"/data/{n}")
        for n in range(5)
    ]
    assert [row.id for row in client.beta.sessions.resources.list(session, limit=2)] == [one.id for one in made]  # type: ignore[union-attr]
    whole = client.beta.sessions.resources.list(session)
    assert (len(whole.data), whole.next_page) == (5, None)
    shown = client.beta.sessions.resources.retrieve(made[3].id, session_id=session)
    assert shown.to_dict() == made[3].to_dict()
    scoped = client.beta.files.list(scope_id=session, limit=1000).data
    assert {file.id for file in scoped} == {one.file_id for one in made}
    assert all(file.scope is not None and file.scope.id == session for file in scoped)
    client.beta.sessions.resources.delete(made[0].id, session_id=session)
    assert {f.id for f in client.beta.files.list(scope_id=session)} == {one.file_id for one in made[1:]}


def test_session_and_files_of_others_do_not_exist(
    client: anthropic.Anthropic, session: str, stranger: Access, access: Access
) -> None:
    mine = client.beta.files.upload(file=("a.txt", b"x")).id
    added = client.beta.sessions.resources.add(session, type="file", file_id=mine)
    with stranger.client() as other:
        theirs = other.beta.files.upload(file=("a.txt", b"x")).id
        resources = other.beta.sessions.resources
        for call in (
            lambda: resources.list(session),
            lambda: resources.retrieve(added.id, session_id=session),
            lambda: resources.add(session, type="file", file_id=theirs),
            lambda: resources.update(added.id, session_id=session, authorization_token="t"),
            lambda: resources.delete(added.id, session_id=session),
        ):
            with pytest.raises(anthropic.NotFoundError):
                call()
        assert other.beta.files.list(scope_id=session).data == []
    with pytest.raises(anthropic.NotFoundError):
        client.beta.sessions.resources.add(session, type="file", file_id=theirs)
    assert len(client.beta.sessions.resources.list(session).data) == 1


def test_what_can_not_be_added_or_changed_says_why(
    client: anthropic.Anthropic, server: RunningServer, session: str
) -> None:
    uploaded = client.beta.files.upload(file=("a.txt", b"x")).id
    resources = client.beta.sessions.resources
    added = resources.add(session, type="file", file_id=uploaded, mount_path="/data/a")
    for fields, text in (
        ({"mount_path": "/data/a"}, "is used by another"),
        ({"mount_path": "/data/a/b"}, "lies inside"),
        ({"mount_path": "relative"}, "must be an absolute path"),
        ({"type": "memory_store"}, "only be attached when the session is created"),
        ({"type": "bucket"}, "type"),
        ({"extra": 1}, "extra: is not a field"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=text):
            resources.add(session, type="file", file_id=uploaded, extra_body=fields)
    with pytest.raises(anthropic.BadRequestError, match="only a github_repository has a token"):
        resources.update(added.id, session_id=session, authorization_token="t")
    with pytest.raises(anthropic.NotFoundError):
        resources.delete("sesrsc_none", session_id=session)
    change(server, session, resources=[{"type": "file", "mount_path": f"/data/{n}", "id": f"r{n}"} for n in range(500)])
    with pytest.raises(anthropic.BadRequestError, match="at most 500 files"):
        resources.add(session, type="file", file_id=uploaded)
    change(server, session, archived_at="2026-01-01T00:00:00.000000Z")
    with pytest.raises(anthropic.BadRequestError, match="is archived"):
        resources.add(session, type="file", file_id=uploaded, mount_path="/data/z")
    assert len(client.beta.files.list(scope_id=session, limit=1000).data) == 1
