"""What may the token of a session do with memory, and what may the key of an environment? Nothing that isn't theirs."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import anthropic
import pytest
from apikit_server import Access, RunningServer

from hostler.domain.errors import NotFound, PermissionDenied
from hostler.domain.ids import new_id
from hostler.domain.memories import CreateMemory, CreateMemoryStore, MemoryQuery, UpdateMemory, VersionQuery
from hostler.domain.memories import UpdateMemoryStore as Patch
from hostler.domain.principals import Principal
from hostler.domain.resources import MemoryResource
from hostler.engine.memory_resource import MemoryKind
from hostler.engine.memory_stores import MemoryStores
from hostler.store.sessions import NewSession, SessionUpdate, create_session, update_session_fields


class Attached:
    """A session with a store to write, one to read, and one that isn't attached; and what its token may do."""

    def __init__(self, server: RunningServer, access: Access, client: anthropic.Anthropic) -> None:
        self.server = server
        self.service = MemoryStores(server.database)
        self.session = new_id("sesn")
        self.ours, self.readable, self.other = (client.beta.memory_stores.create(name="s").id for _ in range(3))
        self.memory = {
            store: client.beta.memory_stores.memories.create(store, path="/a", content="one")
            for store in (self.ours, self.readable, self.other)
        }
        agent = client.beta.agents.create(name="a", model="claude-haiku-4-5")
        environment = client.beta.environments.create(name="e", config={"type": "cloud"})
        self.token = Principal("session_token", self.session, access.workspace, session_id=self.session)
        kind = MemoryKind()

        def make(conn: Any) -> None:
            resources: list[dict[str, Any]] = []
            for store, how in ((self.ours, "read_write"), (self.readable, "read_only")):
                request = MemoryResource(type="memory_store", memory_store_id=store, access=how)  # type: ignore[arg-type]
                now = server.database.now(conn)
                resources.append(kind.attach(conn, now, access.workspace, self.session, request, resources))
            create_session(
                conn,
                server.database.now(conn),
                NewSession(
                    self.session, access.workspace, agent.id, 1, environment.id, "sthr_1", {}, {}, "{}",
                    resources=resources,
                ),
            )  # fmt: skip
            assert [r["mount_path"] for r in resources] == ["/mnt/memory/s", "/mnt/memory/s-2"]

        server.write(make)

    def calls(self, store: str, who: Principal) -> dict[str, Coroutine[Any, Any, Any]]:
        service, memory = self.service, self.memory[store]
        return {
            "read": service.retrieve(who, store),
            "read memories": service.list_memories(who, store, MemoryQuery()),
            "read memory": service.retrieve_memory(who, store, memory.id, "full"),
            "read versions": service.list_versions(who, store, VersionQuery()),
            "read version": service.retrieve_version(who, store, memory.memory_version_id, "full"),
            "write new": service.create_memory(who, store, CreateMemory(path="/new", content=""), "basic"),
            "write memory": service.update_memory(who, store, memory.id, UpdateMemory(content="two"), "basic"),
            "write nothing": service.delete_memory(who, store, memory.id, None),
            "manage redact": service.redact_version(who, store, memory.memory_version_id),
            "manage update": service.update(who, store, Patch(name="x")),
            "manage list": service.list_stores(who, limit=1),
            "manage create": service.create(who, CreateMemoryStore(name="x")),
            "manage archive": service.archive(who, store),
            "manage delete": service.delete(who, store),
        }

    def outcomes(self, store: str, who: Principal) -> dict[str, type[Exception] | None]:
        found: dict[str, type[Exception] | None] = {}
        for name, call in self.calls(store, who).items():
            try:
                self.server.call(call)
                found[name] = None
            except Exception as error:
                found[name] = type(error)
        return found


def expected(
    read: type[Exception] | None, write: type[Exception] | None, manage: type[Exception] | None
) -> dict[str, type[Exception] | None]:
    return {
        **dict.fromkeys(("read", "read memories", "read memory", "read versions", "read version"), read),
        **dict.fromkeys(("write new", "write memory", "write nothing"), write),
        **dict.fromkeys(
            ("manage redact", "manage update", "manage list", "manage create", "manage archive", "manage delete"),
            manage,
        ),
    }


@pytest.fixture
def attached(server: RunningServer, access: Access, client: anthropic.Anthropic) -> Attached:
    return Attached(server, access, client)


def test_token_of_a_session_writes_what_is_attached_for_writing(attached: Attached) -> None:
    assert attached.outcomes(attached.ours, attached.token) == expected(None, None, PermissionDenied)
    assert attached.outcomes(attached.readable, attached.token) == expected(None, PermissionDenied, PermissionDenied)
    assert attached.outcomes(attached.other, attached.token) == expected(NotFound, NotFound, PermissionDenied)


def test_token_of_another_session_or_workspace_reaches_nothing(attached: Attached, stranger: Access) -> None:
    for token in (
        replace(attached.token, session_id="sesn_other"),
        replace(attached.token, workspace=stranger.workspace),
    ):
        assert attached.outcomes(attached.ours, token) == expected(NotFound, NotFound, PermissionDenied)


def test_key_of_an_environment_reaches_no_memory(attached: Attached) -> None:
    key = replace(attached.token, kind="environment_key", id="envkey_1", session_id=None)
    denied = expected(PermissionDenied, PermissionDenied, PermissionDenied)
    assert attached.outcomes(attached.ours, key) == denied


def test_what_a_token_writes_is_signed_by_its_session_also_after_its_end(
    attached: Attached, client: anthropic.Anthropic
) -> None:
    archived = SessionUpdate(archived_at="2026-01-01T00:00:00.000000Z")
    attached.server.write(
        lambda c: update_session_fields(c, attached.server.database.now(c), None, attached.session, archived)
    )
    outcomes = attached.outcomes(attached.ours, attached.token)
    assert outcomes["write new"] is None
    written = client.beta.memory_stores.memory_versions.list(attached.ours, session_id=attached.session).data
    assert [v.operation for v in written] == ["deleted", "modified", "created"]
    assert written[0].created_by is not None
    assert written[0].created_by.to_dict() == {"type": "session_actor", "session_id": attached.session}
