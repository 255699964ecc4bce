"""Tables: what conversations were before they were compacted, and how each compaction went."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Seconds, Words, metadata

archives = sa.Table(
    "archives",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    # writing · complete · removed: its chunks made room for newer ones
    sa.Column("state", Words, nullable=False),
    sa.Column("entries", sa.BigInteger, nullable=False),
    sa.Column("logical_bytes", sa.BigInteger, nullable=False),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    # For each transcript of the session by its subpath: the ordinal that the next archive begins with.
    sa.Column("upto", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("removed_at", Words),
    sa.UniqueConstraint("session_id", "number"),
    sa.Index("ix_archives_oldest", "workspace_id", "state", "created_at", "id"),
)

archive_chunks = sa.Table(
    "archive_chunks",
    metadata,
    sa.Column("archive_id", Words, sa.ForeignKey("archives.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    # Place of its first entry in the archive, and how many it holds.
    sa.Column("first_entry", sa.BigInteger, nullable=False),
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

compactions = sa.Table(
    "compactions",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("cause", Words, nullable=False),
    sa.Column("strategy", Words),
    # waiting · running · completed · failed · blocked · skipped
    sa.Column("state", Words, nullable=False),
    sa.Column("reason", Words),
    sa.Column("instructions", Words),
    sa.Column("archive_id", Words),
    sa.Column("boundary", Words),
    sa.Column("before_tokens", sa.BigInteger),
    sa.Column("after_tokens", sa.BigInteger),
    sa.Column("summary", Words),
    sa.Column("kept", Json, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("requests", sa.Integer, nullable=False, server_default=sa.text("0")),
    sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("due_at", Words),
    sa.Column("retry_at", Seconds),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("ended_at", Words),
    # One compaction for one date of a schedule, whoever notices first. Others have no date.
    sa.UniqueConstraint("session_id", "due_at"),
    sa.Index("ix_compactions_newest", "session_id", "created_at", "id"),
)

compaction_schedules = sa.Table(
    "compaction_schedules",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("schedule", Words, nullable=False),
    sa.Column("next_at", Seconds, nullable=False),
    sa.Column("last_due", Seconds),
    sa.Index("ix_compaction_schedules_next_at", "next_at"),
)
