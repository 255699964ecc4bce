"""A server that is killed while a session goes back, or is forked, leaves it at the one point or at the other.

Killed for real, before or after each of the transactions that follow the request. What must hold: conversation, files
and memory are those of the same point, and the session goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import pytest
from housekit import DEADLINE

from hostler.testing.rehearsal import RehearsalModel, prompt, step, tool

SERVER = Path(__file__).with_name("cut_server.py")


@asynccontextmanager
async def server(settings: dict[str, Any], file: Path) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """A server that lives until the block ends, if it was not killed before."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SERVER),
        json.dumps(settings),
        str(file),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE):
            told = json.loads(await process.stdout.readline())
        async with anthropic.AsyncAnthropic(base_url=told["url"], api_key=told["key"], max_retries=0) as client:
            yield client
    finally:
        process.stdin.close()
        async with asyncio.timeout(DEADLINE):
            await process.wait()


async def run(client: anthropic.AsyncAnthropic, session: str, command: str) -> str:
    """What a command says in the session's sandbox."""
    steps = [step(tool("bash", command=command)), step("{{last_tool_result}}")]
    said: Any = {"type": "user.message", "content": [{"type": "text", "text": prompt(steps)}]}
    async with asyncio.timeout(DEADLINE):
        async with await client.beta.sessions.events.stream(session) as stream:
            await client.beta.sessions.events.send(session, events=[said])
            text = ""
            async for event in stream:
                if event.type == "agent.message":
                    text = event.content[0].text
                elif event.type == "session.status_idle":
                    return text.removesuffix("\nShell cwd was reset to /workspace")
    raise AssertionError("unreachable")


async def post(client: anthropic.AsyncAnthropic, path: str, **body: Any) -> dict[str, Any]:
    return await client.post(f"/hostler/v1/sessions/{path}", body=body, cast_to=dict[str, Any])


async def begun(client: anthropic.AsyncAnthropic) -> tuple[str, str]:
    """A session at a second point, and a checkpoint of the first."""
    agent = await client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
    )
    environment = await client.beta.environments.create(name="mine")
    store = await client.beta.memory_stores.create(name="Notes")
    session = await client.beta.sessions.create(
        agent=agent.id,
        environment_id=environment.id,
        resources=[{"type": "memory_store", "memory_store_id": store.id, "access": "read_write"}],
    )
    write = "for f in note.txt /mnt/memory/*; do [ -d $f ] && f=$f/note.md; printf '%s ' {} > $f; done"
    await run(client, session.id, write.replace("{}", "one"))
    point = await post(client, f"{session.id}/checkpoints")
    await run(client, session.id, write.replace("{}", "two"))
    return session.id, str(point["id"])


async def whole(client: anthropic.AsyncAnthropic, model: RehearsalModel, session: str) -> str:
    """At which of the two points the session is; asserts that all of it is there."""
    said = await run(client, session, "cat note.txt /mnt/memory/*/note.md")
    words = json.dumps(model.message_requests[-1].body["messages"])
    told = "two" if "'%s ' two" in words else "one"
    assert said.split() == [told, told], f"the model was told of point {told}, and files and memory say {said!r}"
    return told


async def killed_at(tmp_path: Path, act: str, number: int, when: str) -> bool:
    """One round. False: the request was over before that transaction, so nothing was killed."""
    async with RehearsalModel() as model:
        settings = {
            "state_dir": str(tmp_path / "state"),
            "server__port": 0,
            "model__base_url": model.url,
            "worker__poll_seconds": 0.2,
        }
        file = tmp_path / "die"
        async with server(settings, file) as client:
            session, point = await begun(client)
            fresh = file.with_suffix(".new")
            fresh.write_text(f"{number} {when}")
            fresh.rename(file)  # never half of it
            try:
                if act == "rewind":
                    await post(client, f"{session}/rewind", checkpoint_id=point)
                else:
                    await post(client, f"{session}/fork")
                killed = False
            except anthropic.APIConnectionError:
                killed = True
        file.unlink()
        async with server(settings, file) as client:
            sessions = [one.id async for one in client.beta.sessions.list()]
            points = [await whole(client, model, one) for one in sessions]
            if act == "fork":
                assert set(points) == {"two"}
                assert len(points) in (1, 2)
            elif not killed:
                assert points == ["one"]
            # It can be asked again, whatever became of it.
            await post(client, f"{session}/rewind", checkpoint_id=point)
            assert await whole(client, model, session) == "one"
    return killed


@pytest.mark.parametrize(("act", "number", "when"), [("rewind", 3, "after"), ("fork", 4, "before")])
async def test_a_server_that_is_killed_leaves_the_session_whole(
    tmp_path: Path, act: str, number: int, when: str
) -> None:
    await killed_at(tmp_path, act, number, when)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("act", ["rewind", "fork"])
async def test_killed_at_every_transaction(tmp_path: Path, act: str, when: str) -> None:
    number, killed = 0, True
    while killed:
        number += 1
        print(act, when, number, flush=True)
        folder = tmp_path / str(number)
        folder.mkdir()
        killed = await killed_at(folder, act, number, when)
    assert number > 5
