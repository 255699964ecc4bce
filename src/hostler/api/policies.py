"""Our own endpoints of the policy simulator. They ask and change nothing, so a key that may read may use them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hostler.api.body import json_object
from hostler.api.context import caller_of, services_of
from hostler.api.query import Query
from hostler.api.rendering import json_response
from hostler.api.routing import OwnRouter
from hostler.domain.policies import SuggestPolicy, TryPolicy
from hostler.domain.values import parse

router = OwnRouter()


@router.serves("policy.test")
async def test_policy(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(TryPolicy, await json_object(request))
    return json_response(await services_of(request).policies.test(caller_of(request).workspace, wanted))


@router.serves("policy.suggest")
async def suggest_policy(request: Request) -> Response:
    Query(request).finish()
    wanted = parse(SuggestPolicy, await json_object(request))
    return json_response(await services_of(request).policies.suggest(caller_of(request).workspace, wanted))
