"""Which tables keep this? Limits of rates that workspaces and agents have, and what is left in each bucket."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Seconds, Words, metadata

# Tokens a minute; NULL: no limit. `agent_id` is empty in the row of the workspace itself.
rate_limits = sa.Table(
    "rate_limits",
    metadata,
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), primary_key=True),
    sa.Column("agent_id", Words, primary_key=True),
    sa.Column("requests", sa.BigInteger),
    sa.Column("input_tokens", sa.BigInteger),
    sa.Column("output_tokens", sa.BigInteger),
)

# One row for each limit that was asked for room lately. Refers to nothing: whoever is gone leaves it to the sweep.
rate_buckets = sa.Table(
    "rate_buckets",
    metadata,
    sa.Column("bucket", Words, primary_key=True),
    sa.Column("scope", Words, nullable=False),
    sa.Column("kind", Words, nullable=False),
    sa.Column("subject", Words, nullable=False),
    sa.Column("workspace_id", Words, nullable=False),
    # What was in it at that moment; less than nothing: a debt.
    sa.Column("level", sa.Double, nullable=False),
    sa.Column("at", Seconds, nullable=False),
    # A minute's worth: as configured, and as the upstream says.
    sa.Column("configured", sa.Double),
    sa.Column("learned", sa.Double),
    sa.Column("learned_at", Seconds),
    # A minute's worth and how much it holds, both as they were when it was asked last.
    sa.Column("per_minute", sa.Double),
    sa.Column("capacity", sa.Double),
    sa.Column("closed_until", Seconds, nullable=False, server_default=sa.text("0")),
    # Whose turn it is among servers, for how long; and who was served last.
    sa.Column("turn", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("turn_until", Seconds, nullable=False, server_default=sa.text("0")),
    sa.Column("served", Words, nullable=False, server_default=sa.text("''")),
    sa.Index("ix_rate_buckets_workspace_id", "workspace_id"),
    sa.Index("ix_rate_buckets_at", "at"),
)
