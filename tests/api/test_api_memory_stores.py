"""Memory stores through the official client: shapes, what is refused, archive and delete."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest
from apikit_raw import send
from apikit_server import Access, RunningServer

from hostler.domain.ids import new_id
from hostler.store import webhook_deliveries, webhooks


@pytest.mark.endpoint("memory_stores.create", "memory_stores.retrieve")
def test_store_comes_back_as_it_was_created(client: anthropic.Anthropic) -> None:
    made = client.beta.memory_stores.create(name="Notes ☕", description="Of the user", metadata={"user": "7"})
    assert made.id.startswith("memstore_")
    shown = made.to_dict()
    assert shown == client.beta.memory_stores.retrieve(made.id).to_dict()
    assert (made.name, made.description, made.metadata, made.archived_at) == (
        "Notes ☕", "Of the user", {"user": "7"}, None,
    )  # fmt: skip
    assert made.created_at == made.updated_at
    assert client.beta.memory_stores.create(name="Notes ☕").description == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "name: is required"),
        ({"name": ""}, "at least 1"),
        ({"name": "x" * 256}, "at most 255"),
        ({"name": "a\tb"}, "control character"),
        ({"name": "a\u0085b"}, "control character"),
        ({"name": "a", "description": "x" * 1025}, "at most 1024"),
        ({"name": "a", "metadata": {str(n): "" for n in range(17)}}, "at most 16"),
        ({"name": "a", "colour": "red"}, "not a field"),
    ],
)
@pytest.mark.endpoint("memory_stores.create")
def test_what_no_store_can_be_is_refused(access: Access, body: dict[str, Any], words: str) -> None:
    answer = send(access.base_url, "POST", "/v1/memory_stores", key=access.key, body=json.dumps(body).encode())
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert words in answer.error["message"]


@pytest.mark.endpoint("memory_stores.update")
def test_update_keeps_clears_and_merges(client: anthropic.Anthropic) -> None:
    made = client.beta.memory_stores.create(name="a", description="d", metadata={"x": "1", "y": "2"})
    update = client.beta.memory_stores.update
    assert update(made.id, name="a").to_dict() == made.to_dict(), "no change moves no time"
    changed = update(made.id, metadata={"x": None, "z": "3"})
    assert (changed.name, changed.description, changed.metadata) == ("a", "d", {"y": "2", "z": "3"})
    assert changed.updated_at > made.updated_at
    assert update(made.id, name="b").name == "b"
    assert update(made.id, description="").description == ""
    assert update(made.id, description="again").description == "again"
    assert update(made.id, description=None).description == ""
    with pytest.raises(anthropic.BadRequestError, match="name"):
        update(made.id, name=None)  # type: ignore[arg-type]
    with pytest.raises(anthropic.BadRequestError, match="17 pairs"):
        update(made.id, metadata={str(n): "" for n in range(15)})


@pytest.mark.endpoint("memory_stores.archive", "memory_stores.delete")
def test_archived_store_can_be_read_and_emptied_and_not_written(client: anthropic.Anthropic) -> None:
    stores = client.beta.memory_stores
    made = stores.create(name="a")
    memory = stores.memories.create(made.id, path="/a", content="1")
    stores.memories.update(memory.id, memory_store_id=made.id, content="2")
    old = stores.memory_versions.list(made.id, operation="created").data[0]
    archived = stores.archive(made.id)
    assert archived.archived_at is not None
    assert stores.archive(made.id).to_dict() == archived.to_dict()
    for write in (
        lambda: stores.memories.create(made.id, path="/b", content=""),
        lambda: stores.memories.update(memory.id, memory_store_id=made.id, content="3"),
        lambda: stores.update(made.id, name="b"),
    ):
        with pytest.raises(anthropic.BadRequestError, match="archived"):
            write()
    assert stores.memories.retrieve(memory.id, memory_store_id=made.id).content == "2"
    assert stores.memory_versions.redact(old.id, memory_store_id=made.id).redacted_at is not None
    assert stores.memories.delete(memory.id, memory_store_id=made.id).type == "memory_deleted"
    assert stores.delete(made.id).to_dict() == {"id": made.id, "type": "memory_store_deleted"}
    for read in (
        lambda: stores.retrieve(made.id),
        lambda: stores.delete(made.id),
        lambda: stores.memories.list(made.id),
        lambda: stores.memory_versions.retrieve(old.id, memory_store_id=made.id),
    ):
        with pytest.raises(anthropic.NotFoundError):
            read()


@pytest.mark.endpoint("memory_stores.list")
def test_stores_are_listed_newest_first_in_pages(client: anthropic.Anthropic) -> None:
    made = [client.beta.memory_stores.create(name=f"{n}") for n in range(5)]
    client.beta.memory_stores.archive(made[1].id)
    listed = client.beta.memory_stores.list
    assert [s.name for s in listed(limit=2)] == ["4", "3", "2", "0"]
    assert [s.name for s in listed(include_archived=True)] == ["4", "3", "2", "1", "0"]
    assert [s.name for s in listed(created_at_gte=made[2].created_at, created_at_lte=made[3].created_at)] == ["3", "2"]
    first = listed(limit=2)
    assert first.next_page is not None
    with pytest.raises(anthropic.BadRequestError, match="page"):
        client.beta.agents.list(page=first.next_page)
    with pytest.raises(anthropic.BadRequestError, match="limit"):
        listed(limit=101)


@pytest.mark.endpoint(
    "memory_stores.retrieve",
    "memory_stores.update",
    "memory_stores.archive",
    "memory_stores.delete",
    "memory_stores.memories.create",
    "memory_stores.memories.retrieve",
    "memory_stores.memories.update",
    "memory_stores.memories.list",
    "memory_stores.memories.delete",
    "memory_stores.memory_versions.retrieve",
    "memory_stores.memory_versions.list",
    "memory_stores.memory_versions.redact",
)
def test_another_workspace_sees_nothing(client: anthropic.Anthropic, stranger: Access) -> None:
    made = client.beta.memory_stores.create(name="mine")
    memory = client.beta.memory_stores.memories.create(made.id, path="/a", content="secret")
    with stranger.client() as other:
        stores = other.beta.memory_stores
        assert stores.list().data == []
        own = stores.create(name="theirs").id
        for store_id in (made.id, own):
            for method, thing in (
                (stores.memories.retrieve, memory.id),
                (stores.memories.update, memory.id),
                (stores.memories.delete, memory.id),
                (stores.memory_versions.retrieve, memory.memory_version_id),
                (stores.memory_versions.redact, memory.memory_version_id),
            ):
                with pytest.raises(anthropic.NotFoundError):
                    method(thing, memory_store_id=store_id)
        for call in (
            lambda: stores.retrieve(made.id),
            lambda: stores.update(made.id, name="x"),
            lambda: stores.archive(made.id),
            lambda: stores.delete(made.id),
            lambda: stores.memories.create(made.id, path="/b", content=""),
            lambda: stores.memories.list(made.id),
            lambda: stores.memory_versions.list(made.id),
        ):
            with pytest.raises(anthropic.NotFoundError):
                call()
    assert client.beta.memory_stores.memories.retrieve(memory.id, memory_store_id=made.id).content == "secret"


def test_session_shows_its_stores_and_refuses_what_cannot_be_attached(
    server: RunningServer, client: anthropic.Anthropic, stranger: Access
) -> None:
    """Only what the domain refuses; the rest is shown by the tests with a whole server."""
    agent = client.beta.agents.create(name="a", model="claude-haiku-4-5")
    environment = client.beta.environments.create(name="e", config={"type": "cloud"})
    nine: Any = [{"type": "memory_store", "memory_store_id": f"memstore_{n}"} for n in range(9)]
    with pytest.raises(anthropic.BadRequestError, match="9 memory stores"):
        client.beta.sessions.create(agent=agent.id, environment_id=environment.id, resources=nine)
    long: Any = [{"type": "memory_store", "memory_store_id": "memstore_1", "instructions": "x" * 4097}]
    with pytest.raises(anthropic.BadRequestError, match="4096"):
        client.beta.sessions.create(agent=agent.id, environment_id=environment.id, resources=long)


def test_webhooks_hear_of_stores_once(server: RunningServer, access: Access, client: anthropic.Anthropic) -> None:
    endpoint = {
        "id": new_id("wh"), "workspace_id": access.workspace, "url": "https://example.com", "name": "n",
        "description": "", "enabled_events": ["*"], "secret": "hs1.k.a.b", "most": 9,
    }  # fmt: skip
    server.write(lambda c: webhooks.create_endpoint(c, server.database.now(c), **endpoint))
    stores = client.beta.memory_stores
    made = stores.create(name="a")
    stores.memories.create(made.id, path="/a", content="")
    for _ in range(2):
        stores.archive(made.id)
    stores.delete(made.id)
    found = server.call(
        server.database.read(
            lambda c: webhook_deliveries.list_deliveries(c, access.workspace, str(endpoint["id"]), limit=10)
        )
    )
    assert [row.event_type for row in reversed(found.rows)] == [
        f"memory_store.{what}" for what in ("created", "archived", "deleted")
    ]
