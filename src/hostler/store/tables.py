"""What is kept, and in which shape? Every table of Hostler, for both databases.

Moments of the wire are text (`2026-01-02T03:04:05.678901Z`), whose order is time order. Leases are kept in seconds
since 1970, because they are computed with. Bodies are JSON text that we wrote ourselves (`jsontext`): the databases
never look inside. All text compares byte by byte on both databases, so that a page begins and ends at the same row
everywhere.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from hostler.store.jsontext import plain, storable


class Words(TypeDecorator[str]):
    """Text as it is: names, ids, moments. Refuses what one of the databases could not hold (see `jsontext.plain`)."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        # A cluster's own collation may sort "a" before "B"; SQLite never does.
        return sa.Text(collation="C") if dialect.name == "postgresql" else sa.Text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else plain(value)


class Json(TypeDecorator[str]):
    """JSON text. Halves of surrogate pairs are escaped on the way in."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


SEALED_FORMAT = "hs1"
"""How a sealed secret begins. `hostler.sealing.envelope` says what follows."""


class Sealed(Words):
    """A secret, sealed. A rotation of keys finds these columns by their type. Refuses what is not sealed."""

    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is not None and not value.startswith(SEALED_FORMAT + "."):
            raise TypeError("a column for sealed secrets was given something else")  # a bug, and never its value
        return super().process_bind_param(value, dialect)


Seconds = sa.Double
"""Seconds since 1970 by the database's clock, with fractions. REAL in SQLite, double precision in PostgreSQL."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

