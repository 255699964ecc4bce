"""What sandboxes cost by the second, which tools requests were made for, and what did not agree."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_SHARES = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_5m_input_tokens",
    "cache_creation_1h_input_tokens",
    "web_search_requests",
    "list_cost_nanos",
    "unpriced_requests",
)


def upgrade() -> None:
    op.create_table(
        "runtime_spans",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("agent_id", WORDS, nullable=False),
        sa.Column("environment_id", WORDS, nullable=False),
        sa.Column("technology", WORDS, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("active_us", sa.BigInteger, nullable=False),
        sa.Column("nanos_per_hour", sa.BigInteger, nullable=False),
        sa.Column("list_cost_nanos", sa.BigInteger, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runtime_spans"),
    )
    op.create_index(
        "uq_runtime_spans_open",
        "runtime_spans",
        ["session_id"],
        unique=True,
        sqlite_where=sa.text("ended = 0"),
        postgresql_where=sa.text("NOT ended"),
    )
    op.create_index("ix_runtime_spans_session", "runtime_spans", ["session_id", "created_at", "id"])
    op.create_index("ix_runtime_spans_workspace", "runtime_spans", ["workspace_id", "created_at", "id"])
    op.create_table(
        "request_tools",
        sa.Column("model_request_id", WORDS, nullable=False),
        sa.Column("tool", WORDS, nullable=False),
        sa.Column("results", sa.BigInteger, nullable=False),
        sa.Column("result_bytes", sa.BigInteger, nullable=False),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SHARES),
        sa.PrimaryKeyConstraint("model_request_id", "tool", name="pk_request_tools"),
        sa.ForeignKeyConstraint(
            ["model_request_id"],
            ["model_requests.id"],
            name="fk_request_tools_model_request_id",
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "usage_mismatches",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("kind", WORDS, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_usage_mismatches"),
    )
    op.create_index("ix_usage_mismatches_session", "usage_mismatches", ["session_id", "created_at", "id"])
    op.create_index("ix_usage_mismatches_workspace", "usage_mismatches", ["workspace_id", "created_at", "id"])
