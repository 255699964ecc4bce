"""Files of a session: mounted read-only, put out after a turn, kept over a restart, gone with the session."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from pathlib import Path
from typing import Any

import anthropic
import httpx2 as httpx
import pytest
from housekit import DEADLINE, House, custom, open_house

from hostler.testing.rehearsal import prompt, step, tool

MIB = 1 << 20
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


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


async def left_out(house: House, session: str, wanted: int) -> list[Any]:
    """What the session says that did not become files, once it has said so many times."""
    async with asyncio.timeout(DEADLINE):
        while True:
            listed = [event async for event in house.client.beta.sessions.events.list(session, types=["session.error"])]
            told = [event.error.hostler for event in listed]  # type: ignore[union-attr]
            if len(told) >= wanted:
                return told
            await asyncio.sleep(0.02)


def results(events: list[Any]) -> list[str]:
    return [event.content[0].text for event in events if event.type == "agent.tool_result"]


def bash(command: str) -> list[Any]:
    return [step(tool("bash", command=command)), step("Done.")]


@pytest.mark.one_database
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


@pytest.mark.endpoint("sessions.resources.add", "sessions.resources.delete")
async def test_file_added_to_a_live_session_is_there_at_the_next_turn_and_gone_when_deleted(house: House) -> None:
    session = await session_with(house)
    assert "missing" in results(await house.turn(session, bash("cat /data/in.txt || echo missing")))[0]
    uploaded = await upload(house, "in.txt", b"added")
    added = await house.client.beta.sessions.resources.add(
        session, type="file", file_id=uploaded, mount_path="/data/in.txt"
    )
    below = await house.client.beta.sessions.resources.add(
        session, type="file", file_id=uploaded, mount_path="/mnt/session/uploads/sub/folder/in.txt"
    )
    command = (
        "cat /data/in.txt /mnt/session/uploads/sub/folder/in.txt; "
        "echo x >> /data/in.txt; rm /data/in.txt; chmod 777 /data/in.txt"
    )
    events = await house.turn(session, bash(command))
    shown = results(events)[0]
    assert "addedadded" in shown
    assert "/data/in.txt: Permission denied" in shown
    assert shown.count("Read-only file system") == 2, shown
    listed = [row async for row in house.client.beta.sessions.resources.list(session, limit=1)]
    assert [row.id for row in listed] == [added.id, below.id]  # type: ignore[union-attr]
    assert (await house.client.beta.sessions.resources.retrieve(added.id, session_id=session)).type == "file"
    deleted = await house.client.beta.sessions.resources.delete(added.id, session_id=session)
    assert deleted.type == "session_resource_deleted"
    assert "missing" in results(await house.turn(session, bash("cat /data/in.txt || echo missing")))[0]
    with pytest.raises(anthropic.NotFoundError):
        await house.client.beta.files.retrieve_metadata(added.file_id)
    assert (await house.client.beta.files.retrieve_metadata(uploaded)).id == uploaded


async def test_one_bad_resource_and_nothing_is_created(house: House) -> None:
    uploaded = await upload(house, "in.txt", b"x")
    session = await session_with(house)
    shown = await house.client.beta.sessions.retrieve(session)
    file = {"type": "file", "file_id": uploaded}

    def at(path: str) -> dict[str, Any]:
        return {**file, "mount_path": path}

    repository = {"type": "github_repository", "url": "https://github.com/o/r"}
    bad: list[tuple[list[dict[str, Any]], type[Exception], str]] = [
        ([file, {"type": "file", "file_id": "file_none"}], anthropic.NotFoundError, "file_none"),
        ([at("/data/a"), at("/data/a")], anthropic.BadRequestError, "is used by another"),
        ([at("/data/a"), at("/data/a/b")], anthropic.BadRequestError, "lies inside /data/a"),
        ([at("/data/a/b"), at("/data/a")], anthropic.BadRequestError, "is mounted already, inside"),
        ([at("/workspace/../etc/x")], anthropic.BadRequestError, "mount_path"),
        ([at("/etc/passwd")], anthropic.BadRequestError, "mount_path"),
        ([at("/mnt/session/outputs/x")], anthropic.BadRequestError, "mount_path"),
        ([repository, repository], anthropic.BadRequestError, "is used by another"),
        ([{**repository, "url": "https://me:secret@github.com/o/r"}], anthropic.BadRequestError, "authorization_token"),
        ([{**repository, "url": "file:///etc"}], anthropic.BadRequestError, "must be an http or https"),
        ([{**repository, "url": "ext::sh"}], anthropic.BadRequestError, "must be an http or https"),
        ([{**repository, "checkout": {"type": "branch", "name": "--upload-pack=x"}}], anthropic.BadRequestError, "bra"),
        ([{**repository, "mount_path": "/mnt/session/uploads/r"}], anthropic.BadRequestError, "read-only"),
    ]
    hello: Any = {"type": "user.message", "content": [{"type": "text", "text": "hello"}]}
    for resources, kind, text_ in bad:
        with pytest.raises(kind, match=text_):
            await house.client.beta.sessions.create(
                agent=shown.agent.id,
                environment_id=shown.environment_id,
                resources=resources,  # type: ignore[arg-type]
                initial_events=[hello],
            )
    assert [s.id async for s in house.client.beta.sessions.list()] == [session]
    assert [f.id async for f in house.client.beta.files.list()] == [uploaded]


@pytest.mark.one_database
async def test_mount_path_below_a_link_of_the_agent_leads_nowhere_else(house: House, tmp_path: Path) -> None:
    uploaded = await upload(house, "in.txt", b"the upload")
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o777)
    victim.chmod(0o777)
    session = await session_with(house)
    links = (
        f"ln -s {victim} data; ln -s /oldroot{victim} old; ln -s {victim}/made dangling; "
        "mkdir -p deep/in.txt; echo mine > plain"
    )
    await house.turn(session, bash(links))
    paths = ["data/in.txt", "old/in.txt", "dangling", "deep/in.txt", "plain", "new/way/in.txt"]
    for path in paths:
        await house.client.beta.sessions.resources.add(
            session, type="file", file_id=uploaded, mount_path=f"/workspace/{path}"
        )
    events = await house.turn(session, bash("cat " + " ".join(paths) + "; ls -ld data.moved-1; touch new/way/own"))
    shown = results(events)[0]
    assert shown.count("the upload") == len(paths), shown
    assert "data.moved-1 ->" in shown
    assert list(victim.iterdir()) == []
    for resource in (await house.client.beta.sessions.resources.list(session)).data:
        await house.client.beta.sessions.resources.delete(resource.id, session_id=session)  # type: ignore[union-attr]
    events = await house.turn(session, bash("cat plain; ls new/way; ls -d dangling deep/in.txt.moved-1"))
    shown = results(events)[0]
    assert "mine" in shown
    assert "own" in shown
    assert "in.txt\n" not in shown
    assert "deep/in.txt.moved-1" in shown


@pytest.mark.one_database
async def test_outputs_are_regular_files_only_and_nothing_outside_is_read(house: House, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("of the host")
    session = await session_with(house)
    command = f"""cd /mnt/session/outputs; echo good > good.txt; mkdir -p sub/deeper; echo two > sub/deeper/two.csv
        ln -s {secret} link.txt; ln -s {tmp_path} folder; mkfifo pipe; ln good.txt sub/hard.txt
        printf x > "$(printf 'b\\377ad')"; printf y > 'a\\b'; truncate -s 10G sparse.bin; : > empty
        python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('socket')" """
    await house.turn(session, bash(command))
    names = {"good.txt", "sub/deeper/two.csv", "sub/hard.txt", "b_ad", "a_b", "empty"}
    found = await outputs(house, session, names)
    assert found["sub/deeper/two.csv"].mime_type == "text/csv"
    before = {name: file.id for name, file in found.items()}

    await house.client.beta.files.delete(before["good.txt"])
    await house.turn(session, bash("cd /mnt/session/outputs; touch sub/deeper/two.csv; rm empty; echo new > new.txt"))
    again = await outputs(house, session, (names - {"good.txt"}) | {"new.txt"})
    assert {name: file.id for name, file in again.items() if name != "new.txt"} == {
        name: id_ for name, id_ in before.items() if name != "good.txt"
    }


