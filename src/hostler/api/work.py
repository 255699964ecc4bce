"""The work endpoints of a self-hosted environment: what the official worker calls, and what an operator looks at."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import ContractRouter, path_value
from hostler.domain.errors import InvalidRequest
from hostler.domain.values import parse
from hostler.domain.work import StopWork, UpdateWork
from hostler.engine.work_items import RECLAIM_SECONDS, Beat
from hostler.engine.work_queue import Poll

router = ContractRouter()

MOST_BLOCK_MS: Final = 999
MOST_RECLAIM_MS: Final = 24 * 3600 * 1000
MOST_TTL_SECONDS: Final = 3600


@router.serves("environments.work.poll")
async def poll(request: Request) -> Response:
    query = Query(request)
    block_ms = query.integer("block_ms", least=1, most=MOST_BLOCK_MS)
    reclaim_ms = query.integer("reclaim_older_than_ms", least=0, most=MOST_RECLAIM_MS)
    query.finish()
    worker = request.headers.get("anthropic-worker-id")
    if worker is not None and (not worker.isprintable() or not 1 <= len(worker) <= 256):
        raise InvalidRequest("anthropic-worker-id: must be 1 to 256 printable characters")
    item = await services_of(request).work_queue.poll(
        caller_of(request).workspace,
        path_value(request, "environment_id"),
        Poll(
            worker,
            block_seconds=(block_ms or 0) / 1000,
            reclaim_seconds=RECLAIM_SECONDS if reclaim_ms is None else reclaim_ms / 1000,
        ),
    )
    return json_response(item)  # `null` when there is none: the one answer that every client understands


@router.serves("environments.work.stats")
async def stats(request: Request) -> Response:
    Query(request).finish()
    found = await services_of(request).work_queue.stats(
        caller_of(request).workspace, path_value(request, "environment_id")
    )
    return json_response(found)


@router.serves("environments.work.list")
async def list_work(request: Request) -> Response:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    environment_id = path_value(request, "environment_id")
    kind = f"work:{environment_id}"
    after = begins_after(query, kind)
    query.finish()
    rows, more = await services_of(request).work_queue.list(
        caller_of(request).workspace, environment_id, limit=limit, after=after
    )
    return page_of_rows(kind, rows, more)


@router.serves("environments.work.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    found = await services_of(request).work_queue.retrieve(caller_of(request).workspace, *_place(request))
    return json_response(found)


@router.serves("environments.work.update")
async def update(request: Request) -> Response:
    params = parse(UpdateWork, await json_object(request))
    changed = await services_of(request).work_queue.update(
        caller_of(request).workspace, *_place(request), dict(params.metadata)
    )
    return json_response(changed)


@router.serves("environments.work.ack")
async def ack(request: Request) -> Response:
    await no_fields(request)
    caller = caller_of(request)
    item = await services_of(request).work_queue.ack(caller.workspace, *_place(request), caller.principal)
    return json_response(item)


@router.serves("environments.work.heartbeat")
async def heartbeat(request: Request) -> Response:
    query = Query(request)
    beat = Beat(
        expected=query.text("expected_last_heartbeat", longest=64),
        ttl_seconds=query.integer("desired_ttl_seconds", least=1, most=MOST_TTL_SECONDS),
        is_retry=request.headers.get("x-stainless-retry-count", "0") != "0",
    )
    query.finish()
    await no_fields(request)
    caller = caller_of(request)
    answer = await services_of(request).work_queue.heartbeat(caller.workspace, *_place(request), caller.principal, beat)
    return json_response(answer)


@router.serves("environments.work.stop")
async def stop(request: Request) -> Response:
    params = parse(StopWork, await json_object(request))
    caller = caller_of(request)
    item = await services_of(request).work_queue.stop(
        caller.workspace, *_place(request), caller.principal, force=bool(params.force)
    )
    return json_response(item)


def _place(request: Request) -> tuple[str, str]:
    return path_value(request, "environment_id"), path_value(request, "work_id")
