"""Memory stores, memories and their versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "memory_stores",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("description", WORDS, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("memories", sa.Integer, nullable=False),
        sa.Column("kept_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.Column("archived_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_memory_stores"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_memory_stores_workspace_id"),
    )
    op.create_index("ix_memory_stores_newest", "memory_stores", ["workspace_id", "created_at", "id"])
    op.create_table(
        "memories",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("memory_store_id", WORDS, nullable=False),
        sa.Column("path", WORDS, nullable=False),
        sa.Column("version_id", WORDS, nullable=False),
        sa.Column("content_sha256", WORDS, nullable=False),
        sa.Column("content_size_bytes", sa.Integer, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_memories"),
        sa.ForeignKeyConstraint(
            ["memory_store_id"], ["memory_stores.id"], name="fk_memories_memory_store_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("memory_store_id", "path", name="uq_memories_memory_store_id_path"),
    )
    op.create_table(
        "memory_versions",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("memory_store_id", WORDS, nullable=False),
        sa.Column("memory_id", WORDS, nullable=False),
        sa.Column("operation", WORDS, nullable=False),
        sa.Column("path", WORDS),
        sa.Column("content", sa.LargeBinary),
        sa.Column("content_sha256", WORDS),
        sa.Column("content_size_bytes", sa.Integer),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("actor_type", WORDS, nullable=False),
        sa.Column("actor_id", WORDS, nullable=False),
        sa.Column("redacted_at", WORDS),
        sa.Column("redactor_type", WORDS),
        sa.Column("redactor_id", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_memory_versions"),
        sa.ForeignKeyConstraint(
            ["memory_store_id"], ["memory_stores.id"], name="fk_memory_versions_memory_store_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_memory_versions_newest", "memory_versions", ["memory_store_id", "created_at", "id"])
    op.create_index("ix_memory_versions_memory", "memory_versions", ["memory_id", "created_at", "id"])
