"""Skills as an agent has them: read, run, never written; kept at their version, whatever becomes of them later."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import anthropic
import pytest
from housekit import ALLOW_ALL, DEADLINE, House, open_house
from workerkit import official_worker, served_turn

from hostler.engine.mounted_skills import MountedSkills
from hostler.store.blobs import Blobs
from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.one_database

PROGRAM = b"#!/bin/sh\necho AVE $1\n"


def skill_files(name: str = "latin-greetings", says: bytes = b"AVE") -> list[tuple[str, bytes]]:
    text = f"---\nname: {name}\ndescription: Greets in Latin. Use it for every greeting.\n---\nRun bin/greet NAME.\n"
    return [(f"{name}/SKILL.md", text.encode()), (f"{name}/bin/greet", PROGRAM.replace(b"AVE", says))]


async def upload(house: House, name: str = "latin-greetings", says: bytes = b"AVE") -> Any:
    return await house.client.beta.skills.create(files=skill_files(name, says))


def custom(skill: Any, version: str | None = None) -> Any:
    return {"type": "custom", "skill_id": skill.id, **({} if version is None else {"version": version})}


async def bash(house: House, session: str, command: str) -> str:
    """Run a command by the agent; what it said."""
    events = await house.turn(session, [step(tool("bash", command=command)), step("Done.")])
    said = next(e for e in events if e.type == "agent.tool_result")
    return "".join(block.text for block in said.content or ())


def system(house: House) -> str:
    """What the model was told at last."""
    return str(house.model.message_requests[-1].body["system"])


def state(house: House, *parts: str) -> Path:
    return Path(house.settings["state_dir"]).joinpath(*parts)


@pytest.mark.endpoint("skills.create", "agents.create", "sessions.create")
async def test_agent_reads_its_skill_and_runs_the_program(house: House) -> None:
    skill, other = await upload(house), await upload(house, "other")
    session = await house.session(skills=[custom(skill), custom(other)])
    place = "/mnt/skills/latin-greetings"
    events = await house.turn(
        session,
        [
            step(tool("read", file_path=f"{place}/SKILL.md")),
            step(tool("bash", command=f"{place}/bin/greet Brute")),
            step("They say: {{last_tool_result}}"),
        ],
    )
    results = ["".join(block.text for block in e.content) for e in events if e.type == "agent.tool_result"]
    assert "Run bin/greet NAME." in results[0]
    assert results[1] == "AVE Brute"
    for words in (f"{place}/SKILL.md", "Greets in Latin. Use it for every greeting.", "/mnt/skills/other/SKILL.md"):
        assert words in system(house)
    said = await bash(house, session, f"cd {place}; touch x; rm -r bin; mkdir ../new; ls -R .")
    assert said.count("Read-only file system") == 3
    assert "./bin:\ngreet" in said
    shown = (await house.client.beta.sessions.retrieve(session)).agent.skills
    assert [one.version for one in shown] == [skill.latest_version_id, other.latest_version_id]


async def test_session_without_skills_hears_nothing_of_them(house: House) -> None:
    session = await house.session()
    assert "No such file" in await bash(house, session, "ls /mnt/skills")
    assert "# Skills" not in system(house)


async def test_nothing_else_is_mounted_where_skills_are(house: House) -> None:
    agent = await house.client.beta.agents.create(name="a", model="claude-opus-5-5")
    uploaded = await house.client.beta.files.upload(file=("x", b"x"))
    with pytest.raises(anthropic.BadRequestError, match="mount_path: lies in a place"):
        await house.client.beta.sessions.create(
            agent=agent.id,
            environment_id=await house.environment(),
            resources=[{"type": "file", "file_id": uploaded.id, "mount_path": "/mnt/skills/x/SKILL.md"}],
        )


@pytest.mark.endpoint("skills.delete", "skills.versions.delete", "skills.versions.create")
async def test_session_keeps_its_version_when_it_is_replaced_and_when_it_is_deleted(house: House) -> None:
    skill, beta = await upload(house), house.client.beta
    agent = await beta.agents.create(name="a", model="claude-opus-5-5", tools=ALLOW_ALL, skills=[custom(skill)])
    environment = await house.environment()
    old = (await beta.sessions.create(agent=agent.id, environment_id=environment)).id
    greet = "/mnt/skills/latin-greetings/bin/greet X"
    assert await bash(house, old, greet) == "AVE X"
    newer = await beta.skills.versions.create(skill.id, files=skill_files(says=b"SALVE"))
    overridden: Any = {"type": "agent_with_overrides", "id": agent.id, "skills": [custom(skill)]}
    new = await beta.sessions.create(agent=overridden, environment_id=environment)
    assert new.agent.skills[0].version == newer.id
    assert (await bash(house, old, greet), await bash(house, new.id, greet)) == ("AVE X", "SALVE X")

    await beta.skills.versions.delete(skill.latest_version_id, skill_id=skill.id)
    with pytest.raises(anthropic.BadRequestError, match="was deleted") as refused:
        await beta.sessions.create(agent=agent.id, environment_id=environment)
    assert "skill_not_found" in str(refused.value.body)
    await beta.skills.delete(skill.id)
    unused, kept = await upload(house, "unused"), await upload(house, "kept")
    blobs = {}
    for one in (unused, kept):
        archive = await (await beta.skills.versions.download("latest", skill_id=one.id)).read()
        blobs[one.id] = hashlib.sha256(archive).hexdigest()
    await beta.skills.delete(unused.id)
    for blob in state(house, "blobs").glob("??/*"):
        os.utime(blob, (1, 1))
    await house.restart()  # at start, bytes that nobody needs are removed
    async with asyncio.timeout(DEADLINE):
        while state(house, "blobs", blobs[unused.id][:2], blobs[unused.id]).exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert state(house, "blobs", blobs[kept.id][:2], blobs[kept.id]).exists()
    assert (await bash(house, old, greet), await bash(house, new.id, greet)) == ("AVE X", "SALVE X")


@pytest.mark.endpoint("sessions.create", "sessions.update")
async def test_overrides_replace_clear_and_inherit_skills(house: House) -> None:
    skill, other, beta = await upload(house), await upload(house, "other"), house.client.beta
    agent = await beta.agents.create(name="a", model="claude-opus-5-5", tools=ALLOW_ALL, skills=[custom(skill)])
    environment = await house.environment()

    async def create(**overrides: Any) -> Any:
        choice: Any = {"type": "agent_with_overrides", "id": agent.id, **overrides}
        return await beta.sessions.create(agent=choice, environment_id=environment)

    async def pinned(**overrides: Any) -> list[str]:
        return [one.version for one in (await create(**overrides)).agent.skills]

    assert await pinned(system="x") == [skill.latest_version_id]
    assert await pinned(skills=[custom(other)]) == [other.latest_version_id]
    assert await pinned(skills=None) == await pinned(skills=[]) == await pinned(skills=[], tools=[]) == []
    for tools in (None, []):
        with pytest.raises(anthropic.BadRequestError, match=r"agent\.skills: an agent reads its skills"):
            await create(tools=tools)
    with pytest.raises(anthropic.BadRequestError, match=r"agent\.skills: an agent reads its skills"):
        await create(tools=[], skills=[custom(other)])
    with pytest.raises(anthropic.NotFoundError):
        await create(skills=[custom(other, skill.latest_version_id)])
    session = await create()
    with pytest.raises(anthropic.BadRequestError, match=r"agent\.skills: an agent reads its skills"):
        await beta.sessions.update(session.id, agent={"tools": []})
    changed = await beta.sessions.update(session.id, agent={"tools": [{**ALLOW_ALL[0], "configs": []}]})
    assert [one.version for one in changed.agent.skills] == [skill.latest_version_id]


async def test_sessions_share_one_copy_that_a_life_of_the_server_makes_anew(house: House) -> None:
    skill = await upload(house)
    sessions = [await house.session(skills=[custom(skill)]) for _ in range(2)]
    look = "stat -c %i:%a:%h /mnt/skills/latin-greetings/SKILL.md /mnt/skills/latin-greetings/bin/greet"
    one, other = [await bash(house, session, look) for session in sessions]
    assert one == other
    assert [line.split(":")[1] for line in one.splitlines()] == ["644", "755"]
    assert len(list(state(house, "skills").iterdir())) == 1
    # What a power failure may leave is not believed: the folder is made anew.
    (place,) = state(house, "skills").iterdir()
    (place / "SKILL.md").write_bytes(b"")
    await house.restart()
    assert "Run bin/greet" in await bash(house, sessions[0], "cat /mnt/skills/latin-greetings/SKILL.md")


async def test_copy_goes_with_the_last_session_that_can_still_run(house: House) -> None:
    assert house.hostler is not None
    copies = MountedSkills(house.hostler.database, Blobs(state(house, "blobs")), state(house, "skills"))
    skill, other = await upload(house), await upload(house, "other")
    archived, deleted = [await house.session(skills=[custom(skill), custom(other)]) for _ in range(2)]
    stays = await house.session(skills=[custom(other)])
    for session in (archived, deleted, stays):
        assert await bash(house, session, "ls -d /mnt/skills/other") == "/mnt/skills/other"
    (state(house, "skills") / ".new-left").mkdir()  # by a crash in the middle of unpacking
    assert await copies.sweep() == 1
    await house.client.beta.sessions.archive(archived)
    assert await copies.sweep() == 0
    await house.client.beta.sessions.delete(deleted)
    assert await copies.sweep() == 1
    assert len(list(state(house, "skills").iterdir())) == 1
    assert await bash(house, stays, "/mnt/skills/other/bin/greet X") == "AVE X"


async def test_workspace_that_may_keep_no_more_takes_no_skill(tmp_path: Path) -> None:
    async with open_house(tmp_path, f"sqlite:///{tmp_path / 'h.db'}", quotas__storage_bytes=1500) as house:
        skill = await house.client.beta.skills.create(files=[*skill_files(), ("latin-greetings/x", os.urandom(500))])
        with pytest.raises(anthropic.BadRequestError, match="storage_bytes"):
            await house.client.beta.skills.create(files=[*skill_files(), ("latin-greetings/x", os.urandom(900))])
        with pytest.raises(anthropic.BadRequestError, match="storage_bytes"):
            await house.client.beta.files.upload(file=("x", os.urandom(900)))
        await house.client.beta.skills.delete(skill.id)
        await house.client.beta.files.upload(file=("x", os.urandom(900)))


@pytest.mark.endpoint("skills.versions.retrieve", "skills.versions.download")
async def test_official_worker_downloads_the_skill_and_the_model_is_told_where(house: House, tmp_path: Path) -> None:
    skill, beta = await upload(house), house.client.beta
    agent = await beta.agents.create(name="a", model="claude-opus-5-5", tools=ALLOW_ALL, skills=[custom(skill)])
    environment = await beta.environments.create(name="elsewhere", config={"type": "self_hosted"})
    session = await beta.sessions.create(agent=agent.id, environment_id=environment.id)
    key = await house.environment_key(environment.id)
    async with official_worker(house, environment.id, key, tmp_path / "elsewhere"):
        events = await served_turn(
            house,
            session.id,
            [
                step(tool("read", file_path="skills/latin-greetings/SKILL.md")),
                step(tool("bash", command="skills/latin-greetings/bin/greet Brute")),
                step("They say: {{last_tool_result}}"),
            ],
        )
    results = ["".join(block.text for block in e.content) for e in events if e.type == "user.tool_result"]
    assert "Run bin/greet NAME." in results[0]
    assert "AVE Brute" in results[1]
    assert "(skills/latin-greetings/SKILL.md): Greets in Latin." in system(house)
    assert "/mnt/skills" not in system(house)


async def test_archive_is_what_the_folder_was(house: House) -> None:
    """What is downloaded has the paths and bytes that were uploaded."""
    skill = await upload(house)
    archive = await (await house.client.beta.skills.versions.download("latest", skill_id=skill.id)).read()
    with zipfile.ZipFile(BytesIO(archive)) as found:
        assert {name: found.read(name) for name in found.namelist()} == dict(skill_files())
