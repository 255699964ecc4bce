"""Sessions that go from one installation to another as a file, and back, between two databases."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from bundlekit import exported, imported
from housekit import ALLOW_ALL, ASK_FOR_BASH, House, allow, open_house

from hostler.testing.postgres import PostgresCluster
from hostler.testing.rehearsal import gate, step, tool


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


def names_in(bundle: bytes) -> list[str]:
    plain = zstandard.ZstdDecompressor().stream_reader(bundle).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        return archive.getnames()


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


@pytest.mark.one_database
async def test_a_call_that_waits_is_answered_where_it_is_imported(house: House) -> None:
    """In the installation it came from, too: agent and environment are found, and each has its own call."""
    session = await house.session(ASK_FOR_BASH)
    await house.turn(session, look("echo ran >> log; cat log"))
    got = await exported(house, session)
    made = await imported(house, got.content, title="Twin")
    assert made.status == 200, made.json
    twin = made.json["id"]
    assert (made.json["session"]["title"], made.json["created"]) == ("Twin", [])
    inbox: Any = await house.client.get("/hostler/v1/approvals", cast_to=object)
    assert {row["session_id"] for row in inbox["data"]} == {session, twin}
    for one in (twin, session):
        before = await house.events(one)
        (call,) = [event for event in before if event.type == "agent.tool_use"]
        assert before[-1].stop_reason.event_ids == [call.id]
        await house.answer(one, allow(call))
        assert said(await house.until_idle(one, len(before))) == "ran"
    taken = await imported(house, got.content, keep_ids="true")
    assert (taken.status, session in taken.json["error"]["message"]) == (409, True)


@pytest.mark.one_database
async def test_a_running_session_is_exported_at_a_checkpoint(house: House) -> None:
    session = await house.session()
    await house.turn(session, look("echo one > note"))
    point: Any = await house.client.post(f"/hostler/v1/sessions/{session}/checkpoints", body={}, cast_to=object)
    before = await shown(house, session)
    await house.say(session, [step(gate("held"), "Done.")])
    await house.until_event(session, "span.model_request_start")
    running = await exported(house, session)
    assert (running.status, "Wait for session.status_idle" in running.json["error"]["message"]) == (409, True)
    got = await exported(house, session, checkpoint_id=point["id"], without="workspace")
    assert got.status == 200, got.json
    house.model.open_gate("held")
    await house.until_idle(session)
    made = await imported(house, got.content)
    assert len(await shown(house, made.json["id"])) == len(before)
    assert said(await house.turn(made.json["id"], look("ls /workspace; echo none"))) == "none"
    # What was taken for an export is not left among the points to go back to.
    assert (await exported(house, session)).status == 200
    points: Any = await house.client.get(f"/hostler/v1/sessions/{session}/checkpoints", cast_to=object)
    assert [one["id"] for one in points["data"]] == [point["id"]]


@pytest.mark.one_database
async def test_no_secret_leaves_and_vaults_are_asked_for(house: House) -> None:
    """A secret that a session could use is found in its files in whatever form, and it is not exported; once it is
    replaced, what was there is worth nothing, and is."""
    old, new = "canary-4f2b~first/+", "canary-77aa~second/+"
    vault = (await house.client.beta.vaults.create(display_name="v")).id
    auth: Any = {"type": "environment_variable", "secret_name": "TOKEN", "secret_value": old}
    networking = {"type": "limited", "allowed_hosts": ["api.example.com"]}
    credentials = house.client.beta.vaults.credentials
    credential = await credentials.create(vault, auth={**auth, "networking": networking})
    agent = await house.client.beta.agents.create(name="A", model="claude-opus-5-5", tools=ALLOW_ALL)
    made = await house.client.beta.sessions.create(
        agent=agent.id, environment_id=await house.environment(), vault_ids=[vault]
    )
    await house.turn(made.id, look(f"echo -n x{old}y | base64 > mine.txt; echo fine > other.txt; echo $TOKEN"))
    refused = await exported(house, made.id)
    error = refused.json["error"]
    assert (refused.status, error["details"]["error_code"]) == (400, "bundle_holds_secrets")
    assert "home/workspace/mine.txt" in error["message"]
    assert credential.id in error["message"]
    assert old not in error["message"]
    assert (await exported(house, made.id, without="workspace")).status == 400  # the conversation has it, too
    await credentials.update(credential.id, vault_id=vault, auth={"type": "environment_variable", "secret_value": new})
    got = await exported(house, made.id)
    assert got.status == 200, got.json
    plain = zstandard.ZstdDecompressor().stream_reader(got.content).read()
    assert new.encode() not in plain
    asked = await imported(house, got.content)
    assert (asked.status, vault in asked.json["error"]["message"]) == (400, True)
    assert asked.json["error"]["details"]["error_code"] == "import_undecided"
    without = await imported(house, got.content, vault=f"{vault}:")
    assert (without.json["session"]["vault_ids"], without.json["left"][0]["id"]) == ([], vault)
    given = (await house.client.beta.vaults.create(display_name="w")).id
    replaced = await imported(house, got.content, vault=f"{vault}:{given}")
    assert replaced.json["session"]["vault_ids"] == [given]


@pytest.mark.one_database
async def test_what_is_over_is_exported_too(house: House) -> None:
    """Of an ephemeral session events and outputs; an archived one comes as an archived one, with its files."""
    agent = await house.client.beta.agents.create(name="A", model="claude-opus-5-5", tools=ALLOW_ALL)
    environment = await house.environment(hosting={"pattern": "ephemeral"})
    task = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment)
    await house.turn(task.id, look("echo gone > note; echo kept > /mnt/session/outputs/out.txt"))
    got = await exported(house, task.id)
    assert got.status == 200, got.json
    made = await imported(house, got.content)
    assert len(await shown(house, made.json["id"])) == len(await shown(house, task.id))
    assert await outputs(house, made.json["id"]) == {"out.txt": b"kept\n"}
    assert [name for name in names_in(got.content) if name.startswith(("home/", "transcripts/"))] == []
    hybrid = await house.environment(hosting={"pattern": "hybrid"})
    session = (await house.client.beta.sessions.create(agent=agent.id, environment_id=hybrid)).id
    await house.turn(session, look("echo one > note"))
    await house.client.beta.sessions.archive(session)
    kept = await exported(house, session)
    assert kept.status == 200, kept.json
    assert "home/workspace/note" in names_in(kept.content)
    over = await imported(house, kept.content)
    assert (over.json["session"]["status"], bool(over.json["session"]["archived_at"])) == ("terminated", True)


@pytest.mark.one_database
async def test_what_is_refused_leaves_nothing(house: House, tmp_path: Path) -> None:
    session = await house.session()
    await house.turn(session, look("head -c 300000 /dev/urandom > big"))
    got = await exported(house, session)
    changed = bytearray(got.content)
    changed[len(changed) // 2] ^= 1
    for content, words in (
        (bytes(changed), "damaged"),
        (got.content[:-100], "middle"),
        (got.content + b"x", "behind the bundle"),
        (b"", "does not begin"),
    ):
        refused = await imported(house, content)
        assert (refused.status, refused.json["error"]["details"]["error_code"]) == (400, "bundle_wrong"), refused.json
        assert words in refused.json["error"]["message"]
    for query, words in (
        ({"digest": "0" * 64}, "was asked for"),
        ({"create": "true", "agent": "agent_1"}, "create"),
        ({"vault": "vlt_1:vlt_2"}, "has no vlt_1"),
        ({"vault": "vlt_1"}, "<old id>:<new id>"),
        ({"color": "red"}, "color"),
    ):
        assert words in (await imported(house, got.content, **query)).json["error"]["message"]
    assert [one.id async for one in house.client.beta.sessions.list()] == [session]
    assert list((tmp_path / "state" / "bundles").iterdir()) == []


@pytest.mark.one_database
async def test_all_that_belongs_to_a_session_comes_along(house: House) -> None:
    """Attached files, skills, memory stores of one's own, what was archived; a token has to be sent again."""
    beta = house.client.beta
    file = await beta.files.upload(file=("facts.txt", b"forty-two"))
    skill = await beta.skills.create(files=[("sums/SKILL.md", b"---\nname: sums\ndescription: Adds.\n---\nAdd.\n")])
    old, new = [(await beta.memory_stores.create(name=name)).id for name in ("Old", "New")]
    agent = await beta.agents.create(
        name="A",
        model="claude-opus-5-5",
        tools=ALLOW_ALL,
        skills=[{"type": "custom", "skill_id": skill.id}],  # type: ignore[list-item]
    )
    made = await beta.sessions.create(
        agent=agent.id,
        environment_id=await house.environment(),
        title="All",
        metadata={"k": "v"},
        resources=[
            {"type": "file", "file_id": file.id, "mount_path": "/workspace/facts.txt"},
            {"type": "memory_store", "memory_store_id": old, "access": "read_only"},
        ],
    )
    await house.turn(made.id, "hello")
    point: Any = await house.client.post(f"/hostler/v1/sessions/{made.id}/checkpoints", body={}, cast_to=object)
    await house.turn(made.id, "remember the word rhubarb")
    before = len(await house.events(made.id))
    await house.client.post(f"/hostler/v1/sessions/{made.id}/compact", body={}, cast_to=object)
    await house.until_idle(made.id, before)
    # Its repository was never cloned: nobody has said anything since.
    repository: Any = {
        "type": "github_repository",
        "url": "https://git.example.com/o/r",
        "authorization_token": "ghp_0123456789abcdef",
    }
    other = await beta.sessions.create(
        agent=agent.id, environment_id=await house.environment(), resources=[repository], title="Token"
    )
    got = await exported(house, made.id)
    assert got.status == 200, got.json
    assert "archives/0.jsonl" in names_in(got.content)
    earlier = await exported(house, made.id, checkpoint_id=point["id"])
    assert not [name for name in names_in(earlier.content) if name.startswith("archives/")], (
        "it has what was said later"
    )
    await beta.skills.delete(skill.id)
    taken = await imported(house, got.content, memory_store=f"{old}:{new}")
    assert taken.status == 200, taken.json
    moved, shown_now = taken.json["id"], taken.json["session"]
    assert (shown_now["title"], shown_now["metadata"], taken.json["left"]) == ("All", {"k": "v"}, [])
    kinds = {one["type"]: one for one in shown_now["resources"]}
    assert (kinds["memory_store"]["memory_store_id"], kinds["memory_store"]["access"]) == (new, "read_only")
    assert kinds["file"]["file_id"] not in {one["file_id"] for one in made.to_dict()["resources"] if "file_id" in one}  # type: ignore[union-attr]
    assert said(await house.turn(moved, look("cat facts.txt /mnt/skills/sums/SKILL.md"))).startswith("forty-two---")
    both = [
        await house.client.get(f"/hostler/v1/sessions/{one}/archives/search?q=rhubarb", cast_to=object)
        for one in (made.id, moved)
    ]
    texts = [[entry["text"] for entry in one["data"]] for one in both]  # type: ignore[index]
    assert texts[0] == texts[1] != []
    with_token = await exported(house, other.id)
    assert with_token.status == 200, with_token.json
    assert b"ghp_0123456789abcdef" not in zstandard.ZstdDecompressor().stream_reader(with_token.content).read()
    again = await imported(house, with_token.content)
    assert [one["type"] for one in again.json["left"]] == ["token"]
