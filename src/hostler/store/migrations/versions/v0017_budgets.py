"""What may be spent, and what is set aside of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_ZERO = sa.text("0")


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("scope", WORDS, nullable=False),
        sa.Column("subject", WORDS, nullable=False),
        sa.Column("period", WORDS, nullable=False),
        sa.Column("month", WORDS, nullable=False),
        sa.Column("limit_nanos", sa.BigInteger, nullable=False),
        sa.Column("spent_nanos", sa.BigInteger, nullable=False, server_default=_ZERO),
        sa.Column("uncertain_nanos", sa.BigInteger, nullable=False, server_default=_ZERO),
        sa.Column("reserved_nanos", sa.BigInteger, nullable=False, server_default=_ZERO),
        sa.Column("warn_at", sa.Text, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("warned", sa.Integer, nullable=False, server_default=_ZERO),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("updated_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_budgets"),
        sa.ForeignKeyConstraint(["workspace_id"], ["workspaces.id"], name="fk_budgets_workspace_id"),
        sa.UniqueConstraint("subject", "period", name="uq_budgets_subject_period"),
    )
    op.create_index("ix_budgets_workspace", "budgets", ["workspace_id", "created_at", "id"])
    op.create_table(
        "reservations",
        sa.Column("grant_id", WORDS, nullable=False),
        sa.Column("budget_id", WORDS, nullable=False),
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("nanos", sa.BigInteger, nullable=False),
        sa.Column("taken_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("grant_id", "budget_id", name="pk_reservations"),
        sa.ForeignKeyConstraint(["budget_id"], ["budgets.id"], name="fk_reservations_budget_id", ondelete="CASCADE"),
    )
    op.create_index("ix_reservations_budget", "reservations", ["budget_id"])
    op.create_index("ix_reservations_session", "reservations", ["session_id"])
    op.create_table(
        "budget_pauses",
        sa.Column("session_id", WORDS, nullable=False),
        sa.Column("budget_id", WORDS, nullable=False),
        sa.Column("needs_nanos", sa.BigInteger, nullable=False),
        sa.Column("paused_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("session_id", name="pk_budget_pauses"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="fk_budget_pauses_session_id", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_budget_pauses_budget", "budget_pauses", ["budget_id"])
