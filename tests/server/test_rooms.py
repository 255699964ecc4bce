"""Do several sessions live in one room, see what is common, and keep their hands off what is not theirs?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
import pytest_asyncio
from hookkit import own
from housekit import ALLOW_ALL, DEADLINE, House, open_house
from objectskit import until_kept
from test_homes_that_move import Hosts, bash, leave, results, said, some_hosts

from hostler.engine.room_files import RoomFiles
from hostler.sandbox import leftovers
from hostler.testing.rehearsal import gate, step, tool

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="rooms need a worker that is root")


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path, f"sqlite:///{tmp_path}/hostler.db") as opened:
        yield opened


@pytest_asyncio.fixture
async def hosts(tmp_path: Path) -> AsyncIterator[Hosts]:
    async with some_hosts(tmp_path, f"sqlite:///{tmp_path}/hostler.db") as opened:
        yield opened


async def room(house: House, *names: str, **shared: Any) -> list[str]:
    """Sessions of these names in one room of a new environment with these rules."""
    environment = await house.environment(hosting={"pattern": "shared", "shared": shared})
    return [await member(house, environment, name) for name in names]


async def member(house: House, environment: str, name: str, **metadata: str) -> str:
    agent = await house.client.beta.agents.create(name="Player", model="claude-opus-5-5", tools=ALLOW_ALL)
    called = {"hostler.room_name": name, **metadata}
    made = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment, metadata=called)
    return made.id


async def done(house: House, session: str, command: str) -> str:
    """What a command in the session says."""
    return results(await house.turn(session, bash(command)))[-1]


def processes_of(house: House, session: str) -> list[int]:
    """Of its sandbox, by the host's numbers."""
    assert house.hostler is not None
    sandbox = house.hostler.worker.sandbox_of(session)
    return sorted(leftovers.processes(sandbox._record))  # type: ignore[union-attr]


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_two_sessions_share_what_is_common_and_nothing_else(house: House) -> None:
    ann, bob = await room(house, "ann", "bob")
    made = "echo tower > /room/common/map; echo mine > notes; sleep 1007.25 & echo hidden-of-ann > /tmp/t; "
    assert "ok" in await done(house, ann, made + "echo out > /mnt/session/outputs/ann.txt; echo ok")
    seen = await done(house, bob, "cat /room/common/map; cat /room/sessions/ann/notes; echo bob > /room/common/b")
    assert seen.split() == ["tower", "mine"]
    of_ann = processes_of(house, ann)
    assert of_ann

    # What is told of a pid, a path and a word is what an attacker from inside could know at best.
    attack = f"""
        exec 2>&1
        touch /room/sessions/ann/x; echo no > /room/sessions/ann/notes; rm /room/sessions/ann/notes
        mv /room/sessions/ann /room/sessions/eve; ln /room/sessions/ann/notes /room/common/hard
        mount -o remount,rw /room/sessions/ann; umount /room/sessions/ann
        for pid in {" ".join(map(str, of_ann))}; do kill -9 $pid; cat /proc/$pid/environ; done
        grep -laE '[s]{ann[1:]}|1007[.]25' /proc/[0-9]*/environ /proc/[0-9]*/cmdline | sed s/^/LEAK:/
        find / -xdev -name "*.jsonl" -path "*[s]{ann[1:]}*" | sed s/^/LEAK:/
        grep -rlE '[h]idden-of-ann' /tmp /mnt /run | sed s/^/LEAK:/
        ls /mnt/session/outputs /tmp/cc-socks | grep -v cc-socks
        ln -s /room/sessions/ann/notes /room/common/link; echo no > /room/common/link
        ln -s /etc/shadow /room/common/shadow
        echo END
    """
    said_ = await done(house, bob, attack)
    assert "LEAK" not in said_
    assert "ann.txt" not in said_
    assert said_.split()[-1] == "END"
    assert "Read-only file system" in said_
    assert "Invalid cross-device link" in said_
    assert all(runs(pid) for pid in of_ann)
    assert (await done(house, ann, "cat notes; ls; cat /room/common/b; ls -A /tmp | grep -c cc-socks")).split()[:3] == [
        "mine",
        "notes",
        "bob",
    ]
    files = [file.filename async for file in house.client.beta.files.list(scope_id=bob)]
    assert files == [], "a link to somebody's outputs is not bob's output"
    rooms = (await own(house, "GET", "/rooms"))["data"]
    assert [(each["name"], [one["name"] for one in each["sessions"]]) for each in rooms] == [("main", ["ann", "bob"])]
    common = Path(house.settings["state_dir"]) / "sessions" / rooms[0]["id"] / "workspace"
    assert (common / "shadow").is_symlink(), "what is common was kept with the link as a link"


