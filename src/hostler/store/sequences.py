"""Which tool calls of a response are kept back? The gateway's held calls, one opaque JSON text per session.

See `engine.ports.SequenceStore`.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from hostler.store.sessions import missing
from hostler.store.tables import sequences
from hostler.store.work import Lease, check


def load_sequence(conn: Connection, session_id: str) -> str | None:
    """What `save_sequence` was last given; None before the first time."""
    found: str | None = conn.execute(sa.select(sequences.c.state).where(sequences.c.session_id == session_id)).scalar()
    return found


def save_sequence(conn: Connection, now: float, session_id: str, state: str, *, lease: Lease | None) -> None:
    """Replace the text. Raises LeaseLost when a lease is given that is not valid now, NotFound for no such session."""
    if lease is not None:
        check(conn, now, lease)
    insert = (postgresql.insert if conn.dialect.name == "postgresql" else sqlite.insert)(sequences)
    row = insert.values(session_id=session_id, state=state)
    try:
        with conn.begin_nested():
            conn.execute(row.on_conflict_do_update(index_elements=["session_id"], set_={"state": row.excluded.state}))
    except IntegrityError as error:
        raise missing(session_id) from error
