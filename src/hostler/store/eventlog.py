"""What happened in a session, in which order, and who was allowed to say so?

A log that only grows. `transact` is the one way to add to it: under the lock of the session's row it shows the caller
what is true now, lets it decide, and writes events, state and the wish for a worker in one transaction. Sequence
numbers begin at 1 and have no gaps, so a reader that knows its last number misses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from hostler.domain.errors import Conflict
from hostler.store.jsontext import size_of_text
from hostler.store.moments import moment
from hostler.store.pages import Order, Range
from hostler.store.prepared import Prepared
from hostler.store.sessions import COLUMNS, SessionRow, SessionUpdate, missing, session_row
from hostler.store.signals import CHANNEL, News, notification, tell
from hostler.store.tables import events, sessions, work, workspaces
from hostler.store.tables_checkpoints import cut_events
from hostler.store.work import AT_ONCE, Lease, Need, lost


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event to be added."""

    id: str
    type: str
    processed_at: str
    """RFC 3339 text."""
    body: str
    """JSON text of the complete event as it goes over the wire (`jsontext.encode`)."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    seq: int
    id: str
    type: str
    processed_at: str
    body: str


@dataclass(frozen=True, slots=True)
class LogView:
    """What is true at the moment of the decision. Nobody can change it before the decision is written."""

    session: SessionRow
    now: float
    now_text: str
    wanted: bool
    webhook_events: str
    """JSON text: the webhook events that somebody in the session's workspace wants (`store.webhooks`)."""


@dataclass(frozen=True, slots=True)
class Change:
    """What the caller decided."""

    state: str
    """The engine's JSON text."""
    status: str
    events: Sequence[NewEvent] = ()
    wanted: bool | None = None
    """Whether the session wants a worker from now on. None: as before."""
    available_at: float | None = None
    """Not before this second. None: at once if the session did not want a worker before, else as before."""
    update: SessionUpdate | None = None
    need: Need = "turn"
    """What a worker is wanted for, if one is."""
    begins: bool = False
    """It is wanted for something new: the place in the queue is that of this moment."""
    waiting: Sequence[str] = ()
    """Ids of input that was accepted and is not in the log yet. Other servers are told of it, too."""


@dataclass(frozen=True, slots=True)
class Appended:
    """What was written."""

    seq_first: int
    """Number of the first new event; with no new event, the number that the next one will get."""
    events: Sequence[StoredEvent]
    session: SessionRow
    """The session as it is now."""


_EVENT = (events.c.seq, events.c.id, events.c.type, events.c.processed_at, events.c.body)

_LOCK = Prepared(
    sa.select(
        work.c.wanted,
        work.c.available_at,
        work.c.enqueued_at,
        work.c.owner,
        work.c.epoch,
        work.c.lease_until,
        work.c.need,
        workspaces.c.webhook_events,
        *COLUMNS,
    )
    .select_from(
        sessions.join(work, work.c.session_id == sessions.c.id).join(
            workspaces, workspaces.c.id == sessions.c.workspace_id
        )
    )
    .where(sessions.c.id == sa.bindparam("session"))
    # Both rows: a claim must not slip in between the check of a lease and the commit of what it allowed.
    .with_for_update(key_share=True, of=[sessions, work])
)
_AFTER = Prepared(
    sa.select(*_EVENT)
    .where(events.c.session_id == sa.bindparam("session"), events.c.seq > sa.bindparam("after", type_=sa.BigInteger))
    .order_by(events.c.seq)
    .limit(sa.bindparam("most", type_=sa.Integer))
)
_SPANS = """
SELECT span.id, found.seq, found.id, found.type, found.processed_at, found.body
FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS span (id, first, last)
CROSS JOIN LATERAL (
    SELECT seq, id, type, processed_at, body FROM events
    WHERE session_id = span.id AND seq BETWEEN span.first AND span.last ORDER BY seq LIMIT $4::int
) AS found
"""
_ONE = Prepared(
    sa.select(*_EVENT).where(events.c.session_id == sa.bindparam("session"), events.c.id == sa.bindparam("event"))
)
_UPDATE = sessions.update().where(sessions.c.id == sa.bindparam("session"))
_UPDATE_AND_TELL = _UPDATE.returning(
    sa.func.pg_notify(CHANNEL, sa.bindparam("told_others", type_=sa.Text), type_=sa.Text)
)
"""PostgreSQL: no round trip of its own for the notification."""
_INSERT = events.insert()
_UPDATE_WORK = (
    work.update()
    .where(work.c.session_id == sa.bindparam("session"))
    .values(
        wanted=sa.bindparam("is_wanted"),
        available_at=sa.bindparam("available"),
        enqueued_at=sa.bindparam("enqueued"),
        need=sa.bindparam("needed"),
    )
)