async def test_a_change_that_is_overwritten_unseen_is_told_to_both(house: House) -> None:
    ann, bob = await room(house, "ann", "bob")
    odd = '"$(printf "/room/common/a\\377")"'
    await house.turn(ann, bash(f"echo one > /room/common/map; echo one > /room/common/log; echo one > {odd}; echo ok"))
    await house.turn(bob, bash(f"echo 2 > /room/common/map; echo 2 >> /room/common/log; echo 2 > {odd}; echo ok"))
    found = (await own(house, "GET", "/rooms"))["data"][0]
    async with asyncio.timeout(DEADLINE):
        while len((await own(house, "GET", f"/rooms/{found['id']}/conflicts"))["data"]) < 2:
            continue  # they are written down meanwhile
    await house.turn(bob, bash("echo ok"))
    heard = said(await house.events(bob), "shared_conflict")
    assert [told["path"] for told in heard] == ["/room/common/map", "/room/common/a\\xff"], "not what was added to"
    assert (heard[0]["session_id"], heard[0]["other_session_id"]) == (bob, ann)
    events = await house.turn(ann, bash("cat /room/common/map; echo three > /room/common/map; echo ok"))
    assert [told["path"] for told in said(events, "shared_conflict")] == [told["path"] for told in heard]
    listed = (await own(house, "GET", f"/rooms/{found['id']}/conflicts"))["data"]
    assert [(each["path"], each["session_id"], each["outcome"]) for each in listed] == [
        ("a\\xff", bob, "overwritten"),
        ("map", bob, "overwritten"),
    ]


@pytest.mark.slow
async def test_where_the_first_writer_wins_a_stale_write_is_refused(house: House) -> None:
    ann, bob = await room(house, "ann", "bob", conflicts="first_writer_wins", own_folders="private")
    path = "/room/common/map"
    await house.turn(ann, bash(f"echo one > {path}; echo ok"))
    stale = tool("write", file_path=path, content="mine")
    before = len(await house.events(bob))
    await house.say(bob, [step(tool("read", file_path=path)), step(gate("read"), stale), step("Done.")])
    await house.model.reached_gate("read")
    await house.turn(ann, bash(f"cat {path}; echo two > {path}; echo ok"))
    house.model.open_gate("read")
    refused = results(await house.until_idle(bob, before))[-1]
    assert "modified since read" in refused or "changed by ann after" in refused, "claude looks first, then we do"
    assert (await done(house, bob, f"cat {path}; ls /room/sessions 2>&1; true")).split()[0] == "two"


@pytest.mark.slow
async def test_only_those_who_may_write_what_is_common_do(house: House) -> None:
    ann, bob = await room(house, "ann", "bob", common_writers=["ann"])
    assert "Read-only" in await done(house, bob, "touch /room/common/x 2>&1; echo end")
    assert "ok" in await done(house, ann, "echo 1 > /room/common/x && echo ok")
    assert await done(house, bob, "cat /room/common/x") == "1"


