"""Our own endpoints for the audit log: entries, how far its chain goes, exports, and what nobody shall read again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter
from hostler.api.sending import send_pieces
from hostler.domain.audit_requests import RedactAudit
from hostler.domain.auditing import KINDS
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("audit.list")
async def list_audit(request: Request) -> Response:
    query = Query(request)
    created_at = query.times("created_at")
    filters = {name: query.text(name) for name in ("actor_id", "act", "target_id", "session_id")}
    kinds = query.some_of("kind", KINDS)
    workspace_id = query.text("workspace_id")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "audit", created_at=created_at)
    query.finish()
    rows, more = await services_of(request).administration.audit(
        caller_of(request).principal,
        workspace_id,
        limit=limit,
        after=after,
        created_at=created_at,
        kinds=sorted(kinds),
        **filters,
    )
    return page_of_rows("audit", rows, more)


@router.serves("audit.chain.retrieve")
async def retrieve_chain(request: Request) -> Response:
    query = Query(request)
    workspace_id = query.text("workspace_id")
    query.finish()
    return json_response(await services_of(request).audit.show(caller_of(request).principal, workspace_id))


@router.serves("audit.redact")
async def redact(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(RedactAudit, await json_object(request))
    done = await services_of(request).audit.redact(caller_of(request).principal, wanted.workspace_id, wanted.subject)
    return json_response(done)


@router.serves("audit.export")
async def export(request: Request) -> Response:
    query = Query(request)
    workspace_id = query.text("workspace_id")
    query.finish()
    services = services_of(request)
    workspace, pieces = await services.audit.export(caller_of(request).principal, workspace_id)
    return AuditExport(workspace, pieces, services.slow_reader_seconds)


class AuditExport(Response):
    """A log, as it is read. A reader that stands still is dropped."""

    def __init__(self, workspace: str, pieces: AsyncIterator[bytes], slow_reader_seconds: float) -> None:
        self._pieces = pieces
        self._patience = slow_reader_seconds
        super().__init__(
            headers={
                "content-type": "application/x-ndjson",
                "content-disposition": f'attachment; filename="{workspace}.audit.jsonl"',
                "x-content-type-options": "nosniff",
                "cache-control": "private, no-store",
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        async with aclosing(self._pieces) as pieces:  # type: ignore[type-var]
            await send_pieces(send, headers, pieces, self._patience)
