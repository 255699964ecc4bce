"""Vaults and credentials through the official client. What is secret goes in and never comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import pytest
import sqlalchemy as sa
from anthropic import BadRequestError, ConflictError, NotFoundError
from apikit_raw import send
from apikit_server import Access, RunningServer

from hostler.store.tables_vaults import credentials

URL = "https://mcp.example.com/mcp"
BEARER: Any = {"type": "static_bearer", "mcp_server_url": URL, "token": "canary-token"}
REFRESH: Any = {
    "client_id": "me",
    "refresh_token": "canary-refresh",
    "token_endpoint": "https://auth.example.com/token",
    "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": "canary-client-secret"},
    "resource": "https://mcp.example.com/",
    "scope": "read write",
}
OAUTH: Any = {
    "type": "mcp_oauth",
    "mcp_server_url": URL,
    "access_token": "canary-access",
    "expires_at": "2999-01-02T03:04:05+01:00",
    "refresh": REFRESH,
}
VARIABLE: Any = {
    "type": "environment_variable",
    "secret_name": "GITHUB_TOKEN",
    "secret_value": "canary-value",
    "networking": {"type": "limited", "allowed_hosts": ["API.github.com", "*.example.org", "192.0.2.1"]},
}


def vault_of(client: anthropic.Anthropic) -> str:
    return client.beta.vaults.create(display_name="v").id


def message_of(call: Callable[[], Any], kind: type[anthropic.APIStatusError] = BadRequestError) -> str:
    with pytest.raises(kind) as caught:
        call()
    body: Any = caught.value.body
    assert "canary" not in json.dumps(body)
    return str(body["error"]["message"])


# ------------------------------------------------------------------------------------------------------------- vaults


@pytest.mark.endpoint("vaults.create", "vaults.retrieve", "vaults.update")
def test_a_vault_is_made_read_and_changed(client: anthropic.Anthropic) -> None:
    made = client.beta.vaults.create(display_name="Team", metadata={"a": "1", "b": "2"})
    assert made.id.startswith("vlt_")
    assert (made.type, made.display_name, made.metadata, made.archived_at) == (
        "vault",
        "Team",
        {"a": "1", "b": "2"},
        None,
    )
    assert client.beta.vaults.retrieve(made.id).to_dict() == made.to_dict()
    assert client.beta.vaults.update(made.id).to_dict() == made.to_dict()
    assert client.beta.vaults.update(made.id, display_name=None, metadata=None).to_dict() == made.to_dict()
    changed = client.beta.vaults.update(made.id, display_name="Other", metadata={"a": None, "b": "", "c": "3"})
    assert (changed.display_name, changed.metadata) == ("Other", {"b": "", "c": "3"})
    assert changed.updated_at > made.updated_at
    assert changed.created_at == made.created_at


@pytest.mark.endpoint("vaults.create", "vaults.update")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "display_name: is required"),
        ({"display_name": ""}, "display_name: must have at least 1"),
        ({"display_name": "x" * 256}, "display_name: must have at most 255"),
        ({"display_name": "x", "metadata": {"k": 1}}, "not a string"),
        ({"display_name": "x", "secret": "s"}, "secret: is not a field"),
    ],
)
def test_a_bad_vault_is_refused(client: anthropic.Anthropic, body: dict[str, Any], says: str) -> None:
    assert says in message_of(lambda: client.post("/v1/vaults", body=body, cast_to=object))
    vault = vault_of(client)
    if body:
        assert says in message_of(lambda: client.post(f"/v1/vaults/{vault}", body=body, cast_to=object))


@pytest.mark.endpoint("vaults.list")
def test_vaults_are_listed_newest_first_in_pages(client: anthropic.Anthropic) -> None:
    ids = [client.beta.vaults.create(display_name=str(n)).id for n in range(5)]
    client.beta.vaults.archive(ids[2])
    assert [row.id for row in client.beta.vaults.list(limit=2)] == [ids[n] for n in (4, 3, 1, 0)]
    assert [row.id for row in client.beta.vaults.list(include_archived=True)] == ids[::-1]
    for query in ({"limit": 0}, {"limit": 101}, {"page": "x"}, {"order": "asc"}):
        message_of(lambda q=query: client.get("/v1/vaults", cast_to=object, options={"params": q}))  # type: ignore[misc]
    environments = client.beta.environments.list(limit=1)
    assert environments.next_page is None


@pytest.mark.endpoint("vaults.archive", "vaults.credentials.archive", "vaults.credentials.create")
def test_archiving_a_vault_purges_its_secrets_and_ends_it(client: anthropic.Anthropic, server: RunningServer) -> None:
    vault = vault_of(client)
    credential = client.beta.vaults.credentials.create(vault, auth=BEARER)
    archived = client.beta.vaults.archive(vault)
    assert archived.archived_at is not None
    assert client.beta.vaults.archive(vault).to_dict() == archived.to_dict()
    found = client.beta.vaults.credentials.retrieve(credential.id, vault_id=vault)
    assert found.archived_at is not None
    assert _sealed(server, credential.id) is None
    for refused in (
        lambda: client.beta.vaults.update(vault, display_name="x"),
        lambda: client.beta.vaults.credentials.create(vault, auth=BEARER),
        lambda: client.beta.vaults.credentials.update(credential.id, vault_id=vault, display_name="x"),
    ):
        assert "archived" in message_of(refused)


@pytest.mark.endpoint("vaults.delete", "vaults.credentials.delete")
def test_deleting_takes_everything_along(client: anthropic.Anthropic, server: RunningServer) -> None:
    vault = vault_of(client)
    one = client.beta.vaults.credentials.create(vault, auth=BEARER)
    two = client.beta.vaults.credentials.create(vault, auth=VARIABLE)
    gone = client.beta.vaults.credentials.delete(one.id, vault_id=vault)
    assert gone.to_dict() == {"id": one.id, "type": "vault_credential_deleted"}
    message_of(lambda: client.beta.vaults.credentials.retrieve(one.id, vault_id=vault), NotFoundError)
    message_of(lambda: client.beta.vaults.credentials.delete(one.id, vault_id=vault), NotFoundError)
    assert client.beta.vaults.delete(vault).to_dict() == {"id": vault, "type": "vault_deleted"}
    for missing in (
        lambda: client.beta.vaults.retrieve(vault),
        lambda: client.beta.vaults.delete(vault),
        lambda: client.beta.vaults.credentials.retrieve(two.id, vault_id=vault),
        lambda: client.beta.vaults.credentials.list(vault),
    ):
        message_of(missing, NotFoundError)
    assert _sealed(server, two.id) is None


# -------------------------------------------------------------------------------------------------------- credentials


@pytest.mark.endpoint("vaults.credentials.create", "vaults.credentials.retrieve", "vaults.credentials.update")
def test_a_static_bearer_shows_its_server_and_never_its_token(client: anthropic.Anthropic) -> None:
    vault = vault_of(client)
    made = client.beta.vaults.credentials.create(vault, auth=BEARER, display_name="Linear", metadata={"k": "v"})
    assert made.id.startswith("vcrd_")
    assert (made.type, made.vault_id, made.display_name, made.metadata) == (
        "vault_credential", vault, "Linear", {"k": "v"},
    )  # fmt: skip
    assert made.auth.to_dict() == {"type": "static_bearer", "mcp_server_url": URL}
    assert client.beta.vaults.credentials.retrieve(made.id, vault_id=vault).to_dict() == made.to_dict()
    changed = client.beta.vaults.credentials.update(
        made.id, vault_id=vault, auth={"type": "static_bearer", "token": "canary-new"}, metadata={"k": None}
    )
    assert changed.updated_at > made.updated_at
    assert (changed.auth.to_dict(), changed.metadata) == (made.auth.to_dict(), {})
    assert client.beta.vaults.credentials.update(made.id, vault_id=vault, display_name=None).display_name is None
    kept = client.beta.vaults.credentials.update(made.id, vault_id=vault, auth={"type": "static_bearer", "token": None})
    assert kept.auth.to_dict() == made.auth.to_dict()


@pytest.mark.endpoint("vaults.credentials.create", "vaults.credentials.update")
def test_an_oauth_credential_keeps_its_keys_and_changes_the_rest(client: anthropic.Anthropic) -> None:
    vault = vault_of(client)
    made = client.beta.vaults.credentials.create(vault, auth=OAUTH)
    shown = {
        "type": "mcp_oauth",
        "mcp_server_url": URL,
        "expires_at": "2999-01-02T02:04:05.000000Z",
        "refresh": {
            "client_id": "me",
            "token_endpoint": "https://auth.example.com/token",
            "token_endpoint_auth": {"type": "client_secret_basic"},
            "resource": "https://mcp.example.com/",
            "scope": "read write",
        },
    }
    assert _wire(client, made) == shown

    def update(**auth: Any) -> dict[str, Any]:
        changed = client.beta.vaults.credentials.update(made.id, vault_id=vault, auth={"type": "mcp_oauth", **auth})
        return _wire(client, changed)

    assert update(access_token="canary-2") == shown, "a new token keeps the old expiry"
    assert update(expires_at="2999-02-02T00:00:00Z")["expires_at"] == "2999-02-02T00:00:00.000000Z"
    assert "expires_at" not in update(expires_at=None)
    assert update(refresh={"scope": ""})["refresh"]["scope"] is None
    assert update(refresh={"scope": "read", "refresh_token": "canary-3"})["refresh"]["scope"] == "read"
    secret = {"type": "client_secret_post", "client_secret": "canary-4"}
    same = update(refresh={"token_endpoint_auth": secret})["refresh"]["token_endpoint_auth"]
    assert same == {"type": "client_secret_basic"}, "the kind of client authentication stays"
    assert update(refresh=None)["refresh"]["client_id"] == "me"


@pytest.mark.endpoint("vaults.credentials.create", "vaults.credentials.update")
def test_an_oauth_credential_without_refresh(client: anthropic.Anthropic) -> None:
    vault = vault_of(client)
    auth = {"type": "mcp_oauth", "mcp_server_url": URL, "access_token": "canary"}
    made = client.beta.vaults.credentials.create(vault, auth=auth)  # type: ignore[arg-type]
    assert _wire(client, made) == {"type": "mcp_oauth", "mcp_server_url": URL, "refresh": None}
    patch: Any = {"type": "mcp_oauth", "refresh": {"scope": "x"}}
    refused = message_of(lambda: client.beta.vaults.credentials.update(made.id, vault_id=vault, auth=patch))
    assert "made without one" in refused


@pytest.mark.endpoint("vaults.credentials.create", "vaults.credentials.update")
def test_a_variable_shows_where_it_goes_and_never_its_value(client: anthropic.Anthropic) -> None:
    vault = vault_of(client)
    made = client.beta.vaults.credentials.create(vault, auth=VARIABLE)
    hosts = ["api.github.com", "*.example.org", "192.0.2.1"]
    assert made.auth.to_dict() == {
        "type": "environment_variable",
        "secret_name": "GITHUB_TOKEN",
        "networking": {"type": "limited", "allowed_hosts": hosts},
        "injection_location": {"header": True, "body": True},
        "scope": {"type": "workspace", "access": "read_write"},
    }

    def update(**auth: Any) -> dict[str, Any]:
        body: Any = {"type": "environment_variable", **auth}
        shown: dict[str, Any] = client.beta.vaults.credentials.update(made.id, vault_id=vault, auth=body).auth.to_dict()
        return shown

    assert update(injection_location={"body": False})["injection_location"] == {"header": True, "body": False}
    assert update(injection_location={})["injection_location"] == {"header": True, "body": False}
    assert update(networking={"type": "unrestricted"})["networking"] == {"type": "unrestricted"}
    assert update(networking=None, secret_value="canary-5")["networking"] == {"type": "unrestricted"}
    assert "at least one" in message_of(lambda: update(injection_location={"header": False}))
    narrow = {"type": "agent", "agent_ids": ["agent_1"], "access": "read"}
    assert update(scope=narrow)["scope"] == narrow
    assert update(secret_value="canary-6")["scope"] == narrow
    assert update(scope={"type": "session", "session_ids": ["sesn_1"]})["scope"] == {
        "type": "session", "session_ids": ["sesn_1"], "access": "read_write",
    }  # fmt: skip
    location = {**VARIABLE, "secret_name": "B", "injection_location": {"header": True}}
    other = client.beta.vaults.credentials.create(vault, auth=location)  # type: ignore[arg-type]
    assert other.auth.to_dict()["injection_location"] == {"header": True, "body": False}


def _but(auth: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**auth, **changes}.items() if value is not ...}


def _listed(*hosts: Any) -> dict[str, Any]:
    return _but(VARIABLE, networking={"type": "limited", "allowed_hosts": list(hosts)})


@pytest.mark.endpoint("vaults.credentials.create")
@pytest.mark.parametrize(
    ("auth", "says"),
    [
        (..., "auth: is required"),
        ({"type": "password"}, "auth: has type 'password'"),
        (_but(BEARER, token=...), "auth.token: is required"),
        (_but(BEARER, token=""), "auth.token: must have at least 1"),
        (_but(BEARER, token="canary-" + "x" * 20_000), "auth.token: must have at most"),
        (_but(BEARER, token="canary a\r\nX-Evil: 1"), "auth.token: holds characters"),
        (_but(BEARER, token=7), "auth.token: must be a string"),
        (_but(BEARER, access_token="canary"), "auth.access_token: is not a field"),
        (_but(BEARER, mcp_server_url="ftp://a.example.com"), "auth.mcp_server_url: is not a web address"),
        (_but(BEARER, mcp_server_url="https://canary:canary@a.example.com"), "auth.mcp_server_url: holds a user"),
        (_but(BEARER, mcp_server_url="https://a.example.com/#x"), "fragment"),
        (_but(BEARER, mcp_server_url="https://"), "not a web address"),
        (_but(BEARER, mcp_server_url="https://a.example.com/\r\nX: y"), "not a URL"),
        (_but(BEARER, mcp_server_url="https://a.example.com:99999/"), "not a URL"),
        (_but(OAUTH, expires_at="2001-01-01T00:00:00Z"), "auth.expires_at: is in the past"),
        (_but(OAUTH, expires_at="tomorrow"), "auth.expires_at: is not an RFC 3339 time"),
        (_but(OAUTH, expires_at="2999-01-01T00:00:00"), "auth.expires_at: is not an RFC 3339 time"),
        (_but(OAUTH, refresh=_but(REFRESH, token_endpoint="file:///etc/passwd")), "token_endpoint: is not a web"),
        (_but(OAUTH, refresh=_but(REFRESH, token_endpoint_auth={"type": "none", "client_secret": "canary"})), "is not"),
        (_but(OAUTH, refresh=_but(REFRESH, token_endpoint_auth={"type": "client_secret_post"})), "client_secret: is r"),
        (_but(OAUTH, refresh=_but(REFRESH, refresh_token=...)), "auth.refresh.refresh_token: is required"),
        (_but(OAUTH, refresh=_but(REFRESH, token_endpoint_auth=...)), "token_endpoint_auth: is required"),
        (_but(VARIABLE, secret_name="A-B"), "auth.secret_name: is not the name"),
        *[
            (_but(VARIABLE, secret_name=name), f"auth.secret_name: {name} steers")
            for name in ("LD_PRELOAD", "NODE_OPTIONS", "PATH", "ANTHROPIC_BASE_URL", "https_proxy", "SSL_CERT_FILE")
        ],
        (_but(VARIABLE, scope=None), "auth.scope: can't be null"),
        (_but(VARIABLE, scope={"type": "everything"}), "auth.scope: has type 'everything'"),
        (_but(VARIABLE, scope={"type": "agent", "agent_ids": []}), "agent_ids: must have at least 1"),
        (_but(VARIABLE, scope={"type": "agent", "session_ids": ["sesn_1"]}), "auth.scope"),
        (_but(VARIABLE, scope={"type": "workspace", "access": "write"}), "auth.scope.access"),
        (_but(VARIABLE, secret_value="canary\nline"), "auth.secret_value: holds a control"),
        (_but(VARIABLE, networking=...), "auth.networking: is required"),
        (_but(VARIABLE, injection_location=None), "auth.injection_location: can't be null"),
        (_but(VARIABLE, injection_location={"header": None}), "header: must be true or false"),
        (_but(VARIABLE, injection_location={}), "auth.injection_location: switches"),
        (_but(VARIABLE, injection_location={"header": False, "body": False}), "leave at least one on"),
        (_listed(), "allowed_hosts: must have at least 1"),
        (_listed(*[f"a{n}.example.com" for n in range(17)]), "allowed_hosts: must have at most 16"),
        (_listed("https://a.example.com"), "names a scheme"),
        (_listed("a.example.com:443"), "names a port"),
        (_listed("a.example.com/path"), "names a path"),
        (_listed("::1"), "is an address"),
        (_listed("a.*.example.com"), "wildcard"),
        (_listed("*"), "wildcard"),
        (_listed("*.192.0.2.1"), "is an address"),
    ],
)  # fmt: skip
def test_a_bad_credential_is_refused_without_repeating_its_secret(
    client: anthropic.Anthropic, auth: Any, says: str
) -> None:
    vault = vault_of(client)
    body = {} if auth is ... else {"auth": auth}
    path = f"/v1/vaults/{vault}/credentials"
    assert says in message_of(lambda: client.post(path, body=body, cast_to=object))
    assert list(client.beta.vaults.credentials.list(vault)) == []


@pytest.mark.endpoint("vaults.credentials.update")
@pytest.mark.parametrize(
    ("made", "patch", "says"),
    [
        (BEARER, {"type": "mcp_oauth"}, "auth.type: is static_bearer and can't be changed"),
        (BEARER, {"type": "static_bearer", "mcp_server_url": URL}, "auth.mcp_server_url: can't be changed"),
        (OAUTH, {"type": "mcp_oauth", "mcp_server_url": "https://b.example.com"}, "can't be changed"),
        (OAUTH, {"type": "mcp_oauth", "refresh": {"client_id": "x"}}, "auth.refresh.client_id: can't be changed"),
        (OAUTH, {"type": "mcp_oauth", "refresh": {"token_endpoint": "https://b.example.com"}}, "can't be changed"),
        (OAUTH, {"type": "mcp_oauth", "refresh": {"token_endpoint_auth": {"type": "none"}}}, "has type 'none'"),
        (OAUTH, {"type": "mcp_oauth", "expires_at": "2001-01-01T00:00:00Z"}, "in the past"),
        (VARIABLE, {"type": "environment_variable", "secret_name": "B"}, "auth.secret_name: can't be changed"),
        (VARIABLE, {"type": "environment_variable", "injection_location": None}, "can't be null"),
        (VARIABLE, {"type": "environment_variable", "scope": None}, "can't be null"),
        (VARIABLE, {"type": "environment_variable", "networking": {"type": "limited", "allowed_hosts": []}}, "least 1"),
    ],
)  # fmt: skip
def test_what_is_fixed_stays(client: anthropic.Anthropic, made: Any, patch: Any, says: str) -> None:
    vault = vault_of(client)
    credential = client.beta.vaults.credentials.create(vault, auth=made)
    refused = message_of(lambda: client.beta.vaults.credentials.update(credential.id, vault_id=vault, auth=patch))
    assert says in refused
    assert client.beta.vaults.credentials.retrieve(credential.id, vault_id=vault).to_dict() == credential.to_dict()


@pytest.mark.endpoint("vaults.credentials.create", "vaults.credentials.archive")
def test_one_active_credential_for_each_server_and_name(client: anthropic.Anthropic) -> None:
    vault, other = vault_of(client), vault_of(client)
    first = client.beta.vaults.credentials.create(vault, auth=BEARER)
    client.beta.vaults.credentials.create(other, auth=BEARER)
    client.beta.vaults.credentials.create(vault, auth=VARIABLE)
    for auth in (
        BEARER,
        _but(BEARER, mcp_server_url="HTTPS://MCP.Example.com:443/mcp/"),
        OAUTH,
        VARIABLE,
    ):
        with pytest.raises(ConflictError) as caught:
            client.beta.vaults.credentials.create(vault, auth=auth)  # type: ignore[arg-type]
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "canary" not in caught.value.response.text
    client.beta.vaults.credentials.create(vault, auth=_but(BEARER, mcp_server_url=URL + "/other"))  # type: ignore[arg-type]
    archived = client.beta.vaults.credentials.archive(first.id, vault_id=vault)
    assert archived.archived_at is not None
    assert archived.auth.to_dict() == {"type": "static_bearer", "mcp_server_url": URL}
    assert client.beta.vaults.credentials.archive(first.id, vault_id=vault).to_dict() == archived.to_dict()
    again = client.beta.vaults.credentials.create(vault, auth=OAUTH)
    listed = [row.id for row in client.beta.vaults.credentials.list(vault)]
    assert again.id in listed
    assert first.id not in listed
    assert first.id in [row.id for row in client.beta.vaults.credentials.list(vault, include_archived=True, limit=1)]


@pytest.mark.endpoint("vaults.credentials.create", "vaults.credentials.list")
def test_a_vault_holds_twenty_active_credentials(client: anthropic.Anthropic) -> None:
    vault = vault_of(client)
    ids = [client.beta.vaults.credentials.create(vault, auth=_numbered(n)).id for n in range(20)]
    assert "has 20 credentials" in message_of(lambda: client.beta.vaults.credentials.create(vault, auth=_numbered(20)))
    client.beta.vaults.credentials.archive(ids[0], vault_id=vault)
    last = client.beta.vaults.credentials.create(vault, auth=_numbered(20))
    assert [row.id for row in client.beta.vaults.credentials.list(vault, limit=7)] == [last.id, *ids[:0:-1]]


@pytest.mark.endpoint(
    "vaults.retrieve", "vaults.update", "vaults.archive", "vaults.delete", "vaults.list", "vaults.credentials.create",
    "vaults.credentials.retrieve", "vaults.credentials.update", "vaults.credentials.archive",
    "vaults.credentials.delete", "vaults.credentials.list", "vaults.credentials.mcp_oauth_validate",
)  # fmt: skip
def test_another_workspace_finds_nothing(client: anthropic.Anthropic, stranger: Access) -> None:
    vault = vault_of(client)
    credential = client.beta.vaults.credentials.create(vault, auth=OAUTH).id
    with stranger.client() as other:
        own = vault_of(other)
        of_vault = other.beta.vaults
        for call in (
            lambda: of_vault.retrieve(vault),
            lambda: of_vault.update(vault, display_name="x"),
            lambda: of_vault.archive(vault),
            lambda: of_vault.delete(vault),
            lambda: of_vault.credentials.create(vault, auth=BEARER),
            lambda: of_vault.credentials.list(vault),
        ):
            message_of(call, NotFoundError)
        for place in (vault, own):
            for call in (
                lambda p=place: of_vault.credentials.retrieve(credential, vault_id=p),
                lambda p=place: of_vault.credentials.update(credential, vault_id=p, display_name="x"),
                lambda p=place: of_vault.credentials.archive(credential, vault_id=p),
                lambda p=place: of_vault.credentials.delete(credential, vault_id=p),
                lambda p=place: of_vault.credentials.mcp_oauth_validate(credential, vault_id=p),
            ):
                message_of(call, NotFoundError)  # type: ignore[arg-type]
        assert [row.id for row in of_vault.list()] == [own]
    second = vault_of(client)
    message_of(lambda: client.beta.vaults.credentials.retrieve(credential, vault_id=second), NotFoundError)
    assert client.beta.vaults.credentials.retrieve(credential, vault_id=vault).archived_at is None


@pytest.mark.endpoint("vaults.credentials.mcp_oauth_validate")
def test_only_active_oauth_credentials_are_validated(client: anthropic.Anthropic) -> None:
    vault = vault_of(client)
    bearer = client.beta.vaults.credentials.create(vault, auth=BEARER).id
    validate = client.beta.vaults.credentials.mcp_oauth_validate
    assert "only mcp_oauth" in message_of(lambda: validate(bearer, vault_id=vault))
    client.beta.vaults.credentials.archive(bearer, vault_id=vault)
    oauth = client.beta.vaults.credentials.create(vault, auth=OAUTH).id
    client.beta.vaults.credentials.archive(oauth, vault_id=vault)
    assert "archived" in message_of(lambda: validate(oauth, vault_id=vault))


# ----------------------------------------------------------------------------------------------------------- sessions


@pytest.mark.endpoint("sessions.create", "sessions.update")
def test_a_session_takes_vaults_and_keeps_them(client: anthropic.Anthropic, stranger: Access) -> None:
    agent = client.beta.agents.create(name="n", model="claude-opus-5-5").id
    environment = client.beta.environments.create(name="e").id
    one, two, archived, variable = (vault_of(client) for _ in range(4))
    client.beta.vaults.credentials.create(one, auth=BEARER)
    client.beta.vaults.archive(archived)
    credential = client.beta.vaults.credentials.create(variable, auth=VARIABLE).id

    def create(vault_ids: Any) -> Any:
        return client.beta.sessions.create(agent=agent, environment_id=environment, vault_ids=vault_ids)

    made = create([two, one])
    assert made.vault_ids == [two, one]
    assert create([]).vault_ids == []
    assert create(None).vault_ids == []
    assert "vault_ids" in message_of(lambda: client.beta.sessions.update(made.id, vault_ids=[one]))
    assert "archived" in message_of(lambda: create([one, archived]))
    assert create([variable]).vault_ids == [variable]
    assert "twice" in message_of(lambda: create([one, one]))
    assert "at most 20" in message_of(lambda: create([f"vlt_{n}" for n in range(21)]))
    message_of(lambda: create(["vlt_nothing"]), NotFoundError)
    with stranger.client() as other:
        theirs = vault_of(other)
    message_of(lambda: create([theirs]), NotFoundError)
    environment = client.beta.environments.create(name="own", config={"type": "self_hosted"}).id
    refused = message_of(lambda: create([variable]))
    assert credential in refused
    assert "GITHUB_TOKEN" in refused
    client.beta.vaults.credentials.archive(credential, vault_id=variable)
    assert create([variable, one]).vault_ids == [variable, one]


def test_secrets_need_a_key_like_everything_else(server: RunningServer, access: Access) -> None:
    for key in (None, "hk-unknown"):
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        status = send(server.base_url, "GET", "/v1/vaults", headers=headers).status
        assert status == 401


def _numbered(number: int) -> Any:
    return {**BEARER, "mcp_server_url": f"https://mcp{number}.example.com"}


def _wire(client: anthropic.Anthropic, credential: Any) -> dict[str, Any]:
    """The auth object as it came over the wire: the client's own objects turn times into something else."""
    path = f"/v1/vaults/{credential.vault_id}/credentials/{credential.id}"
    raw: Any = client.get(path, cast_to=object)
    auth: dict[str, Any] = raw["auth"]
    return auth


def _sealed(server: RunningServer, credential_id: str) -> str | None:
    """What the database holds of the secrets; None when the row is gone too."""
    query = sa.select(credentials.c.sealed).where(credentials.c.id == credential_id)
    found: str | None = server.write(lambda conn: conn.execute(query).scalar())
    return found


@pytest.mark.endpoint(
    "vaults.create", "vaults.retrieve", "vaults.update", "vaults.list", "vaults.archive", "vaults.delete",
    "vaults.credentials.create", "vaults.credentials.retrieve", "vaults.credentials.update",
    "vaults.credentials.list", "vaults.credentials.archive", "vaults.credentials.delete",
    "vaults.credentials.mcp_oauth_validate",
)  # fmt: skip
def test_the_client_of_the_old_generation_uses_every_endpoint(access: Access, old_generation: Path) -> None:
    program = Path(__file__).with_name("old_generation_vaults.py")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(old_generation)}
    command = [sys.executable, str(program), access.base_url, access.key]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
