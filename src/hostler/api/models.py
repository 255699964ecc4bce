"""The model endpoints."""

from __future__ import annotations

from typing import get_args

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.context import services_of
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import ContractRouter, path_value
from hostler.engine.models import Lifecycle

router = ContractRouter()

_LIFECYCLES: tuple[Lifecycle, ...] = get_args(Lifecycle)


@router.serves("models.retrieve")
async def retrieve(request: Request) -> Response:
    Query(request).finish()
    return json_response(services_of(request).models.retrieve(path_value(request, "model_id")))


@router.serves("models.list")
async def list_models(request: Request) -> Response:
    query = Query(request)
    found = services_of(request).models.list(
        limit=query.limit(default=20, most=1_000),
        after_id=query.text("after_id"),
        before_id=query.text("before_id"),
        lifecycle=query.some_of("lifecycle", _LIFECYCLES),
    )
    query.finish()
    rows = [model.wire() for model in found.rows]
    return json_response(
        {
            "data": rows,
            "has_more": found.has_more,
            "first_id": rows[0]["id"] if rows else None,
            "last_id": rows[-1]["id"] if rows else None,
        }
    )
