"""Repositories of a session: cloned outside by the host's git, mounted writable, the token nowhere to be found."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
import sqlalchemy as sa
from githost import TOKEN, GitHost, git, git_host
from housekit import House, content_of, open_house

from hostler.store.tables_files import resource_secrets
from hostler.testing.rehearsal import step, tool

pytestmark = pytest.mark.one_database


@pytest.fixture
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHost]:
    with git_host(tmp_path_factory.mktemp("git")) as running:
        yield running


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url, egress__private_allowed="127.0.0.1") as opened:
        yield opened


async def session_with(house: House, *resources: dict[str, Any]) -> str:
    agent = await house.client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
    )
    made = await house.client.beta.sessions.create(
        agent=agent.id, environment_id=await house.environment(), resources=list(resources)  # type: ignore[arg-type]
    )  # fmt: skip
    return made.id


def repository(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "github_repository", "url": url, **more}


def bash(command: str) -> list[Any]:
    return [step(tool("bash", command=command)), step("Done.")]


def result(events: list[Any]) -> str:
    return next(event.content[0].text for event in events if event.type == "agent.tool_result")


def errors(events: list[Any]) -> list[Any]:
    return [event.error for event in events if event.type == "session.error"]


async def test_private_repository_is_there_to_work_in_and_its_token_is_not(house: House, host: GitHost) -> None:
    host.repository("private/tool", {"README.md": "hello", "src/a.py": "a = 1\n"}, branches={"next": {"b.py": "b"}})
    wanted = repository(
        f"{host.url}/private/tool.git", authorization_token=TOKEN, checkout={"type": "branch", "name": "next"}
    )
    note = (await house.client.beta.files.upload(file=("n.txt", b"a note"))).id
    inside = {"type": "file", "file_id": note, "mount_path": "/workspace/tool/docs/note.txt"}
    session = await session_with(house, inside, wanted)
    shown = (await house.client.beta.sessions.retrieve(session)).resources[1].to_dict()
    assert {k: v for k, v in shown.items() if k not in ("id", "created_at", "updated_at")} == {
        "type": "github_repository",
        "url": wanted["url"],
        "checkout": {"type": "branch", "name": "next"},
        "mount_path": "/workspace/tool",
    }
    commands = (
        "cd tool && git status -sb && cat README.md b.py docs/note.txt && echo changed >> README.md && "
        "git -c user.name=a -c user.email=a@b commit -qam mine && git log --oneline | wc -l && "
        "cat .git/config && git remote -v && ls .git/hooks 2>&1; env; "
        f"grep -rl {TOKEN.replace('secret', '[s]ecret')} /workspace /home /mnt /run /tmp 2>/dev/null || echo nowhere"
    )
    events = await house.turn(session, bash(commands))
    said = result(events)
    assert "## next...origin/next" in said, said
    assert "hello" in said
    assert "a note" in said
    assert "a note3\n" in said
    assert said.rstrip().endswith("nowhere")
    assert errors(events) == []
    assert TOKEN not in json.dumps([event.to_dict(mode="json") for event in events])
    assert TOKEN not in said
    state = Path(house.settings["state_dir"])
    for place in (state, state.parent):
        for file in place.rglob("*"):
            if file.is_file() and not file.is_symlink():
                assert TOKEN.encode() not in content_of(file), file
    assert house.hostler is not None
    (sealed,) = await house.hostler.database.read(
        lambda c: c.execute(sa.select(resource_secrets.c.sealed)).scalars().all()
    )
    assert TOKEN not in sealed
    await house.restart()
    asked = len(host.requests)
    assert "changed" in result(await house.turn(session, bash("tail -1 tool/README.md")))
    assert len(host.requests) == asked


async def test_commit_is_checked_out(house: House, host: GitHost) -> None:
    commit = host.repository("public/lib", {"v": "one"}, branches={"later": {"v": "two"}})
    first = repository(f"{host.url}/public/lib.git", checkout={"type": "commit", "sha": commit[:12]})
    second = repository(f"{host.url}/public/lib.git", mount_path="/srv/default")
    session = await session_with(house, first, second)
    events = await house.turn(session, bash("cat lib/v; git -C lib status | head -1; cat /srv/default/v"))
    assert f"oneHEAD detached at {commit[:7]}" in result(events)


@pytest.mark.endpoint("sessions.resources.update")
async def test_what_can_not_be_cloned_is_told_and_the_session_goes_on_until_the_token_is_right(
    house: House, host: GitHost
) -> None:
    host.repository("private/tool", {"f": "it is here"})
    host.repository("public/lib", {"f": "x"})
    wanted = [
        repository(f"{host.url}/private/tool.git", authorization_token="wrong"),
        repository(f"{host.url}/forbidden/tool.git", authorization_token=TOKEN, mount_path="/workspace/b"),
        repository(f"{host.url}/public/none.git"),
        repository(f"{host.url}/public/lib.git", checkout={"type": "branch", "name": "none"}),
        repository(f"{host.url}/moved/public/lib.git", mount_path="/workspace/e"),
        repository("http://10.1.2.3/x/f", mount_path="/workspace/f"),
    ]
    session = await session_with(house, *wanted)
    events = await house.turn(session, bash("ls; echo on"))
    assert "on" in result(events)
    found = errors(events)
    assert [(error.type, error.repository_url) for error in found] == [
        (f"repository_{kind}_error", one["url"])
        for kind, one in zip(
            ("authentication", "forbidden", "not_found", "checkout", "clone", "clone"), wanted, strict=True
        )
    ]
    assert {error.retry_status.type for error in found} == {"retrying"}
    assert "not on the public Internet" in found[5].message
    assert all(TOKEN not in error.message and "wrong" not in error.message for error in found)
    resources = (await house.client.beta.sessions.retrieve(session)).resources
    updated = await house.client.beta.sessions.resources.update(
        resources[0].id, session_id=session, authorization_token=TOKEN  # type: ignore[union-attr]
    )  # fmt: skip
    assert updated.updated_at > updated.created_at  # type: ignore[union-attr,operator]
    for resource in resources[1:]:
        await house.client.beta.sessions.resources.delete(resource.id, session_id=session)  # type: ignore[union-attr]
    events = await house.turn(session, bash("cat tool/f"))
    assert (result(events), errors(events)) == ("it is here", [])
    with pytest.raises(anthropic.BadRequestError, match="only be attached when the session is created"):
        await house.client.beta.sessions.resources.add(
            session,
            file_id="file_1",
            type="github_repository",  # type: ignore[arg-type]
        )


async def test_hostile_repository_runs_nothing_and_reaches_nothing(house: House, host: GitHost, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o777)
    victim.chmod(0o777)
    host.repository(
        "public/evil",
        {
            ".gitattributes": "* filter=evil\n",
            ".githooks/post-checkout": f"#!/bin/sh\ntouch {victim}/hook\n",
            ".gitmodules": f'[submodule "s"]\n\tpath = s\n\turl = {host.url}/public/other.git\n',
            "plain": "x",
        },
    )
    work = host.root / "work" / "public/evil"
    (work / "out").symlink_to(victim)
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "link")
    git(work, "push", "-q", str(host.root / "public/evil.git"), "main")
    note = (await house.client.beta.files.upload(file=("n.txt", b"a note"))).id
    session = await session_with(
        house,
        repository(f"{host.url}/public/evil.git"),
        {"type": "file", "file_id": note, "mount_path": "/workspace/evil/out/note.txt"},
    )
    events = await house.turn(session, bash("cat evil/plain evil/out/note.txt; ls -l evil"))
    assert "xa note" in result(events), result(events)
    assert "out.moved-1 ->" in result(events)
    assert list(victim.iterdir()) == []
    assert not any("other" in path for path in host.requests)
