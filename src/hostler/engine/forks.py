"""How does a session become two? The second begins where the first is, or was at a checkpoint, and owes it nothing.

What the fork begins with is copied in one transaction: the events that count, under their own ids; the transcripts,
under the fork's; the states of engine and gateway. Files are shared: a snapshot of the fork's own with the same
content, without a copy of a byte. Of the first session nothing is written, so nothing of it can change.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy import Connection

from hostler.domain.checkpoints import ForkSession
from hostler.domain.environments import CloudConfig, Config, SelfHostedConfig
from hostler.domain.errors import InvalidRequest
from hostler.domain.ids import new_id
from hostler.engine import labels, skills
from hostler.engine.checkpoints import Checkpoints
from hostler.engine.environments import session_environment
from hostler.engine.placement import Placement, needs_of
from hostler.engine.points import SnapshotRows
from hostler.engine.profile import transcript_id
from hostler.engine.quotas import WorkspaceQuotas
from hostler.engine.records import waiting_call
from hostler.engine.resources import ResourceKinds
from hostler.engine.room_list import refuse_in_room
from hostler.engine.sessions import view
from hostler.engine.state import SessionState, waits_for_people
from hostler.store import catalog, lines, webhooks
from hostler.store import checkpoints as rows
from hostler.store import sessions as session_rows
from hostler.store.checkpoints import CheckpointRow
from hostler.store.database import Database
from hostler.store.jsontext import encode
from hostler.store.moments import moment
from hostler.store.sequences import save_sequence
from hostler.store.sessions import NewSession, SessionRow
from hostler.store.skills import note_session
from hostler.store.tables import sessions
from hostler.store.waiting import replace_waiting

_CONFIG: Final[TypeAdapter[CloudConfig | SelfHostedConfig]] = TypeAdapter(Config)
NAMING_THREADS: Final = (
    "session.thread_created",
    "session.thread_status_running",
    "session.thread_status_idle",
    "session.thread_status_rescheduled",
    "session.thread_status_terminated",
    "user.interrupt",
)
"""Events that name the thread they are about, and hold no words of anybody's."""


class Forks:
    """Forks sessions of all workspaces."""

    def __init__(
        self,
        database: Database,
        checkpoints: Checkpoints,
        snapshots: SnapshotRows,
        resources: ResourceKinds,
        quotas: WorkspaceQuotas,
        placement: Placement,
    ) -> None:
        self._database = database
        self._checkpoints = checkpoints
        self._snapshots = snapshots
        self._resources = resources
        self._quotas = quotas
        self._placement = placement

    async def fork(self, workspace: str, session_id: str, params: ForkSession) -> dict[str, Any]:
        """The new session as the wire shows it. Without a checkpoint, one is taken of the present.

        Raises NotFound; InvalidRequest when a session like it could not be made now; QuotaExceeded; and what taking a
        checkpoint raises.
        """
        refuse_in_room(
            (await self._database.read(lambda c: session_rows.get_session(c, workspace, session_id))).environment
        )
        survey = await self._placement.survey()
        point_id = params.checkpoint_id
        if point_id is None:
            point_id = (await self._checkpoints.take(workspace, session_id, None, "fork")).id
        copy_id, thread_id = new_id("sesn"), new_id("sthr")

        def unit(conn: Connection) -> SessionRow:
            now = self._database.now(conn)
            source = session_rows.get_session(conn, workspace, session_id)
            point = rows.get_checkpoint(conn, workspace, session_id, point_id)
            self._quotas.admit_session(conn, now, workspace)
            if catalog.get_agent(conn, workspace, source.agent_id, source.agent_version).archived_at is not None:
                raise InvalidRequest(f"agent {source.agent_id} is archived and takes no new sessions, forks neither")
            session_environment(conn, workspace, source.environment_id)
            config = _CONFIG.validate_json(encode(source.environment["config"]))
            survey.check(config)
            attached = self._resources.copy(conn, now, workspace, session_id, source.resources, copy_id)
            state = _of_the_fork(SessionState.model_validate_json(point.state), thread_id)
            made = session_rows.create_session(
                conn,
                now,
                NewSession(
                    id=copy_id,
                    workspace_id=workspace,
                    agent_id=source.agent_id,
                    agent_version=source.agent_version,
                    environment_id=source.environment_id,
                    thread_id=thread_id,
                    agent=source.agent,
                    environment=source.environment,
                    isolation=labels.begun(config, needs_of(config, survey.terms).preset),
                    state=state.model_dump_json(),
                    status=state.status,
                    title=source.title if params.title is None else params.title or None,
                    metadata=source.metadata if params.metadata is None else params.metadata,
                    resources=attached,
                    vault_ids=source.vault_ids,
                    budget=source.budget,
                    forked_from={
                        "session_id": source.id,
                        "checkpoint_id": point.id,
                        "seq": point.seq,
                        "events": sum(last - first + 1 for first, last in point.line.events),
                    },
                ),
            )
            self._copy(conn, now, source, point, made)
            note_session(conn, copy_id, (skill.sha256 for skill in skills.of_snapshot(source.environment)))
            waiting = [waiting_call(call) for call in waits_for_people(state)]
            replace_waiting(conn, moment(now), copy_id, workspace, added=waiting, removed=())
            webhooks.emit(conn, now, workspace, "session.created", {"id": copy_id})
            return session_rows.get_session(conn, workspace, copy_id)

        row = await self._database.write(unit)
        return view(row, await self._database.read(self._database.now))

    def _copy(self, conn: Connection, now: float, source: SessionRow, point: CheckpointRow, made: SessionRow) -> None:
        renamed = {source.thread_id: made.thread_id}
        count = lines.copy_events(conn, source.id, point.line.events, made.id, renamed, NAMING_THREADS)
        conn.execute(sessions.update().where(sessions.c.id == made.id).values(last_seq=sa.literal(count)))
        lines.copy_transcripts(conn, source.id, transcript_id(source.id), point.line, made.id, transcript_id(made.id))
        if point.sequence is not None:
            save_sequence(conn, now, made.id, point.sequence, lease=None)
        if point.snapshot_id is not None:
            self._snapshots.share_in(conn, now, point.snapshot_id, made, "fork")


def _of_the_fork(state: SessionState, thread_id: str) -> SessionState:
    """The state at the point, of a session that has used nothing yet."""
    return state.model_copy(
        update={
            "thread_id": thread_id,
            "active_seconds": 0.0,
            "running_since": None,
            "first_running_at": None,
            "stays": False,
        }
    )
