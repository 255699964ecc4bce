"""Who is asking? What the transport learned about a request, and where handlers find it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from hostler.api.services import ApiServices
from hostler.domain.errors import NotFound
from hostler.domain.principals import Principal


@dataclass(slots=True)
class Caller:
    """Facts about one request. There is no principal until its secret was recognised."""

    request_id: str
    known: Principal | None = None
    endpoint: str | None = None
    """What it asks for, once that is found."""
    old_generation: bool = False
    """The client speaks the shapes of 2023-06-01: a few fields were required then that may be null now."""

    @property
    def principal(self) -> Principal:
        assert self.known is not None, "handlers run after authentication"
        return self.known

    @property
    def workspace(self) -> str:
        """The only workspace whose things this request may see."""
        return self.principal.workspace


def caller_of(request: Request) -> Caller:
    return cast(Caller, request.scope["hostler.caller"])


def services_of(request: Request) -> ApiServices:
    return cast(ApiServices, request.app.state.services)


def path_value(request: Request, name: str) -> str:
    """A part of the path. Ids are opaque; raises NotFound for what no id can look like."""
    value = str(request.path_params[name])
    if "\x00" in value or len(value) > 256:
        raise NotFound(f"there is nothing under this {name.replace('_', ' ')}")
    return value
