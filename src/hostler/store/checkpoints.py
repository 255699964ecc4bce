"""Which points of a session are kept, and when did it go back? The rows.

Functions run inside the caller's transaction. Every query of a request carries the workspace.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from hostler.domain.errors import NotFound
from hostler.store.jsontext import decode, encode
from hostler.store.lines import Line
from hostler.store.moments import moment
from hostler.store.pages import Page, Position, page
from hostler.store.sessions import Usage, get_session
from hostler.store.tables import events
from hostler.store.tables_checkpoints import checkpoints, rewinds

Memories = Mapping[str, Mapping[str, tuple[str, str, str]]]
"""Version, path and digest of each memory, by memory and by store."""


@dataclass(frozen=True, slots=True)
class NewCheckpoint:
    id: str
    session_id: str
    name: str | None
    reason: str
    seq: int
    line: Line
    snapshot_id: str | None
    memories: Memories
    state: str
    """The engine's JSON text."""
    sequence: str | None
    """The gateway's."""
    usage: Usage
    agent_version: int


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    id: str
    session_id: str
    name: str | None
    reason: str
    seq: int
    line_json: str
    snapshot_id: str | None
    memories_json: str
    state: str
    sequence: str | None
    usage_json: str
    agent_version: int
    created_at: str

    @property
    def line(self) -> Line:
        """Parsed at each call, like the others."""
        return Line.of_text(self.line_json)

    @property
    def memories(self) -> dict[str, dict[str, tuple[str, str, str]]]:
        found = decode(self.memories_json)
        return {store: {id_: tuple(facts) for id_, facts in held.items()} for store, held in found.items()}

    @property
    def usage(self) -> Usage:
        return Usage(**decode(self.usage_json))


@dataclass(frozen=True, slots=True)
class RewindRow:
    id: str
    session_id: str
    checkpoint_id: str
    left_checkpoint_id: str
    from_seq: int
    to_seq: int
    memories_json: str
    created_at: str

    @property
    def memories(self) -> dict[str, Any]:
        found: dict[str, Any] = decode(self.memories_json)
        return found


EXPORT_SECONDS: Final = 86_400.0
"""How long an export's checkpoint stays when nobody ends the export."""
KEPT_REWINDS: Final = 500
"""Of one session; older ones go."""

_CHECKPOINT = tuple(checkpoints.c)


def put_checkpoint(conn: Connection, now: float, new: NewCheckpoint) -> CheckpointRow:
    row = CheckpointRow(
        new.id,
        new.session_id,
        new.name,
        new.reason,
        new.seq,
        new.line.to_text(),
        new.snapshot_id,
        encode({store: dict(held) for store, held in new.memories.items()}),
        new.state,
        new.sequence,
        encode(asdict(new.usage)),
        new.agent_version,
        moment(now),
    )
    values = [getattr(row, name) for name in CheckpointRow.__slots__]
    conn.execute(checkpoints.insert().values(dict(zip([c.name for c in _CHECKPOINT], values, strict=True))))
    return row


def get_checkpoint(conn: Connection, workspace_id: str | None, session_id: str, checkpoint_id: str) -> CheckpointRow:
    """Raises NotFound for a session or checkpoint that the workspace doesn't have. None: of any workspace."""
    get_session(conn, workspace_id, session_id)
    query = sa.select(*_CHECKPOINT).where(checkpoints.c.session_id == session_id, checkpoints.c.id == checkpoint_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"checkpoint {checkpoint_id} does not exist in session {session_id}")
    return CheckpointRow(*row)


