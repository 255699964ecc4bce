"""The OpenAPI documents: served to everybody, complete, and what the code says."""

from __future__ import annotations

import httpx2 as httpx
from apikit_server import RunningServer

from hostler.api.app import served_methods
from hostler.api.own_contract import OWN_CONTRACT
from hostler.testing.openapi import documents


def test_both_documents_are_served_without_a_key_and_name_every_endpoint(server: RunningServer) -> None:
    fresh = documents()
    for path, name in (("/openapi.json", "openapi.json"), ("/hostler/v1/openapi.json", "own_openapi.json")):
        answer = httpx.get(server.base_url + path)
        assert answer.status_code == 200
        assert answer.json() == fresh[name], "run scripts/generate-docs"
    named = {
        operation["operationId"]
        for document in fresh.values()
        for operations in document["paths"].values()
        for operation in operations.values()
    }
    assert named == served_methods() | {endpoint.route for endpoint in OWN_CONTRACT}
