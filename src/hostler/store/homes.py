"""Which copy of a session's files counts, and how far does it go back?

A worker that is about to serve a session makes its folders the copy that counts, under its lease. From then on no
other worker's folders do, however new they are. Every write here finds the lease holding.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.events import INTERRUPTED
from hostler.store.prepared import Prepared
from hostler.store.tables import events, sessions
from hostler.store.tables_homes import session_homes
from hostler.store.work import Lease, check

_RESULTS: Final = {"agent.tool_result": "tool_use_id", "agent.mcp_tool_result": "mcp_tool_use_id"}
"""Events after which files may be others than before, and how they name their call."""


@dataclass(frozen=True, slots=True)
class HomeRow:
    """What is known of a session's files besides the snapshots."""

    session_id: str
    copy: str
    """Name of the copy that counts. Empty: none, because a task is over."""
    worker: str
    """Who has it, or had it last."""
    kept_seq: int
    """What the log had up to this number is in the latest snapshot."""
    void_until: int
    """Snapshots up to this number are of tasks that are over."""

    @property
    def cleared(self) -> bool:
        return not self.copy


_COLUMNS = tuple(session_homes.c)
_ONE = Prepared(sa.select(*_COLUMNS).where(session_homes.c.session_id == sa.bindparam("session_id")))


def get_home(conn: Connection, session_id: str) -> HomeRow | None:
    """None: no worker has had files of this session."""
    found = _ONE.run(conn, session_id=session_id)
    return HomeRow(*found[0]) if found else None


def get_homes(conn: Connection, session_ids: Collection[str]) -> dict[str, HomeRow]:
    """Those of the sessions that have one."""
    query = sa.select(*_COLUMNS).where(session_homes.c.session_id.in_(sorted(session_ids)))
    return {row[0]: HomeRow(*row) for row in conn.execute(query)} if session_ids else {}


def take_home(conn: Connection, now: float, lease: Lease, copy: str) -> None:
    """From now on `copy`, which the owner of the lease has, counts. Raises LeaseLost."""
    check(conn, now, lease)
    at = session_homes.c.session_id == lease.session_id
    changed = conn.execute(session_homes.update().where(at).values(copy=copy, worker=lease.owner))
    if not changed.rowcount:
        values = {"session_id": lease.session_id, "copy": copy, "worker": lease.owner, "kept_seq": 0, "void_until": 0}
        conn.execute(session_homes.insert().values(**values))


def note_kept(conn: Connection, now: float, lease: Lease, number: int) -> None:
    """The snapshot of this number has everything up to the end of the log. Raises LeaseLost."""
    check(conn, now, lease)
    void = session_homes.c.void_until  # a task may end up with the very files of one before
    still_void = sa.case((void >= number, number - 1), else_=void)
    _update(conn, lease, kept_seq=_last_seq(lease), void_until=still_void)


def clear_home(conn: Connection, now: float, lease: Lease, void_until: int) -> None:
    """No copy counts any more, and no snapshot up to that number. Raises LeaseLost."""
    take_home(conn, now, lease, "")
    _update(conn, lease, kept_seq=_last_seq(lease), void_until=void_until)


def _last_seq(lease: Lease) -> sa.ScalarSelect[int]:
    return sa.select(sessions.c.last_seq).where(sessions.c.id == lease.session_id).scalar_subquery()


def _update(conn: Connection, lease: Lease, **values: object) -> None:
    conn.execute(session_homes.update().where(session_homes.c.session_id == lease.session_id).values(**values))


def calls_since(conn: Connection, session_id: str, seq: int, taken_at: str | None) -> int:
    """How many calls of tools that may have changed files got their results after this number, and that moment.

    Both: a snapshot that was taken may not have been noted by number, and one that was noted may be older than calls
    that changed nothing. A call that was denied, or stopped before it had begun, has changed nothing.
    """
    query = sa.select(events.c.type, events.c.body, events.c.processed_at)
    query = query.where(events.c.session_id == session_id, events.c.seq > seq)
    query = query.where(events.c.type.in_((*_RESULTS, "user.tool_confirmation")))
    ran, denied = set(), set()
    for type_, text, at in conn.execute(query):
        body = json.loads(text)
        if type_ == "user.tool_confirmation":
            if body["result"] == "deny":
                denied.add(body["tool_use_id"])
        elif (taken_at is None or at > taken_at) and not _never_began(body):
            ran.add(body[_RESULTS[type_]])
    return len(ran - denied)


def _never_began(result: Mapping[str, Any]) -> bool:
    said = [block.get("text") for block in result.get("content") or ()]
    return bool(result.get("is_error")) and said == [INTERRUPTED]
