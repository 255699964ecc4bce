"""Variables of vaults in real sessions: `curl` in a sandbox, through the road, to a server that repeats everything."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from echokit import ECHOES, HOST, OTHER, Echo, echoing
from housekit import ALLOW_ALL, House, open_house

from hostler.engine.placeholders import PLACEHOLDER
from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.one_database

SECRET = 'canary-/+"<&>~=9'


@pytest.fixture
def echo() -> Iterator[Echo]:
    with echoing() as running:
        yield running


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str, echo: Echo) -> AsyncIterator[House]:
    bundle = tmp_path / "authority.pem"
    bundle.write_bytes(echo.authority)
    settings: Any = {"egress__private_allowed": ["127.0.0.1"], "egress__ca_bundle": str(bundle)}
    async with open_house(tmp_path, store_url, resolver=echo, **settings) as opened:
        yield opened


async def credential(house: House, vault: str, name: str = "TOKEN", **auth: Any) -> str:
    body: Any = {
        "type": "environment_variable",
        "secret_name": name,
        "secret_value": SECRET,
        "networking": {"type": "limited", "allowed_hosts": [HOST]},
        **auth,
    }
    return (await house.client.beta.vaults.credentials.create(vault, auth=body)).id


async def session(house: House, echo: Echo, *vaults: str, **networking: Any) -> str:
    agent = await house.client.beta.agents.create(name="A", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await house.environment(networking={**echo.networking, **networking})
    made = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment, vault_ids=list(vaults))
    return made.id


async def ran(house: House, session: str, command: str) -> str:
    """What a command prints in the session's sandbox."""
    events = await house.turn(session, [step(tool("bash", command=command)), step("Done.")])
    (result,) = [event for event in events if event.type == "agent.tool_result"]
    return str(result.content[0].text)


async def uses(house: House, session: str) -> list[tuple[str, str, str, str]]:
    shown: Any = await house.client.get(f"/hostler/v1/sessions/{session}/credential_uses", cast_to=object)
    return [(row["method"], row["host"], row["place"], row["outcome"]) for row in shown["data"]][::-1]


async def test_a_program_uses_a_secret_that_it_never_has(house: House, echo: Echo) -> None:
    vault = (await house.client.beta.vaults.create(display_name="v")).id
    key = await credential(house, vault)
    made = await session(house, echo, vault)
    url = f"https://{HOST}:{echo.port}"
    forms = [*ECHOES, "redirect", "error", "gzip", "deflate", "dripping"]
    asked = " ".join(f"{url}/{how}" for how in forms)
    said = await ran(house, made, f'echo $TOKEN; curl -sSi -H "X-Token: $TOKEN" {asked}')
    (placeholder,) = set(PLACEHOLDER.findall(said.encode()))
    assert [got.headers["x-token"] for got in echo.taken()] == [SECRET] * len(forms), "the server got the secret"
    for form in (*(make(SECRET.encode()) for make in ECHOES.values()), SECRET.encode()):
        assert form not in said.encode()
    assert said.count(placeholder.decode()) >= len(forms)
    assert await uses(house, made) == [("GET", HOST, "header", "substituted")] * len(forms)

    said = await ran(house, made, f'curl -sS -u me:$TOKEN {url}/headers; curl -sS {url}/plain -d "t=$TOKEN&u=1"')
    basic, posted = echo.taken()
    assert base64.b64decode(basic.headers["authorization"].split()[1]).decode() == f"me:{SECRET}"
    assert base64.b64encode(b"me:" + placeholder).decode() in said
    assert posted.body.startswith(b"t=canary-%2F%2B%22")
    assert posted.headers["content-length"] == str(len(posted.body)), "a short body tells its length"
    assert "canary-" not in said

    other = await ran(
        house,
        made,
        f'curl -sS -H "X-Token: $TOKEN" http://{OTHER}:{echo.plain_port}/plain; '
        f'curl -sS "{url}/plain?t=$TOKEN"; curl -sS http://{OTHER}:{echo.plain_port}/ -F "t=$TOKEN"',
    )
    header, query, form = echo.taken()
    assert header.headers["x-token"].encode() == placeholder
    assert placeholder.decode() in query.path
    assert placeholder in form.body
    assert "canary" not in other
    seen = (await uses(house, made))[-4:]
    assert seen[-2:] == [("GET", OTHER, "header", "host_not_allowed"), ("GET", HOST, "url", "place_not_allowed")]

    refused = await ran(house, made, f'curl -sS -H "X-Token: $TOKEN" {url}/br')
    assert "answer_unreadable" in refused
    assert "canary" not in refused

    update: Any = {"type": "environment_variable", "secret_value": "canary-second"}
    await house.client.beta.vaults.credentials.update(key, vault_id=vault, auth=update)
    echo.taken()
    said = await ran(house, made, f'echo $TOKEN; curl -sS -H "X-Token: $TOKEN" {url}/plain')
    assert said.split() == [placeholder.decode()] * 2, "the placeholder stays"
    assert [got.headers["x-token"] for got in echo.taken()] == ["canary-second"]
    await house.client.beta.vaults.credentials.archive(key, vault_id=vault)
    plain = f"http://{HOST}:{echo.plain_port}/plain"
    said = await ran(house, made, f'echo "[$TOKEN]"; curl -sS -H "X-Token: {placeholder.decode()}" {plain}')
    assert said.startswith("[]"), "a new process no longer has it"
    assert [got.headers["x-token"].encode() for got in echo.taken()] == [placeholder]


