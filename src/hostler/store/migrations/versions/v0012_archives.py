"""What conversations were before they were compacted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_ZERO = sa.text("0")


def upgrade() -> None:
    op.create_table(
        "archives",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", WORDS, nullable=False),
        sa.Column("entries", sa.BigInteger, nullable=False),
        sa.Column("logical_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False),
        sa.Column("upto", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("removed_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_archives"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_archives_session_id", ondelete="CASCADE"),
        sa.UniqueConstraint("session_id", "number", name="uq_archives_session_id_number"),
    )
    op.create_index("ix_archives_oldest", "archives", ["workspace_id", "state", "created_at", "id"])
    op.create_table(
        "archive_chunks",
        sa.Column("archive_id", WORDS, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("first_entry", sa.BigInteger, nullable=False),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("archive_id", "number", name="pk_archive_chunks"),
        sa.ForeignKeyConstraint(
            ["archive_id"], ["archives.id"], name="fk_archive_chunks_archive_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "compactions",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("cause", WORDS, nullable=False),
        sa.Column("strategy", WORDS),
        sa.Column("state", WORDS, nullable=False),
        sa.Column("reason", WORDS),
        sa.Column("instructions", WORDS),
        sa.Column("archive_id", WORDS),
        sa.Column("boundary", WORDS),
        sa.Column("before_tokens", sa.BigInteger),
        sa.Column("after_tokens", sa.BigInteger),
        sa.Column("summary", WORDS),
        sa.Column("kept", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("requests", sa.Integer, nullable=False, server_default=_ZERO),
        sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default=_ZERO),
        sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default=_ZERO),
        sa.Column("due_at", WORDS),
        sa.Column("retry_at", sa.Double),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("ended_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_compactions"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_compactions_session_id", ondelete="CASCADE"),
        sa.UniqueConstraint("session_id", "due_at", name="uq_compactions_session_id_due_at"),
    )
    op.create_index("ix_compactions_newest", "compactions", ["session_id", "created_at", "id"])
    op.create_table(
        "compaction_schedules",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("schedule", WORDS, nullable=False),
        sa.Column("next_at", sa.Double, nullable=False),
        sa.Column("last_due", sa.Double),
        sa.PrimaryKeyConstraint("session_id", name="pk_compaction_schedules"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_compaction_schedules_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_compaction_schedules_next_at", "compaction_schedules", ["next_at"])