async def test_a_room_takes_no_more_than_its_sessions_and_no_name_twice(house: House) -> None:
    environment = await house.environment(hosting={"pattern": "shared", "shared": {"max_sessions": 2}})
    ann = await member(house, environment, "ann")
    with pytest.raises(anthropic.ConflictError, match="of the name ann already"):
        await member(house, environment, "ann")
    bob = await member(house, environment, "bob")
    with pytest.raises(anthropic.BadRequestError, match="the room main of this environment is full: 2 sessions"):
        await member(house, environment, "eve")
    await member(house, environment, "eve", **{"hostler.room": "other"})
    await house.client.beta.sessions.archive(ann)
    await member(house, environment, "eve")
    with pytest.raises(anthropic.BadRequestError, match="fixed when the session is created"):
        await house.client.beta.sessions.update(bob, metadata={"hostler.room": "elsewhere"})
    with pytest.raises(anthropic.BadRequestError, match="one common folder"):
        await own(house, "POST", f"/sessions/{bob}/fork", {})
    with pytest.raises(anthropic.BadRequestError, match="1 to 64 of A-Z"):
        await member(house, environment, "../eve")
    plain = await house.environment(hosting={"pattern": "hybrid"})
    with pytest.raises(anthropic.BadRequestError, match="has no rooms"):
        await member(house, plain, "ann")
    rooms = (await own(house, "GET", "/rooms"))["data"]
    assert sorted(each["name"] for each in rooms) == ["main", "other"]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"hosting": {"pattern": "hybrid", "shared": {}}}, "only the pattern shared makes"),
        ({"hosting": {"pattern": "shared", "spares": 1}}, "spares mean nothing"),
        ({"hosting": {"pattern": "shared", "shared": {"common_writers": ["a b"]}}}, "1 to 64 of A-Z"),
        ({"hosting": {"pattern": "shared"}, "isolation": {"technology": "gvisor"}}, "gvisor"),
    ],
)
async def test_rules_that_can_not_be_are_refused(house: House, config: Any, match: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=match):
        await house.environment(**config)


@pytest.mark.slow
async def test_a_room_moves_with_what_is_common_when_nobody_is_in_it(hosts: Hosts) -> None:
    old = await hosts.host("old")
    ann, bob = await room(old, "ann", "bob")
    await old.turn(ann, bash("mkdir /room/common/d; echo tower > /room/common/d/map; echo mine > notes; echo ok"))
    await leave(old)
    new = await hosts.host("new")
    assert await done(new, bob, "cat /room/common/d/map") == "tower"
    assert (await done(new, ann, "cat notes; cat /room/common/d/map")).split() == ["mine", "tower"]
    assert not said(await new.events(ann), "room_files_lost")


@pytest.mark.slow
async def test_a_session_is_served_where_its_room_is(hosts: Hosts) -> None:
    one = await hosts.host("one")
    ann, bob = await room(one, "ann", "bob")
    await one.turn(ann, bash("echo tower > /room/common/map; echo ok"))
    two = await hosts.host("two")
    before = len(await one.events(bob))
    await two.say(bob, bash("cat /room/common/map"))
    assert results(await one.until_idle(bob, before)) == ["tower"]
    found = (await own(two, "GET", "/rooms"))["data"][0]
    assert one.hostler is not None
    assert found["worker"] == one.hostler.worker.owner
    assert [each["live"] for each in found["sessions"]] == [True, True]


@pytest.mark.slow
async def test_what_is_common_is_there_after_a_server_was_cut_off(house: House) -> None:
    ann, bob = await room(house, "ann", "bob")
    await house.turn(ann, bash("echo tower > /room/common/map; echo ok"))
    await house.say(bob, [step(tool("bash", command="echo moat >> /room/common/map")), step(gate("cut")), step("End.")])
    await house.model.reached_gate("cut")
    before = len(await house.events(bob))
    await house.stop()
    house.model.open_gate("cut")
    await house.start()
    await house.until_idle(bob, before)
    assert (await done(house, ann, "cat /room/common/map; ls /room/sessions")).split() == [
        "tower",
        "moat",
        "ann",
        "bob",
    ]
    assert not said(await house.events(ann), "room_files_lost")


