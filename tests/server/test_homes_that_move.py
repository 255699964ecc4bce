"""Does a session find its files wherever it wakes up? Several servers on one database, each with folders of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import pytest_asyncio
import sqlalchemy as sa
from githost import git_host
from housekit import ASK_FOR_BASH, DEADLINE, House, allow, deny, open_house, types
from objectskit import WaywardObjects, snapshots_of, until_kept
from sqlalchemy.engine import Engine

from hostler.engine import lodging
from hostler.engine.home_notes import HomeNotes
from hostler.sandbox.leftovers import Record, processes
from hostler.testing.rehearsal import gate, step, text, tool

QUICK = {"worker__poll_seconds": 0.2, "worker__lease_seconds": 5.0}
STARTS_WITHIN = 4.0
"""Seconds in which a process has started, and asked for a call that it is to take up."""


class Hosts:
    """Machines that share a database and an object store. Each has a state folder of its own."""

    def __init__(self, stack: AsyncExitStack, tmp_path: Path, url: str, objects: WaywardObjects) -> None:
        self._stack = stack
        self._place = tmp_path
        self._url = url
        self._secret = ""
        self.objects = objects

    async def host(self, name: str, **settings: Any) -> House:
        shared = {"secrets__key_file": str(self._place / "keys.json"), **QUICK, **settings}
        opened = open_house(self._place / name, self._url, objects=self.objects, **shared)
        house = await self._stack.enter_async_context(opened)
        if self._secret:
            house.secret = self._secret
            house.client = house.new_client()
        self._secret = house.secret
        return house


@asynccontextmanager
async def some_hosts(tmp_path: Path, url: str) -> AsyncIterator[Hosts]:
    async with AsyncExitStack() as stack:
        yield Hosts(stack, tmp_path, url, WaywardObjects(tmp_path / "objects"))


@pytest_asyncio.fixture
async def hosts(tmp_path: Path, store_url: str) -> AsyncIterator[Hosts]:
    async with some_hosts(tmp_path, store_url) as opened:
        yield opened


async def leave(house: House) -> None:
    """What the first SIGTERM does. `House.stop` alone ends everything at once, as the second does."""
    assert house.hostler is not None
    house.hostler.worker.drain()
    await house.until_no_process()
    await house.stop()


def said(events: list[Any], kind: str) -> list[Any]:
    told = [e.error.model_dump() for e in events if e.type == "session.error"]
    return [error["hostler"] for error in told if error.get("hostler", {}).get("type") == kind]


def results(events: list[Any]) -> list[str]:
    return [e.content[0].text for e in events if e.type == "agent.tool_result"]


def bash(command: str) -> list[Any]:
    return [step(tool("bash", command=command)), step("Done.")]


async def test_the_answer_that_comes_a_week_later_finds_the_files_on_a_new_machine(hosts: Hosts) -> None:
    old = await hosts.host("old")
    session = await old.session(ASK_FOR_BASH)
    await old.say(
        session,
        [
            step(tool("write", file_path="/workspace/plan", content="the plan")),
            *bash("cat plan && echo done >> calls; cat calls"),
        ],
    )
    asked = (await old.until_idle(session))[-1]
    assert asked.stop_reason.type == "requires_action"
    await old.until_no_process()
    await leave(old)
    new = await hosts.host("new")
    call = next(e for e in await new.events(session) if e.type == "agent.tool_use" and e.name == "bash")
    before = len(await new.events(session))
    await new.answer(session, allow(call))
    events = await new.until_idle(session, before)
    assert results(await new.events(session))[-1] == "the plandone"
    assert not said(events, "files_lost")


async def test_a_session_goes_back_and_forth_between_two_machines(hosts: Hosts) -> None:
    one = await hosts.host("one")
    session = await one.session()
    await one.turn(session, bash("echo 1 > count"))
    await leave(one)
    two = await hosts.host("two")
    events = await two.turn(session, bash("cat count; echo 2 >> count; ln -s count link"))
    assert results(events) == ["1"]
    await leave(two)
    await one.start()
    events = await one.turn(session, bash("cat link; rm link"))
    assert results(events) == ["1\n2"]
    assert not said(await one.events(session), "files_lost")


@pytest.mark.one_database
async def test_a_worker_that_had_the_session_last_finds_its_folders_as_they_are(hosts: Hosts) -> None:
    house = await hosts.host("one")
    session = await house.session()
    await house.turn(session, bash("echo mine > file"))
    await leave(house)
    await house.start()
    hosts.objects.damaged |= set(hosts.objects.names)
    events = await house.turn(session, bash("cat file"))
    assert results(events) == ["mine"]
    assert not said(events, "snapshots_damaged")


@pytest.mark.one_database
@pytest.mark.parametrize("answer", [allow, lambda call: deny(call, "No.")], ids=["allow", "deny"])
async def test_a_call_that_only_waited_has_lost_nothing(hosts: Hosts, answer: Callable[[Any], Any]) -> None:
    old = await hosts.host("old")
    session = await old.session(ASK_FOR_BASH)
    await old.say(session, bash("echo 1 > count"))
    await old.until_idle(session)
    await leave(old)
    new = await hosts.host("new")
    call = next(e for e in await new.events(session) if e.type == "agent.tool_use")
    before = len(await new.events(session))
    await new.answer(session, answer(call))
    await new.until_idle(session, before)
    await leave(new)
    await old.start()
    await old.turn(session, [step("Fine.")])
    assert not said(await old.events(session), "files_lost")


@pytest.mark.one_database
async def test_what_a_call_changes_is_kept_although_it_was_asked_for_before_the_files_count(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`claude` asks for a call that was waited for as soon as it has started, however slow the disk is."""
    old = await hosts.host("old")
    session = await old.session(ASK_FOR_BASH)
    await old.say(session, bash("echo 1 > count"))
    await old.until_idle(session)
    await leave(old)
    new = await hosts.host("new", worker__lease_seconds=30.0)
    ran_before, mark = [], HomeNotes.mark

    def slow(notes: HomeNotes, home: Path, copy_name: str) -> None:
        until = monotonic() + STARTS_WITHIN
        while monotonic() < until and not (home / "workspace" / "count").exists():
            sleep(0.01)
        ran_before.append((home / "workspace" / "count").exists())
        mark(notes, home, copy_name)

    with monkeypatch.context() as patched:
        patched.setattr(HomeNotes, "mark", slow)
        call = next(e for e in await new.events(session) if e.type == "agent.tool_use")
        before = len(await new.events(session))
        await new.answer(session, allow(call))
        await new.until_idle(session, before)
    await leave(new)
    await old.start()
    await old.turn(session, [step("Fine.")])
    assert (old.workspace(session) / "count").read_text() == "1\n"
    assert not said(await old.events(session), "files_lost")
    assert ran_before == [False]


