"""Who is asking? What the transport learned about a request, and where handlers find it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from starlette.requests import Request

from hostler.api.services import ApiServices


@dataclass(slots=True)
class Caller:
    """Facts about one request. `workspace` is empty until the key was recognised."""

    request_id: str
    workspace: str = ""
    old_generation: bool = False
    """The client speaks the shapes of 2023-06-01: a few fields were required then that may be null now."""


def caller_of(request: Request) -> Caller:
    return cast(Caller, request.scope["hostler.caller"])


def services_of(request: Request) -> ApiServices:
    return cast(ApiServices, request.app.state.services)
