"""What is kept of sessions' folders outside of any host."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "snapshots",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("parent_id", WORDS),
        sa.Column("reason", WORDS, nullable=False),
        sa.Column("taken_at", WORDS, nullable=False),
        sa.Column("entries", sa.Integer, nullable=False),
        sa.Column("logical_bytes", sa.BigInteger, nullable=False),
        sa.Column("stored_bytes", sa.BigInteger, nullable=False),
        sa.Column("manifest", WORDS, nullable=False),
        sa.Column("content", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_snapshots"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_snapshots_workspace_id"),
        sa.UniqueConstraint("session_id", "number", name="uq_snapshots_session_id_number"),
    )
    op.create_index("ix_snapshots_parent", "snapshots", ["parent_id"])
    op.create_table(
        "snapshot_objects",
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("sha256", WORDS, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("kept_at", sa.Double, nullable=False),
        sa.Column("damaged", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "sha256", name="pk_snapshot_objects"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_snapshot_objects_workspace_id"),
    )
    op.create_table(
        "snapshot_uses",
        sa.Column("snapshot_id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("sha256", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("snapshot_id", "sha256", name="pk_snapshot_uses"),
        sa.ForeignKeyConstraint(
            ["snapshot_id"], ["snapshots.id"], name="fk_snapshot_uses_snapshot_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["workspace_id", "sha256"],
            ["snapshot_objects.workspace_id", "snapshot_objects.sha256"],
            name="fk_snapshot_uses_workspace_id_sha256",
        ),
    )
    op.create_index("ix_snapshot_uses_object", "snapshot_uses", ["workspace_id", "sha256"])
    op.create_table(
        "snapshot_pieces",
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("sha256", WORDS, nullable=False),
        sa.Column("pack", WORDS, nullable=False),
        sa.Column("start", sa.BigInteger, nullable=False),
        sa.Column("stored", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "sha256", name="pk_snapshot_pieces"),
        sa.ForeignKeyConstraint(
            ["workspace_id", "pack"],
            ["snapshot_objects.workspace_id", "snapshot_objects.sha256"],
            name="fk_snapshot_pieces_workspace_id_pack",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_snapshot_pieces_pack", "snapshot_pieces", ["workspace_id", "pack"])
