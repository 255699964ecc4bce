"""T56, B5: every secret of a vault is planted as a canary, everything is driven, and everything is searched."""

from __future__ import annotations

import base64
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from echokit import ECHOES, HOST, Echo, echoing
from housekit import House, custom, open_house, result
from oauthkit import FakeProvider

from hostler import compose
from hostler.domain.ids import new_id
from hostler.sealing import rotation
from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import step, tool

INSIDE = (
    "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null; ls -R /run /mnt /home 2>/dev/null; echo searched"
)


BEGINNING = "canary-"
_OF_THE_TEST = ("anthropic", "httpx", "httpcore", "mcp")
"""Logs of the client and of the MCP server, which are not ours."""


class Canaries:
    """Secrets that occur nowhere else, all with the same beginning: where that isn't, none of them is."""

    def __init__(self) -> None:
        self._planted: list[str] = []
        self._hints = tuple(_forms(BEGINNING))

    def new(self, name: str) -> str:
        made = f"{BEGINNING}{name}-{secrets.token_hex(8)}"
        self._planted.append(made)
        return made

    def take(self, *texts: str) -> None:
        """Secrets that somebody else made up."""
        assert all(text.startswith(BEGINNING) for text in texts)
        self._planted.extend(texts)

    def found_in(self, data: bytes) -> list[str]:
        if not any(hint in data for hint in self._hints):
            return []
        return [secret for secret in self._planted if any(form in data for form in _forms(secret))]

    def found_below(self, folder: Path) -> list[str]:
        """In the files of `folder`. Holes in them are not read: the volume of a session is mostly one."""
        found = []
        for path in folder.rglob("*"):
            try:
                if path.is_file() and not path.is_symlink():
                    found += [f"{secret} in {path}" for piece in _pieces(path) for secret in self.found_in(piece)]
            except OSError:
                continue  # It has gone meanwhile.
        return found


PIECE, OVERLAP = 4 << 20, 4096


