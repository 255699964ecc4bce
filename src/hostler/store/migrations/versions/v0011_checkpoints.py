"""Points of a session to go back to."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "checkpoints",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("name", WORDS),
        sa.Column("reason", WORDS, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.Column("snapshot_id", WORDS),
        sa.Column("memories", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("sequence", sa.Text),
        sa.Column("usage", sa.Text, nullable=False),
        sa.Column("agent_version", sa.Integer, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_checkpoints_session_id", ondelete="CASCADE"),
    )
    op.create_index("ix_checkpoints_newest", "checkpoints", ["session_id", "created_at", "id"])
    op.create_index("ix_checkpoints_snapshot", "checkpoints", ["snapshot_id"])
    op.create_table(
        "cut_events",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("first_seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "first_seq", name="pk_cut_events"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_cut_events_session_id", ondelete="CASCADE"),
    )
    op.create_table(
        "cut_transcript_entries",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("transcript_id", WORDS, nullable=False),
        sa.Column("subpath", WORDS, nullable=False),
        sa.Column("ordinal", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("uuid", WORDS),
        sa.Column("entry", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "transcript_id", "subpath", "ordinal", name="pk_cut_transcript_entries"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_cut_transcript_entries_session_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "rewinds",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("checkpoint_id", WORDS, nullable=False),
        sa.Column("left_checkpoint_id", WORDS, nullable=False),
        sa.Column("from_seq", sa.BigInteger, nullable=False),
        sa.Column("to_seq", sa.BigInteger, nullable=False),
        sa.Column("memories", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rewinds"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_rewinds_session_id", ondelete="CASCADE"),
    )
    op.create_index("ix_rewinds_newest", "rewinds", ["session_id", "created_at", "id"])
    op.create_table(
        "orders",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("act", WORDS, nullable=False),
        sa.Column("params", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_orders"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_orders_session_id", ondelete="CASCADE"),
    )
    op.create_index("ix_orders_session", "orders", ["session_id", "created_at", "id"])
