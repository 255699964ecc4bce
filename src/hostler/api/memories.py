"""The endpoints of memories and of their versions."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.cursors import parse_path_cursor, path_cursor
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response, page
from hostler.api.routing import ContractRouter, path_value
from hostler.domain.memories import (
    MAX_FULL_PAGE,
    CreateMemory,
    MemoryQuery,
    Operation,
    PathPrefix,
    Sha256,
    UpdateMemory,
    VersionQuery,
    View,
)
from hostler.domain.values import parse

router = ContractRouter()

_VIEWS: Final[tuple[View, ...]] = ("basic", "full")
_OPERATIONS: Final[tuple[Operation, ...]] = ("created", "modified", "deleted")


def _view_of(request: Request, default: View) -> View:
    query = Query(request)
    view = query.one_of("view", _VIEWS, default)
    query.finish()
    return view


def _page_size(query: Query, view: View) -> int:
    """A page with contents is shorter than what was asked for, rather than refused."""
    limit = query.limit(default=20, most=100)
    return min(limit, MAX_FULL_PAGE) if view == "full" else limit


# --------------------------------------------------------------------------------------------------------- memories


@router.serves("memory_stores.memories.create")
async def create(request: Request) -> Response:
    view = _view_of(request, "basic")
    params = parse(CreateMemory, await json_object(request))
    store_id = path_value(request, "memory_store_id")
    services, principal = services_of(request), caller_of(request).principal
    return json_response(await services.memory_stores.create_memory(principal, store_id, params, view))


@router.serves("memory_stores.memories.retrieve")
async def retrieve(request: Request) -> Response:
    view = _view_of(request, "full")
    store_id, memory_id = path_value(request, "memory_store_id"), path_value(request, "memory_id")
    services, principal = services_of(request), caller_of(request).principal
    return json_response(await services.memory_stores.retrieve_memory(principal, store_id, memory_id, view))


@router.serves("memory_stores.memories.update", also=("PATCH",))  # as some pages of the contract write it
async def update(request: Request) -> Response:
    view = _view_of(request, "basic")
    patch = parse(UpdateMemory, await json_object(request))
    store_id, memory_id = path_value(request, "memory_store_id"), path_value(request, "memory_id")
    services, principal = services_of(request), caller_of(request).principal
    return json_response(await services.memory_stores.update_memory(principal, store_id, memory_id, patch, view))


@router.serves("memory_stores.memories.list")
async def list_memories(request: Request) -> Response:
    query = Query(request)
    store_id = path_value(request, "memory_store_id")
    view = query.one_of("view", _VIEWS, "basic")
    limit = _page_size(query, view)
    prefix = query.text("path_prefix", longest=1025)
    # The place in the list holds the store: a token of another store's memories is refused.
    kind = f"memories:{store_id}"
    asked = MemoryQuery(
        limit=limit,
        prefix="/" if prefix is None else parse(PathPrefix, prefix, at="path_prefix"),
        depth=1 if query.integer("depth", least=0, most=1) else 0,
        view=view,
        after=parse_path_cursor(query.text("page", longest=2048), kind),
    )
    query.finish()
    rows, after = await services_of(request).memory_stores.list_memories(caller_of(request).principal, store_id, asked)
    return page(rows, None if after is None else path_cursor(kind, after))


@router.serves("memory_stores.memories.delete")
async def delete(request: Request) -> Response:
    query = Query(request)
    expected = query.text("expected_content_sha256")
    query.finish()
    if expected is not None:
        parse(Sha256, expected, at="expected_content_sha256")
    store_id, memory_id = path_value(request, "memory_store_id"), path_value(request, "memory_id")
    await services_of(request).memory_stores.delete_memory(caller_of(request).principal, store_id, memory_id, expected)
    return json_response({"id": memory_id, "type": "memory_deleted"})


# --------------------------------------------------------------------------------------------------------- versions


@router.serves("memory_stores.memory_versions.retrieve")
async def retrieve_version(request: Request) -> Response:
    view = _view_of(request, "full")
    store_id, version_id = path_value(request, "memory_store_id"), path_value(request, "memory_version_id")
    services, principal = services_of(request), caller_of(request).principal
    return json_response(await services.memory_stores.retrieve_version(principal, store_id, version_id, view))


@router.serves("memory_stores.memory_versions.list")
async def list_versions(request: Request) -> Response:
    query = Query(request)
    store_id = path_value(request, "memory_store_id")
    view = query.one_of("view", _VIEWS, "basic")
    created_at = query.times("created_at", ("gte", "lte"))
    kind = f"memory_versions:{store_id}"
    after = begins_after(query, kind, created_at=created_at)
    operation = query.text("operation")
    asked = VersionQuery(
        limit=_page_size(query, view),
        view=view,
        memory_id=query.text("memory_id"),
        operation=None if operation is None else query.one_of("operation", _OPERATIONS, "created"),
        session_id=query.text("session_id"),
        api_key_id=query.text("api_key_id"),
        service_account_id=query.text("service_account_id"),
        created_at=created_at,
        after=after,
    )
    query.finish()
    rows, more = await services_of(request).memory_stores.list_versions(caller_of(request).principal, store_id, asked)
    return page_of_rows(kind, rows, more)


@router.serves("memory_stores.memory_versions.redact")
async def redact(request: Request) -> Response:
    await no_fields(request)
    store_id, version_id = path_value(request, "memory_store_id"), path_value(request, "memory_version_id")
    services, principal = services_of(request), caller_of(request).principal
    return json_response(await services.memory_stores.redact_version(principal, store_id, version_id))
