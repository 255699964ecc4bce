"""Skills and their versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "skills",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("display_name", WORDS, nullable=False),
        sa.Column("latest_version_id", WORDS),
        sa.Column("latest_number", sa.BigInteger),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_skills"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_skills_workspace_id"),
    )
    op.create_index("ix_skills_newest", "skills", ["workspace_id", "created_at", "id"])
    op.create_table(
        "skill_versions",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("skill_id", WORDS, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("description", WORDS, nullable=False),
        sa.Column("sha256", WORDS, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_skill_versions"),
        sa.ForeignKeyConstraint(["skill_id"], ["skills.id"], name="fk_skill_versions_skill_id", ondelete="CASCADE"),
        sa.UniqueConstraint("skill_id", "number", name="uq_skill_versions_skill_id_number"),
    )
    op.create_index("ix_skill_versions_sha256", "skill_versions", ["sha256"])
    op.create_table(
        "session_skills",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("sha256", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "sha256", name="pk_session_skills"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_skills_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_session_skills_sha256", "session_skills", ["sha256"])