@pytest.mark.one_database
async def test_a_call_that_was_allowed_after_the_snapshot_is_told_to_be_lost(hosts: Hosts) -> None:
    killed = await hosts.host("killed")
    session = await killed.session(ASK_FOR_BASH)
    await killed.say(session, [step(tool("bash", command="echo 1 > count")), step(gate("cut"), text("never"))])
    asked = (await killed.until_idle(session))[-1]
    assert asked.stop_reason.type == "requires_action"
    await killed.client.post(f"/hostler/v1/sessions/{session}/checkpoints", body={}, cast_to=dict[str, Any])
    call = next(e for e in await killed.events(session) if e.type == "agent.tool_use")
    await killed.answer(session, allow(call))
    await killed.model.reached_gate("cut")
    await killed.stop()  # before the files of the call were kept
    other = await hosts.host("other")
    before = len(await other.events(session))
    other.model.open_gate("cut")
    await other.until_idle(session, before)
    (lost,) = said(await other.events(session), "files_lost")
    assert lost["tool_calls"] == 1


@pytest.mark.parametrize(("patience", "kept"), [(30.0, 0), (0.0, 1)])
async def test_a_message_that_waits_goes_before_the_snapshot_of_the_last_turn_unless_that_has_waited_for_long(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, patience: float, kept: int
) -> None:
    monkeypatch.setattr(lodging, "KEEP_WITHIN_SECONDS", patience)
    house = await hosts.host("one")
    session = await house.session()
    await house.say(session, [step(tool("bash", command="echo 1 > count")), step(gate("first"), text("Done."))])
    await house.model.reached_gate("first")
    await house.say(session, [step(gate("second"), text("Done."))])
    house.model.open_gate("first")
    await house.model.reached_gate("second")
    assert len(await snapshots_of(house, session)) == kept
    house.model.open_gate("second")
    await until_kept(house, session)


