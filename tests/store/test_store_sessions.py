"""Sessions: what is kept, how they are listed, what goes with them."""

from __future__ import annotations

from typing import Any

import pytest
from storekit import Skew, add, add_catalog, add_session, append, event, want

from hostler.domain.errors import InvalidRequest, NotFound
from hostler.store import ledger, sequences, work
from hostler.store.catalog import append_version
from hostler.store.database import Database
from hostler.store.eventlog import read_events
from hostler.store.keys import DEFAULT_WORKSPACE as WS
from hostler.store.keys import create_workspace
from hostler.store.pages import Page, Position, Range
from hostler.store.sessions import (
    SessionRow,
    SessionUpdate,
    Usage,
    add_usage,
    delete_session,
    get_session,
    list_sessions,
    update_session_fields,
)
from hostler.store.transcripts import TranscriptStore


async def listed(db: Database, **filters: Any) -> Page[SessionRow]:
    return await db.read(lambda c: list_sessions(c, WS, **{"limit": 100, **filters}))


async def ids(db: Database, **filters: Any) -> list[str]:
    return [row.id for row in (await listed(db, **filters)).rows]


async def test_a_session_comes_back_as_it_was_made(db: Database) -> None:
    await add_catalog(db)
    made = await add_session(
        db,
        "sesn_1",
        title="T",
        metadata={"k": "\x00"},
        agent={"system": "\ud800"},
        environment={"config": {"a": [1]}},
        state='{"phase":"idle"}',
        deployment_id="depl_1",
        status="running",
    )
    assert made == await db.read(lambda c: get_session(c, WS, "sesn_1"))
    assert (made.title, made.metadata, made.agent) == ("T", {"k": "\x00"}, {"system": "\ud800"})
    assert (made.environment, made.state, made.status) == ({"config": {"a": [1]}}, '{"phase":"idle"}', "running")
    assert (made.last_seq, made.usage, made.archived_at, made.deployment_id) == (0, Usage(), None, "depl_1")
    assert made.thread_id == "sthr_sesn_1"


async def test_a_session_needs_its_agent_and_environment(db: Database) -> None:
    with pytest.raises(NotFound):
        await add_session(db, "sesn_1")


async def test_a_title_that_no_column_can_hold_is_refused(db: Database, session: SessionRow) -> None:
    for bad in ("\x00", "\udc00"):
        with pytest.raises(InvalidRequest):
            await add_session(db, "sesn_2", title=bad)


async def test_another_workspaces_session_is_not_found(db: Database, session: SessionRow) -> None:
    other = (await db.write(lambda c: create_workspace(c, db.now(c), "other"))).id
    with pytest.raises(NotFound):
        await db.read(lambda c: get_session(c, other, "sesn_1"))
    with pytest.raises(NotFound):
        await db.write(lambda c: delete_session(c, other, "sesn_1"))
    with pytest.raises(NotFound):
        await db.write(lambda c: update_session_fields(c, db.now(c), other, "sesn_1", SessionUpdate(title="x")))
    assert (await db.read(lambda c: list_sessions(c, other, limit=9))).rows == []
    assert await db.read(lambda c: get_session(c, None, "sesn_1")) == session


async def test_fields_are_replaced_cleared_or_kept(db: Database, session: SessionRow, skew: Skew) -> None:
    skew.seconds += 1

    async def update(**fields: Any) -> SessionRow:
        return await db.write(lambda c: update_session_fields(c, db.now(c), WS, "sesn_1", SessionUpdate(**fields)))

    first = await update(title="t", metadata={"a": "1"}, agent={"name": "n"})
    assert (first.title, first.metadata, first.agent) == ("t", {"a": "1"}, {"name": "n"})
    assert first.updated_at > session.updated_at
    second = await update(title=None)
    assert (second.title, second.metadata, second.agent) == (None, {"a": "1"}, {"name": "n"})


async def test_usage_adds_up(db: Database, session: SessionRow) -> None:
    await db.write(lambda c: add_usage(c, "sesn_1", Usage(1, 2, 3, 4, 5, 6)))
    await db.write(lambda c: add_usage(c, "sesn_1", Usage(input_tokens=10, web_search_requests=2**40)))
    await db.write(lambda c: add_usage(c, "sesn_1", Usage()))
    assert (await db.read(lambda c: get_session(c, WS, "sesn_1"))).usage == Usage(11, 2, 3, 4, 5, 6 + 2**40)


