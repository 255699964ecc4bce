"""How is the HTTP server put together? `create_app` is the whole wiring; it opens nothing and starts nothing."""

from __future__ import annotations

import re

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hostler.api import (
    administration,
    agents,
    audit,
    budgets,
    bundles,
    checkpoints,
    compactions,
    environment_keys,
    environments,
    events,
    files,
    memories,
    memory_stores,
    model_routing,
    models,
    oversight,
    places,
    policies,
    previews,
    rate_limits,
    retention,
    rooms,
    session_resources,
    sessions,
    skills,
    usage,
    vaults,
    webhook_endpoints,
    work,
)
from hostler.api.context import caller_of, services_of
from hostler.api.contract import BY_METHOD, Endpoint
from hostler.api.descriptions import DOCUMENTS, describe
from hostler.api.errors import plain_answer
from hostler.api.own_contract import OWN_BY_NAME, OwnEndpoint
from hostler.api.rendering import json_response
from hostler.api.routing import refuse_unguarded
from hostler.api.services import ApiServices
from hostler.api.throttle import Throttle
from hostler.api.tracing import Traced
from hostler.api.transport import OPEN_PATHS, Authentication, Guard, Transport
from hostler.api.unsupported import unsupported_router

_ROUTERS = (
    agents.router,
    work.router,
    environments.router,
    events.router,
    files.router,
    memories.router,
    memory_stores.router,
    models.router,
    session_resources.router,
    sessions.router,
    skills.router,
    vaults.router,
)
_OWN_ROUTERS = (
    administration.router,
    audit.router,
    bundles.router,
    checkpoints.router,
    compactions.router,
    environment_keys.router,
    oversight.router,
    model_routing.router,
    budgets.router,
    policies.router,
    places.router,
    previews.router,
    rooms.router,
    rate_limits.router,
    retention.router,
    usage.router,
    webhook_endpoints.router,
)


def served_methods() -> frozenset[str]:
    """The rows of the contract that have a handler."""
    return frozenset(route.name for router in _ROUTERS for route in router.routes if isinstance(route, Route))


def own_endpoints() -> frozenset[str]:
    """The rows of our own table that have a handler."""
    routes = (route for router in _OWN_ROUTERS for route in router.routes if isinstance(route, Route))
    return frozenset(route.name.removeprefix("hostler.") for route in routes)


def create_app(services: ApiServices) -> FastAPI:
    """The API over `services`, as an ASGI application without a lifespan of its own."""
    app = FastAPI(title="Hostler", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = services
    app.add_route("/healthz", _healthz, methods=["GET"], name="healthz")
    app.add_route("/readyz", _readyz, methods=["GET"], name="readyz")
    for path in DOCUMENTS:
        app.add_route(path, describe, methods=["GET"], name=path)
    routers = (*_ROUTERS, *_OWN_ROUTERS, unsupported_router(served_methods()))
    refuse_unguarded((*app.router.routes, *(route for router in routers for route in router.routes)), OPEN_PATHS)
    for router in routers:
        app.include_router(router)
    # The last one added is the outermost one.
    app.add_middleware(Authentication, keys=services.keys, throttle=Throttle(services.quotas.limits_of))
    app.add_middleware(Guard, allowed_hosts=services.allowed_hosts)
    app.add_middleware(
        Transport,
        organization_id=services.organization_id,
        watch=services.watch_requests,
        larger_bodies=dict(
            [
                _body_limit(BY_METHOD["files.upload"], services.files.terms.most_bytes + files.FORM_BYTES),
                _body_limit(OWN_BY_NAME["sessions.import"], services.bundles.most_bytes),
            ]
        ),
    )
    app.add_middleware(Traced, tracing=services.tracing)
    app.add_exception_handler(HTTPException, _pass_on)
    return app


def _body_limit(endpoint: Endpoint | OwnEndpoint, most: int) -> tuple[tuple[str, re.Pattern[str]], int]:
    """That the endpoint takes bodies of up to `most` bytes."""
    return (endpoint.verb, re.compile(re.sub(r"\{[^}]+\}", "[^/]+", endpoint.path))), most


async def _healthz(request: Request) -> Response:
    return json_response({"status": "ok"})


async def _readyz(request: Request) -> Response:
    why = await services_of(request).oversight.hindrance()
    if why is not None:
        message = f"This server takes no requests now: {why}."
        refused = plain_answer(503, "api_error", message, caller_of(request).request_id)
        return Response(refused.body, refused.status, media_type="application/json")
    return json_response({"status": "ready"})


async def _pass_on(request: Request, error: Exception) -> Response:
    # Routing's own errors (404, 405) get their envelope where all the others do.
    raise error
