"""How is the HTTP server put together? `create_app` is the whole wiring; it opens nothing and starts nothing."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hostler.api import agents, environment_keys, environments, events, models, sessions, work
from hostler.api.rendering import json_response
from hostler.api.services import ApiServices
from hostler.api.transport import Authentication, Guard, Transport
from hostler.api.unsupported import unsupported_router

_ROUTERS = (agents.router, work.router, environments.router, models.router, sessions.router, events.router)


def served_methods() -> frozenset[str]:
    """The rows of the contract that have a handler."""
    return frozenset(route.name for router in _ROUTERS for route in router.routes if isinstance(route, Route))


def create_app(services: ApiServices) -> FastAPI:
    """The API over `services`, as an ASGI application without a lifespan of its own."""
    app = FastAPI(title="Hostler", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.services = services
    app.add_route("/healthz", _healthz, methods=["GET"], name="healthz")
    app.include_router(environment_keys.router)
    for router in (*_ROUTERS, unsupported_router(served_methods())):
        app.include_router(router)
    # The last one added is the outermost one.
    app.add_middleware(Authentication, keys=services.keys, environment_of=services.work_queue.environment_of)
    app.add_middleware(Guard, allowed_hosts=services.allowed_hosts)
    app.add_middleware(Transport, organization_id=services.organization_id)
    app.add_exception_handler(HTTPException, _pass_on)
    return app


async def _healthz(request: Request) -> Response:
    return json_response({"status": "ok"})


async def _pass_on(request: Request, error: Exception) -> Response:
    # Routing's own errors (404, 405) get their envelope where all the others do.
    raise error
