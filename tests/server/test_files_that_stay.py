"""Is whatever an agent has made kept, or its loss told, also where something else fails in between?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from housekit import ALLOW_ALL, DEADLINE, House, open_house
from objectskit import until_kept
from test_budgets import costs, limit
from test_homes_that_move import Hosts, bash, leave, results, said, some_hosts
from test_hosting_patterns import hosted, until_process
from test_permission_modes import LOCAL

from hostler.domain.errors import StoreBusy
from hostler.engine.attachments import Attachments
from hostler.engine.lodging import Lodging
from hostler.engine.outputs import Outputs
from hostler.store import homes
from hostler.testing.rehearsal import gate, step, text, tool

pytestmark = pytest.mark.one_database
OLDER = "older than this conversation"


@pytest_asyncio.fixture
async def kept(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url) as house:
        yield house


@pytest_asyncio.fixture
async def hosts(tmp_path: Path, store_url: str) -> AsyncIterator[Hosts]:
    async with some_hosts(tmp_path, store_url) as opened:
        yield opened


async def with_local_server(house: House, program: str) -> str:
    local = {"name": "notes", "command": "/usr/bin/python3", "args": ["-c", program], "env": {"GREETING": "hello"}}
    tools = [{"type": "mcp_toolset", "mcp_server_name": "notes"}, *ALLOW_ALL]
    return await house.session(tools, extra_body={"local_mcp_servers": [local]})


def asked(house: House) -> list[str]:
    return [str(request.body["messages"]) for request in house.model.requests]


async def test_a_process_that_was_left_half_made_runs_its_calls(kept: House, monkeypatch: pytest.MonkeyPatch) -> None:
    session = await hosted(kept, pattern="long_running")
    await kept.turn(session, bash("echo 1 > count"))
    await leave(kept)
    failed, label = asyncio.Event(), Lodging._label

    async def fails_once(lodging: Lodging, *given: Any) -> None:
        if not failed.is_set():
            failed.set()
            raise StoreBusy("the database is away")
        await label(lodging, *given)

    monkeypatch.setattr(Lodging, "_label", fails_once)
    await kept.start()
    async with asyncio.timeout(DEADLINE):
        await failed.wait()
    assert results(await kept.turn(session, bash("cat count"))) == ["1"]


async def test_what_was_lost_is_told_although_the_first_start_after_it_fails(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = await hosts.host("killed")
    session = await with_local_server(killed, LOCAL)  # with one, a process is not started ahead of its files
    await killed.turn(session, bash("echo 1 > count"))
    await until_kept(killed, session)
    await killed.say(session, [step(tool("bash", command="echo 2 >> count")), step(gate("cut"), text("never"))])
    await killed.model.reached_gate("cut")
    await killed.stop()
    failed, lay_out = [], Attachments.lay_out

    async def fails_once(attachments: Attachments, *given: Any) -> Any:
        if not failed:
            failed.append(True)
            raise OSError("no space left on device")
        return await lay_out(attachments, *given)

    monkeypatch.setattr(Attachments, "lay_out", fails_once)
    other = await hosts.host("other")
    other.model.open_gate("cut")
    await other.until_idle(session)
    await other.until_no_process()
    assert results(await other.turn(session, bash("cat count"))) == ["1"]
    (lost,) = said(await other.events(session), "files_lost")
    assert lost["tool_calls"] == 1
    assert any(OLDER in messages for messages in asked(other))


async def test_the_model_is_told_that_its_files_are_older_whoever_entered_them_first(hosts: Hosts) -> None:
    killed = await hosts.host("killed")
    session = await killed.session()
    await killed.turn(session, bash("echo 1 > count"))
    await until_kept(killed, session)
    hosts.objects.away = True
    await killed.turn(session, bash("echo 2 >> count"))
    await killed.stop()
    hosts.objects.away = False
    other = await hosts.host("other")
    await other.client.post(f"/hostler/v1/sessions/{session}/checkpoints", body={}, cast_to=dict[str, Any])
    await other.until_no_process()
    assert len(said(await other.events(session), "files_lost")) == 1
    assert not any(OLDER in messages for messages in asked(other)[-1:])
    assert results(await other.turn(session, bash("cat count"))) == ["1"]
    assert OLDER in asked(other)[-1]
    await other.turn(session, "Go on.")
    assert asked(other)[-1].count(OLDER) == 1, "it is told once"


async def test_what_was_put_off_for_a_message_is_kept_when_that_comes_to_nothing(kept: House) -> None:
    environment = await kept.environment(hosting={"pattern": "long_running"})
    agent = await kept.client.beta.agents.create(name="Coder", model="claude-opus-5-5", tools=ALLOW_ALL)
    made = await kept.client.beta.sessions.create(agent=agent.id, environment_id=environment, budget=limit(5000))
    session = made.id
    first = [step(tool("bash", command="echo 1 > count")), step(gate("first"), text("Done."), usage=costs(6000))]
    await kept.say(session, first)
    await kept.model.reached_gate("first")
    await kept.say(session, [step("Never.")])
    kept.model.open_gate("first")
    await until_kept(kept, session)
    idle = [event for event in await kept.events(session) if event.type == "session.status_idle"]
    assert idle[-1].stop_reason.type == "budget_reached"


async def test_folders_that_count_are_not_given_up_for_a_snapshot_of_which_nobody_took_note(
    kept: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await kept.session()
    await kept.turn(session, bash("echo 1 > count; (setsid sh -c 'sleep 1; echo 2 >> count' > /dev/null 2>&1 &)"))
    async with asyncio.timeout(DEADLINE):
        while (kept.workspace(session) / "count").read_text() != "1\n2\n":  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    note_kept = homes.note_kept

    def fails(*given: Any) -> None:
        raise StoreBusy("the database is away")

    monkeypatch.setattr(homes, "note_kept", fails)
    client, path = kept.client.with_options(max_retries=0), f"/hostler/v1/sessions/{session}/checkpoints"
    with pytest.raises(anthropic.APIStatusError):
        await client.post(path, body={}, cast_to=dict[str, Any])
    monkeypatch.setattr(homes, "note_kept", note_kept)
    await kept.say(session, [step(tool("bash", command="echo 3 >> count")), step(gate("cut"), text("On."))])
    await kept.model.reached_gate("cut")
    before = len(await kept.events(session))
    await kept.stop()
    kept.model.open_gate("cut")
    await kept.start()
    await kept.until_idle(session, before)
    assert results(await kept.turn(session, bash("cat count"))) == ["1\n2\n3"]
    assert not said(await kept.events(session), "files_lost")


async def test_what_a_local_server_writes_without_a_call_is_kept(hosts: Hosts) -> None:
    old = await hosts.host("old")
    session = await with_local_server(old, f"open('/workspace/lives', 'a').write('x')\n{LOCAL}")
    await old.turn(session, [step("Hello.")])
    await until_process(old, session)
    assert (old.workspace(session) / "lives").read_text() == "x"
    await leave(old)
    new = await hosts.host("new")
    assert results(await new.turn(session, bash("cat lives"))) == ["xx"]


async def test_a_task_does_not_begin_in_the_files_of_the_one_before(
    kept: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await hosted(kept, pattern="ephemeral")
    with monkeypatch.context() as patched:

        async def fails(outputs: Outputs, *given: Any) -> None:
            raise OSError("no space left on device")

        patched.setattr(Outputs, "collect", fails)
        await kept.turn(session, bash("echo secret > file; echo out > /mnt/session/outputs/report"))
        events = await kept.turn(session, bash("ls; echo end"))
        assert (results(events), events[-1].stop_reason.type) == ([], "retries_exhausted")
        error = next(e.error for e in events if e.type == "session.error")
        assert "what the task before has put out can't be taken now" in error.message
        await kept.until_no_process()
    events = await kept.turn(session, bash("ls; echo end"))
    assert results(events)[-1] == "end"
    files = [file.filename async for file in kept.client.beta.files.list(scope_id=session)]
    assert files == ["report"]
