"""How does a handler come to its path? By the name of its row in a table, so that the two can't drift apart.

Every handler is wrapped: what `api.access` says about its row is enforced before it runs. `refuse_unguarded` keeps a
route that came in another way from being served.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hostler.api.access import Rule, authorise, rule_of
from hostler.api.context import caller_of, services_of
from hostler.api.context import path_value as path_value
from hostler.api.contract import BY_METHOD
from hostler.api.own_contract import OWN_BY_NAME

Handler = Callable[[Request], Awaitable[Response]]

_MARK: Final = "hostler_rule"

BEGINS: Final = frozenset(
    {
        "sessions.create",
        "files.upload",
        "skills.create",
        "skills.versions.create",
        "memory_stores.create",
        "memory_stores.memories.create",
    }
)
"""What begins something that needs room. Messages are let through: a session that has begun is to come to its end."""
OWN_BEGINS: Final = frozenset({"sessions.fork", "sessions.import", "sessions.checkpoints.create"})


class ContractRouter(APIRouter):
    """A router whose routes are rows of the contract."""

    def serves(self, method: str, *, also: Sequence[str] = ()) -> Callable[[Handler], Handler]:
        """Serve the endpoint that the SDK calls `method`; under other verbs `also`, where pages differ from clients."""
        endpoint = BY_METHOD[method]
        rule = rule_of(method)

        def add(handler: Handler) -> Handler:
            guarded = _guarded(handler, rule, method, begins=method in BEGINS)
            self.add_route(endpoint.path, guarded, methods=[endpoint.verb, *also], name=method)
            return handler

        return add


class OwnRouter(APIRouter):
    """A router whose routes are rows of our own table, `api.own_contract`."""

    def serves(self, name: str) -> Callable[[Handler], Handler]:
        """Serve the endpoint of this name."""
        endpoint = OWN_BY_NAME[name]
        rule = rule_of(endpoint)

        def add(handler: Handler) -> Handler:
            guarded = _guarded(handler, rule, endpoint.route, begins=name in OWN_BEGINS)
            self.add_route(endpoint.path, guarded, methods=[endpoint.verb], name=endpoint.route)
            return handler

        return add


def _guarded(handler: Handler, rule: Rule, name: str, *, begins: bool) -> Handler:
    async def guarded(request: Request) -> Response:
        caller_of(request).endpoint = name
        await authorise(request, rule)
        if begins:
            services_of(request).guards.admit()
        return await handler(request)

    setattr(guarded, _MARK, rule)
    return guarded


def refuse_unguarded(routes: Iterable[BaseRoute], open_paths: Collection[str]) -> None:
    """Raises TypeError for a route that has no rule and is not open to everybody: a bug that must not be served."""
    for route in routes:
        guarded = isinstance(route, Route) and (hasattr(route.endpoint, _MARK) or route.path in open_paths)
        if not guarded:
            raise TypeError(f"{route!r} has no rule in api.access; serve it with ContractRouter or OwnRouter")
