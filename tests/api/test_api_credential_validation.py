"""`mcp_oauth_validate`: every verdict, from a real MCP server and a token endpoint that can be made to misbehave."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from oauthkit import FakeProvider, answers

pytestmark = pytest.mark.endpoint("vaults.credentials.mcp_oauth_validate")


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as running:
        yield running


class Probe:
    """One credential of the provider, and what the API says of it."""

    def __init__(self, client: anthropic.Anthropic, provider: FakeProvider, **changes: Any) -> None:
        self.client = client
        refresh: Any = {
            "client_id": "me",
            "refresh_token": "canary-refresh-0",
            "token_endpoint": provider.token_url,
            "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": "canary-client-secret/+"},
        }
        auth: Any = {
            "type": "mcp_oauth",
            "mcp_server_url": provider.mcp_url,
            "access_token": "canary-access-0",
            "refresh": refresh,
            **changes,
        }
        self.vault = client.beta.vaults.create(display_name="v").id
        self.id = client.beta.vaults.credentials.create(self.vault, auth=auth).id

    def validate(self) -> Any:
        found = self.client.beta.vaults.credentials.mcp_oauth_validate(self.id, vault_id=self.vault)
        assert (found.type, found.credential_id, found.vault_id) == ("vault_credential_validation", self.id, self.vault)
        text = found.to_json()
        assert "canary" not in text
        assert base64.b64encode(b"canary").decode()[:7] not in text
        return found


def test_a_token_that_works_is_valid(client: anthropic.Anthropic, provider: FakeProvider) -> None:
    provider.accepted = {"canary-access-0"}
    found = Probe(client, provider).validate()
    assert (found.status, found.mcp_probe, found.refresh, found.has_refresh_token) == ("valid", None, None, True)
    methods = [method for method, _ in provider.calls]
    assert methods == ["initialize", "notifications/initialized", "tools/list", "DELETE"]
    assert provider.exchanges == []
    assert Probe(client, provider, refresh=None).validate().has_refresh_token is False


def test_a_token_that_ran_out_is_renewed_and_kept(client: anthropic.Anthropic, provider: FakeProvider) -> None:
    probe = Probe(client, provider)
    found = probe.validate()
    assert (found.status, found.mcp_probe) == ("valid", None)
    assert found.refresh.to_dict() == {"status": "succeeded", "http_response": None}
    again = probe.validate()
    assert (again.status, again.refresh) == ("valid", None)
    assert len(provider.exchanges) == 1


def test_a_token_without_anything_to_renew_it_is_invalid(client: anthropic.Anthropic, provider: FakeProvider) -> None:
    found = Probe(client, provider, refresh=None).validate()
    assert found.status == "invalid"
    assert found.refresh.to_dict() == {"status": "no_refresh_token", "http_response": None}
    assert found.mcp_probe.method == "initialize"
    assert found.mcp_probe.http_response.to_dict() == {
        "status_code": 401,
        "content_type": "application/json",
        "body": '{"error": "invalid_token"}',
        "body_truncated": False,
    }


def test_a_refused_refresh_token_is_invalid(client: anthropic.Anthropic, provider: FakeProvider) -> None:
    provider.refresh_token = "another"
    found = Probe(client, provider).validate()
    assert found.status == "invalid"
    assert (found.refresh.status, found.refresh.http_response.status_code) == ("failed", 400)
    assert found.refresh.http_response.body == '{"error": "invalid_grant"}'
    assert found.mcp_probe.http_response.status_code == 401


def test_a_new_token_that_is_refused_too_is_invalid(client: anthropic.Anthropic, provider: FakeProvider) -> None:
    provider.mcp_answer["initialize"] = answers(401, b"no")
    found = Probe(client, provider).validate()
    assert (found.status, found.refresh.status, found.mcp_probe.http_response.body) == ("invalid", "succeeded", "no")


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        (500, b"broken", "unknown"),
        (429, b"slow down", "unknown"),
        (401, b'{"error":"invalid_client"}', "invalid"),
        (302, b"", "invalid"),
        (200, b"no json", "invalid"),
        (200, b"{}", "invalid"),
        (200, b'{"access_token": "canary a b"}', "invalid"),
        (200, b'{"access_token": "canary-mac", "token_type": "mac"}', "invalid"),
    ],
)
def test_what_a_token_endpoint_says_wrongly(
    client: anthropic.Anthropic, provider: FakeProvider, status: int, body: bytes, verdict: str
) -> None:
    provider.token_answer = answers(status, body, location=provider.token_url)
    found = Probe(client, provider).validate()
    assert (found.status, found.refresh.status) == (verdict, "failed")
    assert found.refresh.http_response.status_code == status
    assert len(provider.exchanges) == 1, "redirects are not followed"


def test_a_token_endpoint_that_is_not_there_is_unknown(client: anthropic.Anthropic, provider: FakeProvider) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}/token"
    refresh = {
        "client_id": "me",
        "refresh_token": "canary-r",
        "token_endpoint": nowhere,
        "token_endpoint_auth": {"type": "none"},
    }
    found = Probe(client, provider, refresh=refresh).validate()
    assert found.status == "unknown"
    assert found.refresh.to_dict() == {"status": "connect_error", "http_response": None}


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/mcp", "http://127.0.0.2:80/", "http://10.0.0.1/", "https://localhost.invalid/"]
)
def test_an_mcp_server_that_is_not_there_or_must_not_be_called_is_unknown(
    client: anthropic.Anthropic, provider: FakeProvider, url: str
) -> None:
    found = Probe(client, provider, mcp_server_url=url).validate()
    assert (found.status, found.refresh) == ("unknown", None)
    assert found.mcp_probe.to_dict() == {"method": "initialize", "http_response": None}


@pytest.mark.parametrize(
    ("method", "status", "body", "verdict"),
    [
        ("initialize", 403, b"forbidden", "invalid"),
        ("initialize", 404, b"nothing here", "unknown"),
        ("initialize", 503, b"later", "unknown"),
        ("initialize", 200, b"<html>", "unknown"),
        ("initialize", 200, b'{"jsonrpc":"2.0","id":1,"error":{"code":-32600,"message":"no"}}', "unknown"),
        ("initialize", 307, b"", "unknown"),
        ("notifications/initialized", 500, b"", "unknown"),
        ("tools/list", 403, b"not the tools", "invalid"),
        ("tools/list", 200, b'{"jsonrpc":"2.0","id":2,"error":{"code":-32000,"message":"no"}}', "unknown"),
        ("tools/list", 200, b'{"jsonrpc":"2.0","id":2,"error":{"code":-32601,"message":"no tools"}}', "valid"),
        ("tools/list", 200, b'{"jsonrpc":"2.0","id":2,"result":{"tools":[]}}', "valid"),
    ],
)
def test_the_step_that_fails_is_named(
    client: anthropic.Anthropic, provider: FakeProvider, method: str, status: int, body: bytes, verdict: str
) -> None:
    provider.accepted = {"canary-access-0"}
    provider.mcp_answer[method] = answers(status, body)
    found = Probe(client, provider).validate()
    assert (found.status, found.refresh) == (verdict, None)
    if verdict == "valid":
        assert found.mcp_probe is None
    else:
        assert found.mcp_probe.method == method
        assert found.mcp_probe.http_response.status_code == status
        assert found.mcp_probe.http_response.body == body.decode()
    assert provider.exchanges == []


def test_an_answer_that_repeats_the_secrets_is_scrubbed(client: anthropic.Anthropic, provider: FakeProvider) -> None:
    def echo(_: object) -> tuple[int, dict[str, str], bytes]:
        exchange = provider.exchanges[-1]
        assert exchange.client is not None
        pair = f"{exchange.client[0]}:canary-client-secret%2F%2B"
        said = {
            "form": exchange.form,
            "authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
            "decoded": exchange.client,
            "escaped": "canary-client-secret%2F%2b",
            "access_token": "canary-half-made",
            "hex": exchange.client[1].encode().hex(),
        }
        return 400, {"content-type": "text/canary-refresh-0"}, json.dumps(said).replace("/", "\\/").encode()

    provider.token_answer = echo
    provider.mcp_answer["initialize"] = lambda token: (401, {}, f"bad token {token}, or {token.upper()[:0]}".encode())
    found = Probe(client, provider).validate()
    shown = found.refresh.http_response
    assert "[redacted]" in shown.body
    assert b"canary-client".hex() not in shown.body
    assert shown.content_type == "text/[redacted]"
    assert found.mcp_probe.http_response.body == "bad token [redacted], or "


def test_a_long_answer_is_cut_and_a_compressed_one_is_left_out(
    client: anthropic.Anthropic, provider: FakeProvider
) -> None:
    provider.mcp_answer["initialize"] = answers(500, b"x" * (1 << 20) + b"canary-access-0")
    found = Probe(client, provider).validate().mcp_probe.http_response
    assert (len(found.body), found.body_truncated) == (2048, True)
    provider.mcp_answer["initialize"] = answers(500, b"canary", content_encoding="gzip")
    found = Probe(client, provider).validate().mcp_probe.http_response
    assert (found.body, found.body_truncated) == ("", True)