async def test_a_path_that_no_index_holds_keeps_no_other_output_back(house: House) -> None:
    session = await session_with(house)
    deep = "import os, secrets; os.chdir('/mnt/session/outputs')\nfor _ in range(12): d = secrets.token_hex(120); "
    deep += "os.mkdir(d); os.chdir(d)\nopen('x', 'w').close()"
    await house.turn(session, bash(f'python3 -c "{deep}"; echo z > /mnt/session/outputs/z'))
    await outputs(house, session, {"z"})
    (told,) = await left_out(house, session, 1)
    assert told["reasons"] == {"path_too_long": 1}


@pytest.mark.one_database
async def test_more_outputs_than_allowed_are_left_out_and_room_comes_back(
    tmp_path: Path, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(tmp_path, store_url, files__max_outputs=2, files__max_outputs_mb=1) as house:
        session = await session_with(house)
        await house.turn(session, bash("cd /mnt/session/outputs; for i in a b c d; do echo $i > $i; done"))
        found = await outputs(house, session, {"a", "b"})
        await left_out(house, session, 1)
        assert any(getattr(r, "reasons", None) == {"too_many_files": 2} for r in caplog.records)
        await house.turn(session, bash("echo changed > /mnt/session/outputs/b"))  # the same is not told again
        await outputs(house, session, {"a", "b"}, but=found["b"].id)
        await house.client.beta.files.delete(found["a"].id)
        await house.turn(session, bash("head -c 2M /dev/zero > /mnt/session/outputs/c"))
        await outputs(house, session, {"b", "d"})
        assert await left_out(house, session, 2) == [
            {"type": "outputs_left_out", "reasons": {"too_many_files": 2}, "example": "c"},
            {"type": "outputs_left_out", "reasons": {"too_much_together": 1}, "example": "c"},
        ]


async def test_outputs_that_a_crash_kept_from_being_taken_are_taken_at_the_next_start(house: House) -> None:
    session = await session_with(house)
    await house.turn(session, bash("echo 1 > /mnt/session/outputs/first"))
    await outputs(house, session, {"first"})
    await house.stop()
    # As if the server had been killed between the end of the turn and its look at the folder.
    with house.left_by_a_killed_server(session) as home:
        (home / "outputs" / "second").write_text("2")
    await house.start()
    await outputs(house, session, {"first", "second"})


@pytest.mark.one_database
async def test_blocks_that_name_files_reach_the_model_with_their_bytes(house: House) -> None:
    session = await house.session()
    image = await upload(house, "dot.png", PNG, "image/png")
    note = await upload(house, "note.txt", b"read me")
    other = await upload(house, "x.zip", b"PK\x03\x04", "application/zip")

    def block(kind: str, file_id: str) -> dict[str, Any]:
        return {"type": kind, "source": {"type": "file", "file_id": file_id}}

    async def send(*blocks: dict[str, Any]) -> None:
        content = [*blocks, {"type": "text", "text": prompt([step("Seen.")])}]
        await house.client.beta.sessions.events.send(
            session, events=[{"type": "user.message", "content": content}]  # type: ignore[list-item,typeddict-item]
        )  # fmt: skip

    for kind, file_id, text_ in (
        ("image", "file_none", r"events\[0\].content\[0\].source.file_id: file file_none does not exist"),
        ("image", note, "is text/plain; an image must be"),
        ("document", other, "is application/zip; a document must be"),
    ):
        with pytest.raises(anthropic.BadRequestError, match=text_):
            await send(block(kind, file_id))
    assert await house.events(session) == []
    await send(block("image", image), block("document", note))
    events = await house.until_idle(session)
    assert events[0].content[0].source.file_id == image
    (request,) = [r for r in house.model.requests if "Seen." in json.dumps(r.body)]
    blocks = [b for m in request.body["messages"] for b in m["content"] if isinstance(b, dict)]
    sources = {b["type"]: b["source"] for b in blocks if "source" in b}
    assert sources["image"]["data"] == base64.b64encode(PNG).decode()
    assert sources["document"]["data"] == "read me"


@pytest.mark.one_database
async def test_answer_of_a_custom_tool_may_name_files(house: House) -> None:
    session = await house.session([custom("lookup")])
    image = await upload(house, "dot.png", PNG, "image/png")
    note = await upload(house, "note.txt", b"found it")
    await house.say(session, [step(tool("lookup", q="x")), step("Thanks.")])
    call = await house.until_event(session, "agent.custom_tool_use")
    answer: dict[str, Any] = {
        "type": "user.custom_tool_result",
        "custom_tool_use_id": call.id,
        "content": [
            {"type": "image", "source": {"type": "file", "file_id": image}},
            {"type": "document", "source": {"type": "file", "file_id": note}},
        ],
    }
    await house.until_idle(session)
    unknown = {**answer, "content": [{"type": "image", "source": {"type": "file", "file_id": "file_none"}}]}
    with pytest.raises(anthropic.BadRequestError, match="file_none does not exist"):
        await house.answer(session, unknown)
    before = len(await house.events(session))
    await house.answer(session, answer)
    await house.until_idle(session, before)
    sent = json.dumps(house.model.message_requests[-1].body)
    assert base64.b64encode(PNG).decode() in sent
    assert "found it" in sent


async def test_storage_of_a_workspace_bounds_uploads_and_outputs(
    tmp_path: Path, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_house(tmp_path, store_url, quotas__storage_bytes=1000) as house:
        first = await upload(house, "a", b"a" * 600)
        with pytest.raises(anthropic.BadRequestError) as refused:
            await upload(house, "b", b"b" * 500)
        assert refused.value.body["error"]["details"] == {"error_code": "storage_quota_exceeded"}  # type: ignore[index]
        session = await session_with(house, {"type": "file", "file_id": first})
        await house.turn(session, bash("cd /mnt/session/outputs; printf x > small; head -c 500 /dev/zero > large"))
        await outputs(house, session, {"small"})
        await left_out(house, session, 1)
        assert any(getattr(r, "reasons", None) == {"storage_quota_exceeded": 1} for r in caplog.records)
        await house.client.beta.files.delete(first)
        await house.client.beta.sessions.delete(session)
        await upload(house, "b", b"b" * 900)


@pytest.mark.one_database
async def test_what_was_sent_and_refused_takes_room_until_it_is_removed(tmp_path: Path, store_url: str) -> None:
    """Whoever may keep 100 MiB could otherwise fill the disk with forms that have a mistake at their end."""
    async with open_house(tmp_path, store_url, quotas__storage_bytes=100 * MIB) as house:
        headers = {"x-api-key": house.secret, "anthropic-version": "2023-06-01"}
        async with httpx.AsyncClient(trust_env=False, base_url=house.client.base_url, headers=headers) as client:
            for content in (b"a", b"a", b"b"):  # the same bytes lie there once
                form: Any = [("file", ("f", content * 40 * MIB)), ("mistake", (None, b"x"))]
                refused = await client.post("v1/files", files=form, timeout=DEADLINE)
                assert (refused.status_code, "is not a field of this request" in refused.text) == (400, True)
        with pytest.raises(anthropic.BadRequestError, match=f"{16 * MIB} bytes are uploads that are under way, or"):
            await upload(house, "large", bytes(90 * MIB))
        await upload(house, "fits", bytes(80 * MIB))


@pytest.mark.one_database
async def test_files_that_can_not_be_kept_are_not_all_copied_first(
    tmp_path: Path, store_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each was copied before the quota refused it: thousands of large ones filled the disk and held up the turn."""
    async with open_house(tmp_path, store_url, quotas__storage_bytes=1000) as house:
        session = await session_with(house)
        many = "for i in $(seq 110); do head -c 1200 /dev/urandom > $i; done"
        await house.turn(session, bash(f"cd /mnt/session/outputs; {many}"))
        deadline = time.monotonic() + DEADLINE
        while not (told := [record.reasons for record in caplog.records if hasattr(record, "reasons")]):
            assert time.monotonic() < deadline
            await house.events(session)
        assert told == [{"storage_quota_exceeded": 100, "too_many_failures": 10}]
