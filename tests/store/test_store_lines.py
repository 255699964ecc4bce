"""What of a session counts, after any number of steps back and forth."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection
from storekit import add, add_session, append, event

from hostler.domain.errors import InvalidRequest
from hostler.store import lines
from hostler.store.database import Database
from hostler.store.eventlog import count_since, read_events
from hostler.store.jsontext import encode
from hostler.store.lines import Line, Transcript
from hostler.store.sessions import SessionRow, delete_session, get_session
from hostler.store.tables import events, sessions, transcript_entries, transcripts
from hostler.store.tables_checkpoints import cut_events, cut_transcript_entries
from hostler.store.transcripts import TranscriptStore

TRANSCRIPT = "00000000-0000-4000-8000-000000000001"
COPY = "00000000-0000-4000-8000-000000000002"
SUB = "subagents/agent-1"


def test_spans_hold_what_they_were_made_of_and_nothing_of_the_others() -> None:
    assert lines.spans_of([1, 2, 3, 7, 9, 10]) == ((1, 3), (7, 7), (9, 10))
    # What is nowhere needs no span of its own; what is elsewhere does.
    assert lines.spans_of([1, 3, 9], [1, 3, 9]) == ((1, 9),)
    assert lines.spans_of([1, 3, 9], [1, 3, 5, 9]) == ((1, 3), (9, 9))
    assert lines.spans_of([]) == ()
    assert lines.complement(((2, 3), (6, 9)), 10) == ((1, 1), (4, 5), (10, 10))
    assert lines.complement((), 2) == ((1, 2),)
    assert lines.complement(((1, 5),), 3) == ()
    line = Line(((1, 2),), {"": Transcript(((0, 3),), 4)})
    assert Line.of_text(line.to_text()) == line


async def say(db: Database, number: int, subpath: str = "") -> None:
    store = TranscriptStore(db, session_id="sesn_1")
    key: Any = {"project_key": "x", "session_id": TRANSCRIPT, "subpath": subpath}
    said = {"type": "user", "uuid": f"u{number}", "sessionId": TRANSCRIPT, "text": f"it is {TRANSCRIPT}"}
    # The one without a uuid is there, too; the one that was there already leaves a hole.
    await store.append(key, [said, {"type": "cost-state", "sessionId": TRANSCRIPT}, said])
    await append(db, add(event(number)))


async def texts(db: Database, session_id: str, transcript: str, subpath: str = "") -> list[str]:
    store = TranscriptStore(db, session_id=session_id)
    found = await store.load({"project_key": "x", "session_id": transcript, "subpath": subpath})
    return [encode(entry) for entry in found or ()]


async def line_now(db: Database) -> Line:
    def unit(conn: Connection) -> Line:
        row = get_session(conn, None, "sesn_1")
        return lines.current(conn, row.id, row.last_seq, TRANSCRIPT, without=("unconfirmed",))

    return await db.read(unit)


async def go_back(db: Database, line: Line) -> None:
    def unit(conn: Connection) -> None:
        lines.go_back(conn, "sesn_1", get_session(conn, None, "sesn_1").last_seq, TRANSCRIPT, line)

    await db.write(unit)


STEPS = st.lists(st.one_of(st.sampled_from(["say", "sub", "keep"]), st.integers(0, 5)), min_size=4, max_size=20)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_going_back_and_forth_makes_the_same_count_that_counted_then(
    db: Database, session: SessionRow, steps: list[str | int]
) -> None:
    """Any sequence of saying something, keeping the point, and going to a point that was kept (its number)."""
    kept: list[tuple[Line, list[str], list[str]]] = []
    for step in steps:
        match step:
            case "say" | "sub":
                last = (await db.read(lambda c: get_session(c, None, "sesn_1"))).last_seq
                await say(db, last + 1, SUB if step == "sub" else "")
            case "keep":
                kept.append(await point(db))
            case int() if kept:
                line, main, sub = kept[step % len(kept)]
                await go_back(db, line)
                found, *rest = await point(db)
                assert (found.events, rest) == (line.events, [main, sub])


async def point(db: Database) -> tuple[Line, list[str], list[str]]:
    """What counts, and what the two transcripts say."""
    return await line_now(db), await texts(db, "sesn_1", TRANSCRIPT), await texts(db, "sesn_1", TRANSCRIPT, SUB)


async def test_the_log_only_grows_and_what_was_cut_off_is_not_counted(db: Database, session: SessionRow) -> None:
    await say(db, 1)
    line = await line_now(db)
    await say(db, 2)
    await go_back(db, line)
    await say(db, 3)
    events = await db.read(lambda c: read_events(c, "sesn_1", after_seq=0, limit=10))
    assert [one.id for one in events] == ["sevt_1", "sevt_2", "sevt_3"]
    assert await db.read(lambda c: lines.cut(c, "sesn_1")) == ((2, 2),)
    assert await db.read(lambda c: count_since(c, "sesn_1", "sevt_1", "agent.message")) == 1


async def test_what_the_harness_has_not_confirmed_is_cut_off(db: Database, session: SessionRow) -> None:
    await say(db, 1)
    await say(db, 2, "unconfirmed")
    line = await line_now(db)
    assert list(line.transcripts) == [""]
    await go_back(db, line)
    assert await texts(db, "sesn_1", TRANSCRIPT, "unconfirmed") == []


async def test_a_point_whose_transcript_was_shortened_is_refused_and_nothing_changes(
    db: Database, session: SessionRow
) -> None:
    await say(db, 1)
    line = await line_now(db)
    await say(db, 2)
    before = await texts(db, "sesn_1", TRANSCRIPT)
    await db.write(lambda c: c.execute(sa.delete(transcript_entries).where(transcript_entries.c.uuid == "u1")))
    with pytest.raises(InvalidRequest, match="2 entries are needed and 1 are kept"):
        await go_back(db, line)
    assert await texts(db, "sesn_1", TRANSCRIPT) == before[1:]


async def test_a_copy_has_its_own_numbers_and_ids_and_the_first_stays_as_it_is(
    db: Database, session: SessionRow
) -> None:
    await say(db, 1)
    line = await line_now(db)
    await say(db, 2)
    await go_back(db, line)
    await say(db, 3)
    await say(db, 4, SUB)
    here = await line_now(db)
    tables = await everything(db, "sesn_1")
    await add_session(db, "sesn_2")

    def unit(conn: Connection) -> int:
        lines.copy_transcripts(conn, "sesn_1", TRANSCRIPT, here, "sesn_2", COPY)
        return lines.copy_events(conn, "sesn_1", here.events, "sesn_2", {"sthr_sesn_1": "sthr_sesn_2"}, ())

    assert await db.write(unit) == 3
    assert await everything(db, "sesn_1") == tables
    events = await db.read(lambda c: read_events(c, "sesn_2", after_seq=0, limit=10))
    assert [(one.seq, one.id) for one in events] == [(1, "sevt_1"), (2, "sevt_3"), (3, "sevt_4")]
    copied = await texts(db, "sesn_2", COPY)
    # Where it says whose it is, it is the copy's; what was said stays.
    expected = [
        text.replace(f'"sessionId":"{TRANSCRIPT}"', f'"sessionId":"{COPY}"')
        for text in await texts(db, "sesn_1", TRANSCRIPT)
    ]
    assert copied == expected
    assert len(await texts(db, "sesn_2", COPY, SUB)) == 2
    # It goes on from there.
    await TranscriptStore(db, session_id="sesn_2").append(
        {"project_key": "x", "session_id": COPY}, [{"type": "user", "uuid": "u9"}]
    )
    assert len(await texts(db, "sesn_2", COPY)) == len(copied) + 1
    # A point that was left can be copied as well.
    await go_back(db, line)
    await add_session(db, "sesn_3")
    await db.write(lambda c: lines.copy_transcripts(c, "sesn_1", TRANSCRIPT, here, "sesn_3", COPY))
    assert await texts(db, "sesn_3", COPY) == copied


async def test_a_session_that_is_deleted_takes_what_was_cut_off_with_it(db: Database, session: SessionRow) -> None:
    await say(db, 1)
    line = await line_now(db)
    await say(db, 2)
    await go_back(db, line)
    await db.write(lambda c: delete_session(c, None, "sesn_1"))
    for table in (cut_events, cut_transcript_entries):
        assert await db.read(lambda c, table=table: c.execute(sa.select(table)).all()) == []  # type: ignore[misc]


async def everything(db: Database, session_id: str) -> list[Any]:
    def unit(conn: Connection) -> list[Any]:
        entries = sa.select(transcript_entries).where(transcript_entries.c.project_key == session_id)
        row = get_session(conn, None, session_id)
        return [row, read_events(conn, session_id, after_seq=0, limit=99), conn.execute(entries).all()]

    return await db.read(unit)


async def test_bytes_are_counted_as_they_come_go_and_are_copied(db: Database, session: SessionRow) -> None:
    """Of the log and of each transcript: what the counters say is what adding up says."""

    def counted(conn: Connection) -> list[tuple[int, int]]:
        of_logs = sa.select(sessions.c.log_bytes, sessions.c.id).order_by(sessions.c.id)
        pairs = []
        for said, id_ in conn.execute(of_logs).all():
            bodies = conn.execute(sa.select(events.c.body).where(events.c.session_id == id_)).scalars()
            pairs.append((said, sum(len(body.encode()) for body in bodies)))
        for said, *place in conn.execute(sa.select(transcripts.c.bytes, *list(transcripts.c)[:3])).all():
            of = [column == value for column, value in zip(list(transcript_entries.c)[:3], place, strict=True)]
            entries = conn.execute(sa.select(transcript_entries.c.entry).where(*of)).scalars()
            pairs.append((said, sum(len(entry.encode()) for entry in entries)))
        return pairs

    async def check() -> None:
        found = await db.read(counted)
        assert all(said == real for said, real in found), found
        assert sum(real for _, real in found) > 0

    line, _, _ = await point(db)
    await say(db, 77)
    await say(db, 78, "sub")
    store = TranscriptStore(db, session_id="sesn_1")
    await store.append({"project_key": "p", "session_id": TRANSCRIPT}, [{"type": "x", "uuid": "ü", "text": "äöü€"}])
    await check()
    later = await line_now(db)
    await go_back(db, line)
    await check()
    await go_back(db, later)
    await check()
    await add_session(db, "sesn_copy")

    def copy(conn: Connection) -> None:
        lines.copy_events(conn, "sesn_1", later.events, "sesn_copy", {}, ())
        lines.copy_transcripts(conn, "sesn_1", TRANSCRIPT, later, "sesn_copy", "other")

    await db.write(copy)
    await check()
    await store.append_new({"project_key": "p", "session_id": TRANSCRIPT}, [{"type": "y", "uuid": "1"}], replacing=True)
    await check()
