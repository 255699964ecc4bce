"""Memory stores, their memories, and every version that a memory had.

What a memory says is kept once, with the version that said it last. Contents are bytes, because a memory may hold
NUL, which text of PostgreSQL can't.
"""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Words, metadata

memory_stores = sa.Table(
    "memory_stores",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("description", Words, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("memories", sa.Integer, nullable=False),
    sa.Column("kept_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.Column("archived_at", Words),
    sa.Index("ix_memory_stores_newest", "workspace_id", "created_at", "id"),
)
"""`memories` counts them; `kept_bytes` adds up the contents of all versions. Whoever writes holds the store's row."""

memories = sa.Table(
    "memories",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("memory_store_id", Words, sa.ForeignKey("memory_stores.id", ondelete="CASCADE"), nullable=False),
    sa.Column("path", Words, nullable=False),
    sa.Column("version_id", Words, nullable=False),
    sa.Column("content_sha256", Words, nullable=False),
    sa.Column("content_size_bytes", sa.Integer, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.UniqueConstraint("memory_store_id", "path"),
)

memory_versions = sa.Table(
    "memory_versions",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("memory_store_id", Words, sa.ForeignKey("memory_stores.id", ondelete="CASCADE"), nullable=False),
    sa.Column("memory_id", Words, nullable=False),
    sa.Column("operation", Words, nullable=False),
    sa.Column("path", Words),
    sa.Column("content", sa.LargeBinary),
    sa.Column("content_sha256", Words),
    sa.Column("content_size_bytes", sa.Integer),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("actor_type", Words, nullable=False),
    sa.Column("actor_id", Words, nullable=False),
    sa.Column("redacted_at", Words),
    sa.Column("redactor_type", Words),
    sa.Column("redactor_id", Words),
    sa.Index("ix_memory_versions_newest", "memory_store_id", "created_at", "id"),
    sa.Index("ix_memory_versions_memory", "memory_id", "created_at", "id"),
)
"""A memory that is gone keeps its versions, so they don't refer to its row."""
