"""Our own endpoints for sessions that come and go as files: export and import of bundles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Final, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from hostler.api.body import READ_SECONDS, BodyTimeout
from hostler.api.context import caller_of, services_of
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter, path_value
from hostler.api.sending import send_pieces
from hostler.domain.errors import InvalidRequest
from hostler.domain.sessions import MAX_TITLE
from hostler.engine.bundle_port import ExportOptions, ImportOptions, OpenBundle, Part

router = OwnRouter()

_KINDS: Final = ("application/octet-stream", "application/zstd")
_PARTS: Final[tuple[Part, ...]] = get_args(Part)


@router.serves("sessions.bundle")
async def export(request: Request) -> Response:
    query = Query(request)
    options = ExportOptions(query.text("checkpoint_id", longest=128), query.some_of("without", _PARTS))
    query.finish()
    services = services_of(request)
    made = await services.bundles.export(caller_of(request).workspace, path_value(request, "session_id"), options)
    return BundleContent(made, services.slow_reader_seconds)


@router.serves("sessions.import")
async def take_in(request: Request) -> Response:
    query = Query(request)
    options = ImportOptions(
        keep_ids=query.boolean("keep_ids"),
        create=query.boolean("create"),
        agent_id=query.text("agent", longest=128),
        environment_id=query.text("environment", longest=128),
        vaults=_replaced("vault", query.texts("vault", most=100) or ()),
        memory_stores=_replaced("memory_store", query.texts("memory_store", most=100) or ()),
        title=query.text("title", longest=MAX_TITLE),
        digest=query.text("digest", longest=64),
    )
    query.finish()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _KINDS:
        raise InvalidRequest(f"content-type is {kind[:100] or 'missing'!r}; send the bundle as {_KINDS[0]}")
    made = await services_of(request).bundles.take_in(caller_of(request).workspace, _chunks(request), options)
    return json_response(made)


class BundleContent(Response):
    """A bundle, as it is read. A reader that stands still is dropped."""

    def __init__(self, bundle: OpenBundle, slow_reader_seconds: float) -> None:
        self._bundle = bundle
        self._patience = slow_reader_seconds
        super().__init__(
            headers={
                "content-type": _KINDS[1],
                "content-length": str(bundle.size),
                "content-disposition": f'attachment; filename="{bundle.session_id}.tar.zst"',
                "x-content-type-options": "nosniff",
                "cache-control": "private, no-store",
                "hostler-bundle-digest": bundle.digest,
            }
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._bundle.pieces) as pieces:
            await send_pieces(send, self.raw_headers, pieces, self._patience)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises BodyTimeout when nothing comes for a minute."""
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(READ_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise BodyTimeout from None
        if chunk is None:
            return
        if chunk:
            yield chunk


def _replaced(name: str, values: Sequence[str]) -> dict[str, str | None]:
    """`old:new`, or `old:` for nothing in its place."""
    found: dict[str, str | None] = {}
    for value in values:
        old, colon, new = value.partition(":")
        if not old or not colon or old in found:
            raise InvalidRequest(f"{name}: {value[:100]!r} is not <old id>:<new id>, or <old id>: to leave it out")
        found[old] = new or None
    return found