async def test_lists_filter(db: Database, skew: Skew) -> None:
    await add_catalog(db, suffix="1")
    await add_catalog(db, suffix="2")
    await db.write(lambda c: append_version(c, db.now(c), WS, "agent_1", expected_version=1, name="n", body={}))
    rows = []
    for number, fields in enumerate(
        [
            {"status": "idle"},
            {"status": "running", "agent_version": 2},
            {"status": "terminated", "suffix": "2", "deployment_id": "depl_1"},
            {"status": "running", "suffix": "2"},
        ]
    ):
        rows.append(await add_session(db, f"sesn_{number}", **fields))
        skew.seconds += 1
    gone = SessionUpdate(archived_at=rows[3].created_at)
    await db.write(lambda c: update_session_fields(c, db.now(c), WS, "sesn_3", gone))

    assert await ids(db) == ["sesn_2", "sesn_1", "sesn_0"]
    assert await ids(db, order="asc", include_archived=True) == ["sesn_0", "sesn_1", "sesn_2", "sesn_3"]
    assert await ids(db, agent_id="agent_1") == ["sesn_1", "sesn_0"]
    assert await ids(db, agent_id="agent_1", agent_version=2) == ["sesn_1"]
    assert await ids(db, environment_id="env_2") == ["sesn_2"]
    assert await ids(db, deployment_id="depl_1") == ["sesn_2"]
    assert await ids(db, statuses=["running", "idle"]) == ["sesn_1", "sesn_0"]
    assert await ids(db, statuses=["running"], include_archived=True) == ["sesn_3", "sesn_1"]
    assert await ids(db, created=Range(gt=rows[0].created_at)) == ["sesn_2", "sesn_1"]
    assert await ids(db, created=Range(lte=rows[1].created_at, gte=rows[1].created_at)) == ["sesn_1"]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_go_forward_and_back_over_the_same_rows(db: Database, order: str, skew: Skew) -> None:
    await add_catalog(db)
    for number in range(7):
        await add_session(db, f"sesn_{number}")
        skew.seconds += number % 2  # pairs share no moment, but some are close
    everything = await ids(db, order=order)

    pages = [await listed(db, order=order, limit=3)]
    while pages[-1].has_next:
        last = pages[-1].rows[-1]
        pages.append(await listed(db, order=order, limit=3, after=Position(last.created_at, last.id)))
    assert [row.id for page in pages for row in page.rows] == everything
    assert [page.has_prev for page in pages] == [False, True, True]

    back = [pages[-1]]
    while back[-1].has_prev:
        first = back[-1].rows[0]
        back.append(await listed(db, order=order, limit=3, before=Position(first.created_at, first.id)))
    assert [[row.id for row in page.rows] for page in back] == [[row.id for row in page.rows] for page in pages[::-1]]
    assert [page.has_next for page in back] == [False, True, True]


async def test_a_page_is_right_when_the_row_of_its_cursor_is_gone(db: Database, skew: Skew) -> None:
    await add_catalog(db)
    for number in range(3):
        await add_session(db, f"sesn_{number}")
        skew.seconds += 1
    first = (await listed(db, limit=1)).rows[0]
    await db.write(lambda c: delete_session(c, WS, first.id))
    page = await listed(db, limit=9, after=Position(first.created_at, first.id))
    assert ([row.id for row in page.rows], page.has_prev) == (["sesn_1", "sesn_0"], False)


async def test_deleting_takes_everything_but_the_bill_and_the_audit(db: Database, session: SessionRow) -> None:
    await add_session(db, "sesn_2")
    for name in ("sesn_1", "sesn_2"):
        await append(db, add(event(1)), session_id=name)
        await want(db, name)
        await db.write(lambda c, n=name: sequences.save_sequence(c, db.now(c), n, "{}", lease=None))  # type: ignore[misc]
        await TranscriptStore(db, session_id=name).append({"project_key": "p", "session_id": "u"}, [{"type": "x"}])
        await db.write(
            lambda c, n=name: ledger.record_model_request(  # type: ignore[misc]
                c,
                db.now(c),
                session_id=n,
                model="m",
                status=200,
                usage=Usage(input_tokens=5),
                stop_reason="end_turn",
                duration_ms=1.5,
                first_byte_ms=None,
            )
        )
    await db.write(lambda c: delete_session(c, WS, "sesn_1"))

    with pytest.raises(NotFound):
        await db.read(lambda c: get_session(c, WS, "sesn_1"))
    for name, left in (("sesn_1", False), ("sesn_2", True)):
        assert bool(await db.read(lambda c, n=name: read_events(c, n, after_seq=0, limit=9))) is left  # type: ignore[misc]
        assert bool(await db.read(lambda c, n=name: sequences.load_sequence(c, n))) is left  # type: ignore[misc]
        store = TranscriptStore(db, session_id=name)
        assert bool(await store.load({"project_key": "p", "session_id": "u"})) is left
        assert len(await db.read(lambda c, n=name: ledger.list_model_requests(c, n))) == 1  # type: ignore[misc]
    won = await db.write(lambda c: work.claim(c, db.now(c), "w", ttl=1, limit=9))
    assert [each.session_id for each in won] == ["sesn_2"]
