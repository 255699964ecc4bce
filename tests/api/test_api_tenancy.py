"""Another workspace's ids are not found: in every endpoint that is served, in path, query and body.

Generated from the tables of endpoints. A new endpoint is picked up by itself, and fails until `tenancy_ids` knows what
its path, body and parameters hold.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import anthropic
import pytest
from apikit_house import ComposedServer
from apikit_raw import RawAnswer, send
from tenancy_ids import (
    BODIES,
    CARRIERS,
    MAKERS,
    NO_REFERENCES,
    NOT_OF_A_WORKSPACE,
    OWN_PARAMETERS,
    REFERENCES,
    SHOWN,
    WORKER_SECRET,
    Owner,
    meaning,
)

from hostler.api.access import RULES
from hostler.api.app import own_endpoints, served_methods
from hostler.api.contract import BY_METHOD
from hostler.api.own_contract import OWN_BY_NAME
from hostler.testing.postgres import PostgresCluster

NAMES = sorted([*served_methods(), *(OWN_BY_NAME[name].route for name in own_endpoints())])
CHANGES_BY_ITSELF = frozenset({"stats", "usage", "last_used_at"})
SPENT_BY_TURNS = frozenset({"spent_nanos", "uncertain_nanos", "reserved_nanos", "available_nanos"})
"""Of a budget: the owner's own session runs meanwhile."""


def row(name: str) -> Any:
    """The row of an endpoint, of the contract or of our own table."""
    return OWN_BY_NAME[name.removeprefix("hostler.")] if name.startswith("hostler.") else BY_METHOD[name]


def parts(name: str) -> list[str]:
    """The names of the ids in its path."""
    return [part for part in re.findall(r"\{(\w+)\}", row(name).path) if part not in NOT_OF_A_WORKSPACE]


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def composed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposedServer]:
    directory = tmp_path_factory.mktemp("tenancy")
    if request.param == "sqlite":
        with ComposedServer(directory, f"sqlite:///{directory / 'hostler.db'}") as running:
            yield running
    else:
        cluster: PostgresCluster = request.getfixturevalue("cluster")
        with ComposedServer(directory, cluster.create_database("tenancy", template="migrated")) as running:
            yield running
        cluster.drop_database("tenancy")


@pytest.fixture(scope="session")
def workspaces(composed: ComposedServer) -> tuple[Owner, Owner]:
    """Mine and theirs, each with one of everything."""
    return composed.owner(), composed.owner()


def shown(owner: Owner) -> dict[str, Any]:
    """Everything that the owner has, as it is shown, without what changes by itself."""
    for name in MAKERS:
        assert owner[name]  # made before anything is looked at: to make one thing may change another
    found = {}
    for name in MAKERS:
        answer = owner.get(SHOWN[name].format(**{part: owner[part] for part in re.findall(r"\{(\w+)\}", SHOWN[name])}))
        assert answer.status == 200, (name, answer.body)
        moves = CHANGES_BY_ITSELF | SPENT_BY_TURNS if name == "budget_id" else CHANGES_BY_ITSELF
        found[name] = {key: value for key, value in answer.json.items() if key not in moves}
    return found


def ask(
    name: str, secret: str, base_url: str, ids: Mapping[str, str], query: Mapping[str, str], body: Any
) -> RawAnswer:
    path = re.sub(r"\{(\w+)\}", lambda part: ids.get(part[1], "x"), row(name).path)
    if query:
        path += "?" + urlencode(query)
    if isinstance(body, tuple):
        kind, raw = body
        return send(base_url, row(name).verb, path, key=secret, body=raw, headers={"content-type": kind})
    raw = None if row(name).verb != "POST" else b"" if body is None else json.dumps(body).encode()
    return send(base_url, row(name).verb, path, key=secret, body=raw)


def secret_for(name: str, owner: Owner) -> str:
    if name.startswith("hostler.") or RULES[name].api_key is not None:
        return owner.key
    assert WORKER_SECRET is not None, f"{name} needs an environment key: set tenancy_ids.WORKER_SECRET"
    return WORKER_SECRET(owner)


