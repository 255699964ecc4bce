"""Who may look at a port of a session, and is anybody looking?"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from sqlalchemy import Connection

from hostler.domain.errors import Conflict, InvalidRequest
from hostler.domain.previews import EGRESS_PORT, CreatePreview
from hostler.engine.preview_port import PreviewRefused, PreviewTarget
from hostler.engine.sandbox_port import Sandbox
from hostler.store import previews as rows
from hostler.store.database import Database
from hostler.store.keys import digest
from hostler.store.moments import moment
from hostler.store.previews import PreviewRow
from hostler.store.sessions import get_session


class Previews:
    """The previews of all sessions. NotFound for another workspace's session. Implements `PreviewTargets`."""

    def __init__(
        self, database: Database, link: Callable[[str], str], sandbox_of: Callable[[str], Sandbox | None]
    ) -> None:
        """`link` makes the address of a label, without a path. `sandbox_of`: where a session's process lives here."""
        self._database = database
        self._link = link
        self._sandbox_of = sandbox_of
        self._visits: Counter[str] = Counter()
        self._seen: dict[str, float] = {}

    async def create(self, workspace: str, session_id: str, request: CreatePreview) -> dict[str, Any]:
        """Its link has the secret in it, and is told this once. Raises InvalidRequest, Conflict, QuotaExceeded."""
        if request.port == EGRESS_PORT:
            raise InvalidRequest(f"port: {EGRESS_PORT} is the sandbox's own road out; let the program take another one")

        def create(conn: Connection) -> tuple[PreviewRow, str]:
            session = get_session(conn, workspace, session_id)
            if session.archived_at is not None or session.status == "terminated":
                raise Conflict(f"session {session_id} has ended, so nothing can be previewed")
            now = self._database.now(conn)
            return rows.create_preview(conn, now, workspace, session_id, request.port, request.expires_in_seconds)

        row, secret = await self._database.write(create)
        return {**self._wire(row), "url": f"{self._link(row.label)}/?hostler-preview={secret}"}

    async def list(self, workspace: str, session_id: str) -> list[dict[str, Any]]:
        """The newest first, without their secrets; those that are over are in it until they are forgotten."""

        def read(conn: Connection) -> Sequence[PreviewRow]:
            get_session(conn, workspace, session_id)
            return rows.previews_of(conn, workspace, session_id)

        return [self._wire(row) for row in await self._database.read(read)]

    async def revoke(self, workspace: str, session_id: str, preview_id: str) -> dict[str, Any]:
        """Nobody new is let through from now on."""
        return self._wire(
            await self._database.write(
                lambda c: rows.revoke_preview(c, self._database.now(c), workspace, session_id, preview_id)
            )
        )

    def _wire(self, row: PreviewRow) -> dict[str, Any]:
        return {
            "id": row.id,
            "type": "preview",
            "session_id": row.session_id,
            "port": row.port,
            "url": f"{self._link(row.label)}/",
            "created_at": row.created_at,
            "expires_at": moment(row.expires_at),
            "revoked_at": row.revoked_at,
        }

    # -- for the door

    async def target(self, label: str, secret: str) -> PreviewTarget:
        """See `PreviewTargets`. Looked up for every request, so that revoking works at once."""
        row, now = await self._database.read(lambda c: (rows.preview_of_label(c, label), self._database.now(c)))
        if row is None:
            raise PreviewRefused("unknown")
        if not hmac.compare_digest(row.secret_hash, digest(secret)):
            raise PreviewRefused("secret")
        if not row.open_at(now):
            raise PreviewRefused("over")
        return PreviewTarget(row.session_id, row.port, row.expires_at - now)

    def entrance(self, session_id: str) -> Path | None:
        sandbox = self._sandbox_of(session_id)
        return None if sandbox is None else sandbox.entrance

    @contextmanager
    def visit(self, session_id: str) -> Iterator[None]:
        self._visits[session_id] += 1
        try:
            yield
        finally:
            self._seen[session_id] = monotonic()
            self._visits[session_id] -= 1
            if not self._visits[session_id]:
                del self._visits[session_id]

    # -- for the worker

    def idle_since(self, session_id: str) -> float | None:
        """Monotonic time of the end of the last visit. None: somebody looks now. `-inf`: nobody ever has."""
        return None if session_id in self._visits else self._seen.get(session_id, float("-inf"))

    def forget(self, session_id: str) -> None:
        """Its process is gone."""
        self._seen.pop(session_id, None)
