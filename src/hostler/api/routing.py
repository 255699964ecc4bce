"""How does a handler come to its path? By the name of its row in the contract, so that the two can't drift apart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from hostler.api.contract import BY_METHOD
from hostler.domain.errors import NotFound

Handler = Callable[[Request], Awaitable[Response]]


class ContractRouter(APIRouter):
    """A router whose routes are rows of the contract."""

    def serves(self, method: str) -> Callable[[Handler], Handler]:
        """Serve the endpoint that the SDK calls `method`."""
        endpoint = BY_METHOD[method]

        def add(handler: Handler) -> Handler:
            self.add_route(endpoint.path, handler, methods=[endpoint.verb], name=method)
            return handler

        return add


def path_value(request: Request, name: str) -> str:
    """A part of the path. Ids are opaque; raises NotFound for what no id can look like."""
    value = str(request.path_params[name])
    if "\x00" in value or len(value) > 256:
        raise NotFound(f"there is nothing under this {name.replace('_', ' ')}")
    return value
