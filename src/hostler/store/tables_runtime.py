"""Which tables keep this? What sandboxes cost by the second, which tools requests were for, and what did not agree."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Seconds, Words, metadata

runtime_spans = sa.Table(
    "runtime_spans",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("session_id", Words, nullable=False),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("agent_id", Words, nullable=False),
    sa.Column("environment_id", Words, nullable=False),
    sa.Column("technology", Words, nullable=False),
    # Of the lease that the session worked under.
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("started_at", Seconds, nullable=False),
    # Booked up to here. Of a span that has ended: its end.
    sa.Column("seen_at", Seconds, nullable=False),
    sa.Column("ended", sa.Boolean, nullable=False),
    sa.Column("active_us", sa.BigInteger, nullable=False),
    sa.Column("nanos_per_hour", sa.BigInteger, nullable=False),
    sa.Column("list_cost_nanos", sa.BigInteger, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Index(
        "uq_runtime_spans_open",
        "session_id",
        unique=True,
        sqlite_where=sa.text("ended = 0"),
        postgresql_where=sa.text("NOT ended"),
    ),
    sa.Index("ix_runtime_spans_session", "session_id", "created_at", "id"),
    sa.Index("ix_runtime_spans_workspace", "workspace_id", "created_at", "id"),
)

request_tools = sa.Table(
    "request_tools",
    metadata,
    sa.Column("model_request_id", Words, sa.ForeignKey("model_requests.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tool", Words, primary_key=True),
    # Of the results that the request brought to the model.
    sa.Column("results", sa.BigInteger, nullable=False),
    sa.Column("result_bytes", sa.BigInteger, nullable=False),
    # The tool's share of the request.
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_read_input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_creation_5m_input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_creation_1h_input_tokens", sa.BigInteger, nullable=False),
    sa.Column("web_search_requests", sa.BigInteger, nullable=False),
    sa.Column("list_cost_nanos", sa.BigInteger, nullable=False),
    sa.Column("unpriced_requests", sa.BigInteger, nullable=False),
)

usage_mismatches = sa.Table(
    "usage_mismatches",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, nullable=False),
    sa.Column("session_id", Words, nullable=False),
    # session_total · runtime · harness_tokens · harness_cost
    sa.Column("kind", Words, nullable=False),
    sa.Column("details", Json, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Index("ix_usage_mismatches_session", "session_id", "created_at", "id"),
    sa.Index("ix_usage_mismatches_workspace", "workspace_id", "created_at", "id"),
)