async def test_what_a_killed_worker_did_not_keep_is_told_loudly_to_user_and_model(hosts: Hosts) -> None:
    killed = await hosts.host("killed")
    session = await killed.session()
    await killed.turn(session, bash("echo 1 > count"))
    await until_kept(killed, session)
    (first,) = await snapshots_of(killed, session)
    await killed.say(session, [step(tool("bash", command="echo 2 >> count")), step(gate("cut"), text("never"))])
    await killed.model.reached_gate("cut")
    await killed.stop()  # in the middle of the turn, as a crash of the host would
    other = await hosts.host("other")
    other.model.open_gate("cut")
    events = await other.until_idle(session)
    lost = said(await other.events(session), "files_lost")
    assert [(one["tool_calls"], one["snapshot_id"]) for one in lost] == [(1, first.id)]
    assert types(events)[-1] == "session.status_idle"
    events = await other.turn(session, bash("cat count"))
    assert results(events) == ["1"]
    told = [str(request.body["messages"]) for request in other.model.requests]
    assert any("older than this conversation" in messages for messages in told)
    await other.stop()
    await killed.start()  # its folders are newer than the snapshot that it knows, and count no more
    events = await killed.turn(session, bash("cat count"))
    assert results(events) == ["1"]


@pytest.mark.one_database
async def test_a_killed_worker_that_comes_back_first_goes_on_with_what_it_has(hosts: Hosts) -> None:
    house = await hosts.host("one")
    session = await house.session()
    await house.turn(session, bash("echo 1 > count"))
    await house.say(session, [step(tool("bash", command="echo 2 >> count")), step(gate("cut"), text("On."))])
    await house.model.reached_gate("cut")
    await house.stop()
    house.model.open_gate("cut")
    await house.start()
    await house.until_idle(session)
    events = await house.turn(session, bash("cat count"))
    assert results(events) == ["1\n2"]
    assert not said(await house.events(session), "files_lost")


@pytest.mark.one_database
async def test_a_damaged_snapshot_falls_back_to_the_one_before_and_says_so_once(hosts: Hosts) -> None:
    one = await hosts.host("one")
    session = await one.session()
    await one.turn(session, bash("echo 1 > count"))
    await until_kept(one, session)
    (first,) = await snapshots_of(one, session)
    known = len(hosts.objects.names)
    await one.turn(session, bash("echo 2 >> count"))
    await leave(one)
    hosts.objects.damaged |= set(hosts.objects.names[known:])
    two = await hosts.host("two")
    events = await two.turn(session, bash("cat count; echo 3 >> count"))
    assert results(events) == ["1"]
    assert [told["snapshot_id"] for told in said(events, "snapshots_damaged")] == [first.id]
    await leave(two)
    await two.start()
    events = await two.turn(session, bash("cat count"))
    assert results(events) == ["1\n3"]
    assert not said(events, "snapshots_damaged")


async def test_files_that_could_not_be_kept_are_kept_as_soon_as_that_is_possible(hosts: Hosts) -> None:
    one = await hosts.host("one", worker__cache_look_seconds=0.1)
    session = await one.session()
    hosts.objects.away = True
    await one.turn(session, bash("echo 1 > count"))
    assert one.hostler is not None
    one.hostler.worker.drain()
    await one.until_no_process()
    hosts.objects.away = False
    await until_kept(one, session)
    await leave(one)
    two = await hosts.host("two")
    assert results(await two.turn(session, bash("cat count"))) == ["1"]
    assert not said(await two.events(session), "files_lost")


async def programs(house: House) -> frozenset[int]:
    """All that runs in its sandboxes."""
    found: set[int] = set()
    for folder in (Path(house.settings["state_dir"]) / "sandbox" / "sandboxes").iterdir():
        record = await asyncio.to_thread(Record.load, folder)
        if record is not None:
            found |= await asyncio.to_thread(processes, record)
    return frozenset(found)


async def until_something_runs(house: House) -> None:
    async with asyncio.timeout(DEADLINE):
        while not await programs(house):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)


