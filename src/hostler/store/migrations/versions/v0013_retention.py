"""What is removed after a while, and when that was last done."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "workspace_retention",
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("overrides", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("looked_at", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("figures", sa.Text),
        sa.Column("measured_at", sa.Double),
        sa.PrimaryKeyConstraint("workspace_id", name="pk_workspace_retention"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_workspace_retention_workspace_id"),
    )
    op.create_table(
        "retention_runs",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("cause", WORDS, nullable=False),
        sa.Column("actor_id", WORDS, nullable=False),
        sa.Column("state", WORDS, nullable=False),
        sa.Column("reason", WORDS),
        sa.Column("moment", sa.Double, nullable=False),
        sa.Column("days", sa.Text, nullable=False),
        sa.Column("done", sa.Integer, nullable=False),
        sa.Column("after", sa.Text),
        sa.Column("draining", WORDS),
        sa.Column("results", sa.Text, nullable=False),
        sa.Column("owner", WORDS),
        sa.Column("lease_until", sa.Double, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("ended_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_retention_runs"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_retention_runs_workspace_id"),
    )
    op.create_index("ix_retention_runs_newest", "retention_runs", ["workspace_id", "created_at", "id"])
    op.create_index(
        "ix_retention_runs_running",
        "retention_runs",
        ["lease_until"],
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "uq_retention_runs_removing",
        "retention_runs",
        ["workspace_id"],
        unique=True,
        sqlite_where=sa.text("state = 'running' AND NOT dry_run"),
        postgresql_where=sa.text("state = 'running' AND NOT dry_run"),
    )
