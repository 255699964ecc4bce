"""Agents and environments: versions, archives, names, pages, and walls between workspaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest
from sqlalchemy import Connection
from storekit import Skew, add_catalog, add_session

from hostler.domain.errors import Conflict, InvalidRequest, NotFound
from hostler.store import catalog
from hostler.store.catalog import AgentRow, EnvironmentRow
from hostler.store.database import Database
from hostler.store.keys import DEFAULT_WORKSPACE as WS
from hostler.store.keys import create_workspace
from hostler.store.pages import Position, Range
from hostler.store.sessions import delete_session

T = TypeVar("T")


async def at_now(db: Database, fn: Callable[[Connection, float], T]) -> T:
    return await db.write(lambda conn: fn(conn, db.now(conn)))


async def make_agent(db: Database, id: str, workspace: str = WS) -> AgentRow:
    return await at_now(
        db, lambda c, now: catalog.create_agent(c, now, id=id, workspace_id=workspace, name=id, body={"v": 1})
    )


async def make_environment(db: Database, id: str, name: str, workspace: str = WS) -> EnvironmentRow:
    return await at_now(
        db,
        lambda c, now: catalog.create_environment(c, now, id=id, workspace_id=workspace, name=name, body={"é": "\x00"}),
    )


async def other_workspace(db: Database) -> str:
    return (await at_now(db, lambda c, now: create_workspace(c, now, "other"))).id


class TestAgents:
    async def test_begin_with_version_one(self, db: Database) -> None:
        made = await make_agent(db, "agent_1")
        assert (made.version, made.current_version, made.body) == (1, 1, {"v": 1})
        assert made.created_at == made.updated_at
        assert await db.read(lambda c: catalog.get_agent(c, WS, "agent_1")) == made

    async def test_old_versions_stay_as_they_were(self, db: Database, skew: Skew) -> None:
        made = await make_agent(db, "agent_1")
        skew.seconds += 5
        new = await at_now(
            db,
            lambda c, now: catalog.append_version(
                c, now, WS, "agent_1", expected_version=1, name="renamed", body={"v": 2}
            ),
        )
        assert (new.version, new.name, new.body) == (2, "renamed", {"v": 2})
        assert (new.created_at, new.updated_at > made.updated_at) == (made.created_at, True)
        old = await db.read(lambda c: catalog.get_agent(c, WS, "agent_1", 1))
        assert (old.version, old.current_version, old.name, old.body) == (1, 2, "agent_1", {"v": 1})
        assert old.updated_at == made.updated_at
        with pytest.raises(NotFound):
            await db.read(lambda c: catalog.get_agent(c, WS, "agent_1", 3))

    async def test_a_version_on_top_of_an_old_one_is_refused(self, db: Database) -> None:
        await make_agent(db, "agent_1")

        async def append(expected: int) -> AgentRow:
            return await at_now(
                db,
                lambda c, now: catalog.append_version(
                    c, now, WS, "agent_1", expected_version=expected, name="n", body={}
                ),
            )

        await append(1)
        with pytest.raises(Conflict):
            await append(1)

    async def test_versions_are_listed_newest_first_in_pages(self, db: Database) -> None:
        await make_agent(db, "agent_1")
        for version in range(1, 5):
            await at_now(
                db,
                lambda c, now, v=version: catalog.append_version(  # type: ignore[misc]
                    c, now, WS, "agent_1", expected_version=v, name="n", body={}
                ),
            )
        first = await db.read(lambda c: catalog.list_versions(c, WS, "agent_1", limit=3))
        assert ([row.version for row in first.rows], first.has_next) == ([5, 4, 3], True)
        rest = await db.read(lambda c: catalog.list_versions(c, WS, "agent_1", limit=3, after_version=3))
        assert ([row.version for row in rest.rows], rest.has_next) == ([2, 1], False)

    async def test_are_archived_once(self, db: Database, skew: Skew) -> None:
        await make_agent(db, "agent_1")
        once = await at_now(db, lambda c, now: catalog.archive_agent(c, now, WS, "agent_1"))
        skew.seconds += 5
        assert await at_now(db, lambda c, now: catalog.archive_agent(c, now, WS, "agent_1")) == once
        assert once.archived_at is not None
        assert (await db.read(lambda c: catalog.list_agents(c, WS, limit=9))).rows == []
        assert (await db.read(lambda c: catalog.list_agents(c, WS, limit=9, include_archived=True))).rows == [once]

    async def test_pages_meet_exactly_even_when_moments_are_equal(self, db: Database) -> None:
        names = ["agent_b", "agent_B", "agent_a", "agent_A", "agent_0"]

        def same_moment(conn: Connection) -> None:
            for name in names:
                catalog.create_agent(conn, 1_700_000_000.0, id=name, workspace_id=WS, name=name, body={})

        await db.write(same_moment)
        found: list[str] = []
        after: Position | None = None
        while True:
            page = await db.read(lambda c, a=after: catalog.list_agents(c, WS, limit=2, after=a))  # type: ignore[misc]
            found += [row.id for row in page.rows]
            if not page.has_next:
                break
            after = Position(page.rows[-1].created_at, page.rows[-1].id)
        assert found == sorted(names, reverse=True)  # byte by byte, on both databases

    async def test_are_filtered_by_creation(self, db: Database, skew: Skew) -> None:
        rows = []
        for name in ("agent_1", "agent_2", "agent_3"):
            rows.append(await make_agent(db, name))
            skew.seconds += 1
        middle = rows[1].created_at

        async def ids(created: Range) -> list[str]:
            page = await db.read(lambda c: catalog.list_agents(c, WS, limit=9, created=created))
            return [row.id for row in page.rows]

        assert await ids(Range(gte=middle)) == ["agent_3", "agent_2"]
        assert await ids(Range(gt=middle)) == ["agent_3"]
        assert await ids(Range(lte=middle)) == ["agent_2", "agent_1"]
        assert await ids(Range(lt=middle)) == ["agent_1"]

    async def test_of_another_workspace_do_not_exist(self, db: Database) -> None:
        other = await other_workspace(db)
        await make_agent(db, "agent_1", other)
        with pytest.raises(NotFound):
            await db.read(lambda c: catalog.get_agent(c, WS, "agent_1"))
        with pytest.raises(NotFound):
            await db.read(lambda c: catalog.list_versions(c, WS, "agent_1", limit=9))
        with pytest.raises(NotFound):
            await at_now(db, lambda c, now: catalog.archive_agent(c, now, WS, "agent_1"))
        with pytest.raises(NotFound):
            await at_now(
                db,
                lambda c, now: catalog.append_version(c, now, WS, "agent_1", expected_version=1, name="n", body={}),
            )
        assert (await db.read(lambda c: catalog.list_agents(c, WS, limit=9))).rows == []
        assert (await db.read(lambda c: catalog.get_agent(c, other, "agent_1"))).archived_at is None

    async def test_need_a_workspace(self, db: Database) -> None:
        with pytest.raises(NotFound):
            await make_agent(db, "agent_1", "wrkspc_none")

    @pytest.mark.parametrize("bad", ["a\x00b", "a\ud800b"])
    async def test_names_and_ids_that_no_column_can_hold_are_refused(self, db: Database, bad: str) -> None:
        with pytest.raises(InvalidRequest):
            await make_agent(db, bad)
        with pytest.raises(InvalidRequest):
            await db.read(lambda c: catalog.get_agent(c, WS, bad))


class TestEnvironments:
    async def test_come_back_as_they_went_in(self, db: Database) -> None:
        made = await make_environment(db, "env_1", "dev")
        assert (made.body, made.archived_at) == ({"é": "\x00"}, None)
        assert await db.read(lambda c: catalog.get_environment(c, WS, "env_1")) == made

    async def test_have_a_name_of_their_own(self, db: Database) -> None:
        await make_environment(db, "env_1", "dev")
        with pytest.raises(Conflict):
            await make_environment(db, "env_2", "dev")
        other = await other_workspace(db)
        await make_environment(db, "env_3", "dev", other)
        await at_now(db, lambda c, now: catalog.archive_environment(c, now, WS, "env_1"))
        with pytest.raises(Conflict):
            await make_environment(db, "env_2", "dev")
        await db.write(lambda c: catalog.delete_environment(c, WS, "env_1"))
        await make_environment(db, "env_2", "dev")

    async def test_change_in_place(self, db: Database, skew: Skew) -> None:
        made = await make_environment(db, "env_1", "dev")
        await make_environment(db, "env_2", "prod")
        skew.seconds += 5

        async def rename(name: str) -> EnvironmentRow:
            return await at_now(
                db, lambda c, now: catalog.update_environment(c, now, WS, "env_1", name=name, body={"n": 2})
            )

        changed = await rename("test")
        assert (changed.name, changed.body, changed.created_at) == ("test", {"n": 2}, made.created_at)
        assert changed.updated_at > made.updated_at
        with pytest.raises(Conflict):
            await rename("prod")
        assert await db.read(lambda c: catalog.get_environment(c, WS, "env_1")) == changed

    async def test_are_not_deleted_under_a_session(self, db: Database) -> None:
        await add_catalog(db)
        await add_session(db, "sesn_1")
        with pytest.raises(Conflict) as refused:
            await db.write(lambda c: catalog.delete_environment(c, WS, "env_1"))
        assert refused.value.code == "environment_in_use"
        await db.write(lambda c: delete_session(c, WS, "sesn_1"))
        await db.write(lambda c: catalog.delete_environment(c, WS, "env_1"))
        with pytest.raises(NotFound):
            await db.read(lambda c: catalog.get_environment(c, WS, "env_1"))

    async def test_are_listed_newest_first(self, db: Database, skew: Skew) -> None:
        for number in range(3):
            await make_environment(db, f"env_{number}", f"dev{number}")
            skew.seconds += 1
        archived = await at_now(db, lambda c, now: catalog.archive_environment(c, now, WS, "env_1"))
        assert archived == await at_now(db, lambda c, now: catalog.archive_environment(c, now, WS, "env_1"))
        page = await db.read(lambda c: catalog.list_environments(c, WS, limit=1))
        assert ([row.id for row in page.rows], page.has_next, page.has_prev) == (["env_2"], True, False)
        after = Position(page.rows[0].created_at, page.rows[0].id)
        page = await db.read(lambda c: catalog.list_environments(c, WS, limit=9, after=after, include_archived=True))
        assert ([row.id for row in page.rows], page.has_next, page.has_prev) == (["env_1", "env_0"], False, True)

    async def test_of_another_workspace_do_not_exist(self, db: Database) -> None:
        other = await other_workspace(db)
        await make_environment(db, "env_1", "dev", other)
        with pytest.raises(NotFound):
            await db.read(lambda c: catalog.get_environment(c, WS, "env_1"))
        with pytest.raises(NotFound):
            await at_now(db, lambda c, now: catalog.update_environment(c, now, WS, "env_1", name="x", body={}))
        with pytest.raises(NotFound):
            await at_now(db, lambda c, now: catalog.archive_environment(c, now, WS, "env_1"))
        with pytest.raises(NotFound):
            await db.write(lambda c: catalog.delete_environment(c, WS, "env_1"))
        assert (await db.read(lambda c: catalog.list_environments(c, WS, limit=9))).rows == []
