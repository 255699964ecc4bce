"""Limits of rates that workspaces and agents have, and what is left in each bucket."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "rate_limits",
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("agent_id", WORDS, nullable=False),
        sa.Column("requests", sa.BigInteger),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.PrimaryKeyConstraint("workspace_id", "agent_id", name="pk_rate_limits"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_rate_limits_workspace_id"),
    )
    op.create_table(
        "rate_buckets",
        sa.Column("bucket", WORDS, nullable=False),
        sa.Column("scope", WORDS, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("subject", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("level", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("configured", sa.Double),
        sa.Column("learned", sa.Double),
        sa.Column("learned_at", sa.Double),
        sa.Column("per_minute", sa.Double),
        sa.Column("capacity", sa.Double),
        sa.Column("closed_until", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("turn", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("turn_until", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("served", WORDS, nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("bucket", name="pk_rate_buckets"),
    )
    op.create_index("ix_rate_buckets_workspace_id", "rate_buckets", ["workspace_id"])
    op.create_index("ix_rate_buckets_at", "rate_buckets", ["at"])