@pytest.mark.slow
async def test_sessions_read_of_what_another_server_has_not_kept(hosts: Hosts) -> None:
    old = await hosts.host("old")
    ann, bob = await room(old, "ann", "bob")
    await old.turn(ann, bash("echo tower > /room/common/map; echo ok"))
    await until_kept(old, (await own(old, "GET", "/rooms"))["data"][0]["id"])
    await old.say(ann, [step(tool("bash", command="echo moat >> /room/common/map")), step(gate("cut")), step("End.")])
    await old.model.reached_gate("cut")
    await old.stop()
    new = await hosts.host("new")
    events = await new.turn(bob, bash("cat /room/common/map"))
    assert results(events) == ["tower"]
    lost = said(events, "room_files_lost") or said(await new.events(ann), "room_files_lost")
    assert len(lost) == 1
    assert lost[0]["snapshot_id"]


@pytest.mark.slow
async def test_a_room_that_somebody_enters_while_the_last_one_leaves_is_not_taken_for_kept(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = await hosts.host("old")
    environment = await old.environment(hosting={"pattern": "shared", "idle_timeout_seconds": 0, "shared": {}})
    ann, bob = [await member(old, environment, name) for name in ("ann", "bob")]
    keep, ann_leaves, bob_is_in = RoomFiles.keep, asyncio.Event(), asyncio.Event()

    async def late(files: RoomFiles, *given: Any, last: bool) -> None:
        if last:
            ann_leaves.set()
            await bob_is_in.wait()
        await keep(files, *given, last=last)

    monkeypatch.setattr(RoomFiles, "keep", late)
    await old.turn(ann, bash("echo tower > /room/common/map; echo ok"))
    async with asyncio.timeout(DEADLINE):
        await ann_leaves.wait()
        moat = step(tool("bash", command="echo moat >> /room/common/map"))
        await old.say(bob, [moat, step(gate("cut")), step("End.")])
        while not all(one["live"] for one in (await own(old, "GET", "/rooms"))["data"][0]["sessions"]):
            continue
    bob_is_in.set()
    await old.model.reached_gate("cut")
    await old.stop()
    new = await hosts.host("new")
    new.model.open_gate("cut")
    await new.until_idle(bob)
    await new.turn(ann, bash("cat /room/common/map"))
    assert len(said([*await new.events(ann), *await new.events(bob)], "room_files_lost")) >= 1


@pytest.mark.slow
async def test_a_session_that_goes_to_sleep_takes_its_folder_along_whoever_is_in_it(house: House) -> None:
    environment = await house.environment(hosting={"pattern": "shared", "idle_timeout_seconds": 0})
    ann, bob = await member(house, environment, "ann"), await member(house, environment, "bob")
    look = step(tool("bash", command="cd /room/sessions/ann && cat n && (sleep 1000 <n &)"))
    again = step(gate("gone"), tool("bash", command="ls /room/sessions; cat /room/sessions/ann/n 2>&1; true"))
    await house.say(ann, [step(tool("bash", command="echo mine > n")), step(gate("asleep")), step("End.")])
    await house.model.reached_gate("asleep")
    await house.say(bob, [look, again, step("Done.")])
    await house.model.reached_gate("gone")
    house.model.open_gate("asleep")
    await house.until_idle(ann)
    async with asyncio.timeout(DEADLINE):
        while (await own(house, "GET", "/rooms"))["data"][0]["sessions"][0]["live"]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    house.model.open_gate("gone")
    events = await house.until_idle(bob)
    assert results(events)[0].startswith("mine")
    assert results(events)[1].split()[0] == "bob"
    assert "No such file" in results(events)[1]
    assert await done(house, ann, "echo more >> n; cat n | wc -l") == "2"
