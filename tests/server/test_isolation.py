"""What an environment says about isolation, limits, preset and version, and what becomes of it in its sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from housekit import ALLOW_ALL, House, allow, open_house, types

from hostler.domain.errors import InvalidRequest
from hostler.domain.isolation import Technology
from hostler.engine.sandbox_port import IsolationLabel
from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.one_database


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


# ------------------------------------------------------------------------------------------------------ production

LOCKED = {"presets__production_minimum": "bubblewrap", "presets__production_limits": "any"}
"""Production on whatever host the tests run on."""


class Attacks:
    """What the corpus has shown: to be changed by the test."""

    def __init__(self) -> None:
        self.failures: list[str] | None = []

    def critical_failures(self, technology: Technology, label: IsolationLabel) -> Sequence[str] | None:
        return self.failures


@pytest.fixture
def attacks() -> Attacks:
    return Attacks()


@pytest_asyncio.fixture
async def locked(tmp_path: Path, store_url: str, attacks: Attacks) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url, verified=attacks, **LOCKED) as opened:
        yield opened


async def test_production_asks_about_whatever_writes_whatever_the_agent_says(locked: House) -> None:
    environment = await made(locked, preset="production")
    assert environment.config.model_extra["preset"] == "production"
    session = await begun(locked, environment.id, extra_body={"permission_mode": "bypassPermissions"})
    assert label(session)["preset"] == "production"
    first = await locked.turn(
        session.id,
        [step(tool("glob", pattern="*")), step(tool("bash", command="echo one > /workspace/f")), step("Done.")],
    )
    calls = {event.name: event for event in first if event.type == "agent.tool_use"}
    assert calls["glob"].evaluated_permission == "allow"
    assert calls["bash"].evaluated_permission == "ask"
    assert calls["bash"].evaluation.type == "always_ask"
    assert first[-1].stop_reason.type == "requires_action"
    assert not (locked.workspace(session.id) / "f").exists()

    await locked.answer(session.id, allow(calls["bash"]))
    await locked.until_idle(session.id, len(await locked.events(session.id)))
    after = label(await locked.client.beta.sessions.retrieve(session.id))
    assert (after["preset"], after["sandbox"]["technology"]) == ("production", "bubblewrap")


async def test_the_operator_may_let_the_agents_policies_count(tmp_path: Path, store_url: str) -> None:
    relaxed = {**LOCKED, "presets__production_approvals": "agent", "presets__production_attacks": "any"}
    async with open_house(tmp_path, store_url, presets__default="production", **relaxed) as house:
        session = await begun(house, (await made(house)).id)
        assert label(session)["preset"] == "production"
        events = await house.turn(session.id, [step(tool("bash", command="true")), step("Done.")])
        assert events[-1].stop_reason.type == "end_turn"
        with pytest.raises(anthropic.BadRequestError, match="unrestricted, which the preset production"):
            await house.client.beta.environments.create(name="open")


async def test_production_does_not_start_once_a_critical_attack_has_succeeded(locked: House, attacks: Attacks) -> None:
    environment = await made(locked, preset="production")
    session = await begun(locked, environment.id)
    attacks.failures = ["C5, the metadata address: it answered."]

    with pytest.raises(anthropic.BadRequestError, match="C5, the metadata address") as caught:
        await begun(locked, environment.id)
    assert caught.value.body["error"]["details"]["error_code"] == "isolation_unavailable"  # type: ignore[index]
    # The one that was made before gets no sandbox either, and says why.
    events = await locked.turn(session.id, [step("Hello.")])
    (error,) = [event.error for event in events if event.type == "session.error"]
    assert "C5, the metadata address" in error.message
    assert error.retry_status.type == "exhausted"
    assert label(await locked.client.beta.sessions.retrieve(session.id))["sandbox"] is None
    # Nobody else is kept from working, and neither is this one once the attack fails again.
    open_ = await begun(locked, (await made(locked)).id)
    assert types(await locked.turn(open_.id, [step("Hello.")])).count("agent.message") == 1
    attacks.failures = []
    assert types(await locked.turn(session.id, [step("Hello.")])).count("agent.message") == 1

    attacks.failures = None
    with pytest.raises(anthropic.BadRequestError, match="has not been run against bubblewrap"):
        await made(locked, preset="production")


async def test_production_in_a_self_hosted_environment_reaches_no_host_without_a_list(
    tmp_path: Path, store_url: str, attacks: Attacks
) -> None:
    async with open_house(tmp_path, store_url, verified=attacks, presets__default="production", **LOCKED) as house:
        session, _, _ = await house.self_hosted()
        await house.turn(session, [step(tool("web_fetch", url="http://example.com/", prompt="p")), step("Done.")])
        answer: Any = await house.client.get(f"/hostler/v1/sessions/{session}/egress", cast_to=object)
        assert {row["reason"] for row in answer["data"]} == {"host_not_allowed"}


async def test_updating_an_environment_is_checked_and_a_refused_update_changes_nothing(house: House) -> None:
    environment = await made(house, preset="development", limits={"memory_mb": 512})
    update: Any = {"type": "cloud", "hosting": {"cli_version": "0.0.1"}, "limits": {"memory_mb": 1024}}
    with pytest.raises(anthropic.BadRequestError, match=r"this server has no claude 0\.0\.1"):
        await house.client.beta.environments.update(environment.id, config=update)
    after = await house.client.beta.environments.retrieve(environment.id)
    assert after == environment
    back: Any = {"type": "cloud", "preset": None, "limits": None}
    cleared = await house.client.beta.environments.update(environment.id, config=back)
    assert cleared.config.model_extra is not None
    assert {"preset", "limits"}.isdisjoint(cleared.config.model_extra)


# ------------------------------------------------------------------------------------------------ versions of claude


async def test_an_environment_pins_its_version_of_claude(tmp_path: Path, store_url: str) -> None:
    other = tmp_path / "other"
    other.mkdir()
    program = other / "claude"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "9.9.9 (other)" && exit\necho I am 9.9.9 >&2; exit 7\n')
    program.chmod(0o755)
    async with open_house(tmp_path, store_url, claude__directories=str(other)) as house:
        pinned = await made(house, hosting={"cli_version": "9.9.9"})
        session = await begun(house, pinned.id)
        assert label(session)["cli_version"] == "9.9.9"
        events = await house.turn(session.id, [step("Hello.")])
        assert any("I am 9.9.9" in event.error.message for event in events if event.type == "session.error")

        same = await begun(house, (await made(house, hosting={"cli_version": house.claude_version})).id)
        assert types(await house.turn(same.id, [step("Hello.")])).count("agent.message") == 1
        shown = label(await house.client.beta.sessions.retrieve(same.id))
        assert shown["sandbox"]["cli_version"] == house.claude_version
        with pytest.raises(anthropic.BadRequestError, match=r"no claude 8\.8\.8; it has .*9\.9\.9"):
            await made(house, hosting={"cli_version": "8.8.8"})

        # The operator takes it away: whoever pinned it is told, instead of being moved to another version.
        house.settings["claude__directories"] = ""
        await house.restart()
        events = await house.turn(session.id, [step("Hello.")])
        (error,) = [event.error for event in events if event.type == "session.error"]
        assert "this server has no claude 9.9.9" in error.message
        with pytest.raises(anthropic.BadRequestError, match="no claude 9"):
            await begun(house, pinned.id)


@pytest.mark.parametrize("content", [None, "#!/bin/sh\necho hello\n", "#!/bin/sh\nexit 3\n"])
async def test_a_folder_without_a_claude_keeps_the_server_from_starting(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "claude").write_text(content)
        (tmp_path / "claude").chmod(0o755)
    with pytest.raises(InvalidRequest, match=r"claude\.directories: .*/claude does not say which version"):
        async with open_house(tmp_path, f"sqlite:///{tmp_path / 'x.db'}", claude__directories=str(tmp_path)):
            raise AssertionError("it started")


# ------------------------------------------------------------------------------------------------------ many denials


async def test_a_flood_of_denials_is_told_in_few_events(house: House) -> None:
    session = await begun(house, (await made(house)).id)
    flood = "for n in $(seq 40); do curl -s -o /dev/null http://h$n.example.com/; done"
    events = await house.turn(session.id, [step(tool("bash", command=flood)), step("Done.")])
    told = [event.error.model_extra["hostler"] for event in events if event.type == "session.error"]
    assert [one["type"] for one in told] == ["egress_denied"] * 20 + ["egress_denied_more"]
    assert told[-1]["count"] == 20
    # The next turn begins anew.
    again = await house.turn(session.id, [step(tool("bash", command="curl -s http://h1.example.com/")), step("Done.")])
    assert [e.error.model_extra["hostler"]["host"] for e in again if e.type == "session.error"] == ["h1.example.com"]
