"""Our own endpoints for webhooks: the official service has them in its web console only."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object, no_fields
from hostler.api.context import caller_of, services_of
from hostler.api.paging import begins_after, page_of_rows
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter, path_value
from hostler.domain.values import parse
from hostler.domain.webhooks import CreateEndpoint, RotateSecret, TestDelivery, UpdateEndpoint

router = OwnRouter()

_STATES = ("pending", "delivered", "failed", "dropped")


@router.serves("webhook_endpoints.create")
async def create(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(CreateEndpoint, await json_object(request))
    return json_response(await services_of(request).webhooks.create(caller_of(request).principal, wanted))


@router.serves("webhook_endpoints.list")
async def list_endpoints(request: Request) -> Response:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    after = begins_after(query, "webhook_endpoints")
    query.finish()
    rows, more = await services_of(request).webhooks.list(caller_of(request).workspace, limit=limit, after=after)
    return page_of_rows("webhook_endpoints", rows, more)


@router.serves("webhook_endpoints.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    endpoint_id = path_value(request, "endpoint_id")
    return json_response(await services_of(request).webhooks.retrieve(caller_of(request).workspace, endpoint_id))


@router.serves("webhook_endpoints.update")
async def update(request: Request) -> Response:
    Query(request).finish()
    patch = parse(UpdateEndpoint, await json_object(request))
    endpoint_id = path_value(request, "endpoint_id")
    return json_response(await services_of(request).webhooks.update(caller_of(request).principal, endpoint_id, patch))


@router.serves("webhook_endpoints.delete")
async def delete(request: Request) -> Response:
    Query(request).finish()
    endpoint_id = path_value(request, "endpoint_id")
    return json_response(await services_of(request).webhooks.delete(caller_of(request).principal, endpoint_id))


@router.serves("webhook_endpoints.rotate_secret")
async def rotate(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(RotateSecret, await json_object(request))
    endpoint_id = path_value(request, "endpoint_id")
    return json_response(await services_of(request).webhooks.rotate(caller_of(request).principal, endpoint_id, wanted))


@router.serves("webhook_endpoints.test")
async def test(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(TestDelivery, await json_object(request))
    endpoint_id = path_value(request, "endpoint_id")
    return json_response(await services_of(request).webhooks.test(caller_of(request).principal, endpoint_id, wanted))


@router.serves("webhook_endpoints.deliveries.list")
async def deliveries(request: Request) -> Response:
    query = Query(request)
    limit = query.limit(default=20, most=100)
    states = query.some_of("states", _STATES)
    endpoint_id = path_value(request, "endpoint_id")
    kind = f"webhook_deliveries:{endpoint_id}"
    after = begins_after(query, kind)
    query.finish()
    rows, more = await services_of(request).webhooks.deliveries(
        caller_of(request).workspace,
        endpoint_id,
        limit=limit,
        after=after,
        states=states,
    )
    return page_of_rows(kind, rows, more)


@router.serves("webhook_endpoints.deliveries.retry")
async def retry(request: Request) -> Response:
    Query(request).finish()
    await no_fields(request)
    endpoint_id, delivery_id = path_value(request, "endpoint_id"), path_value(request, "delivery_id")
    return json_response(
        await services_of(request).webhooks.send_again(caller_of(request).principal, endpoint_id, delivery_id)
    )
