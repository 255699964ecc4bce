"""Sessions that accept everything and run nothing: events are kept in memory and shown as they came.

Enough to prove what the HTTP layer does with a session service; what sessions do is proved where they are built.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from hostler.api.services import SessionView
from hostler.domain.clock import SystemClock, rfc3339
from hostler.domain.errors import InvalidRequest, NotFound
from hostler.domain.ids import new_id
from hostler.domain.inputs import ClientEvent, wire_fields
from hostler.domain.sessions import CreateSession, EventQuery, Frame, Position, SessionLine, SessionQuery, UpdateSession
from hostler.domain.values import merge_metadata
from hostler.engine.agents import patched_snapshot, session_agent
from hostler.engine.environments import session_environment
from hostler.engine.models import Models
from hostler.engine.vaults import session_vaults
from hostler.store.database import Database


def message(text: str) -> Any:
    """A `user.message` as a client sends it."""
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


@dataclass
class _Session:
    workspace: str
    view: SessionView
    thread_id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    readers: list[InMemoryStream] = field(default_factory=list)


class InMemoryStream:
    """A queue of frames. None ends it, an exception is raised."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self.queue: asyncio.Queue[Frame | Exception | None] = asyncio.Queue()
        self.closed = asyncio.Event()
        session.readers.append(self)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while (frame := await self.queue.get()) is not None:
            if isinstance(frame, Exception):
                raise frame
            yield frame

    async def close(self) -> None:
        if self in self._session.readers:
            self._session.readers.remove(self)
        self.closed.set()


