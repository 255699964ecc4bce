"""What stays of a session between two turns, in an environment of each hosting pattern?"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from hookkit import own
from housekit import ASK_FOR_BASH, DEADLINE, House, allow, open_house, types
from test_homes_that_move import bash, leave, results, said

from hostler.testing.rehearsal import gate, step, text, tool


@pytest_asyncio.fixture
async def kept(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    """A house whose sessions are kept beyond their process."""
    async with open_house(tmp_path, store_url, turns__health_seconds=0.2) as house:
        yield house


async def hosted(house: House, tools: list[Any] | None = None, limits: Any = None, **hosting: Any) -> str:
    """A session of a new environment with this hosting."""
    more = {} if limits is None else {"limits": limits}
    environment = await house.environment(hosting=hosting, **more)
    agent = await house.client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=tools or [{"type": "agent_toolset_20260401"}]
    )
    return (await house.client.beta.sessions.create(agent=agent.id, environment_id=environment)).id


def asked(house: House) -> list[str]:
    """What the model was sent, request for request."""
    return [str(request.body["messages"]) for request in house.model.requests]


def replaced(events: list[Any]) -> list[str]:
    return [told["reason"] for told in said(events, "process_replaced")]


def process_of(house: House, session: str) -> Any:
    assert house.hostler is not None
    runner = house.hostler.worker._runners.get(session)
    return None if runner is None else runner._lodging.process


async def until_process(house: House, session: str, other_than: Any = None) -> Any:
    async with asyncio.timeout(DEADLINE):
        while (found := process_of(house, session)) in (None, other_than):  # noqa: ASYNC110 - nobody announces one
            await asyncio.sleep(0.01)
    return found


# ------------------------------------------------------------------------------------------------ ephemeral


async def test_nothing_but_events_outputs_and_the_bill_stays_of_an_ephemeral_task(kept: House) -> None:
    session = await hosted(kept, pattern="ephemeral")
    made = "echo secret > kept; cd /mnt/session/outputs; echo out > report.txt; ln -s report.txt link"
    await kept.turn(session, bash(made))
    await kept.until_no_process()
    (lost,) = said(await kept.events(session), "outputs_left_out")
    assert lost["reasons"] == {"not_a_regular_file": 1}
    state = Path(kept.settings["state_dir"])
    assert not named_after(session, state)
    files = [file async for file in kept.client.beta.files.list(scope_id=session)]
    assert [file.filename for file in files] == ["report.txt"]
    assert (await kept.client.beta.sessions.retrieve(session)).usage.input_tokens

    events = await kept.turn(session, bash("ls -A /workspace /mnt/session/outputs; echo end"))
    assert "kept" not in results(events)[0]
    assert "report.txt" not in results(events)[0]
    assert "echo secret" not in asked(kept)[-1], "the conversation began anew"
    assert len(said(events, "began_anew")) == 1
    assert types(events)[:2].count("session.error") == 0, "it is said within the turn"
    assert len(await kept.events(session)) > len(events)


@pytest.mark.one_database
async def test_the_first_task_of_an_ephemeral_session_says_nothing_of_earlier_ones(kept: House) -> None:
    session = await hosted(kept, pattern="ephemeral")
    assert not said(await kept.turn(session, [step("Hello.")]), "began_anew")
    with pytest.raises(anthropic.BadRequestError, match="nothing to compact between two"):
        await own(kept, "POST", f"/sessions/{session}/compact", {})


@pytest.mark.one_database
async def test_messages_that_waited_are_tasks_of_their_own(kept: House) -> None:
    session = await hosted(kept, pattern="ephemeral")
    await kept.say(session, [step(tool("bash", command="echo 1 > file"), gate("busy")), step("One.")])
    await kept.model.reached_gate("busy")
    await kept.say(session, bash("ls -A; echo end"))
    kept.model.open_gate("busy")
    async with asyncio.timeout(DEADLINE):
        while len(results(await kept.events(session))) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    events = await kept.until_idle(session)
    assert results(events)[-1] == "end"
    assert len(said(events, "began_anew")) == 1


@pytest.mark.one_database
async def test_an_ephemeral_task_that_waits_for_a_person_keeps_what_it_has_until_it_ends(kept: House) -> None:
    session = await hosted(kept, ASK_FOR_BASH, pattern="ephemeral")
    await kept.turn(session, [step(tool("write", file_path="/workspace/plan", content="the plan")), *bash("cat plan")])
    await leave(kept)
    await kept.start()
    call = next(e for e in await kept.events(session) if e.type == "agent.tool_use" and e.name == "bash")
    before = len(await kept.events(session))
    await kept.answer(session, allow(call))
    events = await kept.until_idle(session, before)
    assert results(events) == ["the plan"]
    events = await kept.turn(session, [step(tool("glob", pattern="**/*")), step("Done.")])
    assert "plan" not in results(events)[0]


@pytest.mark.parametrize("how", ["interrupted", "archived"])
async def test_nothing_is_left_of_an_ephemeral_task_that_somebody_ends_while_it_waits(kept: House, how: str) -> None:
    session = await hosted(kept, ASK_FOR_BASH, pattern="ephemeral")
    written = step(tool("write", file_path="/workspace/plan", content="the plan"))
    await kept.turn(session, [written, *bash("cp plan /mnt/session/outputs; echo")])
    await kept.until_no_process()
    state = Path(kept.settings["state_dir"])
    assert named_after(session, state), "it waits, so its files are kept"
    if how == "interrupted":
        await kept.answer(session, {"type": "user.interrupt"})
    else:
        await kept.client.beta.sessions.archive(session)
    async with asyncio.timeout(DEADLINE):
        while named_after(session, state):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.05)
    assert not said(await kept.events(session), "began_anew"), "that is for the next task to say"
    assert (await kept.client.beta.sessions.retrieve(session)).status == (
        "idle" if how == "interrupted" else "terminated"
    )


async def test_a_task_whose_end_was_cut_off_is_ended_before_the_next_one(kept: House) -> None:
    session = await hosted(kept, pattern="ephemeral")
    await kept.say(session, [step(tool("bash", command="echo 1 > file")), step(gate("cut"), text("One."))])
    await kept.model.reached_gate("cut")
    await kept.stop()
    kept.model.open_gate("cut")
    await kept.start()
    await kept.until_idle(session)
    events = await kept.turn(session, bash("ls -A; echo end"))
    assert results(events) == ["end"]


# ------------------------------------------------------------------------------------------------ long-running


async def test_a_long_running_process_stays_and_is_there_again_after_a_restart_without_a_message(kept: House) -> None:
    session = await hosted(kept, pattern="long_running")
    await kept.turn(session, bash("echo 1 > count; (setsid sleep 1000 > /dev/null 2>&1 &)"))
    first = await until_process(kept, session)
    events = await kept.turn(session, bash("ps -C sleep -o comm= || pgrep -l sleep"))
    assert "sleep" in results(events)[0]
    assert process_of(kept, session) is first
    await leave(kept)
    await kept.start()
    await until_process(kept, session)
    requests = len(kept.model.requests)
    events = await kept.turn(session, bash("cat count"))
    assert results(events) == ["1"]
    assert "echo 1 > count" in asked(kept)[requests], "the conversation went on"
    await kept.client.beta.sessions.archive(session)
    await kept.until_no_process()


@pytest.mark.one_database
async def test_a_long_running_session_that_waits_for_a_person_holds_no_process(kept: House) -> None:
    session = await hosted(kept, ASK_FOR_BASH, pattern="long_running")
    events = await kept.turn(session, bash("echo yes"))
    await kept.until_no_process()
    before = len(await kept.events(session))
    await kept.answer(session, allow(next(e for e in events if e.type == "agent.tool_use")))
    await kept.until_idle(session, before)
    await until_process(kept, session)


@pytest.mark.one_database
async def test_a_hung_process_is_replaced_and_the_conversation_goes_on(
    kept: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await hosted(kept, pattern="long_running")
    await kept.turn(session, bash("echo 1 > count"))
    first = await until_process(kept, session)
    harness = claude_in(first.sandbox.sandbox_id)
    with monkeypatch.context() as patched:
        patched.setattr("hostler.engine.health.ANSWER_SECONDS", 1.0)  # not for the process that comes next
        async with asyncio.timeout(DEADLINE):
            while process_of(kept, session) is first:
                with suppress(ProcessLookupError):
                    os.kill(harness, signal.SIGSTOP)  # again and again: taking a snapshot lets it go on
                await asyncio.sleep(0.01)
    await until_process(kept, session)
    requests = len(kept.model.requests)
    events = await kept.turn(session, bash("cat count"))
    assert results(events) == ["1"]
    assert replaced(events) == ["hung"]
    assert "echo 1 > count" in asked(kept)[requests]


@pytest.mark.one_database
async def test_a_process_that_needs_almost_all_its_memory_is_replaced(kept: House) -> None:
    session = await hosted(kept, pattern="long_running", limits={"memory_mb": 768})
    hold = "python3 -c \"import time; x = b'x' * (600 << 20); print('held', flush=True); time.sleep(1000)\""
    command = (
        f"(setsid {hold} > held 2>&1 &); for i in $(seq 400); do grep -qs held held && break; sleep 0.1; done; cat held"
    )
    events = await kept.turn(session, bash(command))
    assert results(events) == ["held"]
    events = await kept.turn(session, bash("pgrep -c python3 || true"))
    assert replaced(events) == ["memory"]
    assert results(events) == ["0"]


def claude_in(sandbox_id: str) -> int:
    """The process of `claude` in a sandbox, as the host numbers it."""
    for folder, _, files in os.walk("/sys/fs/cgroup"):  # others come and go meanwhile
        if sandbox_id in folder and "cgroup.procs" in files:
            with suppress(OSError):
                for pid in (Path(folder) / "cgroup.procs").read_text().split():
                    if Path(f"/proc/{pid}/comm").read_text().strip() == "claude":
                        return int(pid)
    raise AssertionError("no claude")


def named_after(session: str, state: Path) -> list[str]:
    """What is there of a session, while it is being removed."""
    return [name for _, folders, files in os.walk(state) for name in (*folders, *files) if session in name]


# ------------------------------------------------------------------------------------------------ idle


@pytest.mark.one_database
async def test_a_program_that_was_left_running_keeps_an_idle_session_awake_until_it_ends(kept: House) -> None:
    session = await hosted(kept, pattern="hybrid", idle_timeout_seconds=1)
    await kept.turn(session, bash("(setsid sh -c 'until [ -e stop ]; do sleep 0.1; done' > /dev/null 2>&1 &); echo on"))
    process = await until_process(kept, session)
    kept.workspace(session)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await kept.until_no_process()
    assert process_of(kept, session) is process
    (kept.workspace(session) / "stop").touch()
    await kept.until_no_process()


# ------------------------------------------------------------------------------------------------ the wire


async def test_a_pattern_is_shown_changed_and_taken_back(kept: House) -> None:
    id_ = await kept.environment(hosting={"pattern": "long_running"})
    environment = await kept.client.beta.environments.retrieve(id_)
    assert environment.config.model_extra is not None
    assert environment.config.model_extra["hosting"] == {"pattern": "long_running"}
    back: Any = {"type": "cloud", "hosting": {"pattern": None}}
    changed = await kept.client.beta.environments.update(id_, config=back)
    assert changed.config.model_extra is not None
    assert "hosting" not in changed.config.model_extra


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("hosting", "said_"),
    [
        ({"pattern": "forever"}, "hosting.pattern"),
        ({"pattern": "ephemeral", "idle_timeout_seconds": 5}, "idle_timeout_seconds means nothing"),
        ({"pattern": "long_running", "idle_timeout_seconds": 5}, "idle_timeout_seconds means nothing"),
    ],
)
async def test_a_pattern_that_can_not_be_is_refused(kept: House, hosting: Any, said_: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=said_):
        await kept.environment(hosting=hosting)
    id_ = await kept.environment(hosting={"idle_timeout_seconds": 5, "pattern": None})
    update: Any = {"type": "cloud", "hosting": {"pattern": hosting["pattern"]}}
    with pytest.raises(anthropic.BadRequestError, match=said_):
        await kept.client.beta.environments.update(id_, config=update)


# ------------------------------------------------------------------------------------------------ versions


@pytest.mark.slow
async def test_a_live_session_moves_to_another_version_of_claude_and_back(tmp_path: Path, store_url: str) -> None:
    async with open_house(tmp_path, store_url) as first:
        bundled = first.claude_version
    from hostler.harness.claude import ClaudeHarness

    other = f"{bundled.rpartition('.')[0]}.{int(bundled.rpartition('.')[2]) - 1}"
    assert len(other) == len(bundled)
    program = tmp_path / "other" / "claude"
    program.parent.mkdir()
    program.write_bytes(ClaudeHarness().program.read_bytes().replace(bundled.encode(), other.encode()))
    program.chmod(0o755)
    async with open_house(
        tmp_path,
        store_url,
        claude__directories=str(program.parent),
    ) as house:
        house.secret = first.secret
        environment = await house.environment(hosting={"pattern": "hybrid"})
        agent = await house.client.beta.agents.create(
            name="A", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
        )
        session = (await house.client.beta.sessions.create(agent=agent.id, environment_id=environment)).id
        await house.turn(session, bash("echo 1 > count"))
        for wanted in (other, None):
            update: Any = {"type": "cloud", "hosting": {"cli_version": wanted}}
            await house.client.beta.environments.update(environment, config=update)
            requests = len(house.model.requests)
            events = await house.turn(session, bash("cat count"))
            assert results(events) == ["1"]
            shown = (await house.client.beta.sessions.retrieve(session)).model_extra
            assert shown is not None
            assert shown["isolation"]["sandbox"]["cli_version"] == (wanted or bundled)
            assert "echo 1 > count" in asked(house)[requests]
