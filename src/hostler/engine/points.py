"""What is one point of a session, and how does a session go back to one? All of it inside one transaction.

A point lies between two turns: nothing runs, no message waits, and what the session waits for, if anything, is an
answer from outside. What counts there is written down as a checkpoint: which events, which entries of the transcripts,
which snapshot, which versions of memories, the states of engine and gateway.

Going back makes the same count again. It adds to the log (a notice) and takes nothing away; it gives the session a new
snapshot with the old content, so that every worker finds its own copy of the files outdated; it never gives back money.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection

from hostler.domain import events as ev
from hostler.domain.checkpoints import Reason
from hostler.domain.errors import Conflict, InvalidRequest
from hostler.domain.ids import new_id
from hostler.engine import memory_points
from hostler.engine.profile import transcript_id
from hostler.engine.records import Applied, Records
from hostler.engine.session_bounds import SessionBounds
from hostler.engine.state import Moment, SessionState, Step, Totals, go_idle, is_paused
from hostler.engine.transcript import UNCONFIRMED
from hostler.store import checkpoints as rows
from hostler.store import lines
from hostler.store.checkpoints import CheckpointRow, NewCheckpoint
from hostler.store.memories import Admit
from hostler.store.sequences import load_sequence, save_sequence
from hostler.store.sessions import SessionRow, lock_session
from hostler.store.work import Lease


class SnapshotRows(Protocol):
    """What points need of the snapshots inside their own transactions."""

    def share_in(self, conn: Connection, now: float, snapshot_id: str, session: SessionRow, reason: str) -> str:
        """A snapshot of `session`, its latest from now on, with the content of one of the same workspace. Its id.

        Raises NotFound when there is none.
        """
        ...


def refuse_unless_a_point(session: SessionRow, what: str) -> SessionState:
    """The state of a session that is at a point, and has such. Raises what `refuse_unless_between_turns` does."""
    hosting = (session.environment.get("config") or {}).get("hosting") or {}
    if hosting.get("pattern") == "ephemeral":
        raise InvalidRequest(
            f"This session is ephemeral: nothing of it stays after a turn but events, outputs and the bill, so {what} "
            "is not possible. Choose another `hosting.pattern` in the environment for sessions to come."
        )
    state = SessionState.model_validate_json(session.state)
    refuse_unless_between_turns(state, what)
    return state


def refuse_unless_between_turns(state: SessionState, what: str) -> None:
    """Raises Conflict when `what` can be done later, InvalidRequest when it can't be done to this session."""
    if state.self_hosted:
        raise InvalidRequest(
            f"{what} needs the session's files, and those of a self_hosted environment are on your own machines"
        )
    if state.status == "terminated":
        raise InvalidRequest(f"This session is archived: {what} is not possible. Fork it from one of its checkpoints.")
    if state.status != "idle" or state.interrupt is not None:
        raise Conflict(
            f"This session is {state.status}, and {what} is possible between two turns only: what it would be in the "
            "middle of one, nobody could say. Wait for session.status_idle (or send user.interrupt), then ask again. "
            "`hosting.checkpoints` of the environment takes checkpoints by itself when turns end."
        )
    if is_paused(state) or (state.turn is not None and state.turn.phase != "blocked"):
        raise InvalidRequest(
            f"This session stopped in the middle of a turn because its budget is used up: {what} is not possible. "
            "Raise or remove the budget, or end the turn with user.interrupt after that."
        )
    waiting = len(state.queue) + (state.ask is not None)
    if waiting:
        raise InvalidRequest(
            f"{waiting} messages or compactions wait in this session behind a call that waits for an answer: {what} is "
            "not possible. Answer the call, or send user.interrupt."
        )


@dataclass(frozen=True, slots=True)
class Returned:
    """A session that went back."""

    applied: Applied
    rewind: rows.RewindRow