def transact(
    conn: Connection,
    db_now: float,
    session_id: str,
    decide: Callable[[LogView], Change],
    *,
    lease: Lease | None,
    workspace_id: str | None,
) -> Appended:
    """Let `decide` see the session and write what it decides. Must run inside `Database.write`.

    db_now        `Database.now` of this transaction.
    decide        pure: it may run again in a new transaction. What it raises undoes the transaction.
    lease         of the worker that writes. None: an API request, which needs no lease.
    workspace_id  of the request. None: any workspace (the engine).

    Raises LeaseLost when the lease is not valid now, also because the session was deleted under the worker; NotFound
    when the session is unknown or another workspace's; Conflict when an event's id is in the log already, or when a
    superseding event has nothing to supersede.
    """
    found = _LOCK.run(conn, session=session_id)
    if not found:
        raise missing(session_id) if lease is None else lost(lease)
    row = found[0]
    available_at, enqueued_at, owner, epoch, lease_until, needed = row[1:7]
    wanted = bool(row[0])  # SQLite has no booleans
    session = session_row(*row[8:])
    if workspace_id is not None and session.workspace_id != workspace_id:
        raise missing(session_id)
    if lease is not None and not (
        lease.session_id == session_id
        and owner == lease.owner
        and epoch == lease.epoch
        and lease_until is not None
        and lease_until > db_now
    ):
        raise lost(lease)
    view = LogView(session, db_now, moment(db_now), wanted, row[7])
    change = decide(view)
    stored = _append(conn, session, change.events)
    last_seq = session.last_seq + len(stored)
    # What a worker writes concerns no other worker; what comes from outside may concern the one that has the session.
    news = News("session", session_id, session.last_seq + 1, last_seq, lease is None, tuple(change.waiting))
    log_bytes = session.log_bytes + sum(size_of_text(event.body) for event in stored)
    after = _update_session(conn, view, change, last_seq, log_bytes, news)
    want = wanted if change.wanted is None else change.wanted
    if change.available_at is not None:
        available = change.available_at
    else:
        available = AT_ONCE if want and not wanted else available_at
    need = change.need if want else needed
    if lease is None and (needed, need) == ("errand", "stand_by"):  # only a worker knows that the errand is done
        need = needed
    begins = want and (change.begins or not wanted)
    if begins or (want, available, need) != (wanted, available_at, needed):
        conn.execute(
            _UPDATE_WORK,
            {
                "session": session_id,
                "is_wanted": want,
                "available": available,
                "enqueued": db_now if begins else enqueued_at,
                "needed": need,
            },
        )
    return Appended(session.last_seq + 1, stored, after)


def read_events(conn: Connection, session_id: str, *, after_seq: int, limit: int) -> list[StoredEvent]:
    """The log from the number after `after_seq` on: what a stream sends."""
    return [StoredEvent(*row) for row in _AFTER.run(conn, session=session_id, after=after_seq, most=limit)]


def read_spans(conn: Connection, spans: Sequence[tuple[str, int, int]], *, limit: int) -> dict[str, list[StoredEvent]]:
    """Parts of several logs, in one query: of each session the events from the first number to the last.

    At most `limit` of each. PostgreSQL only; nobody else has more than one process to read for.
    """
    found: dict[str, list[StoredEvent]] = {}
    columns = [list(column) for column in zip(*spans, strict=True)] or [[], [], []]
    for session_id, *event in conn.exec_driver_sql(_SPANS, (*columns, limit)):
        found.setdefault(session_id, []).append(StoredEvent(*event))
    return found


