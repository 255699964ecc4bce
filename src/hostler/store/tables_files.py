"""What is kept of files and of what sessions mount? Their tables; the bytes are in `store.blobs`."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Sealed, Words, metadata

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    # The resources of a session are made before its row, in the same transaction.
    sa.Column(
        "session_id",
        Words,
        sa.ForeignKey("sessions.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED"),
    ),
    sa.Column("filename", Words, nullable=False),
    sa.Column("mime_type", Words, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", Words, nullable=False),
    sa.Column("downloadable", sa.Boolean, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("expires_at", Words),
    sa.Index("ix_files_newest", "workspace_id", "created_at", "id"),
    sa.Index("ix_files_session", "session_id", "created_at", "id"),
    sa.Index("ix_files_sha256", "sha256"),
    sa.Index("ix_files_expires", "expires_at"),
)

# What was last seen in a session's outputs folder. A row stays when a client deletes the file that was made of it, so
# that an unchanged file is not taken twice.
session_outputs = sa.Table(
    "session_outputs",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("path", Words, primary_key=True),
    sa.Column("signature", Words, nullable=False),
    sa.Column("sha256", Words, nullable=False),
    sa.Column("file_id", Words, nullable=False),
)

resource_secrets = sa.Table(
    "resource_secrets",
    metadata,
    # The id of a resource is a name within its session: a fork keeps those of the session that it was made of.
    sa.Column(
        "session_id",
        Words,
        sa.ForeignKey("sessions.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED"),
        primary_key=True,
    ),
    sa.Column("resource_id", Words, primary_key=True),
    sa.Column("sealed", Sealed, nullable=False),
)
