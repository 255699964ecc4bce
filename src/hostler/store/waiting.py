"""What waits for a person, over all sessions of a workspace? One row for each call, kept with the session's state.

The inbox reads these rows by their index, oldest first; no session that waits for nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.store.jsontext import decode
from hostler.store.pages import Page, Position, page
from hostler.store.tables import events, sessions
from hostler.store.tables_tenancy import waiting_calls


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A call that nobody has answered yet."""

    event_id: str
    kind: Literal["confirmation", "custom_tool"]
    name: str


@dataclass(frozen=True, slots=True)
class WaitingRow:
    session_id: str
    session_title: str | None
    agent_id: str
    event_id: str
    kind: str
    name: str
    since: str
    event_json: str

    @property
    def input(self) -> Any:
        return decode(self.event_json).get("input", {})


def replace_waiting(
    conn: Connection,
    at: str,
    session_id: str,
    workspace_id: str,
    *,
    added: Sequence[WaitingCall],
    removed: Collection[str],
) -> None:
    """Calls that begin to wait now, and the events of those that don't any more."""
    if removed:
        mine = waiting_calls.c.session_id == session_id
        conn.execute(waiting_calls.delete().where(mine, waiting_calls.c.event_id.in_(sorted(removed))))
    if added:
        rows = [
            {
                "session_id": session_id,
                "event_id": call.event_id,
                "workspace_id": workspace_id,
                "kind": call.kind,
                "name": call.name,
                "since": at,
            }
            for call in added
        ]
        conn.execute(waiting_calls.insert(), rows)


def page_of_waiting(
    conn: Connection, workspace_id: str, *, limit: int, after: Position | None = None
) -> Page[WaitingRow]:
    """What waits, oldest first. A position holds the `since` and the event's id of a row."""
    joined = waiting_calls.join(sessions, sessions.c.id == waiting_calls.c.session_id).join(
        events,
        sa.and_(events.c.session_id == waiting_calls.c.session_id, events.c.id == waiting_calls.c.event_id),
    )
    return page(
        conn,
        joined,
        [
            waiting_calls.c.session_id,
            sessions.c.title,
            sessions.c.agent_id,
            waiting_calls.c.event_id,
            waiting_calls.c.kind,
            waiting_calls.c.name,
            waiting_calls.c.since,
            events.c.body,
        ],
        [waiting_calls.c.workspace_id == workspace_id],
        WaitingRow,
        keys=(waiting_calls.c.since, waiting_calls.c.event_id),
        order="asc",
        limit=limit,
        after=after,
        before=None,
    )
