"""What entries of the audit log are about, their chains, signed checkpoints, and the keys of signers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

WORDS = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "audit_subjects",
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("subject", WORDS, nullable=False),
        sa.Column("id", WORDS, nullable=False),
        sa.Column("key", WORDS, nullable=False),
        sa.Column("entries", sa.BigInteger, nullable=False),
        sa.Column("chained", sa.BigInteger, nullable=False),
        sa.Column("last_at", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "subject", name="pk_audit_subjects"),
        sa.UniqueConstraint("id", name="uq_audit_subjects_id"),
    )
    op.create_table(
        "audit_chains",
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", WORDS, nullable=False),
        sa.Column("signed_seq", sa.BigInteger, nullable=False),
        sa.Column("signed_at", sa.Double, nullable=False),
        sa.Column("start_seq", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", name="pk_audit_chains"),
    )
    op.create_table(
        "audit_checkpoints",
        sa.Column("workspace_id", WORDS, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", WORDS, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("signer", WORDS, nullable=False),
        sa.Column("signature", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("workspace_id", "seq", name="pk_audit_checkpoints"),
    )
    op.create_index("ix_audit_checkpoints_oldest", "audit_checkpoints", ["workspace_id", "created_at"])
    op.create_table(
        "audit_signers",
        sa.Column("id", WORDS, nullable=False),
        sa.Column("public_key", WORDS, nullable=False),
        sa.Column("created_at", WORDS, nullable=False),
        sa.Column("endorsed_by", WORDS, nullable=False),
        sa.Column("endorsement", WORDS, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_signers"),
    )
