"""Tables: where the newest files of a session are."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Words, metadata

# One row for each session whose files some worker has had. `copy` names the one copy of them that counts: folders of
# another name are of an earlier time, wherever they are. Empty: none counts, the next worker begins with nothing.
session_homes = sa.Table(
    "session_homes",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("copy", Words, nullable=False),
    sa.Column("worker", Words, nullable=False),
    # What the log had up to here is in the latest snapshot.
    sa.Column("kept_seq", sa.BigInteger, nullable=False),
    # Snapshots up to this number are of tasks that are over: nothing is restored from them.
    sa.Column("void_until", sa.BigInteger, nullable=False),
)