class InMemorySessions:
    """A SessionService without an engine."""

    def __init__(self, database: Database, models: Models) -> None:
        self._database = database
        self._models = models
        self._sessions: dict[str, _Session] = {}
        self._clock = SystemClock()

    async def create(self, workspace: str, params: CreateSession) -> SessionView:
        def resolve(conn: Any) -> dict[str, Any]:
            _, config = session_environment(conn, workspace, params.environment_id)
            session_vaults(conn, workspace, params.vault_ids, self_hosted=config.type == "self_hosted")
            return session_agent(conn, workspace, params.agent, self._models)[1]

        agent = await self._database.read(resolve)
        now = rfc3339(self._clock.now())
        view: SessionView = {
            "id": new_id("sesn"),
            "type": "session",
            "status": "running" if params.initial_events else "idle",
            "title": params.title,
            "agent": agent,
            "environment_id": params.environment_id,
            "resources": [],
            "vault_ids": list(params.vault_ids),
            "metadata": params.metadata,
            "outcome_evaluations": [],
            "stats": {"active_seconds": 0.0, "duration_seconds": 0.0},
            "usage": {},
            "budget": None,
            "deployment_id": None,
            "created_at": now,
            "updated_at": now,
            "archived_at": None,
        }
        session = _Session(workspace, view, new_id("sthr"))
        self._sessions[view["id"]] = session
        self._append(session, params.initial_events)
        return view

    async def retrieve(self, workspace: str, session_id: str) -> SessionView:
        return self._get(workspace, session_id).view

    async def update(self, workspace: str, session_id: str, patch: UpdateSession) -> SessionView:
        view = self._get(workspace, session_id).view
        if "title" in patch.model_fields_set:
            view["title"] = patch.title
        if patch.agent is not None:
            view["agent"] = patched_snapshot(view["agent"], patch.agent)
        view["metadata"] = merge_metadata(view["metadata"], patch.metadata)
        return view

    async def list(self, workspace: str, query: SessionQuery) -> tuple[list[SessionLine], bool, bool]:
        def place(view: SessionView) -> tuple[str, str]:
            return view["created_at"], view["id"]

        rows = [session.view for session in self._sessions.values() if session.workspace == workspace]
        rows = [row for row in rows if not query.statuses or row["status"] in query.statuses]
        rows = [row for row in rows if query.agent_id is None or row["agent"]["id"] == query.agent_id]
        rows = [row for row in rows if query.include_archived or row["archived_at"] is None]
        if query.deployment_id is not None or query.memory_store_id is not None:
            rows = []
        rows.sort(key=place, reverse=query.order == "desc")
        begin, end = 0, len(rows)
        if query.after is not None:
            begin = next(index for index, row in enumerate(rows) if place(row) == query.after) + 1
            end = min(end, begin + query.limit)
        elif query.before is not None:
            end = next(index for index, row in enumerate(rows) if place(row) == query.before)
            begin = max(0, end - query.limit)
        else:
            end = min(end, query.limit)
        lines = [SessionLine(Position(*place(row)), json.dumps(row)) for row in rows[begin:end]]
        return lines, end < len(rows), begin > 0

    async def archive(self, workspace: str, session_id: str) -> SessionView:
        view = self._get(workspace, session_id).view
        view.update(status="terminated", archived_at=view["archived_at"] or rfc3339(self._clock.now()))
        return view

    async def delete(self, workspace: str, session_id: str) -> None:
        session = self._get(workspace, session_id)
        del self._sessions[session_id]
        event = {"id": new_id("sevt"), "type": "session.deleted", "processed_at": rfc3339(self._clock.now())}
        for reader in session.readers:
            reader.queue.put_nowait(Frame("session.deleted", json.dumps(event), len(session.events) + 1))

    async def send(
        self, workspace: str, session_id: str, events: Sequence[ClientEvent], *, token_id: str | None = None
    ) -> Sequence[str]:
        session = self._get(workspace, session_id)
        if session.view["archived_at"] is not None:
            raise InvalidRequest(f"session {session_id} is archived and takes no more events")
        return self._append(session, events)

    async def list_events(
        self, workspace: str, session_id: str, query: EventQuery
    ) -> tuple[Sequence[tuple[int, str]], bool]:
        events = list(enumerate(self._get(workspace, session_id).events, start=1))
        if query.order == "desc":
            events.reverse()
        if query.after_seq is not None:
            after = query.after_seq
            events = [row for row in events if (row[0] > after) == (query.order == "asc") and row[0] != after]
        events = [row for row in events if not query.types or row[1]["type"] in query.types]
        return [(seq, json.dumps(event)) for seq, event in events[: query.limit]], len(events) > query.limit

    async def open_stream(
        self, workspace: str, session_id: str, *, after_seq: int | None, deltas: frozenset[str]
    ) -> InMemoryStream:
        session = self._get(workspace, session_id)
        stream = InMemoryStream(session)
        if after_seq is not None:
            for seq, event in enumerate(session.events, start=1):
                if seq > after_seq:
                    stream.queue.put_nowait(Frame(event["type"], json.dumps(event), seq))
        for name in sorted(deltas):
            preview = {"type": "event_start", "event": {"type": name, "id": "sevt_preview"}}
            stream.queue.put_nowait(Frame("event_start", json.dumps(preview), None))
        return stream

    async def thread(self, workspace: str, session_id: str) -> dict[str, Any]:
        session = self._get(workspace, session_id)
        view = session.view
        return {
            "id": session.thread_id,
            "type": "session_thread",
            "session_id": session_id,
            "parent_thread_id": None,
            "agent": {key: value for key, value in view["agent"].items() if key != "multiagent"},
            "status": view["status"],
            "workflow_run_id": None,
            "stats": None,
            "usage": None,
            "created_at": view["created_at"],
            "updated_at": view["updated_at"],
            "archived_at": None,
        }

    # ------------------------------------------------------------------------------ what tests do to the readers

    async def publish(self, session_id: str, frame: Frame | Exception | None) -> None:
        for reader in self._sessions[session_id].readers:
            reader.queue.put_nowait(frame)

    async def readers(self, session_id: str) -> list[InMemoryStream]:
        return list(self._sessions[session_id].readers)

    async def close(self) -> None:
        for session_id in self._sessions:
            await self.publish(session_id, None)

    # --------------------------------------------------------------------------------------------------- inside

    def _get(self, workspace: str, session_id: str) -> _Session:
        session = self._sessions.get(session_id)
        if session is None or session.workspace != workspace:
            raise NotFound(f"session {session_id} does not exist")
        return session

    def _append(self, session: _Session, events: Sequence[ClientEvent]) -> list[str]:
        texts: list[str] = []
        for event in events:
            stored = {
                "id": new_id("sevt"),
                "processed_at": rfc3339(self._clock.now()),
                **wire_fields(event),
            }
            session.events.append(stored)
            texts.append(json.dumps(stored))
            for reader in session.readers:
                reader.queue.put_nowait(Frame(stored["type"], texts[-1], len(session.events)))
        return texts
