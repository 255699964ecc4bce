"""What is kept of skills? Their tables; each version is one archive in `store.blobs`."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Words, metadata

skills = sa.Table(
    "skills",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("display_name", Words, nullable=False),
    sa.Column("latest_version_id", Words),
    sa.Column("latest_number", sa.BigInteger),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.Index("ix_skills_newest", "workspace_id", "created_at", "id"),
)
"""The two `latest` are null while a skill has no version, which only clients of the old generation bring about.
Whoever adds or removes a version holds the row."""

skill_versions = sa.Table(
    "skill_versions",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("skill_id", Words, sa.ForeignKey("skills.id", ondelete="CASCADE"), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("description", Words, nullable=False),
    sa.Column("sha256", Words, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.UniqueConstraint("skill_id", "number"),
    sa.Index("ix_skill_versions_sha256", "sha256"),
)
"""`number` is what the old generation calls a version: microseconds since 1970, growing within a skill."""

session_skills = sa.Table(
    "session_skills",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("sha256", Words, primary_key=True),
    sa.Index("ix_session_skills_sha256", "sha256"),
)
"""Archives that sessions need, also when their versions are deleted."""
