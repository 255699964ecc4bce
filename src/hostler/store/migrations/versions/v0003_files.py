"""Files and where they are kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS),
        sa.Column("filename", WORDS, nullable=False),
        sa.Column("mime_type", WORDS, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", WORDS, nullable=False),
        sa.Column("downloadable", sa.Boolean, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("expires_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_files_workspace_id"),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name="fk_files_session_id",
            ondelete="CASCADE",
            deferrable=True,
            initially="DEFERRED",
        ),
    )
    op.create_index("ix_files_expires", "files", ["expires_at"])
    op.create_index("ix_files_newest", "files", ["workspace_id", "created_at", "id"])
    op.create_index("ix_files_session", "files", ["session_id", "created_at", "id"])
    op.create_index("ix_files_sha256", "files", ["sha256"])
    op.create_table(
        "session_outputs",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("path", WORDS, nullable=False),
        sa.Column("signature", WORDS, nullable=False),
        sa.Column("sha256", WORDS, nullable=False),
        sa.Column("file_id", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "path", name="pk_session_outputs"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_outputs_session_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "resource_secrets",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("resource_id", WORDS, nullable=False),
        sa.Column("sealed", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "resource_id", name="pk_resource_secrets"),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name="fk_resource_secrets_session_id",
            ondelete="CASCADE",
            deferrable=True,
            initially="DEFERRED",
        ),
    )