class Points:
    """Takes points and goes back to them. Every method runs inside the caller's transaction."""

    def __init__(
        self, records: Records, snapshots: SnapshotRows, admit: Admit, bounds: SessionBounds | None = None
    ) -> None:
        """`admit` is asked before memories are kept once more (`WorkspaceQuotas.admit_bytes`)."""
        self._bounds = bounds or SessionBounds()
        self._records = records
        self._snapshots = snapshots
        self._admit = admit

    def take(
        self,
        conn: Connection,
        now: float,
        session: SessionRow,
        *,
        name: str | None,
        reason: Reason,
        snapshot_id: str | None,
    ) -> CheckpointRow:
        """The point at which the session is, whose row the caller holds, with its files as `snapshot_id` has them.

        Raises what `refuse_unless_a_point` does.
        """
        refuse_unless_a_point(session, "a checkpoint")
        return rows.put_checkpoint(
            conn,
            now,
            NewCheckpoint(
                id=new_id("ckpt"),
                session_id=session.id,
                name=name,
                reason=reason,
                seq=session.last_seq,
                line=lines.current(
                    conn, session.id, session.last_seq, transcript_id(session.id), without=(UNCONFIRMED,)
                ),
                snapshot_id=snapshot_id,
                memories=memory_points.versions_now(conn, session),
                state=session.state,
                sequence=load_sequence(conn, session.id),
                usage=session.usage,
                agent_version=session.agent_version,
            ),
        )

    def go_back(
        self,
        conn: Connection,
        now: float,
        session: SessionRow,
        checkpoint_id: str,
        *,
        lease: Lease,
        snapshot_id: str | None,
        force: bool,
    ) -> Returned:
        """The session goes back; `snapshot_id` has its files as they are. The caller holds the lease, and nothing runs.

        The point that it leaves is kept as a checkpoint of its own. Raises NotFound, and what taking a point raises.
        """
        session = lock_session(conn, session.workspace_id, session.id)
        target = rows.get_checkpoint(conn, session.workspace_id, session.id, checkpoint_id)
        left = self.take(conn, now, session, name=None, reason="rewind", snapshot_id=snapshot_id)
        memories = memory_points.restore(conn, now, session, target.memories, force=force, admit=self._admit)
        rewind_id = new_id("rwnd")
        told = {
            "rewind_id": rewind_id,
            "checkpoint_id": target.id,
            "left_checkpoint_id": left.id,
            "to_seq": target.seq,
            "memories_left": memories.left,
        }

        def decide(before: SessionState, at: Moment, totals: Totals, _: SessionRow) -> Step:
            state = _as_it_was(SessionState.model_validate_json(target.state), before)
            message = f"The session went back to checkpoint {target.id}: what came after it does not count any more."
            events = [ev.notice(at.text, "session_rewound", message, told)]
            if state.turn is not None and state.stop_reason is not None:  # say again what it waits for
                state, idle = go_idle(state, at, totals, state.stop_reason)
                events += idle
            return Step(state, tuple(events))

        applied = self._records.apply_in(conn, session.id, decide, lease=lease)
        lines.go_back(
            conn, session.id, session.last_seq, transcript_id(session.id), target.line, without=(UNCONFIRMED,)
        )
        self._bounds.admit_cut(conn, session.id)
        if target.sequence is not None:
            save_sequence(conn, now, session.id, target.sequence, lease=lease)
        if target.snapshot_id is not None:
            self._snapshots.share_in(conn, now, target.snapshot_id, session, "checkpoint")
        rewind = rows.put_rewind(
            conn,
            now,
            id=rewind_id,
            session_id=session.id,
            checkpoint_id=target.id,
            left_checkpoint_id=left.id,
            from_seq=session.last_seq,
            to_seq=target.seq,
            memories=memories.wire(),
        )
        return Returned(applied, rewind)


def _as_it_was(then: SessionState, now: SessionState) -> SessionState:
    """The state of then; time that was worked is not given back."""
    return then.model_copy(
        update={
            "active_seconds": now.active_seconds,
            "first_running_at": now.first_running_at,
            "running_since": None,
            "stays": now.stays,
        }
    )


def checkpoint_view(row: CheckpointRow) -> dict[str, Any]:
    """As `/hostler/v1` shows it."""
    line, state, used = row.line, SessionState.model_validate_json(row.state), row.usage
    return {
        "id": row.id,
        "type": "checkpoint",
        "session_id": row.session_id,
        "name": row.name,
        "reason": row.reason,
        "created_at": row.created_at,
        "seq": row.seq,
        "events": sum(last - first + 1 for first, last in line.events),
        "transcript_entries": sum(one.entries for one in line.transcripts.values()),
        "snapshot_id": row.snapshot_id,
        "memories": {store: len(held) for store, held in row.memories.items()},
        "stop_reason": state.stop_reason,
        "agent_version": row.agent_version,
        "usage": usage_view(used),
    }


def usage_view(used: Any) -> dict[str, Any]:
    """Every counter, and the list price in billionths of a US dollar."""
    return {name: getattr(used, name) for name in type(used).__slots__}
