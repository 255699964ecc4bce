"""Tables: which sessions share a sandbox and its files."""

from __future__ import annotations

import sqlalchemy as sa

from hostler.store.tables import Words, metadata

# A room is at home on one worker at a time: `worker`, for as long as one of its sessions is inside under a lease of
# that worker. `epoch` grows whenever the room moves. `copy` names the one copy of the common folder that counts;
# `dirty` says that it may have more than the latest snapshot has, whose `session_id` is the room's id.
rooms = sa.Table(
    "rooms",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("workspace_id", Words, sa.ForeignKey("workspaces.id"), nullable=False),
    sa.Column("environment_id", Words, sa.ForeignKey("environments.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("created_at", Words, nullable=False),
    sa.Column("worker", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("epoch", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    sa.Column("copy", Words, nullable=False, server_default=sa.text("''")),
    sa.Column("dirty", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("environment_id", "name"),
    sa.Index("ix_rooms_workspace", "workspace_id", "created_at", "id"),
)

# `entered_epoch` is the epoch of the session's lease under which it entered the room: while that lease holds, it is in.
room_members = sa.Table(
    "room_members",
    metadata,
    sa.Column("session_id", Words, sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("room_id", Words, sa.ForeignKey("rooms.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", Words, nullable=False),
    sa.Column("joined_at", Words, nullable=False),
    sa.Column("entered_epoch", sa.BigInteger),
    sa.UniqueConstraint("room_id", "name"),
)

# Not foreign keys to sessions: what happened stays when one of the two is gone.
room_conflicts = sa.Table(
    "room_conflicts",
    metadata,
    sa.Column("id", Words, primary_key=True),
    sa.Column("room_id", Words, sa.ForeignKey("rooms.id", ondelete="CASCADE"), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("session_id", Words, nullable=False),
    sa.Column("other_session_id", Words, nullable=False),
    sa.Column("outcome", Words, nullable=False),
    sa.Column("happened_at", Words, nullable=False),
    # Whether the other session has been told.
    sa.Column("told", sa.Boolean, nullable=False),
    sa.Index("ix_room_conflicts_newest", "room_id", "happened_at", "id"),
    sa.Index("ix_room_conflicts_untold", "other_session_id", "told"),
)
