"""The tables of vaults, credentials, and what sessions do with variables. What is secret is in one sealed column."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Sealed, Seconds, Words, metadata

vaults = sa.Table(
    "vaults",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("display_name", Words, nullable=False),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.Column("archived_at", Words),
    sa.Index("ix_vaults_newest", "workspace_id", "created_at", "id"),
)

credentials = sa.Table(
    "credentials",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("vault_id", Words, sa.ForeignKey("vaults.id", ondelete="CASCADE"), nullable=False),
    sa.Column("display_name", Words),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("auth", Json, nullable=False),
    sa.Column("match_key", Words),
    sa.Column("sealed", Sealed),
    sa.Column("refreshing_by", Words),
    sa.Column("refreshing_until", Seconds),
    sa.Column("refresh_failed_at", Seconds),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.Column("archived_at", Words),
    # NULL is different from every NULL: an archived credential has given its key back.
    sa.UniqueConstraint("vault_id", "match_key"),
    sa.Index("ix_credentials_newest", "vault_id", "created_at", "id"),
)

session_placeholders = sa.Table(
    "session_placeholders",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("credential_id", Words, sa.ForeignKey("credentials.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("placeholder", Words, nullable=False),
    # A credential that is deleted finds its rows by it.
    sa.Index("ix_session_placeholders_credential_id", "credential_id"),
)

# Rows are only added, and stay when the session or the credential is deleted.
credential_uses = sa.Table(
    "credential_uses",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("session_id", Words, nullable=False),
    sa.Column("vault_id", Words, nullable=False),
    sa.Column("credential_id", Words, nullable=False),
    sa.Column("method", Words, nullable=False),
    sa.Column("host", Words, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("place", Words, nullable=False),
    sa.Column("outcome", Words, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    # The entry of the audit log that answers for it.
    sa.Column("audit_id", Words, nullable=False, server_default=sa.text("''")),
    sa.Index("ix_credential_uses_session", "session_id", "created_at", "id"),
    sa.Index("ix_credential_uses_oldest", "workspace_id", "created_at", "id"),
    sa.Index("ix_credential_uses_audit", "audit_id"),
)
