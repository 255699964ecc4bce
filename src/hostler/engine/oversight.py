"""What does a person see who looks after sessions? What waits for an answer, where sessions went, and how it stands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from hostler.domain.clock import parse_rfc3339
from hostler.domain.errors import HostlerError
from hostler.domain.sessions import Position
from hostler.engine import labels, upstream_views
from hostler.engine.denials import Allowing
from hostler.engine.guards import Guards
from hostler.engine.model_port import UpstreamHealth
from hostler.engine.sandbox_port import IsolationLabel, Rungs, Technology
from hostler.store import ledger, variables, waiting
from hostler.store.database import Database
from hostler.store.ledger import EgressRow
from hostler.store.pages import Page
from hostler.store.pages import Position as StorePosition
from hostler.store.variables import UseRow
from hostler.store.waiting import WaitingRow

log = logging.getLogger("hostler.oversight")

READY_SECONDS = 2.0
"""How long the database may take to say that it is there."""
View = dict[str, Any]


class Oversight:
    """Answers for `/hostler/v1`; changes nothing.

    label            what this host's sandboxes really give; None: no sandboxes here.
    worker_is_well   whether the worker takes sessions; None: no worker in this process.
    rungs            what every technology gives on this host; None: no sandboxes here.
    allowing         which rule would have allowed what was denied; None: nobody says.
    spares           figures of the started sandboxes that wait for sessions here; None: no worker in this process.
    upstreams        how those do that are asked for models; None: no gateway in this process.
    hears_others     whether what other servers record is heard of at once; None: there are no other servers.
    """

    def __init__(
        self,
        database: Database,
        label: IsolationLabel | None = None,
        worker_is_well: Callable[[], bool] | None = None,
        hears_others: Callable[[], bool] | None = None,
        rungs: Rungs | None = None,
        allowing: Allowing | None = None,
        spares: Callable[[], Mapping[str, int]] | None = None,
        guards: Guards | None = None,
        upstreams: Callable[[], tuple[UpstreamHealth, ...]] | None = None,
    ) -> None:
        self._database = database
        self._label = label
        self._worker_is_well = worker_is_well
        self._hears_others = hears_others
        self._rungs = rungs
        self._allowing = allowing
        self._spares = spares
        self._guards = guards
        self._upstreams = upstreams

    async def approvals(self, workspace: str, *, limit: int, after: Position | None) -> tuple[list[View], bool]:
        """What waits for a person in this workspace, oldest first, and whether more follow."""

        def unit(conn: Connection) -> tuple[Page[WaitingRow], float]:
            return waiting.page_of_waiting(conn, workspace, limit=limit, after=_position(after)), self._database.now(
                conn
            )

        found, now = await self._database.read(unit)
        return [_approval(row, now) for row in found.rows], found.has_next

    async def egress(
        self, workspace: str, session_id: str, *, limit: int, after: Position | None, allowed: bool | None = None
    ) -> tuple[list[View], bool]:
        """Decisions about a session's requests, newest first. Raises NotFound; a deleted session's decisions stay.

        allowed  only decisions of this kind; None: of both.
        """
        found = await self._database.read(
            lambda conn: ledger.page_of_egress(
                conn, workspace, session_id, limit=limit, after=_position(after), allowed=allowed
            )
        )
        return [self._decision(row) for row in found.rows], found.has_next

    async def credential_uses(
        self, workspace: str, session_id: str, *, limit: int, after: Position | None
    ) -> tuple[list[View], bool]:
        """What became of the placeholders in a session's requests, newest first. Raises NotFound, like `egress`."""
        found = await self._database.read(
            lambda conn: variables.page_of_uses(conn, workspace, session_id, limit=limit, after=_position(after))
        )
        return [_use(row) for row in found.rows], found.has_next

    def _decision(self, row: EgressRow) -> View:
        allow = None
        if not row.allowed and self._allowing is not None:
            allow = self._allowing(row.reason, row.host, row.port, row.method, row.path)
        return {
            "id": row.id,
            "type": "egress_decision",
            "session_id": row.session_id,
            "method": row.method,
            "host": row.host,
            "port": row.port,
            "path": row.path,
            "allowed": row.allowed,
            "reason": row.reason,
            "hint": row.hint,
            "allow": allow,
            "created_at": row.created_at,
        }

    async def hindrance(self) -> str | None:
        """Why this server is to be sent no requests now; None: it may. For whoever spreads requests over servers."""
        if self._worker_is_well is not None and not self._worker_is_well():
            return "the server is stopping, or its worker has ended"
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._database.read(self._database.now)
        except (HostlerError, OSError, TimeoutError):
            return "the database does not answer"
        return None

    async def health(self) -> View:
        """`ok`, or `degraded` with reasons. Holds no paths, addresses or secrets."""
        reasons: list[str] = []
        now = None
        try:
            now = await self._database.read(self._database.now)
            database = True
        except (HostlerError, OSError):
            log.exception("health_database")
            database = False
            reasons.append("database: does not answer")
        if self._label is not None:
            reasons += [f"sandbox: {promise}" for promise in self._label.missing]
        working = None if self._worker_is_well is None else self._worker_is_well()
        if working is False:
            reasons.append("worker: takes no sessions; the server is stopping, or its worker has ended")
        if self._hears_others is not None and not self._hears_others():
            reasons.append(
                "servers: the connection that hears other servers is broken; streams of sessions that run there "
                "stand still until it is back"
            )
        if self._guards is not None:
            reasons += self._guards.reasons()
        upstreams = () if self._upstreams is None else self._upstreams()
        reasons += [text for upstream in upstreams for text in upstream_views.reasons(upstream)]
        return {
            "type": "health",
            "status": "degraded" if reasons else "ok",
            "reasons": reasons,
            "database": {"kind": self._database.dialect, "ok": database},
            "sandbox": None if self._label is None else labels.facts(self._label),
            "rungs": {} if self._rungs is None else _rungs(await self._rungs.rungs()),
            "worker": None if working is None else {"ok": working},
            "spares": None if self._spares is None else dict(self._spares()),
            "guards": None if self._guards is None else dict(self._guards.figures()),
            "upstreams": None if self._upstreams is None else [upstream_views.view(one, now) for one in upstreams],
        }


def _rungs(given: Mapping[Technology, IsolationLabel | str]) -> View:
    """Why one is not there is said by `hostler doctor`: it may name paths of the host."""
    return {
        technology: {"available": False, "isolation": None}
        if isinstance(found, str)
        else {"available": True, "isolation": labels.facts(found)}
        for technology, found in given.items()
    }


def _approval(row: WaitingRow, now: float) -> View:
    return {
        "type": "approval",
        "session_id": row.session_id,
        "session_title": row.session_title,
        "agent_id": row.agent_id,
        "event_id": row.event_id,
        "kind": row.kind,
        "tool_name": row.name,
        "input": row.input,
        "waiting_since": row.since,
        "age_seconds": round(max(0.0, now - parse_rfc3339(row.since).timestamp()), 3),
    }


def _use(row: UseRow) -> View:
    return {
        "id": row.id,
        "type": "credential_use",
        "session_id": row.session_id,
        "vault_id": row.vault_id,
        "credential_id": row.credential_id,
        "method": row.method,
        "host": row.host,
        "port": row.port,
        "place": row.place,
        "outcome": row.outcome,
        "created_at": row.created_at,
    }


def _position(after: Position | None) -> StorePosition | None:
    return StorePosition(*after) if after else None
