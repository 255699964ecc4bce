"""The first tables, and the workspace that every installation has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hostler.domain.clock import SystemClock, rfc3339

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "workspaces",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("archived_at", WORDS),
        sa.Column("webhook_events", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.PrimaryKeyConstraint("id", name="pk_workspaces"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("secret_hash", WORDS, nullable=False),
        sa.Column("hint", WORDS, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("expires_at", WORDS),
        sa.Column("last_used_at", WORDS),
        sa.Column("revoked_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_api_keys_workspace_id"),
        sa.UniqueConstraint("secret_hash", name="uq_api_keys_secret_hash"),
    )
    op.create_index("ix_api_keys_newest", "api_keys", ["workspace_id", "created_at", "id"])
    op.create_table(
        "agents",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("current_version", sa.Integer, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.Column("archived_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_agents"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_agents_workspace_id"),
    )
    op.create_index("ix_agents_newest", "agents", ["workspace_id", "created_at", "id"])
    op.create_table(
        "agent_versions",
        sa.Column("agent_id", WORDS, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("agent_id", "version", name="pk_agent_versions"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_agent_versions_agent_id"),
    )
    op.create_table(
        "environments",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("name", WORDS, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.Column("archived_at", WORDS),
        sa.PrimaryKeyConstraint("id", name="pk_environments"),
        sa.UniqueConstraint("workspace_id", "name", name="uq_environments_workspace_id_name"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_environments_workspace_id"),
    )
    op.create_index("ix_environments_newest", "environments", ["workspace_id", "created_at", "id"])
    op.create_table(
        "sessions",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("agent_id", WORDS, nullable=False),
        sa.Column("agent_version", sa.Integer, nullable=False),
        sa.Column("environment_id", WORDS, nullable=False),
        sa.Column("deployment_id", WORDS),
        sa.Column("thread_id", WORDS, nullable=False),
        sa.Column("status", WORDS, nullable=False),
        sa.Column("title", WORDS),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("environment", sa.Text, nullable=False),
        sa.Column("resources", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("vault_ids", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("budget", sa.Text),
        sa.Column("isolation", sa.Text, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("cache_read_input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("cache_creation_5m_input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("cache_creation_1h_input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("web_search_requests", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("list_cost_nanos", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("unpriced_requests", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.Column("archived_at", WORDS),
        sa.Column("forked_from", sa.Text),
        sa.Column("imported_from", sa.Text),
        sa.Column("log_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_sessions_workspace_id"),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name="fk_sessions_agent_id"),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"], name="fk_sessions_environment_id"),
    )
    op.create_index("ix_sessions_agent", "sessions", ["agent_id", "created_at", "id"])
    op.create_index("ix_sessions_deployment", "sessions", ["deployment_id", "created_at", "id"])
    op.create_index("ix_sessions_environment", "sessions", ["environment_id"])
    op.create_index(
        "ix_sessions_archived",
        "sessions",
        ["workspace_id", "archived_at", "id"],
        sqlite_where=sa.text("archived_at IS NOT NULL"),
        postgresql_where=sa.text("archived_at IS NOT NULL"),
    )
    op.create_index(
        "ix_sessions_live",
        "sessions",
        ["workspace_id"],
        sqlite_where=sa.text("archived_at IS NULL"),
        postgresql_where=sa.text("archived_at IS NULL"),
    )
    op.create_index("ix_sessions_newest", "sessions", ["workspace_id", "created_at", "id"])
    op.create_table(
        "session_memory_stores",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("memory_store_id", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "memory_store_id", name="pk_session_memory_stores"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_session_memory_stores_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_session_memory_stores_store", "session_memory_stores", ["memory_store_id", "session_id"])
    op.create_table(
        "events",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("id", WORDS, nullable=False),
        sa.Column("type", WORDS, nullable=False),
        sa.Column("processed_at", WORDS, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "seq", name="pk_events"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_events_session_id", ondelete="CASCADE"),
    )
    op.create_index("ix_events_processed_at", "events", ["session_id", "processed_at", "seq"])
    op.create_index("ix_events_type", "events", ["session_id", "type", "seq"])
    op.create_index("uq_events_id", "events", ["session_id", "id"], unique=True)
    op.create_table(
        "work",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("wanted", sa.Boolean, nullable=False),
        sa.Column("available_at", sa.Double, nullable=False),
        sa.Column("enqueued_at", sa.Double, nullable=False),
        sa.Column("owner", WORDS),
        sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("lease_until", sa.Double),
        sa.Column("need", WORDS, nullable=False, server_default=sa.text("'turn'")),
        sa.Column("live", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("leased_at", sa.Double),
        sa.PrimaryKeyConstraint("session_id", name="pk_work"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_work_session_id", ondelete="CASCADE"),
    )
    op.create_index(
        "ix_work_leased",
        "work",
        ["lease_until"],
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    )
    op.create_index(
        "ix_work_wanted",
        "work",
        ["enqueued_at", "session_id"],
        sqlite_where=sa.text("wanted = 1"),
        postgresql_where=sa.text("wanted"),
    )
    op.create_table(
        "sequences",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_sequences"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_sequences_session_id", ondelete="CASCADE"),
    )
    op.create_table(
        "transcripts",
        sa.Column("project_key", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("subpath", WORDS, nullable=False),
        sa.Column("next_ordinal", sa.BigInteger, nullable=False),
        sa.Column("mtime_ms", sa.BigInteger, nullable=False),
        sa.Column("summary", sa.Text),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.PrimaryKeyConstraint("project_key", "session_id", "subpath", name="pk_transcripts"),
    )
    op.create_table(
        "transcript_entries",
        sa.Column("project_key", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("subpath", WORDS, nullable=False),
        sa.Column("ordinal", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("uuid", WORDS),
        sa.Column("entry", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("project_key", "session_id", "subpath", "ordinal", name="pk_transcript_entries"),
        sa.UniqueConstraint("project_key", "session_id", "subpath", "uuid", name="uq_transcript_entries_uuid"),
    )
    op.create_table(
        "model_requests",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("model", WORDS, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_creation_5m_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_creation_1h_input_tokens", sa.BigInteger, nullable=False),
        sa.Column("web_search_requests", sa.BigInteger, nullable=False),
        sa.Column("list_cost_nanos", sa.BigInteger, nullable=False),
        sa.Column("unpriced_requests", sa.BigInteger, nullable=False),
        sa.Column("stop_reason", WORDS),
        sa.Column("duration_ms", sa.Double, nullable=False),
        sa.Column("first_byte_ms", sa.Double),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("request_id", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("requested_model", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("upstream", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("upstream_request_id", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("thread", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("agent_type", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("purpose", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("agent_id", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("environment_id", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("rule", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("why", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("price_version", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("1")),
        sa.Column("agent_version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("waited_ms", sa.Double, nullable=False, server_default=sa.text("0")),
        sa.Column("request_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
        sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.PrimaryKeyConstraint("id", name="pk_model_requests"),
    )
    op.create_index("ix_model_requests_session", "model_requests", ["session_id", "created_at", "id"])
    op.create_index("ix_model_requests_workspace", "model_requests", ["workspace_id", "created_at", "id"])
    op.create_table(
        "egress_decisions",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("method", WORDS, nullable=False),
        sa.Column("host", WORDS, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("path", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("allowed", sa.Boolean, nullable=False),
        sa.Column("reason", WORDS, nullable=False),
        sa.Column("hint", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("environment_id", WORDS, nullable=False, server_default=sa.text("''")),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("audit_id", WORDS, nullable=False, server_default=sa.text("''")),
        sa.PrimaryKeyConstraint("id", name="pk_egress_decisions"),
    )
    op.create_index("ix_egress_decisions_session", "egress_decisions", ["session_id", "created_at", "id"])
    op.create_index("ix_egress_decisions_environment", "egress_decisions", ["environment_id", "created_at", "id"])
    op.create_index("ix_egress_decisions_oldest", "egress_decisions", ["workspace_id", "created_at", "id"])
    op.create_index("ix_egress_decisions_audit", "egress_decisions", ["audit_id"])
    op.get_bind().execute(
        sa.text("INSERT INTO workspaces (id, name, created_at) VALUES ('wrkspc_default', 'Default', :now)"),
        {"now": rfc3339(SystemClock().now())},
    )
