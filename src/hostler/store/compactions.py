"""How did each compaction of a session go, and when is the next one due?

Rows are written by whoever holds the session's lease, and by the transaction that asks for a compaction. A session
keeps its newest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from hostler.store.jsontext import cleaned, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.sessions import get_session
from hostler.store.tables_archives import compaction_schedules, compactions

KEPT_ROWS: Final = 200
"""Of one session; older ones go."""
LONGEST_SUMMARY: Final = 200_000
"""Characters."""
_LONGEST_REASON: Final = 2_000


@dataclass(frozen=True, slots=True)
class CompactionRow:
    id: str
    workspace_id: str
    session_id: str
    cause: str
    """`auto`, `manual` or `scheduled`."""
    strategy: str | None
    state: str
    """`waiting`, `running`, `completed`, `failed`, `blocked` or `skipped`."""
    reason: str | None
    instructions: str | None
    archive_id: str | None
    boundary: str | None
    before_tokens: int | None
    after_tokens: int | None
    summary: str | None
    kept: str
    """JSON text: what stays word for word, in numbers."""
    requests: int
    """Model requests that it took."""
    input_tokens: int
    output_tokens: int
    due_at: str | None
    """With `scheduled`: the moment of the schedule that it is for."""
    retry_at: float | None
    """No automatic try before."""
    created_at: str
    ended_at: str | None


_COLUMNS = tuple(compactions.c)
_OPEN: Final = ("waiting", "running")


def create(
    conn: Connection,
    now: float,
    *,
    id: str,
    workspace_id: str,
    session_id: str,
    cause: str,
    state: str,
    strategy: str | None = None,
    instructions: str | None = None,
    reason: str | None = None,
    due_at: str | None = None,
) -> None:
    """Write a new one down; the oldest of a session that has many goes. IntegrityError: that date has one already."""
    at = moment(now)
    conn.execute(
        compactions.insert().values(
            id=id,
            workspace_id=workspace_id,
            session_id=session_id,
            cause=cause,
            strategy=strategy,
            state=state,
            reason=reason,
            instructions=instructions,
            due_at=due_at,
            created_at=at,
            ended_at=None if state in _OPEN else at,
        )
    )
    mine = sa.select(compactions.c.id).where(compactions.c.session_id == session_id)
    old = mine.order_by(compactions.c.created_at.desc(), compactions.c.id.desc()).offset(KEPT_ROWS)
    stale = [row[0] for row in conn.execute(old.limit(KEPT_ROWS))]
    if stale:
        conn.execute(compactions.delete().where(compactions.c.id.in_(stale)))


def change(conn: Connection, id: str, **values: Any) -> None:
    """Set columns. Texts from a sandbox are made fit; `kept` is a value."""
    if values.get("reason") is not None:
        values["reason"] = cleaned(values["reason"], _LONGEST_REASON)
    if values.get("summary") is not None:
        values["summary"] = cleaned(values["summary"], LONGEST_SUMMARY)
    if "kept" in values:
        values["kept"] = encode(values["kept"])
    conn.execute(compactions.update().where(compactions.c.id == id).values(**values))


def count_request(conn: Connection, id: str, input_tokens: int, output_tokens: int) -> None:
    """A model request was made for it."""
    here = compactions.c
    conn.execute(
        compactions.update()
        .where(here.id == id)
        .values(
            requests=here.requests + 1,
            input_tokens=here.input_tokens + input_tokens,
            output_tokens=here.output_tokens + output_tokens,
        )
    )


def find(conn: Connection, id: str) -> CompactionRow | None:
    row = conn.execute(sa.select(*_COLUMNS).where(compactions.c.id == id)).first()
    return None if row is None else CompactionRow(*row)


def newest(conn: Connection, session_id: str, limit: int = 1) -> list[CompactionRow]:
    """The session's newest, the newest first."""
    query = sa.select(*_COLUMNS).where(compactions.c.session_id == session_id)
    query = query.order_by(compactions.c.created_at.desc(), compactions.c.id.desc()).limit(limit)
    return [CompactionRow(*row) for row in conn.execute(query)]


def open_ones(conn: Connection, session_id: str) -> list[CompactionRow]:
    """Those that have no end yet, the oldest first."""
    query = sa.select(*_COLUMNS).where(compactions.c.session_id == session_id, compactions.c.state.in_(_OPEN))
    return [CompactionRow(*row) for row in conn.execute(query.order_by(compactions.c.created_at, compactions.c.id))]


def failures(conn: Connection, session_id: str) -> tuple[int, float | None]:
    """How many tries in a row came to nothing, and before which second no automatic one should be made."""
    ended = [row for row in newest(conn, session_id, 32) if row.state not in _OPEN]
    count = 0
    for row in ended:
        if row.state == "completed" and row.retry_at is None:
            break
        count += row.state != "skipped" and row.retry_at is not None
    return count, ended[0].retry_at if ended else None


def list_compactions(
    conn: Connection, workspace_id: str, session_id: str, *, limit: int, after: Position | None
) -> Page[CompactionRow]:
    """A session's, newest first. Raises NotFound."""
    get_session(conn, workspace_id, session_id)
    return page(
        conn,
        compactions,
        _COLUMNS,
        [compactions.c.session_id == session_id],
        CompactionRow,
        keys=(compactions.c.created_at, compactions.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


# ----------------------------------------------------------------------------------------------------------- schedules


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    session_id: str
    schedule: str
    next_at: float
    last_due: float | None


_SCHEDULE = tuple(compaction_schedules.c)


def schedule_of(conn: Connection, session_id: str) -> ScheduleRow | None:
    row = conn.execute(sa.select(*_SCHEDULE).where(compaction_schedules.c.session_id == session_id)).first()
    return None if row is None else ScheduleRow(*row)


def set_schedule(conn: Connection, session_id: str, schedule: str | None, next_at: float) -> None:
    """The session is due at `next_at` for the first time; one that has this schedule already keeps its moment."""
    mine = compaction_schedules.c.session_id == session_id
    if schedule is None:
        conn.execute(compaction_schedules.delete().where(mine))
        return
    dialect = postgresql if conn.dialect.name == "postgresql" else sqlite
    added = dialect.insert(compaction_schedules).values(session_id=session_id, schedule=schedule, next_at=next_at)
    conn.execute(
        added.on_conflict_do_update(
            index_elements=["session_id"],
            set_={"schedule": schedule, "next_at": next_at},
            where=compaction_schedules.c.schedule != schedule,
        )
    )


def due(conn: Connection, now: float, limit: int) -> Sequence[ScheduleRow]:
    """Those whose moment has come, the longest waiting first."""
    query = sa.select(*_SCHEDULE).where(compaction_schedules.c.next_at <= now)
    query = query.order_by(compaction_schedules.c.next_at, compaction_schedules.c.session_id).limit(limit)
    return [ScheduleRow(*row) for row in conn.execute(query)]


def take_due(conn: Connection, seen: ScheduleRow, *, due: float, next_at: float) -> bool:
    """This moment is taken, and the next is set. False: somebody else took it first."""
    here = compaction_schedules.c
    taken = compaction_schedules.update().where(
        here.session_id == seen.session_id, here.next_at == seen.next_at, here.schedule == seen.schedule
    )
    return conn.execute(taken.values(next_at=next_at, last_due=due)).rowcount == 1


def drop_schedule(conn: Connection, session_id: str) -> None:
    conn.execute(compaction_schedules.delete().where(compaction_schedules.c.session_id == session_id))
