"""Tables: points of a session to go back to, what was cut off by going back, and what workers are asked for.

Nothing here is read while a turn runs. What counts is always in the tables that everybody reads: going back moves what
doesn't count any more out of them, and keeps it here.
"""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Seconds, Words, metadata

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", Words),
    sa.Column("reason", Words, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    # Which numbers of the event log counted, and which ordinals of each transcript (`store.lines.Line`).
    sa.Column("line", Json, nullable=False),
    # Of the snapshot that holds the files; None when the session had none.
    sa.Column("snapshot_id", Words),
    # Which version of each memory counted, by store.
    sa.Column("memories", Json, nullable=False),
    # The engine's state, and the gateway's, as they were.
    sa.Column("state", Json, nullable=False),
    sa.Column("sequence", Json),
    sa.Column("usage", Json, nullable=False),
    sa.Column("agent_version", sa.Integer, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Index("ix_checkpoints_newest", "session_id", "created_at", "id"),
    # Whoever wants to remove a snapshot asks whether a checkpoint needs it.
    sa.Index("ix_checkpoints_snapshot", "snapshot_id"),
)

# Events that don't count any more. They stay in the log: it only grows.
cut_events = sa.Table(
    "cut_events",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("first_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
)

# Entries of transcripts that don't count any more. Two branches can have an entry of the same uuid.
cut_transcript_entries = sa.Table(
    "cut_transcript_entries",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("transcript_id", Words, primary_key=True),
    sa.Column("subpath", Words, primary_key=True),
    sa.Column("ordinal", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("uuid", Words),
    sa.Column("entry", Json, nullable=False),
)

rewinds = sa.Table(
    "rewinds",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("checkpoint_id", Words, nullable=False),
    # The checkpoint that was taken of the point that was left, to come back to it.
    sa.Column("left_checkpoint_id", Words, nullable=False),
    sa.Column("from_seq", sa.BigInteger, nullable=False),
    sa.Column("to_seq", sa.BigInteger, nullable=False),
    # What became of the memories: restored, and left because of whom.
    sa.Column("memories", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Index("ix_rewinds_newest", "session_id", "created_at", "id"),
)

# What the worker of a session is to do between two turns, because somebody waits for it.
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("act", Words, nullable=False),
    sa.Column("params", Json, nullable=False),
    # None: still to be done.
    sa.Column("outcome", Json),
    # Nobody waits for it any more.
    sa.Column("expires_at", Seconds, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Index("ix_orders_session", "session_id", "created_at", "id"),
)