def _pieces(path: Path) -> Iterator[bytes]:
    """The data of a file, each piece with the end of the one before it."""
    with path.open("rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                return  # Nothing but a hole is left.
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            while at < end:
                piece = os.pread(file.fileno(), min(PIECE, end - at) + OVERLAP, max(0, at - OVERLAP))
                if not piece:
                    return
                yield piece
                at += PIECE
            at = end


def _forms(secret: str) -> Iterator[bytes]:
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    for offset in range(3):
        text = base64.b64encode(b"\x00" * offset + raw)
        yield text[4 if offset else 0 : -4]


async def test_no_secret_of_a_vault_is_found_anywhere(
    tmp_path: Path, store_url: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    canaries, marker = Canaries(), new_id("marker")
    answers: list[bytes] = []

    async def keep(response: Any) -> None:
        answers.append(await response.aread())

    bundle = tmp_path / "authority.pem"
    private: Any = {"egress__private_allowed": "127.0.0.1", "egress__ca_bundle": str(bundle)}
    with FakeProvider() as provider, echoing() as echo:
        bundle.write_bytes(echo.authority)
        async with open_house(tmp_path, store_url, resolver=echo, **private) as house:
            client = house.new_client(
                http_client=anthropic.DefaultAsyncHttpxClient(event_hooks={"response": [keep]}), max_retries=0
            )
            vault = (await client.beta.vaults.create(display_name=marker)).id
            await _fill(client, vault, provider, canaries)
            await _be_refused(client, vault, canaries)
            used = canaries.new("used")
            session = await _work(house, client, echo, vault, await _variable(client, used))
            assert [got.headers.get("x-token") for got in echo.taken()] == [used] * len(ECHOES)
            processes = _processes()
            assert b"claude" in processes, "the session has its processes still"
            await house.turn(session, [step("Bye.")])
            assert house.hostler is not None
            await _renew(house, client, provider, vault, canaries)
            assert canaries.found_in(b"".join(answers)) == []
            assert canaries.found_in(processes) == []
            assert canaries.found_in(await _all_events(client, session)) == []
            assert canaries.found_in(repr(house.model.requests).encode()) == []
            assert canaries.found_below(tmp_path) == []
    assert canaries.found_below(tmp_path) == []
    logged = [record.__dict__ for record in caplog.records if not record.name.startswith(_OF_THE_TEST)]
    assert canaries.found_in(repr(logged).encode()) == []
    assert "vault_credential.refresh_failed" in caplog.text, "it logged"
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("hostler.db*"))
    if store_url.startswith("postgresql"):
        cluster: PostgresCluster = request.getfixturevalue("server_cluster")
        name = store_url.split("/")[3].split("?")[0]
        kept = cluster.dump(name).encode()
        cluster.sql("CHECKPOINT")
        assert canaries.found_in(kept + cluster.log.encode()) == []
        assert canaries.found_below(cluster.directory) == []
    assert marker.encode() in kept, "the search looks where the data is"
    assert b"hs1.mk_" in kept


async def _fill(client: anthropic.AsyncAnthropic, vault: str, provider: FakeProvider, canaries: Canaries) -> None:
    """Each type with each of its secrets, created, read, changed and listed."""
    of_vault = client.beta.vaults.credentials
    static = {"type": "static_bearer", "mcp_server_url": "https://a.example.com", "token": canaries.new("token")}
    made = await of_vault.create(vault, auth=static)  # type: ignore[arg-type]
    await of_vault.update(made.id, vault_id=vault, auth={"type": "static_bearer", "token": canaries.new("token-2")})
    for number, kind in enumerate(("client_secret_basic", "client_secret_post")):
        oauth: Any = {
            "type": "mcp_oauth",
            "mcp_server_url": f"{provider.mcp_url}?n={number}",
            "access_token": canaries.new("access"),
            "refresh": {
                "client_id": "me",
                "refresh_token": canaries.new("refresh"),
                "token_endpoint": provider.token_url,
                "token_endpoint_auth": {"type": kind, "client_secret": canaries.new("client")},
            },
        }
        made = await of_vault.create(vault, auth=oauth)
        await of_vault.update(
            made.id,
            vault_id=vault,
            auth={
                "type": "mcp_oauth",
                "access_token": canaries.new("access-2"),
                "refresh": {
                    "refresh_token": canaries.new("refresh-2"),
                    "token_endpoint_auth": {"type": "client_secret_post", "client_secret": canaries.new("client-2")},
                },
            },
        )
    other = (await client.beta.vaults.create(display_name="variables")).id
    variable: Any = {
        "type": "environment_variable",
        "secret_name": "TOKEN",
        "secret_value": canaries.new("value"),
        "networking": {"type": "unrestricted"},
    }
    made = await of_vault.create(other, auth=variable)
    value = canaries.new("value-2")
    await of_vault.update(made.id, vault_id=other, auth={"type": "environment_variable", "secret_value": value})
    async for shown in client.beta.vaults.list():
        async for credential in of_vault.list(shown.id, include_archived=True):
            await of_vault.retrieve(credential.id, vault_id=shown.id)


async def _be_refused(client: anthropic.AsyncAnthropic, vault: str, canaries: Canaries) -> None:
    """Requests that carry secrets and go wrong in different places."""
    taken = {"type": "static_bearer", "mcp_server_url": "https://a.example.com", "token": canaries.new("taken")}
    bad: list[Any] = [
        taken,
        {**taken, "token": canaries.new("bad") + "\n"},
        {**taken, "token": [canaries.new("list")]},
        {**taken, "mcp_server_url": f"https://user:{canaries.new('url')}@a.example.com"},
        {**taken, "unknown": canaries.new("unknown")},
        {**taken, "type": "mcp_oauth", "access_token": canaries.new("extra")},
    ]
    for auth in bad:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.beta.vaults.credentials.create(vault, auth=auth)
        assert 400 <= caught.value.status_code < 500


async def _variable(client: anthropic.AsyncAnthropic, value: str) -> str:
    """A vault with a variable for the server that echoes."""
    vault = (await client.beta.vaults.create(display_name="variable")).id
    auth: Any = {
        "type": "environment_variable",
        "secret_name": "USED",
        "secret_value": value,
        "networking": {"type": "limited", "allowed_hosts": [HOST]},
    }
    await client.beta.vaults.credentials.create(vault, auth=auth)
    return vault


async def _work(house: House, client: anthropic.AsyncAnthropic, echo: Echo, *vaults: str) -> str:
    """A session with the vaults: its agent sends the secret to a server that repeats it in every form, keeps what it
    says, looks around inside, then waits with its process for a person."""
    tools = [{"type": "agent_toolset_20260401"}, custom("wait")]
    agent = await client.beta.agents.create(name="A", model="claude-opus-5-5", tools=tools)  # type: ignore[arg-type]
    environment = await house.environment(networking=echo.networking)
    made = await client.beta.sessions.create(agent=agent.id, environment_id=environment, vault_ids=list(vaults))
    urls = " ".join(f"https://{HOST}:{echo.port}/{how}" for how in ECHOES)
    use = f'curl -sSi -H "X-Token: $USED" {urls} | tee said; env > environment; {INSIDE}'
    events = await house.turn(made.id, [step(tool("bash", command=use)), step(tool("wait", q="x")), step("Done.")])
    assert any("hostler_placeholder_" in event.to_json() for event in events if event.type == "agent.tool_result")
    assert any("searched" in event.to_json() for event in events if event.type == "agent.tool_result")
    (waiting,) = [event for event in events if event.type == "agent.custom_tool_use"]
    before = len(await house.events(made.id))
    await house.answer(made.id, result(waiting, "go on"))
    await house.until_idle(made.id, before)
    return made.id


async def _renew(
    house: House, client: anthropic.AsyncAnthropic, provider: FakeProvider, vault: str, canaries: Canaries
) -> None:
    """Validations that fail, repeat what they were sent, and succeed; then a new master key."""
    of_vault = client.beta.vaults.credentials
    oauth = [row async for row in of_vault.list(vault) if row.auth.type == "mcp_oauth"]
    provider.token_answer = lambda exchange: (400, {}, repr((exchange.form, exchange.client)).encode())
    provider.mcp_answer["initialize"] = lambda token: (401, {}, f"not {token}".encode())
    for row in oauth:
        found = await of_vault.mcp_oauth_validate(row.id, vault_id=vault)
        assert found.status == "invalid"
    provider.token_answer = None
    provider.mcp_answer.clear()
    for row, refused in zip(oauth, provider.exchanges[:2], strict=True):
        provider.refresh_token = refused.form["refresh_token"]
        found = await of_vault.mcp_oauth_validate(row.id, vault_id=vault)
        assert found.status == "valid"
    canaries.take("canary-access-3", "canary-access-4", "canary-refresh-3", "canary-refresh-4")
    assert house.hostler is not None
    bearer = await house.hostler.broker.bearer_for("wrkspc_default", [vault], "https://a.example.com/")
    assert bearer is not None
    assert bearer.token.startswith("canary-token-2")
    keys = compose.master_keys(house.hostler.settings)
    assert (await rotation.rotate(house.hostler.database, keys)).rewrapped == 5
    assert await house.hostler.broker.bearer_for("wrkspc_default", [vault], "https://a.example.com/") == bearer


async def _all_events(client: anthropic.AsyncAnthropic, session: str) -> bytes:
    shown = [event.to_json() async for event in client.beta.sessions.events.list(session, limit=1000)]
    shown.append((await client.beta.sessions.retrieve(session)).to_json())
    return "\n".join(shown).encode()


def _processes() -> bytes:
    """Arguments and environment of every process of this machine that we may read."""
    found = b""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            facts = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue  # It has ended, or isn't ours to read.
        found += facts
    return found
