"""Which point of a session is exported? One that it can be at between two turns, and of which all is known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Connection

from hostler.domain.errors import Conflict, InvalidRequest
from hostler.engine.bundle_port import Part
from hostler.engine.points import refuse_unless_between_turns
from hostler.engine.profile import transcript_id
from hostler.engine.state import SessionState
from hostler.engine.transcript import UNCONFIRMED
from hostler.store import checkpoints as checkpoint_rows
from hostler.store import homes, lines
from hostler.store import snapshots as snapshot_rows
from hostler.store.lines import Line
from hostler.store.sequences import load_sequence
from hostler.store.sessions import SessionRow, Usage, get_session
from hostler.store.work import is_held


class StillHeld(Exception):
    """A worker has the session."""


@dataclass(frozen=True, slots=True)
class Point:
    """What of a session is exported."""

    session: SessionRow
    line: Line
    snapshot_id: str | None
    state: str
    sequence: str | None
    usage: Usage
    agent_version: int
    checkpoint_id: str | None


def at_checkpoint(conn: Connection, workspace: str, session_id: str, checkpoint_id: str) -> Point:
    """Raises NotFound."""
    session = get_session(conn, workspace, session_id)
    row = checkpoint_rows.get_checkpoint(conn, workspace, session_id, checkpoint_id)
    return Point(session, row.line, row.snapshot_id, row.state, row.sequence, row.usage, row.agent_version, row.id)


def as_it_is(conn: Connection, now: float, workspace: str, session_id: str) -> Point | None:
    """The present of a session of which nothing can run, or whose files nobody has. None: ask its worker.

    Raises StillHeld while a worker has it; NotFound, Conflict, InvalidRequest.
    """
    session = get_session(conn, workspace, session_id)
    state = SessionState.model_validate_json(session.state)
    pattern = _pattern(session)
    ephemeral, shared = pattern == "ephemeral", pattern == "shared"
    if session.archived_at is None and not ephemeral and not shared and not state.self_hosted:
        return None
    if session.archived_at is None:
        refuse_unless_between_turns(state.model_copy(update={"self_hosted": False}), "an export")
        if state.turn is not None:
            kind = "self-hosted" if state.self_hosted else pattern
            raise Conflict(
                f"This {kind} session waits for an answer in the middle of its task, and its files can't come "
                "along: answer the call, or send user.interrupt, then export it."
            )
    if not state.self_hosted and not shared and is_held(conn, now, session.id):
        raise StillHeld
    line = lines.current(conn, session.id, session.last_seq, transcript_id(session.id), without=(UNCONFIRMED,))
    if ephemeral:
        line = Line(line.events, {})
    snapshot_id = None if ephemeral or shared or state.self_hosted else _kept(conn, session)
    return Point(
        session,
        line,
        snapshot_id,
        session.state,
        load_sequence(conn, session.id),
        session.usage,
        session.agent_version,
        None,
    )


def refuse_shared_files(session: SessionRow, without: Collection[Part]) -> None:
    """Raises InvalidRequest when files were to be exported that are not the session's alone."""
    if _pattern(session) == "shared" and "workspace" not in without:
        raise InvalidRequest(
            "The files of this session are in a folder that it shares with others: they can't come along. Export it "
            "without=workspace, and import it into an environment of another pattern."
        )


def _pattern(session: SessionRow) -> str:
    hosting = (session.environment.get("config") or {}).get("hosting") or {}
    return str(hosting.get("pattern") or "")


def _kept(conn: Connection, session: SessionRow) -> str | None:
    """The snapshot with the files of an archived session. Raises Conflict when they are not kept yet."""
    row, latest = homes.get_home(conn, session.id), snapshot_rows.latest_snapshot(conn, session.id)
    if latest is not None and row is not None and latest.number <= row.void_until:
        latest = None
    taken_at = None if latest is None else latest.taken_at
    if row is not None and homes.calls_since(conn, session.id, row.kept_seq, taken_at):
        raise Conflict("The files of this session are not in the object store yet: try again in a minute.")
    return None if latest is None else latest.id
