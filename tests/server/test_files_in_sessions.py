"""Files of a session: mounted read-only, put out after a turn, kept over a restart, gone with the session."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from housekit import DEADLINE, House

from hostler.testing.rehearsal import step, tool


async def upload(house: House, name: str, content: bytes, kind: str = "text/plain") -> str:
    return (await house.client.beta.files.upload(file=(name, content, kind))).id


async def session_with(house: House, *resources: dict[str, Any]) -> str:
    agent = await house.client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
    )
    made = await house.client.beta.sessions.create(
        agent=agent.id, environment_id=await house.environment(), resources=list(resources)  # type: ignore[arg-type]
    )  # fmt: skip
    return made.id


async def outputs(house: House, session: str, wanted: set[str], but: str = "") -> dict[str, Any]:
    """The downloadable files of a session by name, once they are these, and none has the id `but`."""
    async with asyncio.timeout(DEADLINE):
        while True:
            listed = await house.client.beta.files.list(scope_id=session, limit=1000)
            found = {file.filename: file for file in listed.data if file.downloadable}
            if set(found) == wanted and but not in {file.id for file in found.values()}:
                return found
            await asyncio.sleep(0.02)


def results(events: list[Any]) -> list[str]:
    return [event.content[0].text for event in events if event.type == "agent.tool_result"]


def bash(command: str) -> list[Any]:
    return [step(tool("bash", command=command)), step("Done.")]


@pytest.mark.endpoint(
    "files.upload", "files.list", "files.download", "sessions.resources.list", "sessions.resources.retrieve"
)
async def test_session_reads_an_upload_and_puts_a_file_out_also_after_a_restart(house: House) -> None:
    uploaded = await upload(house, "notes.txt", b"the secret number is 42\n")
    session = await session_with(house, {"type": "file", "file_id": uploaded})
    (resource,) = (await house.client.beta.sessions.retrieve(session)).resources
    assert resource.type == "file"
    assert resource.file_id != uploaded
    assert resource.mount_path == f"/mnt/session/uploads/{resource.file_id}"
    command = f"cp {resource.mount_path} /mnt/session/outputs/copy.txt; cat {resource.mount_path}"
    events = await house.turn(session, bash(command))
    assert "the secret number is 42" in results(events)[0]
    found = await outputs(house, session, {"copy.txt"})
    content = await house.client.beta.files.download(found["copy.txt"].id)
    assert await content.read() == b"the secret number is 42\n"
    assert found["copy.txt"].scope.id == session

    await house.restart()
    events = await house.turn(session, bash(f"echo more >> /mnt/session/outputs/copy.txt; cat {resource.mount_path}"))
    assert "the secret number is 42" in results(events)[0]
    again = await outputs(house, session, {"copy.txt"}, but=found["copy.txt"].id)
    content = await house.client.beta.files.download(again["copy.txt"].id)
    assert await content.read() == b"the secret number is 42\nmore\n"

    await house.client.beta.sessions.delete(session)
    assert [file.id for file in (await house.client.beta.files.list()).data] == [uploaded]
