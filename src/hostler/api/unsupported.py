"""What do endpoints answer that are part of the contract and not built? 501, plainly, and never again by a retry."""

from __future__ import annotations

from collections.abc import Collection

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.contract import CONTRACT, Endpoint
from hostler.api.routing import ContractRouter, Handler
from hostler.domain.errors import NotSupported


def unsupported_router(served: Collection[str]) -> ContractRouter:
    """Routes for every row of the contract whose method is not in `served`."""
    router = ContractRouter()
    # Literal paths (`…/work/poll`) before templates that would match them (`…/work/{work_id}`).
    for endpoint in sorted(CONTRACT, key=lambda row: row.path.count("{")):
        if endpoint.method not in served:
            router.serves(endpoint.method)(_refusal(endpoint))
    return router


def _refusal(endpoint: Endpoint) -> Handler:
    if endpoint.tier == "X":
        message = f"{endpoint.method} only exists in Anthropic's cloud; this server has no use for it"
    else:
        message = f"{endpoint.method} is not built in this server yet"

    async def refuse(request: Request) -> Response:
        raise NotSupported(message)

    return refuse