def list_events(
    conn: Connection,
    session_id: str,
    *,
    limit: int,
    order: Order = "asc",
    after_seq: int | None = None,
    types: Collection[str] = (),
    processed: Range | None = None,
) -> tuple[list[StoredEvent], bool]:
    """Events, and whether there are more. `types` empty means every type.

    after_seq  go on behind this number, in the order that is asked for.
    processed  bounds of `processed_at`.
    """
    query = sa.select(*_EVENT).where(events.c.session_id == session_id)
    if types:
        query = query.where(events.c.type.in_(sorted(types)))
    if processed is not None:
        query = query.where(*processed.conditions(events.c.processed_at))
    if after_seq is not None:
        query = query.where(events.c.seq > after_seq if order == "asc" else events.c.seq < after_seq)
    rows = conn.execute(query.order_by(events.c.seq if order == "asc" else events.c.seq.desc()).limit(limit + 1)).all()
    return [StoredEvent(*row) for row in rows[:limit]], len(rows) > limit


def find_event(conn: Connection, session_id: str, event_id: str) -> StoredEvent | None:
    """The event of this id."""
    found = _ONE.run(conn, session=session_id, event=event_id)
    return StoredEvent(*found[0]) if found else None


def count_since(conn: Connection, session_id: str, event_id: str, type_: str) -> int:
    """How many events of a type stand after the event of this id, and count. 0 when there is no such event."""
    since = sa.select(events.c.seq).where(events.c.session_id == session_id, events.c.id == event_id)
    query = sa.select(sa.func.count()).where(
        events.c.session_id == session_id,
        events.c.type == type_,
        events.c.seq > since.scalar_subquery(),
        ~sa.exists().where(
            cut_events.c.session_id == session_id, events.c.seq.between(cut_events.c.first_seq, cut_events.c.last_seq)
        ),
    )
    return int(conn.execute(query).scalar_one())


def count_after(conn: Connection, session_id: str, seq: int, type_: str) -> int:
    """How many events of a type stand after that number."""
    query = sa.select(sa.func.count()).where(
        events.c.session_id == session_id, events.c.type == type_, events.c.seq > seq
    )
    return int(conn.execute(query).scalar_one())


def _append(conn: Connection, session: SessionRow, new: Sequence[NewEvent]) -> list[StoredEvent]:
    if not new:
        return []
    stored = [
        StoredEvent(seq, event.id, event.type, event.processed_at, event.body)
        for seq, event in enumerate(new, session.last_seq + 1)
    ]
    rows = [
        {
            "session_id": session.id,
            "seq": event.seq,
            "id": event.id,
            "type": event.type,
            "processed_at": event.processed_at,
            "body": event.body,
        }
        for event in stored
    ]
    try:
        conn.execute(_INSERT, rows)
    except IntegrityError as error:  # the transaction is lost anyway: `decide` works on what is no longer true
        raise Conflict(f"an event of session {session.id} is in its log already") from error
    return stored


def _update_session(
    conn: Connection, view: LogView, change: Change, last_seq: int, log_bytes: int, news: News
) -> SessionRow:
    session = view.session
    values: dict[str, Any] = change.update.values() if change.update is not None else {}
    counted = (("last_seq", last_seq), ("log_bytes", log_bytes))
    for name, value in (("state", change.state), ("status", change.status), *counted):
        if getattr(session, name) != value:
            values[name] = value
    if not values:
        if news.wanted:
            tell(conn, news)
        return session
    values["updated_at"] = view.now_text
    told = notification(conn, news)
    if told is None:
        conn.execute(_UPDATE, {"session": session.id, **values})
    else:
        conn.execute(_UPDATE_AND_TELL, {"session": session.id, "told_others": told, **values}).close()
    renamed = {name: f"{name}_json" for name in ("metadata", "agent", "resources", "budget", "isolation")}
    return replace(session, **{renamed.get(name, name): value for name, value in values.items()})
