"""Ports of sessions that may be reached from outside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "previews",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("label", WORDS, nullable=False),
        sa.Column("secret_hash", WORDS, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("revoked_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_previews"),
        sa.UniqueConstraint("label", name="uq_previews_label"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_previews_workspace_id"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_previews_session_id", ondelete="CASCADE"),
    )
    op.create_index("ix_previews_session", "previews", ["session_id", "created_at", "id"])
    op.create_index("ix_previews_oldest", "previews", ["workspace_id", "expires_at", "id"])
