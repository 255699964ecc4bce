"""Tables: what is kept of sessions' folders outside of any host."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Seconds, Words, metadata

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    # Whose files: a session, or a room (`tables_rooms`). Not a foreign key; who removes one removes these rows.
    sa.Column("session_id", Words, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    # Not a foreign key: what a fork goes back to may belong to a session that is gone.
    sa.Column("parent_id", Words),
    sa.Column("reason", Words, nullable=False),
    sa.Column("taken_at", Words, nullable=False),
    sa.Column("entries", sa.Integer, nullable=False),
    sa.Column("logical_bytes", sa.BigInteger, nullable=False),
    sa.Column("stored_bytes", sa.BigInteger, nullable=False),
    # SHA-256 of the object that says what is in it, and of what that object says apart from where pieces are.
    sa.Column("manifest", Words, nullable=False),
    sa.Column("content", Words, nullable=False),
    sa.UniqueConstraint("session_id", "number"),
    sa.Index("ix_snapshots_parent", "parent_id"),
)

# An object of the object store: a pack of pieces, or a manifest. Several snapshots may use one; the foreign key of
# `snapshot_uses` is what keeps a sweep from removing what a snapshot has just begun to use.
snapshot_objects = sa.Table(
    "snapshot_objects",
    metadata,
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), primary_key=True),
    sa.Column("sha256", Words, primary_key=True),
    sa.Column("kind", Words, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("kept_at", Seconds, nullable=False),
    # Somebody has read it and found something else: nothing new may rely on it.
    sa.Column("damaged", sa.Boolean, nullable=False),
)

snapshot_uses = sa.Table(
    "snapshot_uses",
    metadata,
    sa.Column("snapshot_id", Words, sa.ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("sha256", Words, primary_key=True),
    sa.ForeignKeyConstraint(["workspace_id", "sha256"], ["snapshot_objects.workspace_id", "snapshot_objects.sha256"]),
    sa.Index("ix_snapshot_uses_object", "workspace_id", "sha256"),
)

# Where a workspace has a piece already. Only a help for those who are about to keep it: manifests say themselves where
# their pieces are.
snapshot_pieces = sa.Table(
    "snapshot_pieces",
    metadata,
    sa.Column("workspace_id", Words, primary_key=True),
    sa.Column("sha256", Words, primary_key=True),
    sa.Column("pack", Words, nullable=False),
    sa.Column("start", sa.BigInteger, nullable=False),
    sa.Column("stored", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(
        ["workspace_id", "pack"],
        ["snapshot_objects.workspace_id", "snapshot_objects.sha256"],
        ondelete="CASCADE",
    ),
    sa.Index("ix_snapshot_pieces_pack", "workspace_id", "pack"),
)
