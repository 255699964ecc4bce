"""Which sessions share a sandbox and its files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0014"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_EMPTY = sa.text("''")


def upgrade() -> None:
    op.create_table(
        "rooms",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("environment_id", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("worker", WORDS, nullable=False, server_default=_EMPTY),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("copy", WORDS, nullable=False, server_default=_EMPTY),
        sa.Column("dirty", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.PrimaryKeyConstraint("id", name="pk_rooms"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_rooms_workspace_id"),
        sa.ForeignKeyConstraint(
            ["environment_id"], ["environments.id"], name="fk_rooms_environment_id", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("environment_id", "name", name="uq_rooms_environment_id_name"),
    )
    op.create_index("ix_rooms_workspace", "rooms", ["workspace_id", "created_at", "id"])
    op.create_table(
        "room_members",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("room_id", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("joined_at", WORDS, nullable=False),
        sa.Column("entered_epoch", sa.BigInteger),
        sa.PrimaryKeyConstraint("session_id", name="pk_room_members"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_room_members_session_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name="fk_room_members_room_id", ondelete="CASCADE"),
        sa.UniqueConstraint("room_id", "name", name="uq_room_members_room_id_name"),
    )
    op.create_table(
        "room_conflicts",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("room_id", WORDS, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("other_session_id", WORDS, nullable=False),
        sa.Column("outcome", WORDS, nullable=False),
        sa.Column("happened_at", WORDS, nullable=False),
        sa.Column("told", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_room_conflicts"),
        sa.ForeignKeyConstraint(["room_id"], ["rooms.id"], name="fk_room_conflicts_room_id", ondelete="CASCADE"),
    )
    op.create_index("ix_room_conflicts_newest", "room_conflicts", ["room_id", "happened_at", "id"])
    op.create_index("ix_room_conflicts_untold", "room_conflicts", ["other_session_id", "told"])
