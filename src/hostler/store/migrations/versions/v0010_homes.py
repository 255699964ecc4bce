"""Where the newest files of a session are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "session_homes",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("copy", WORDS, nullable=False),
        sa.Column("worker", WORDS, nullable=False),
        sa.Column("kept_seq", sa.BigInteger, nullable=False),
        sa.Column("void_until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_session_homes"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_homes_session_id", ondelete="CASCADE"
        ),
    )
    op.create_table(
        "blob_objects",
        sa.Column("sha256", WORDS, nullable=False),
        sa.Column("object_name", WORDS, nullable=False),
        sa.Column("put_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_blob_objects"),
    )
    op.create_index("ix_blob_objects_oldest", "blob_objects", ["put_at"])