workspaces = sa.Table(
    "workspaces",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("name", Words, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("archived_at", Words),
    # The webhook events that anybody here wants. In a row that an append reads anyway: asking costs nothing.
    sa.Column("webhook_events", Json, nullable=False, server_default=sa.text("'[]'")),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("secret_hash", Words, nullable=False, unique=True),
    sa.Column("hint", Words, nullable=False),
    sa.Column("scopes", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("expires_at", Words),
    sa.Column("last_used_at", Words),
    sa.Column("revoked_at", Words),
    sa.Index("ix_api_keys_newest", "workspace_id", "created_at", "id"),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("current_version", sa.Integer, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.Column("archived_at", Words),
    sa.Index("ix_agents_newest", "workspace_id", "created_at", "id"),
)

agent_versions = sa.Table(
    "agent_versions",
    metadata,
    sa.Column("agent_id", Words, sa.ForeignKey("agents.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("body", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
)

environments = sa.Table(
    "environments",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("body", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.Column("archived_at", Words),
    sa.UniqueConstraint("workspace_id", "name"),
    sa.Index("ix_environments_newest", "workspace_id", "created_at", "id"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("agent_id", Words, sa.ForeignKey("agents.id"), nullable=False),
    sa.Column("agent_version", sa.Integer, nullable=False),
    sa.Column("environment_id", Words, sa.ForeignKey("environments.id"), nullable=False),
    sa.Column("deployment_id", Words),
    sa.Column("thread_id", Words, nullable=False),
    sa.Column("status", Words, nullable=False),
    sa.Column("title", Words),
    sa.Column("metadata", Json, nullable=False),
    sa.Column("agent", Json, nullable=False),
    sa.Column("environment", Json, nullable=False),
    sa.Column("resources", Json, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("vault_ids", Json, nullable=False, server_default=sa.text("'[]'")),
    sa.Column("budget", Json),
    sa.Column("isolation", Json, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("state", Json, nullable=False),
    sa.Column("last_seq", sa.BigInteger, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("output_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("cache_read_input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("cache_creation_5m_input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("cache_creation_1h_input_tokens", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("web_search_requests", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("list_cost_nanos", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("unpriced_requests", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.Column("archived_at", Words),
    sa.Column("forked_from", Json),
    sa.Column("imported_from", Json),
    # Bytes of the bodies of its events. Counted with the row that every append writes anyway.
    sa.Column("log_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Index("ix_sessions_newest", "workspace_id", "created_at", "id"),
    sa.Index("ix_sessions_agent", "agent_id", "created_at", "id"),
    sa.Index("ix_sessions_environment", "environment_id"),
    sa.Index("ix_sessions_deployment", "deployment_id", "created_at", "id"),
    sa.Index(
        "ix_sessions_live",
        "workspace_id",
        sqlite_where=sa.text("archived_at IS NULL"),
        postgresql_where=sa.text("archived_at IS NULL"),
    ),
    sa.Index(
        "ix_sessions_archived",
        "workspace_id",
        "archived_at",
        "id",
        sqlite_where=sa.text("archived_at IS NOT NULL"),
        postgresql_where=sa.text("archived_at IS NOT NULL"),
    ),
)

session_memory_stores = sa.Table(
    "session_memory_stores",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("memory_store_id", Words, primary_key=True),
    sa.Index("ix_session_memory_stores_store", "memory_store_id", "session_id"),
)
"""Which memory stores a session was made with, for the list of a store's sessions."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("id", Words, nullable=False),
    sa.Column("type", Words, nullable=False),
    sa.Column("processed_at", Words, nullable=False),
    sa.Column("body", Json, nullable=False),
    sa.Index("uq_events_id", "session_id", "id", unique=True),
    sa.Index("ix_events_type", "session_id", "type", "seq"),
    sa.Index("ix_events_processed_at", "session_id", "processed_at", "seq"),
)

work = sa.Table(
    "work",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("wanted", sa.Boolean, nullable=False),
    sa.Column("available_at", Seconds, nullable=False),
    sa.Column("enqueued_at", Seconds, nullable=False),
    sa.Column("owner", Words),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("lease_until", Seconds),
    # What a worker is wanted for (`work.Need`), and whether the lease goes with a place for a process.
    sa.Column("need", Words, nullable=False, server_default=sa.text("'turn'")),
    sa.Column("live", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("leased_at", Seconds),
    sa.Index(
        "ix_work_wanted",
        "enqueued_at",
        "session_id",
        sqlite_where=sa.text("wanted = 1"),
        postgresql_where=sa.text("wanted"),
    ),
    sa.Index(
        "ix_work_leased",
        "lease_until",
        sqlite_where=sa.text("lease_until IS NOT NULL"),
        postgresql_where=sa.text("lease_until IS NOT NULL"),
    ),
)

sequences = sa.Table(
    "sequences",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("state", Json, nullable=False),
)

transcripts = sa.Table(
    "transcripts",
    metadata,
    sa.Column("project_key", Words, primary_key=True),
    sa.Column("session_id", Words, primary_key=True),
    sa.Column("subpath", Words, primary_key=True),
    sa.Column("next_ordinal", sa.BigInteger, nullable=False),
    sa.Column("mtime_ms", sa.BigInteger, nullable=False),
    sa.Column("summary", Json),
    # Of its entries, counted as they come and go.
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
)

transcript_entries = sa.Table(
    "transcript_entries",
    metadata,
    sa.Column("project_key", Words, primary_key=True),
    sa.Column("session_id", Words, primary_key=True),
    sa.Column("subpath", Words, primary_key=True),
    sa.Column("ordinal", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("uuid", Words),
    sa.Column("entry", Json, nullable=False),
    sa.UniqueConstraint("project_key", "session_id", "subpath", "uuid", name="uq_transcript_entries_uuid"),
)

# The bill and the audit outlive the session that they are about, so they do not refer to its row.
model_requests = sa.Table(
    "model_requests",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("session_id", Words, nullable=False),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("model", Words, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_read_input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_creation_5m_input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_creation_1h_input_tokens", sa.BigInteger, nullable=False),
    sa.Column("web_search_requests", sa.BigInteger, nullable=False),
    sa.Column("list_cost_nanos", sa.BigInteger, nullable=False),
    sa.Column("unpriced_requests", sa.BigInteger, nullable=False),
    sa.Column("stop_reason", Words),
    sa.Column("duration_ms", sa.Double, nullable=False),
    sa.Column("first_byte_ms", sa.Double),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("request_id", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("requested_model", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("upstream", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("upstream_request_id", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("thread", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("agent_type", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("purpose", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("agent_id", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("environment_id", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("rule", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("why", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("price_version", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("attempt", sa.Integer, nullable=False, server_default=sa.text("1")),
    sa.Column("agent_version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("waited_ms", sa.Double, nullable=False, server_default=sa.text("0")),
    sa.Column("request_bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("complete", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Index("ix_model_requests_session", "session_id", "created_at", "id"),
    sa.Index("ix_model_requests_workspace", "workspace_id", "created_at", "id"),
)

egress_decisions = sa.Table(
    "egress_decisions",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("session_id", Words, nullable=False),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("method", Words, nullable=False),
    sa.Column("host", Words, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("path", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("allowed", sa.Boolean, nullable=False),
    sa.Column("reason", Words, nullable=False),
    sa.Column("hint", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("environment_id", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("created_at", Words, nullable=False),
    # The entry of the audit log that answers for it.
    sa.Column("audit_id", Words, nullable=False, server_default=sa.text("''")),
    sa.Index("ix_egress_decisions_session", "session_id", "created_at", "id"),
    sa.Index("ix_egress_decisions_environment", "environment_id", "created_at", "id"),
    sa.Index("ix_egress_decisions_oldest", "workspace_id", "created_at", "id"),
    sa.Index("ix_egress_decisions_audit", "audit_id"),
)
