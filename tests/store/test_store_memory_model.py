"""Does a memory store agree with a dictionary, whatever is done to it in whatever order?

The model is a dictionary from paths to contents, and a list of what every version must say. After every step lists,
folders, counters and history must be what the model says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection
from storekit import Databases

from hostler.domain.errors import InvalidRequest, MemoryChanged, MemoryPathTaken, NotFound
from hostler.domain.ids import new_id
from hostler.domain.memories import Actor, MemoryQuery, VersionQuery, digest
from hostler.store import memories, memory_stores, memory_versions
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE
from hostler.store.memories import Folder

PATHS = st.sampled_from(["/a", "/a/b", "/a/b/c", "/a-", "/a.md", "/A", "/a0", "/b/é", "/b/z", "/é"])
CONTENTS = st.sampled_from([b"", b"one", b"two", b"\x00", "é".encode()])
ACTORS = st.sampled_from([Actor("api_actor", "apikey_1"), Actor("session_actor", "sesn_1")])
SOME = st.integers(0, 30)


@dataclass
class Held:
    id: str
    content: bytes


@dataclass
class Said:
    """What a version must say."""

    memory: str
    operation: str
    path: str | None
    content: bytes | None
    actor: Actor
    redacted: bool = False


class MemoryMachine(RuleBasedStateMachine):
    runner: ClassVar[asyncio.Runner]
    db: ClassVar[Database]

    @initialize()
    def begin(self) -> None:
        self.store = new_id("memstore")
        self.held: dict[str, Held] = {}
        self.said: dict[str, Said] = {}
        self.order: list[str] = []
        self.archived = False
        self.write(
            lambda c: memory_stores.create_store(
                c, self.db.now(c), id=self.store, workspace_id=DEFAULT_WORKSPACE, name="s", description="", metadata={}
            )
        )

    def write(self, fn: Callable[[Connection], Any]) -> Any:
        return self.runner.run(self.db.write(fn))

    def read(self, fn: Callable[[Connection], Any]) -> Any:
        return self.runner.run(self.db.read(fn))

    def in_the_way(self, path: str, but: str | None = None) -> bool:
        others = [known for known, held in self.held.items() if held.id != but]
        return any(k == path or k.startswith(path + "/") or path.startswith(k + "/") for k in others)

    def some_path(self, number: int) -> str | None:
        return sorted(self.held)[number % len(self.held)] if self.held else None

    def note(self, memory: str, operation: str, path: str, content: bytes | None, actor: Actor) -> None:
        page = self.read(
            lambda c: memory_versions.list_versions(c, DEFAULT_WORKSPACE, self.store, VersionQuery(limit=100))
        )
        (fresh,) = [row.id for row in page.rows if row.id not in self.said]
        self.said[fresh] = Said(memory, operation, path, content, actor)
        self.order.insert(0, fresh)

    @rule(path=PATHS, content=CONTENTS, actor=ACTORS)
    def create(self, path: str, content: bytes, actor: Actor) -> None:
        def unit(c: Connection) -> Any:
            return memories.create_memory(
                c, self.db.now(c), DEFAULT_WORKSPACE, self.store, path=path, content=content, actor=actor
            )

        if self.archived:
            with pytest.raises(InvalidRequest):
                self.write(unit)
        elif self.in_the_way(path):
            with pytest.raises(MemoryPathTaken) as refused:
                self.write(unit)
            assert self.held[refused.value.path].id == refused.value.memory_id
        else:
            row = self.write(unit)
            self.held[path] = Held(row.id, content)
            self.note(row.id, "created", path, content, actor)

    @rule(
        number=SOME,
        path=st.none() | PATHS,
        content=st.none() | CONTENTS,
        expected=st.none() | CONTENTS,
        actor=ACTORS,
    )
    def update(
        self, number: int, path: str | None, content: bytes | None, expected: bytes | None, actor: Actor
    ) -> None:
        at = self.some_path(number)
        held = Held("mem_none", b"") if at is None else self.held[at]

        def unit(c: Connection) -> Any:
            return memories.update_memory(
                c,
                self.db.now(c),
                DEFAULT_WORKSPACE,
                self.store,
                held.id,
                path=path,
                content=content,
                expected_sha256=None if expected is None else digest(expected),
                actor=actor,
            )

        wrong: type[Exception] | None = None
        if self.archived:
            wrong = InvalidRequest
        elif at is None:
            wrong = NotFound
        elif expected is not None and expected != held.content:
            wrong = MemoryChanged
        elif path is not None and path != at and self.in_the_way(path, but=held.id):
            wrong = MemoryPathTaken
        if wrong is not None:
            with pytest.raises(wrong):
                self.write(unit)
            return
        assert at is not None
        row = self.write(unit)
        assert row.id == held.id
        now_at, now_holds = path or at, held.content if content is None else content
        if (now_at, now_holds) != (at, held.content):
            del self.held[at]
            self.held[now_at] = Held(held.id, now_holds)
            self.note(held.id, "modified", now_at, now_holds, actor)

    @rule(number=SOME, expected=st.none() | CONTENTS, actor=ACTORS)
    def delete(self, number: int, expected: bytes | None, actor: Actor) -> None:
        at = self.some_path(number)
        held = Held("mem_none", b"") if at is None else self.held[at]

        def unit(c: Connection) -> None:
            memories.delete_memory(
                c,
                self.db.now(c),
                DEFAULT_WORKSPACE,
                self.store,
                held.id,
                expected_sha256=None if expected is None else digest(expected),
                actor=actor,
            )

        if at is None or (expected is not None and expected != held.content):
            with pytest.raises(NotFound if at is None else MemoryChanged):
                self.write(unit)
            return
        self.write(unit)
        del self.held[at]
        self.note(held.id, "deleted", at, None, actor)

    @rule(number=SOME, actor=ACTORS)
    def redact(self, number: int, actor: Actor) -> None:
        if not self.order:
            return
        version = self.order[number % len(self.order)]
        said = self.said[version]

        def unit(c: Connection) -> Any:
            return memory_versions.redact_version(c, self.db.now(c), DEFAULT_WORKSPACE, self.store, version, actor)

        newest = next(other for other in self.order if self.said[other].memory == said.memory)
        if version == newest and said.operation != "deleted":
            with pytest.raises(InvalidRequest):
                self.write(unit)
            return
        assert self.write(unit).redacted_at is not None
        said.path, said.content, said.redacted = None, None, True

    @rule(dice=st.integers(0, 9))
    def archive(self, dice: int) -> None:
        if dice == 0:
            self.archived = True
            self.write(lambda c: memory_stores.archive_store(c, self.db.now(c), DEFAULT_WORKSPACE, self.store))

    @rule(prefix=st.sampled_from(["/", "/a/", "/b/", "/a/b/", "/c/"]), depth=st.sampled_from([0, 1]), limit=SOME)
    def list_in_pages(self, prefix: str, depth: Any, limit: int) -> None:
        below = sorted((p for p in self.held if p.startswith(prefix)), key=str.encode)
        wanted = []
        for path in below:
            slash = path.find("/", len(prefix))
            item = path if depth == 0 or slash < 0 else path[: slash + 1]
            if item not in wanted:
                wanted.append(item)
        found: list[str] = []
        after: str | None = None
        while True:
            query = MemoryQuery(limit=limit % 4 + 1, prefix=prefix, depth=depth, view="full", after=after)
            rows, after = self.read(
                lambda c, query=query: memories.list_memories(c, DEFAULT_WORKSPACE, self.store, query)
            )
            assert all(isinstance(row, Folder) or row.content == self.held[row.path].content for row in rows)
            found += [row.path for row in rows]
            if after is None:
                break
        assert found == wanted

    @invariant()
    def the_store_is_what_the_model_is(self) -> None:
        rows = self.read(lambda c: memories.all_memories(c, DEFAULT_WORKSPACE, self.store))
        assert {row.path: (row.id, row.content_sha256, row.content_size_bytes) for row in rows} == {
            path: (held.id, digest(held.content), len(held.content)) for path, held in self.held.items()
        }
        page = self.read(
            lambda c: memory_versions.list_versions(
                c, DEFAULT_WORKSPACE, self.store, VersionQuery(limit=1000, view="full")
            )
        )
        assert [row.id for row in page.rows] == self.order
        for row in page.rows:
            said = self.said[row.id]
            assert (row.memory_id, row.operation, row.path, row.content) == (
                said.memory, said.operation, said.path, said.content,
            )  # fmt: skip
            assert (Actor(row.actor_type, row.actor_id), row.redacted_at is not None) == (said.actor, said.redacted)
            assert row.content_sha256 == (None if said.content is None else digest(said.content))
        heads = {row.version_id for row in rows}
        assert heads <= set(self.order)
        store = self.read(lambda c: memory_stores.get_store(c, DEFAULT_WORKSPACE, self.store))
        assert store.memories == len(self.held)
        assert store.kept_bytes == sum(len(said.content or b"") for said in self.said.values())


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_memory_store_agrees_with_its_model(databases: Databases, dialect: str) -> None:
    with asyncio.Runner() as runner:
        url = databases.fresh(dialect)
        db = runner.run(Database.open(url))

        class Machine(MemoryMachine):
            pass

        Machine.runner, Machine.db = runner, db
        try:
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                Machine,
                settings=settings(
                    max_examples=25,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                    database=None,
                ),
            )
        finally:
            runner.run(db.close())
            databases.drop(url)
