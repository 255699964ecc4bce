"""What an environment says about isolation, limits, preset and version, and what becomes of it in its sessions."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest
from housekit import ALLOW_ALL, House, types

from hostler.testing.rehearsal import step, tool


async def made(house: House, **config: Any) -> Any:
    count = len([e async for e in house.client.beta.environments.list()])
    whole: Any = {"type": "cloud", "networking": {"type": "limited", "allowed_hosts": []}, **config}
    return await house.client.beta.environments.create(name=f"isolated {count}", config=whole)


async def refused(house: House, **config: Any) -> tuple[str, str]:
    """Message and code of the answer to an environment that can't be had."""
    with pytest.raises(anthropic.BadRequestError) as caught:
        await made(house, **config)
    body: Any = caught.value.body
    return body["error"]["message"], (body["error"].get("details") or {}).get("error_code")


async def begun(house: House, environment: str, **agent: Any) -> Any:
    coder = await house.client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", **{"tools": ALLOW_ALL, **agent}
    )
    return await house.client.beta.sessions.create(agent=coder.id, environment_id=environment)


def label(session: Any) -> dict[str, Any]:
    shown: dict[str, Any] = session.model_extra["isolation"]
    return shown


@pytest.mark.endpoint("environments.create", "environments.retrieve", "sessions.create", "sessions.retrieve")
async def test_a_session_says_what_was_promised_and_what_it_runs_in(house: House) -> None:
    environment = await made(house, isolation={"technology": "bubblewrap"}, limits={"memory_mb": 1024, "pids": 128})
    read = await house.client.beta.environments.retrieve(environment.id)
    assert read.config.model_extra["isolation"] == {"technology": "bubblewrap"}

    session = await begun(house, environment.id)
    assert label(session) == {
        "preset": "development",
        "networking": "limited",
        "technology": "bubblewrap",
        "cli_version": None,
        "sandbox": None,
        "earlier": [],
    }
    await house.turn(session.id, [step(tool("bash", command="true")), step("Done.")])
    after = label(await house.client.beta.sessions.retrieve(session.id))
    assert after["sandbox"]["technology"] == "bubblewrap"
    assert after["sandbox"]["cli_version"] == house.claude_version
    assert [label(s)["sandbox"] async for s in house.client.beta.sessions.list()] == [after["sandbox"]]


async def test_a_denial_is_an_event_with_its_reason_and_the_rule_that_would_allow_it(house: House) -> None:
    session = await begun(house, (await made(house)).id)
    ask = "for n in 1 2 3; do curl -s -o /dev/null http://api.example.com/; done"
    events = await house.turn(session.id, [step(tool("bash", command=ask)), step("Done.")])

    told = [event.error for event in events if event.type == "session.error"]
    assert [error.type for error in told] == ["unknown_error", "unknown_error"]
    first, rest = (error.model_extra["hostler"] for error in told)
    assert first["type"] == "egress_denied"
    assert (first["host"], first["port"], first["reason"]) == ("api.example.com", 80, "host_not_allowed")
    assert first["allow"] == {"allowed_hosts": ["api.example.com"]}
    assert "api.example.com" in told[0].message
    assert (rest["type"], rest["count"]) == ("egress_denied_more", 2)
    order = types(events)
    assert order.index("session.error") < order.index("agent.tool_result")
    assert order[-1] == "session.status_idle"
