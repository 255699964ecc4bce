"""Which tables keep workspaces apart and in bounds? Quotas, the audit of administration, and what waits for people."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Words, metadata

workspace_quotas = sa.Table(
    "workspace_quotas",
    metadata,
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), primary_key=True),
    sa.Column("overrides", Json, nullable=False, server_default=sa.text("'{}'")),
    # The day (UTC, `2026-01-02`) that is being counted, and the sessions that were made on it.
    sa.Column("day", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("sessions_made", sa.BigInteger, nullable=False, server_default=sa.text("0")),
)

# The audit outlives what it is about, so it refers to no row.
audit_entries = sa.Table(
    "audit_entries",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    # The session that it is about, or '', and its place among the entries about that.
    sa.Column("strand", Words, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("kind", Words, nullable=False),
    sa.Column("actor_kind", Words, nullable=False),
    sa.Column("actor_id", Words, nullable=False),
    sa.Column("act", Words, nullable=False),
    sa.Column("target_id", Words, nullable=False),
    # Whose key `sealed` and the digests in `details` are made with; see `audit_subjects.id`.
    sa.Column("subject", Words, nullable=False),
    sa.Column("sealed", Words, nullable=False),
    sa.Column("details", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    # Its place in the chain of the workspace, and its hash (hexadecimal). Null until it is chained, moments later.
    sa.Column("seq", sa.BigInteger),
    sa.Column("hash", Words),
    sa.Index("ix_audit_entries_newest", "workspace_id", "created_at", "id"),
    sa.Index("ix_audit_entries_strand", "workspace_id", "strand", "created_at", "id"),
    sa.Index("ix_audit_entries_chain", "workspace_id", "seq"),
    sa.Index(
        "ix_audit_entries_loose",
        "workspace_id",
        "created_at",
        "strand",
        "number",
        sqlite_where=sa.text("seq IS NULL"),
        postgresql_where=sa.text("seq IS NULL"),
    ),
)

# One row for each call that waits for a person, written with the transition that makes it wait or stops it waiting.
waiting_calls = sa.Table(
    "waiting_calls",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("event_id", Words, primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("kind", Words, nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("since", Words, nullable=False),
    sa.Index("ix_waiting_calls_oldest", "workspace_id", "since", "event_id"),
)
