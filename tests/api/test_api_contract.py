"""The contract's table is the SDK's, and what is not built says so."""

from __future__ import annotations

import re

import pytest
from apikit_raw import send
from apikit_server import Access

from hostler.api.access import RULES
from hostler.api.app import served_methods
from hostler.api.contract import BY_METHOD, CONTRACT
from hostler.domain.sessions import EVENT_TYPES


def test_the_contract_has_114_rows() -> None:
    assert len(CONTRACT) == len(BY_METHOD) == 114
    assert len({(row.verb, row.path) for row in CONTRACT}) == 114


def test_every_row_is_a_method_of_the_official_client() -> None:
    import anthropic

    with anthropic.Anthropic(api_key="none") as client:
        for row in CONTRACT:
            here: object = client.beta
            for step in row.method.split("."):
                here = getattr(here, step)
            assert callable(here), row.method


def test_event_types_are_those_of_the_official_client() -> None:
    from typing import get_args

    from anthropic.types.beta.sessions import BetaManagedAgentsSessionEventType

    assert frozenset(get_args(BetaManagedAgentsSessionEventType)) == EVENT_TYPES


@pytest.mark.parametrize("method", sorted(m for m in set(BY_METHOD) - served_methods() if RULES[m].api_key))
def test_what_is_not_built_says_so_and_is_not_retried(access: Access, method: str) -> None:
    row = BY_METHOD[method]
    path = re.sub(r"\{\w+\}", "x_1", row.path)
    headers = {"content-type": "multipart/form-data; boundary=b"}
    body = b"--b--" if row.verb == "POST" else None
    answer = send(access.base_url, row.verb, path, key=access.key, headers=headers, body=body)
    assert (answer.status, answer.error["type"]) == (501, "api_error")
    assert answer.headers["x-should-retry"] == "false"
    assert answer.error["message"].startswith(method)
