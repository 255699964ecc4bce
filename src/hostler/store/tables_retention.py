"""Tables: what is removed after a while, when that was last done, and how much there was when somebody last looked."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Json, Seconds, Words, metadata

# One row for each workspace that a server has looked after: taking `looked_at` forward is what makes one of several
# servers do it.
workspace_retention = sa.Table(
    "workspace_retention",
    metadata,
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), primary_key=True),
    # Days by policy, where the workspace has its own; null: for ever.
    sa.Column("overrides", Json, nullable=False, server_default=sa.text("'{}'")),
    sa.Column("looked_at", Seconds, nullable=False, server_default=sa.text("0")),
    # What was kept when somebody last measured (`store.measures`).
    sa.Column("figures", Json),
    sa.Column("measured_at", Seconds),
)

# A run outlives nothing that it removed. While it runs its row is also where it goes on after a crash.
retention_runs = sa.Table(
    "retention_runs",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    # schedule · asked
    sa.Column("cause", Words, nullable=False),
    sa.Column("actor_id", Words, nullable=False),
    # running · completed · stopped: what it was to do was changed meanwhile · failed
    sa.Column("state", Words, nullable=False),
    sa.Column("reason", Words),
    # The moment from which days are counted back; the same for all of the run.
    sa.Column("moment", Seconds, nullable=False),
    sa.Column("days", Json, nullable=False),
    # How many policies are done with, and the key behind which the next one goes on.
    sa.Column("done", sa.Integer, nullable=False),
    sa.Column("after", Json),
    # A session that is too large for one transaction, and has lost some of its log already: it goes first.
    sa.Column("draining", Words),
    sa.Column("results", Json, nullable=False),
    sa.Column("owner", Words),
    sa.Column("lease_until", Seconds, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("ended_at", Words),
    sa.Index("ix_retention_runs_newest", "workspace_id", "created_at", "id"),
    sa.Index(
        "ix_retention_runs_running",
        "lease_until",
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    ),
    # Two that remove at the same time would count each other's work.
    sa.Index(
        "uq_retention_runs_removing",
        "workspace_id",
        unique=True,
        sqlite_where=sa.text("state = 'running' AND NOT dry_run"),
        postgresql_where=sa.text("state = 'running' AND NOT dry_run"),
    ),
)
