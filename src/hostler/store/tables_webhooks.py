"""What is kept of webhooks? The endpoints, one row for each event that goes to each, and every attempt.

Deliveries don't refer to the row of their endpoint: whoever records an event must never fail, or wait, because somebody
deletes an endpoint at the same moment.
"""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Sealed, Seconds, Words, metadata

webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("url", Words, nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("description", Words, nullable=False),
    sa.Column("enabled_events", Json, nullable=False),
    sa.Column("state", Words, nullable=False),
    sa.Column("disabled_reason", Words, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("secret", Sealed, nullable=False),
    sa.Column("old_secret", Sealed),
    sa.Column("old_secret_until", Seconds),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("updated_at", Words, nullable=False),
    sa.Index("ix_webhook_endpoints_newest", "workspace_id", "created_at", "id"),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("endpoint_id", Words, nullable=False),
    sa.Column("event_id", Words, nullable=False),
    sa.Column("event_type", Words, nullable=False),
    sa.Column("subject", Words, nullable=False),
    sa.Column("data", Json, nullable=False),
    sa.Column("state", Words, nullable=False),
    sa.Column("test", sa.Boolean, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("tries_left", sa.Integer, nullable=False),
    sa.Column("enqueued_at", Seconds, nullable=False),
    sa.Column("tick", sa.BigInteger, nullable=False),
    sa.Column("due_at", Seconds, nullable=False),
    sa.Column("owner", Words),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("lease_until", Seconds),
    sa.Column("created_at", Words, nullable=False),
    sa.Index(
        "ix_webhook_deliveries_pending",
        "due_at",
        "id",
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    ),
    sa.Index(
        "ix_webhook_deliveries_subject",
        "endpoint_id",
        "subject",
        "enqueued_at",
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    ),
    sa.Index("ix_webhook_deliveries_newest", "endpoint_id", "created_at", "id"),
    sa.Index("ix_webhook_deliveries_oldest", "workspace_id", "created_at", "id"),
)

webhook_attempts = sa.Table(
    "webhook_attempts",
    metadata,
    sa.Column("delivery_id", Words, sa.ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", Words, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", Words),
    sa.Column("latency_ms", sa.Double, nullable=False),
)