def list_checkpoints(
    conn: Connection, workspace_id: str, session_id: str, *, limit: int, after: Position | None
) -> Page[CheckpointRow]:
    """Newest first. Raises NotFound for no such session."""
    get_session(conn, workspace_id, session_id)
    return page(
        conn,
        checkpoints,
        _CHECKPOINT,
        [checkpoints.c.session_id == session_id],
        CheckpointRow,
        keys=(checkpoints.c.created_at, checkpoints.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )


def drop_checkpoint(conn: Connection, session_id: str, checkpoint_id: str) -> None:
    conn.execute(checkpoints.delete().where(checkpoints.c.session_id == session_id, checkpoints.c.id == checkpoint_id))


def count_by_hand(conn: Connection, session_id: str) -> int:
    """Checkpoints of the session that somebody asked for."""
    query = sa.select(sa.func.count()).where(checkpoints.c.session_id == session_id, checkpoints.c.reason == "manual")
    return int(conn.execute(query).scalar_one())


def prune(conn: Connection, now: float, session_id: str, keep: int) -> list[str]:
    """Remove all but the newest `keep` of those that nobody asked for. The ids of what is gone.

    An export's is there for as long as it takes, and is none of them; one that is left of an export that was cut off
    goes after a day.
    """
    mine = (checkpoints.c.session_id == session_id, checkpoints.c.reason.not_in(["manual", "export"]))
    newest = sa.select(checkpoints.c.id).where(*mine).order_by(checkpoints.c.created_at.desc(), checkpoints.c.id.desc())
    gone = list(conn.execute(newest.offset(keep).limit(-1 if conn.dialect.name == "sqlite" else None)).scalars())
    if gone:
        conn.execute(checkpoints.delete().where(*mine, checkpoints.c.id.in_(gone)))
    left = (checkpoints.c.session_id == session_id, checkpoints.c.reason == "export")
    cut_off = checkpoints.delete().where(*left, checkpoints.c.created_at < moment(now - EXPORT_SECONDS))
    return gone + list(conn.execute(cut_off.returning(checkpoints.c.id)).scalars())


def last_taken(conn: Connection, session_id: str) -> tuple[int, str] | None:
    """The last event that any checkpoint of the session knows, and when the newest was taken. None: there is none."""
    query = sa.select(sa.func.max(checkpoints.c.seq), sa.func.max(checkpoints.c.created_at))
    seq, at = conn.execute(query.where(checkpoints.c.session_id == session_id)).one()
    return None if at is None else (int(seq), str(at))


def turns_ended(conn: Connection, session_id: str, seq: int) -> int:
    """How many turns have ended after that number of the log: each idle that waits for nobody."""
    query = sa.select(sa.func.count()).where(
        events.c.session_id == session_id,
        events.c.type == "session.status_idle",
        events.c.seq > seq,
        sa.not_(events.c.body.contains('"type":"requires_action"', autoescape=True)),
    )
    return int(conn.execute(query).scalar_one())


def needed_snapshots(conn: Connection, snapshot_ids: Collection[str]) -> set[str]:
    """Those of the ids that a checkpoint stands on: they can't be removed."""
    query = sa.select(checkpoints.c.snapshot_id).where(checkpoints.c.snapshot_id.in_(sorted(snapshot_ids)))
    return set(conn.execute(query).scalars()) if snapshot_ids else set()


# ------------------------------------------------------------------------------------------------------------ rewinds


def put_rewind(conn: Connection, now: float, **fields: Any) -> RewindRow:
    """Fields as in RewindRow, with `memories` as a mapping."""
    memories = encode(fields.pop("memories"))
    conn.execute(rewinds.insert().values(**fields, memories=memories, created_at=moment(now)))
    newest = sa.select(rewinds.c.id).where(rewinds.c.session_id == fields["session_id"])
    newest = newest.order_by(rewinds.c.created_at.desc(), rewinds.c.id.desc())
    old = newest.offset(KEPT_REWINDS).limit(-1 if conn.dialect.name == "sqlite" else None)
    conn.execute(rewinds.delete().where(rewinds.c.id.in_(list(conn.execute(old).scalars()))))
    return RewindRow(**fields, memories_json=memories, created_at=moment(now))


def get_rewind(conn: Connection, workspace_id: str, session_id: str, rewind_id: str) -> RewindRow:
    """Raises NotFound."""
    get_session(conn, workspace_id, session_id)
    query = sa.select(*rewinds.c).where(rewinds.c.session_id == session_id, rewinds.c.id == rewind_id)
    row = conn.execute(query).first()
    if row is None:
        raise NotFound(f"rewind {rewind_id} does not exist in session {session_id}")
    return RewindRow(*row)


def list_rewinds(
    conn: Connection, workspace_id: str, session_id: str, *, limit: int, after: Position | None
) -> Page[RewindRow]:
    """Newest first. Raises NotFound for no such session."""
    get_session(conn, workspace_id, session_id)
    return page(
        conn,
        rewinds,
        tuple(rewinds.c),
        [rewinds.c.session_id == session_id],
        RewindRow,
        keys=(rewinds.c.created_at, rewinds.c.id),
        order="desc",
        limit=limit,
        after=after,
        before=None,
    )
