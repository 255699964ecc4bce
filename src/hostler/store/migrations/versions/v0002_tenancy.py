"""Quotas, the audit of administrative acts, and the calls that wait for a person."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "workspace_quotas",
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("overrides", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("day", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("sessions_made", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("workspace_id", name="pk_workspace_quotas"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_workspace_quotas_workspace_id"),
    )
    op.create_table(
        "audit_entries",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("strand", WORDS, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("actor_kind", WORDS, nullable=False),
        sa.Column("actor_id", WORDS, nullable=False),
        sa.Column("act", WORDS, nullable=False),
        sa.Column("target_id", WORDS, nullable=False),
        sa.Column("subject", WORDS, nullable=False),
        sa.Column("sealed", WORDS, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("seq", sa.BigInteger),
        sa.Column("hash", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_audit_entries"),
    )
    op.create_index("ix_audit_entries_newest", "audit_entries", ["workspace_id", "created_at", "id"])
    op.create_index("ix_audit_entries_strand", "audit_entries", ["workspace_id", "strand", "created_at", "id"])
    op.create_index("ix_audit_entries_chain", "audit_entries", ["workspace_id", "seq"])
    op.create_index(
        "ix_audit_entries_loose",
        "audit_entries",
        ["workspace_id", "created_at", "strand", "number"],
        sqlite_where=sa.text("seq IS NULL"),
        postgresql_where=sa.text("seq IS NULL"),
    )
    op.create_table(
        "waiting_calls",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("event_id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("since", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "event_id", name="pk_waiting_calls"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_waiting_calls_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_waiting_calls_oldest", "waiting_calls", ["workspace_id", "since", "event_id"])
