"""Who administered what, and when? Entries are written in the transaction of the act, and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from hostler.domain.ids import new_id
from hostler.domain.principals import Actor
from hostler.store.jsontext import cleaned, decode, encode
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, Range, page
from hostler.store.tables_tenancy import audit_entries


@dataclass(frozen=True, slots=True)
class AuditRow:
    id: str
    workspace_id: str
    """The workspace that the act was about."""
    actor_kind: str
    actor_id: str
    act: str
    """A stable word of the form `key.create`."""
    target_id: str
    details_json: str
    created_at: str

    @property
    def details(self) -> dict[str, Any]:
        found: dict[str, Any] = decode(self.details_json)
        return found


_COLUMNS = tuple(
    audit_entries.c[name]
    for name in ("id", "workspace_id", "actor_kind", "actor_id", "act", "target_id", "details", "created_at")
)


def record_act(
    conn: Connection,
    now: float,
    *,
    actor: Actor,
    act: str,
    target_id: str,
    workspace_id: str,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write an act down, in its own transaction: both happen or none. `details` must not hold secrets."""
    conn.execute(
        audit_entries.insert().values(
            id=new_id("audit"),
            workspace_id=workspace_id,
            actor_kind=actor.kind,
            actor_id=cleaned(actor.id, 256),
            act=act,
            target_id=target_id,
            details=encode(dict(details or {})),
            created_at=moment(now),
        )
    )


def page_of_acts(
    conn: Connection,
    workspace_id: str,
    *,
    limit: int,
    after: Position | None = None,
    created: Range | None = None,
    actor_id: str | None = None,
    act: str | None = None,
    target_id: str | None = None,
) -> Page[AuditRow]:
    """Acts about one workspace, newest first."""
    conditions = [audit_entries.c.workspace_id == workspace_id]
    conditions += created.conditions(audit_entries.c.created_at) if created is not None else []
    for column, wanted in (
        (audit_entries.c.actor_id, actor_id),
        (audit_entries.c.act, act),
        (audit_entries.c.target_id, target_id),
    ):
        if wanted is not None:
            conditions.append(column == wanted)
    return page(
        conn,
        audit_entries,
        _COLUMNS,
        conditions,
        AuditRow,
        keys=(audit_entries.c.created_at, audit_entries.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )
