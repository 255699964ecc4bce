"""What is in the reach of a run of retention, and what does a policy say of what it has found?

A scope is a workspace, a moment, and days. It knows what earlier policies of the same run remove, so that later ones
leave it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from hostler.domain.retention import Days, PolicyName
from hostler.store.moments import moment
from hostler.store.tables import sessions, transcripts
from hostler.store.tables_checkpoints import checkpoints

DAY: Final = 86_400.0
PIECE_BYTES: Final = 8 << 20
"""What one transaction removes at most, if it is not one thing that is larger."""

Key = tuple[Any, ...]
"""Where something stands in the order of its policy: what a run goes on behind."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which workspace, counted back from which moment, with which days."""

    workspace_id: str
    moment: float
    days: Days

    def seconds(self, policy: PolicyName) -> float | None:
        """What was over before this second is removed; None: nothing is."""
        days = self.days.get(policy)
        return None if days is None else self.moment - days * DAY

    def before(self, policy: PolicyName) -> str | None:
        """The same as the text of a moment."""
        seconds = self.seconds(policy)
        return None if seconds is None else moment(seconds)

    def older(self, column: ColumnElement[str], policy: PolicyName) -> ColumnElement[bool]:
        before = self.before(policy)
        return sa.false() if before is None else column < before

    @property
    def stays(self) -> ColumnElement[bool]:
        """The session in hand is not removed by this run."""
        return sa.or_(
            sessions.c.archived_at.is_(None),
            sessions.c.status != "terminated",
            sa.not_(self.older(sessions.c.archived_at, "archived_sessions")),
        )

    @property
    def counts(self) -> ColumnElement[bool]:
        """The checkpoint in hand is not removed by this run."""
        old = self.older(checkpoints.c.created_at, "automatic_checkpoints")
        return sa.or_(checkpoints.c.reason == "manual", sa.not_(old))

    @property
    def log_goes(self) -> ColumnElement[bool]:
        """The log of the session in hand is removed by this run: no checkpoint needs it."""
        needed = sa.exists().where(checkpoints.c.session_id == sessions.c.id, self.counts)
        there = sa.or_(sessions.c.log_bytes > 0, transcript_bytes() > 0)
        return sa.and_(
            sessions.c.archived_at.is_not(None),
            sessions.c.status == "terminated",
            self.older(sessions.c.archived_at, "archived_logs"),
            sa.not_(needed),
            there,
        )

    def of_kept_sessions(self, column: ColumnElement[Any]) -> ColumnElement[bool]:
        """Rows that refer to a session by `column`, which stays."""
        goes = sa.exists().where(sessions.c.id == column, sa.not_(self.stays))
        return sa.or_(column.is_(None), sa.not_(goes))


@dataclass(frozen=True, slots=True)
class Found:
    """One thing to remove."""

    id: str
    at: str
    """Since when it is over."""
    bytes: int
    items: int = 1


@dataclass(frozen=True, slots=True)
class Selected:
    found: Sequence[Found]
    after: Key | None
    """Where the next look begins; None: there is nothing more."""


Select = Callable[[Connection, Scope, Key | None, int], Selected]
Remove = Callable[[Connection, Scope, Sequence[Found]], None]


@dataclass(frozen=True, slots=True)
class Policy:
    name: PolicyName
    what: str
    """For people: what is removed, and when."""
    select: Select
    remove: Remove
    batch: int = 500
    """Things that are looked at in one transaction."""
    drains: bool = False
    """It removes logs, which may be too large for one transaction (`retention_policies.drain`)."""


def transcript_bytes() -> ColumnElement[int]:
    """Of the session in hand."""
    query = sa.select(sa.func.coalesce(sa.func.sum(transcripts.c.bytes), 0))
    return query.where(transcripts.c.project_key == sessions.c.id).scalar_subquery()


def behind(keys: Sequence[ColumnElement[Any]], after: Key | None) -> ColumnElement[bool]:
    return sa.true() if after is None else sa.tuple_(*keys) > sa.tuple_(*(sa.literal(part) for part in after))


def piece(
    rows: Sequence[Any], make: Callable[[Any], tuple[Key, Found]], limit: int, *, whole: int = PIECE_BYTES
) -> Selected:
    """As many of the rows as one transaction should remove."""
    found: list[Found] = []
    size, last = 0, None
    for row in rows:
        key, one = make(row)
        if found and size + one.bytes > whole:
            return Selected(found, last)
        found.append(one)
        size, last = size + one.bytes, key
    return Selected(found, last if len(rows) >= limit else None)
