"""What does this API look like to a machine? Two OpenAPI documents, made by `hostler.testing.openapi` and packaged."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

DOCUMENTS: Final = {"/openapi.json": "openapi.json", "/hostler/v1/openapi.json": "own_openapi.json"}
"""File by path. They tell what everybody may read in the documentation, so no key is asked for."""


@cache
def _document(name: str) -> bytes:
    return files("hostler.api").joinpath(name).read_bytes()


async def describe(request: Request) -> Response:
    return Response(_document(DOCUMENTS[request.url.path]), media_type="application/json")