@asynccontextmanager
async def on_the_way(hosts: Hosts, *, more: str = "true") -> AsyncIterator[tuple[House, str]]:
    """A session wakes up on another machine, its process runs, and its files have not come yet."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files to the user of a sandbox that is there already")
    old = await hosts.host("old")
    session = await old.session(system="You are the archivist.")
    await old.turn(session, bash("echo 1 > count; mkdir -m 755 d; ln -s ../count d/link; ln count d/same"))
    await leave(old)
    new = await hosts.host("new")
    hosts.objects.open.clear()
    hosts.objects.asked.clear()
    await new.say(session, bash(more))
    try:
        await hosts.objects.asked.wait()
        await until_something_runs(new)
        yield new, session
    finally:
        hosts.objects.open.set()


async def test_the_process_starts_while_its_files_are_on_their_way_and_finds_them_all(hosts: Hosts) -> None:
    look = "cat count d/link d/same; echo 2 >> d/link; rm d/same; mv d e; stat -c %U:%a . e count; ls -A"
    async with on_the_way(hosts, more=look) as (new, session):
        before = len(await new.events(session))
        began = await programs(new)
        assert not new.model.message_requests
    events = await new.until_idle(session, before)
    assert results(events) == ["1\n1\n1\nagent:700\nagent:755\nagent:644\ncount\ne"]
    assert began & await programs(new)  # it is still the same process
    (first, *_) = new.model.message_requests
    assert "You are the archivist." in str(first.body["system"])
    assert "mkdir -m 755" in str(first.body["messages"])  # it remembers


async def test_when_the_files_do_not_come_nothing_of_the_process_is_left(hosts: Hosts) -> None:
    async with on_the_way(hosts) as (new, session):
        before = len(await new.events(session))
        hosts.objects.away = True
    events = await new.until_idle(session, before)
    assert "object store" in str([e.error.message for e in events if e.type == "session.error"])
    assert not new.model.message_requests
    await new.until_no_process()
    assert not await programs(new)
    hosts.objects.away = False
    assert results(await new.turn(session, bash("cat count"))) == ["1"]


async def test_a_server_that_ends_while_files_are_on_their_way_leaves_nothing_that_counts(hosts: Hosts) -> None:
    async with on_the_way(hosts, more="cat count") as (new, session):
        before = len(await new.events(session))
        await new.stop()
        assert not await programs(new)
    await new.start()
    events = await new.until_idle(session, before)
    assert results(events) == ["1"]


async def test_a_process_that_dies_before_its_files_are_there_is_replaced(hosts: Hosts) -> None:
    async with on_the_way(hosts, more="cat count") as (new, session):
        before = len(await new.events(session))
        for pid in await programs(new):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    events = await new.until_idle(session, before)
    assert results(events) == ["1"]


@pytest.mark.one_database
async def test_what_a_removed_repository_has_left_is_removed_from_files_that_come_later(
    hosts: Hosts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with git_host(tmp_path_factory.mktemp("git")) as git:
        git.repository("public/lib", {"v": "one"})
        old = await hosts.host("old", egress__private_allowed="127.0.0.1")
        agent = await old.client.beta.agents.create(
            name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
        )
        lib: Any = {"type": "github_repository", "url": f"{git.url}/public/lib.git"}
        session = await old.client.beta.sessions.create(
            agent=agent.id, environment_id=await old.environment(), resources=[lib]
        )
        assert results(await old.turn(session.id, bash("cat lib/v; echo 1 > kept"))) == ["one"]
        await leave(old)
    await (new := await hosts.host("new")).client.beta.sessions.resources.delete(
        session.resources[0].id,  # type: ignore[union-attr,arg-type]
        session_id=session.id,
    )
    assert results(await new.turn(session.id, bash("ls"))) == ["kept"]
    assert not list((new.workspace(session.id).parent / "repositories").glob("*sesrsc*"))


@pytest.mark.one_database
@pytest.mark.parametrize("cache_mb", [0, 10_000])
async def test_homes_beyond_the_cache_are_removed_once_they_are_kept(hosts: Hosts, cache_mb: int) -> None:
    house = await hosts.host(
        "one", worker__cache_look_seconds=0.1, worker__cache_mb=cache_mb, turns__idle_timeout_seconds=0
    )
    session = await house.session()
    await house.turn(session, bash("echo 1 > count"))
    await house.until_no_process()
    state = Path(house.settings["state_dir"])
    images = [state / "volumes" / f"{session}.img", state / "sessions" / session]
    if cache_mb:
        await house.turn(session, bash("true"))  # the keeper has looked meanwhile
        assert any(image.exists() for image in images)
    else:
        async with asyncio.timeout(DEADLINE):
            while any(image.exists() for image in images):  # noqa: ASYNC110 - nothing announces the removal
                await asyncio.sleep(0.01)
    assert results(await house.turn(session, bash("cat count"))) == ["1"]
    assert not said(await house.events(session), "files_lost")


async def test_a_session_that_was_claimed_while_the_server_began_to_drain_is_given_back(hosts: Hosts) -> None:
    one = await hosts.host("one")
    session = await one.session()
    assert one.hostler is not None
    worker, loop = one.hostler.worker, asyncio.get_running_loop()

    def watch(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "UPDATE work SET" in statement and "epoch=" in statement:
            loop.call_soon_threadsafe(worker.drain)

    sa.event.listen(Engine, "before_cursor_execute", watch)
    try:
        await one.turn(session, bash("echo 1 > count"))
    finally:
        sa.event.remove(Engine, "before_cursor_execute", watch)
    assert not worker.takes_sessions()
    await one.until_no_process()
