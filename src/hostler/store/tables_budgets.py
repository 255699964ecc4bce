"""Which tables keep this? What may be spent, and what is set aside of it."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Seconds, Words, metadata

_ZERO = sa.text("0")

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("scope", Words, nullable=False),
    # The session, agent or workspace that it is about. Ids of different kinds are never equal.
    sa.Column("subject", Words, nullable=False),
    sa.Column("period", Words, nullable=False),
    # The one that the counters are of, such as 2026-11; empty where they are of all time.
    sa.Column("month", Words, nullable=False),
    sa.Column("limit_nanos", sa.BigInteger, nullable=False),
    sa.Column("spent_nanos", sa.BigInteger, nullable=False, server_default=_ZERO),
    sa.Column("uncertain_nanos", sa.BigInteger, nullable=False, server_default=_ZERO),
    sa.Column("reserved_nanos", sa.BigInteger, nullable=False, server_default=_ZERO),
    sa.Column("warn_at", Json, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("warned", sa.Integer, nullable=False, server_default=_ZERO),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.UniqueConstraint("subject", "period"),
    sa.Index("ix_budgets_workspace", "workspace_id", "created_at", "id"),
)

reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("grant_id", Words, primary_key=True),
    sa.Column("budget_id", Words, sa.ForeignKey("budgets.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("session_id", Words, nullable=False),
    # Of the lease under which it was taken: when that is over, nobody will settle it.
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("nanos", sa.BigInteger, nullable=False),
    sa.Column("taken_at", Seconds, nullable=False),
    sa.Index("ix_reservations_budget", "budget_id"),
    sa.Index("ix_reservations_session", "session_id"),
)

budget_pauses = sa.Table(
    "budget_pauses",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    # No foreign key: when the budget goes, the session goes on.
    sa.Column("budget_id", Words, nullable=False),
    sa.Column("needs_nanos", sa.BigInteger, nullable=False),
    sa.Column("paused_at", Words, nullable=False),
    sa.Index("ix_budget_pauses_budget", "budget_id"),
)
