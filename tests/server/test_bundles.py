"""Sessions that go from one installation to another as a file, and back, between two databases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bundlekit import exported, imported
from housekit import House, open_house

from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import step, tool


@pytest.fixture
def other_url(request: pytest.FixtureRequest, tmp_path: Path, store_url: str) -> Iterator[str]:
    """A database of the other kind."""
    if store_url.startswith("postgresql"):
        shutil.copyfile(request.getfixturevalue("migrated_file"), tmp_path / "other.db")
        (tmp_path / "other.db").chmod(0o600)
        yield f"sqlite:///{tmp_path / 'other.db'}"
        return
    cluster: PostgresCluster = request.getfixturevalue("server_cluster")
    yield cluster.create_database("other_house", template="migrated")
    cluster.drop_database("other_house")


def look(command: str) -> list[Any]:
    return [step(tool("bash", command=command)), step("{{last_tool_result}}")]


def said(events: list[Any]) -> str:
    words = [event for event in events if event.type == "agent.message"][-1].content[0].text
    return str(words).removesuffix("\nShell cwd was reset to /workspace")


async def shown(house: House, session: str) -> list[dict[str, Any]]:
    return [event.to_dict(mode="json") for event in await house.events(session)]


def renamed(before: list[dict[str, Any]], after: list[dict[str, Any]], more: dict[str, str]) -> list[dict[str, Any]]:
    """Events with the ids that they have elsewhere: those of the same place in both logs."""
    names = {old["id"]: new["id"] for old, new in zip(before, after, strict=True)} | more
    text = json.dumps(before)
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return list(json.loads(text))


async def outputs(house: House, session: str) -> dict[str, bytes]:
    files = [file async for file in house.client.beta.files.list(scope_id=session)]
    return {file.filename: await (await house.client.beta.files.download(file.id)).read() for file in files}


async def thread(house: House, session: str) -> str:
    return next(iter([one.id async for one in house.client.beta.sessions.threads.list(session)]))


FILES = """
mkdir -p a; echo one > a/one.txt; ln -s one.txt a/link; ln a/one.txt hard; chmod 750 hard; truncate -s 9M hole
echo deep > "$(printf 'na\\377me')"; ln -s /usr/bin/env away; echo out > /mnt/session/outputs/out.txt
touch -d 2001-02-03T04:05:06.789 a/one.txt
"""
LOOK = (
    "cat a/one.txt a/link hard na*; stat -c '%a %h %s %.3Y' hard; stat -c %s hole; readlink away; "
    "ls /mnt/session/outputs"
)


async def test_a_session_goes_to_another_server_and_back(house: House, tmp_path: Path, other_url: str) -> None:
    """The conversation, the files and the outputs go on where they were; the log says the same under other ids."""
    session = await house.session()
    seen = said(await house.turn(session, look(FILES + LOOK)))
    assert seen.split() == [
        "one",
        "one",
        "one",
        "deep",
        "750",
        "2",
        "4",
        "981173106.789",
        "9437184",
        "/usr/bin/env",
        "out.txt",
    ]
    before = await shown(house, session)
    got = await exported(house, session)
    assert got.status == 200, got.json
    async with open_house(tmp_path / "there", other_url) as there:
        undecided = await imported(there, got.content)
        assert undecided.status == 400
        assert "create" in undecided.json["error"]["message"]
        made = await imported(there, got.content, create="true", digest=got.headers["hostler-bundle-digest"])
        assert made.status == 200, made.json
        moved = made.json["id"]
        assert moved != session
        assert made.json["left"] == []
        more = {session: moved, await thread(house, session): await thread(there, moved)}
        after = await shown(there, moved)
        assert renamed(before, after, more) == after
        assert {event["id"] for event in before}.isdisjoint(event["id"] for event in after)
        assert await outputs(there, moved) == {"out.txt": b"out\n"}
        found = await there.client.beta.sessions.retrieve(moved)
        assert (found.status, found.usage.output_tokens, found.title) == ("idle", 0, None)
        assert found.to_dict()["imported_from"]["session_id"] == session  # type: ignore[index]
        # The model is told the conversation, the files are there, and an output that nobody has touched is not new.
        assert said(await there.turn(moved, look(LOOK))) == seen
        assert "one.txt" in json.dumps(there.model.message_requests[-1].body["messages"][0])
        assert await outputs(there, moved) == {"out.txt": b"out\n"}
        await there.turn(moved, look("echo more >> a/one.txt"))
        back = await exported(there, moved)
        assert back.status == 200, back.json
    again = await imported(
        house,
        back.content,
        keep_ids="true",
        agent=(await house.client.beta.sessions.retrieve(session)).agent.id,
        environment=await house.environment(),
    )
    assert again.status == 200, again.json
    assert again.json["id"] == moved
    assert said(await house.turn(moved, look("cat a/one.txt"))).split() == ["one", "more"]
