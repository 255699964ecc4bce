"""Which tables keep the audit log together? What entries are about, chains, signed checkpoints and their keys.

The entries themselves are `tables_tenancy.audit_entries`.
"""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Seconds, Words, metadata

# Whom or what entries are about: a session, a person at this host, a key. Counts the entries of its strand, and has
# the key of what is personal in them; '' when that was destroyed.
audit_subjects = sa.Table(
    "audit_subjects",
    metadata,
    sa.Column("workspace_id", Words, primary_key=True),
    sa.Column("subject", Words, primary_key=True),
    # What entries say instead: nothing can be learned from it.
    sa.Column("id", Words, nullable=False),
    sa.Column("key", Words, nullable=False),
    sa.Column("entries", sa.BigInteger, nullable=False),
    sa.Column("chained", sa.BigInteger, nullable=False),
    # The moment of its newest entry: none is older than the one before it.
    sa.Column("last_at", Words, nullable=False),
    sa.UniqueConstraint("id", name="uq_audit_subjects_id"),
)

audit_chains = sa.Table(
    "audit_chains",
    metadata,
    sa.Column("workspace_id", Words, primary_key=True),
    # The newest entry that is chained.
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", Words, nullable=False),
    # The newest checkpoint, and the moment from which the next one is due.
    sa.Column("signed_seq", sa.BigInteger, nullable=False),
    sa.Column("signed_at", Seconds, nullable=False),
    # Entries up to here were removed by retention; there is a checkpoint at it.
    sa.Column("start_seq", sa.BigInteger, nullable=False),
)

audit_checkpoints = sa.Table(
    "audit_checkpoints",
    metadata,
    sa.Column("workspace_id", Words, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True),
    sa.Column("hash", Words, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("signer", Words, nullable=False),
    sa.Column("signature", Words, nullable=False),
    sa.Index("ix_audit_checkpoints_oldest", "workspace_id", "created_at"),
)

audit_signers = sa.Table(
    "audit_signers",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("public_key", Words, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("endorsed_by", Words, nullable=False),
    sa.Column("endorsement", Words, nullable=False),
)
