"""Tables: where the newest files of a session are, and the bytes of uploads and outputs."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Seconds, Words, metadata

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

# Where the bytes of a file are in the object store, when several hosts read them. An object's name is used once, so
# that removing it can't meet somebody who puts the same bytes there again.
blob_objects = sa.Table(
    "blob_objects",
    metadata,
    sa.Column("sha256", Words, primary_key=True),
    sa.Column("object_name", Words, nullable=False),
    # When somebody last put these bytes there, or would have.
    sa.Column("put_at", Seconds, nullable=False),
    sa.Index("ix_blob_objects_oldest", "put_at"),
)