@pytest.mark.parametrize("name", [name for name in NAMES if parts(name)])
def test_ids_of_another_workspace_in_a_path_are_not_found(workspaces: tuple[Owner, Owner], name: str) -> None:
    mine, theirs = workspaces
    unknown = [part for part in parts(name) if part not in MAKERS]
    assert not unknown, f"tenancy_ids.MAKERS does not say how to make {unknown}"
    if row(name).verb == "POST":
        assert name in BODIES, f"tenancy_ids.BODIES has no right body for {name}"
    before = shown(theirs)
    owners = itertools.product((theirs, mine), repeat=len(parts(name)))
    for chosen in owners:
        if all(owner is mine for owner in chosen):
            continue
        ids = {part: owner[meaning(name, part)] for part, owner in zip(parts(name), chosen, strict=True)}
        body = BODIES.get(name)
        answer = ask(name, secret_for(name, mine), mine.base_url, ids, {}, body(mine) if callable(body) else body)
        assert (answer.status, answer.error["type"]) == (404, "not_found_error"), (ids, answer.body)
    assert shown(theirs) == before


@pytest.mark.parametrize(("name", "parameter"), sorted(key for key in REFERENCES if key[0] in NAMES))
def test_ids_of_another_workspace_in_query_and_body_are_not_found(
    workspaces: tuple[Owner, Owner], name: str, parameter: str
) -> None:
    mine, theirs = workspaces
    before = shown(theirs)
    cases = REFERENCES[name, parameter](mine, theirs)
    assert cases
    for case in cases:
        ids = {part: mine[part] for part in parts(name)}
        answer = ask(name, secret_for(name, mine), mine.base_url, ids, case.query, case.body)
        if case.answer == "empty":
            assert (answer.status, answer.json["data"]) == (200, []), case
        else:
            assert answer.status == case.answer, (case, answer.body)
    assert shown(theirs) == before


def test_ids_of_ones_own_are_found(workspaces: tuple[Owner, Owner]) -> None:
    """Otherwise the tests above would prove nothing."""
    mine, theirs = workspaces
    for owner in (mine, theirs):
        assert set(shown(owner)) == set(MAKERS)
    assert {mine[name] for name in MAKERS}.isdisjoint(theirs[name] for name in MAKERS)


@pytest.mark.parametrize("name", [name for name in NAMES if row(name).verb == "GET" and "{" not in row(name).path])
def test_lists_show_nothing_of_another_workspace(workspaces: tuple[Owner, Owner], name: str) -> None:
    mine, theirs = workspaces
    shown(mine), shown(theirs)
    answer = ask(name, secret_for(name, mine), mine.base_url, {}, {}, None)
    assert answer.status == 200
    for part in MAKERS:
        assert theirs[part] not in answer.body.decode()


def test_every_parameter_that_may_hold_an_id_is_covered() -> None:
    with anthropic.Anthropic(api_key="none") as client:
        for name in served_methods():
            here: Any = client.beta
            for step in name.split("."):
                here = getattr(here, step)
            for parameter in inspect.signature(here).parameters:
                holds_ids = parameter == "ids" or parameter.endswith(("_id", "_ids")) or parameter in CARRIERS
                if not holds_ids or parameter in ("workspace_id", *parts(name), *NOT_OF_A_WORKSPACE):
                    continue
                known = (name, parameter) in REFERENCES or (name, parameter) in NO_REFERENCES
                assert known, f"{name} takes {parameter}: add it to tenancy_ids.REFERENCES"
    assert set(OWN_PARAMETERS) == own_endpoints(), "tenancy_ids.OWN_PARAMETERS must name every endpoint of our own"
    for name, parameters in OWN_PARAMETERS.items():
        for parameter in parameters:
            assert (f"hostler.{name}", parameter) in REFERENCES


def test_default_workspaces_admin_reaches_every_workspace(
    composed: ComposedServer, workspaces: tuple[Owner, Owner]
) -> None:
    """The one exception, and only below /hostler/v1."""
    _, theirs = workspaces
    key = composed.installation_key()
    assert send(theirs.base_url, "GET", f"/hostler/v1/workspaces/{theirs.workspace}", key=key).status == 200
    assert send(theirs.base_url, "GET", f"/hostler/v1/keys/{theirs['key_id']}", key=key).status == 200
    assert send(theirs.base_url, "GET", f"/v1/sessions/{theirs['session_id']}", key=key).status == 404
    assert send(theirs.base_url, "GET", f"/hostler/v1/sessions/{theirs['session_id']}/egress", key=key).status == 404
