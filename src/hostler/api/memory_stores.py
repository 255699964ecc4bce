"""The memory store endpoints."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import ContractRouter, path_value
from hostler.domain.memories import CreateMemoryStore, UpdateMemoryStore
from hostler.domain.values import parse

router = ContractRouter()


@router.serves("memory_stores.create")
async def create(request: Request) -> Response:
    params = parse(CreateMemoryStore, await json_object(request))
    return json_response(await services_of(request).memory_stores.create(caller_of(request).principal, params))


@router.serves("memory_stores.retrieve")
async def retrieve(request: Request) -> Response:
    store_id = path_value(request, "memory_store_id")
    return json_response(await services_of(request).memory_stores.retrieve(caller_of(request).principal, store_id))


@router.serves("memory_stores.update")
async def update(request: Request) -> Response:
    patch = parse(UpdateMemoryStore, await json_object(request))
    store_id = path_value(request, "memory_store_id")
    return json_response(await services_of(request).memory_stores.update(caller_of(request).principal, store_id, patch))


@router.serves("memory_stores.list")
async def list_stores(request: Request) -> Response:
    query = Query(request)
    created_at = query.times("created_at", ("gte", "lte"))
    include_archived = query.boolean("include_archived")
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "memory_stores", created_at=created_at)
    query.finish()
    rows, more = await services_of(request).memory_stores.list_stores(
        caller_of(request).principal,
        limit=limit,
        after=after,
        created_at=created_at,
        include_archived=include_archived,
    )
    return page_of_rows("memory_stores", rows, more)


@router.serves("memory_stores.archive")
async def archive(request: Request) -> Response:
    await no_fields(request)
    store_id = path_value(request, "memory_store_id")
    return json_response(await services_of(request).memory_stores.archive(caller_of(request).principal, store_id))


@router.serves("memory_stores.delete")
async def delete(request: Request) -> Response:
    store_id = path_value(request, "memory_store_id")
    await services_of(request).memory_stores.delete(caller_of(request).principal, store_id)
    return json_response({"id": store_id, "type": "memory_store_deleted"})
