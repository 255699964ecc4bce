"""Vaults and credentials, and what sessions do with variables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "vaults",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("display_name", WORDS, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.Column("archived_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_vaults"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_vaults_workspace_id"),
    )
    op.create_index("ix_vaults_newest", "vaults", ["workspace_id", "created_at", "id"])
    op.create_table(
        "credentials",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("vault_id", WORDS, nullable=False),
        sa.Column("display_name", WORDS),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("auth", sa.Text, nullable=False),
        sa.Column("match_key", WORDS),
        sa.Column("sealed", WORDS),
        sa.Column("refreshing_by", WORDS),
        sa.Column("refreshing_until", sa.Double),
        sa.Column("refresh_failed_at", sa.Double),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.Column("archived_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_credentials"),
        sa.UniqueConstraint("vault_id", "match_key", name="uq_credentials_vault_id_match_key"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_credentials_workspace_id"),
        sa.ForeignKeyConstraint(["vault_id"], ["vaults.id"], name="fk_credentials_vault_id", ondelete="CASCADE"),
    )
    op.create_index("ix_credentials_newest", "credentials", ["vault_id", "created_at", "id"])
    op.create_table(
        "session_placeholders",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("credential_id", WORDS, nullable=False),
        sa.Column("placeholder", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "credential_id", name="pk_session_placeholders"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_placeholders_session_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["credential_id"], ["credentials.id"], name="fk_session_placeholders_credential_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_session_placeholders_credential_id", "session_placeholders", ["credential_id"])
    op.create_table(
        "credential_uses",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("vault_id", WORDS, nullable=False),
        sa.Column("credential_id", WORDS, nullable=False),
        sa.Column("method", WORDS, nullable=False),
        sa.Column("host", WORDS, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("place", WORDS, nullable=False),
        sa.Column("outcome", WORDS, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("audit_id", WORDS, nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("id", name="pk_credential_uses"),
    )
    op.create_index("ix_credential_uses_session", "credential_uses", ["session_id", "created_at", "id"])
    op.create_index("ix_credential_uses_oldest", "credential_uses", ["workspace_id", "created_at", "id"])
    op.create_index("ix_credential_uses_audit", "credential_uses", ["audit_id"])