async def test_scope_and_plain_http_are_refused_with_a_way_out(house: House, echo: Echo) -> None:
    vault = (await house.client.beta.vaults.create(display_name="v")).id
    await credential(house, vault, scope={"type": "workspace", "access": "read"})
    await credential(house, vault, "HIDDEN", scope={"type": "session", "session_ids": ["sesn_other"]})
    made = await session(house, echo, vault)
    url = f"https://{HOST}:{echo.port}"
    said = await ran(house, made, f'echo "[$HIDDEN]"; curl -sS -X DELETE -H "X-Token: $TOKEN" {url}/plain')
    assert said.startswith("[]")
    assert "secret_read_only" in said
    assert "read_write" in said
    assert echo.taken() == []
    said = await ran(house, made, f'curl -sS -H "X-Token: $TOKEN" http://{HOST}:{echo.plain_port}/plain')
    assert [got.headers["x-token"] for got in echo.taken()] == [SECRET], "this address is the operator's own"
    assert await uses(house, made) == [
        ("DELETE", HOST, "header", "read_only"),
        ("GET", HOST, "header", "substituted"),
    ]
    options: Any = {"params": {"session_id": made, "kind": ["credential"]}}
    audit: Any = await house.client.get("/hostler/v1/audit", cast_to=object, options=options)
    assert sum(entry["details"]["rows"] for entry in audit["data"]) == 2
    assert {entry["actor"]["id"] for entry in audit["data"]} == {made}


async def test_git_clones_with_a_token_that_it_does_not_have(house: House, echo: Echo) -> None:
    vault = (await house.client.beta.vaults.create(display_name="v")).id
    await credential(house, vault)
    made = await session(house, echo, vault)
    said = await ran(house, made, f"git ls-remote https://x:$TOKEN@{HOST}:{echo.port}/private.git")
    assert "refs/heads/main" in said
    asked, allowed = echo.taken()
    assert "authorization" not in asked.headers
    assert base64.b64decode(allowed.headers["authorization"].split()[1]).decode() == f"x:{SECRET}"


async def test_what_came_in_by_another_way_is_not_recorded_either(house: House, echo: Echo) -> None:
    vault = (await house.client.beta.vaults.create(display_name="v")).id
    await credential(house, vault)
    made = await session(house, echo, vault)
    form = base64.b64encode(b"k" + SECRET.encode()).decode()
    command = f"echo '{SECRET}' {form}; echo '{SECRET}' > kept; cat kept"
    events = await house.turn(made, [step(tool("bash", command=command)), step(f"It is {SECRET}.")])
    of_agent = [event.to_json() for event in events if event.type.startswith("agent.")]
    assert len(of_agent) == 3
    assert all("hostler_placeholder_" in text and "canary-" not in text and form[6:-6] not in text for text in of_agent)


async def test_a_host_that_the_environment_forbids_is_told(house: House, echo: Echo) -> None:
    vault = (await house.client.beta.vaults.create(display_name="v")).id
    key = await credential(house, vault, networking={"type": "limited", "allowed_hosts": ["api.nowhere.example"]})
    made = await session(house, echo, vault)
    assert "hostler_placeholder_" in await ran(house, made, "echo $TOKEN")
    await ran(house, made, "echo again")
    (error,) = [event.error for event in await house.events(made) if event.type == "session.error"]
    assert (error.type, error.credential_id, error.vault_id) == ("credential_host_unreachable_error", key, vault)
    assert "api.nowhere.example" in error.message


async def test_sessions_without_variables_have_no_authority(tmp_path: Path, store_url: str, echo: Echo) -> None:
    async with open_house(tmp_path, store_url, resolver=echo) as house:
        vault = (await house.client.beta.vaults.create(display_name="v")).id
        bearer: Any = {"type": "static_bearer", "mcp_server_url": f"https://{HOST}/mcp", "token": "canary-bearer"}
        await house.client.beta.vaults.credentials.create(vault, auth=bearer)
        made = await session(house, echo, vault)
        said = await ran(house, made, "env | grep -c -e CA_BUNDLE -e SSL_CERT_FILE; ls /opt/hostler")
        assert said.split() == ["0", "claude"]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_a_name_that_steers_programs_is_refused(house: House) -> None:
    vault = (await house.client.beta.vaults.create(display_name="v")).id
    for name in ("PATH", "LD_PRELOAD", "HTTPS_PROXY", "ANTHROPIC_BASE_URL", "NODE_EXTRA_CA_CERTS"):
        with pytest.raises(anthropic.BadRequestError, match=f"{name} steers"):
            await credential(house, vault, name)
