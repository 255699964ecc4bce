"""What cloning a repository costs and shows: bounded time and room, a user of its own, no secret in a command line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from githost import TOKEN, GitHost, git_host

from hostler.egress.cloning import CloneLimits, GitCloner
from hostler.engine.ports import CloneFailed, CloneOrder

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
UIDS = range(365_600 + 2 * _WORKER, 365_602 + 2 * _WORKER)
LOOPBACK = frozenset({"127.0.0.1"})


@pytest.fixture
def host(tmp_path: Path) -> Iterator[GitHost]:
    with git_host(tmp_path / "git") as running:
        yield running


def order(host: GitHost, name: str, tmp_path: Path, token: str | None = None) -> CloneOrder:
    secret = None if token is None else token.encode()
    return CloneOrder("wrkspc_1", f"{host.url}/{name}.git", None, None, secret, tmp_path / "clones" / "c")


def processes_of(uids: Sequence[int]) -> dict[int, bytes]:
    """Command lines of the processes of these users."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid in uids:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes()
            except OSError:
                continue
    return found


@pytest.mark.needs_root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_git_is_a_user_of_its_own_and_its_command_line_has_no_token(host: GitHost, tmp_path: Path) -> None:
    host.repository("private/a", {"f": "x"})
    host.open.clear()
    cloner = GitCloner(uids=UIDS, private_allowed=LOOPBACK)
    async with asyncio.TaskGroup() as tasks:
        cloning = tasks.create_task(cloner.clone(order(host, "private/a", tmp_path, TOKEN)))
        assert await asyncio.to_thread(host.arrived.wait, 20)
        seen = processes_of(UIDS)
        everything = b""
        for entry in Path("/proc").iterdir():
            with suppress(OSError):  # others come and go meanwhile
                everything += (entry / "cmdline").read_bytes()
        host.open.set()
        await cloning
    assert any(b"clone" in line for line in seen.values())
    assert TOKEN.encode() not in everything
    clone = tmp_path / "clones" / "c"
    assert (clone / "f").read_text() == "x"
    assert TOKEN not in (clone / ".git" / "config").read_text()
    assert [entry.name for entry in clone.parent.iterdir()] == ["c"]
    cloner.close()


async def test_silent_server_ends_with_its_time_and_leaves_nothing(host: GitHost, tmp_path: Path) -> None:
    host.repository("a", {"f": "x"})
    host.open.clear()
    cloner = GitCloner(uids=UIDS, private_allowed=LOOPBACK, limits=CloneLimits(seconds=1.5, at_once=1))
    with pytest.raises(CloneFailed, match=r"within 1.5 seconds"):
        await cloner.clone(order(host, "a", tmp_path))
    assert list((tmp_path / "clones").iterdir()) == []
    assert processes_of(UIDS) == {}
    host.open.set()
    cloner._limits = replace(cloner._limits, seconds=60.0)
    await cloner.clone(order(host, "a", tmp_path))  # the place is free again
    cloner.close()


async def test_repository_larger_than_its_room_is_given_up(host: GitHost, tmp_path: Path) -> None:
    host.repository("big", {"f": os.urandom(3 << 20).hex()})
    cloner = GitCloner(uids=UIDS, private_allowed=LOOPBACK, limits=CloneLimits(bytes=1 << 20))
    with pytest.raises(CloneFailed):
        await cloner.clone(order(host, "big", tmp_path))
    assert list((tmp_path / "clones").iterdir()) == []
    cloner.close()


async def test_a_workspace_whose_host_does_not_answer_leaves_room_for_another(host: GitHost, tmp_path: Path) -> None:
    host.repository("a", {"f": "x"})
    limits = CloneLimits(at_once=2, at_once_workspace=1)
    cloner = GitCloner(uids=None, private_allowed=LOOPBACK, limits=limits)
    connections: list[asyncio.StreamWriter] = []
    arrived = asyncio.Event()

    def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        arrived.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/never.git"
    waiting = [
        asyncio.create_task(cloner.clone(CloneOrder("wrkspc_1", url, None, None, None, tmp_path / "clones" / name)))
        for name in ("one", "two")
    ]
    async with asyncio.timeout(20):
        await arrived.wait()
        await cloner.clone(replace(order(host, "a", tmp_path), workspace_id="wrkspc_2"))
    assert (tmp_path / "clones" / "c" / "f").read_text() == "x"
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    for writer in connections:
        writer.close()
    server.close()
    cloner.close()


class Rebinding:
    """Answers with a public address first and with this host's own afterwards."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("url", "answers", "text"),
    [
        ("https://rebind.example/o/r", ["127.0.0.1"], "not on the public Internet"),
        ("https://rebind.example/o/r", ["169.254.169.254", "::1"], "not on the public Internet"),
        ("https://rebind.example:22/o/r", ["192.0.43.8"], "not a port of the web"),
        ("http://rebind.example/o/r", ["192.0.43.8"], "A token is not sent without encryption"),
        ("file:///etc", [], "no http or https"),
        ("ext::sh -c id", [], "no http or https"),
        ("https://0x7f.1/o/r", ["127.0.0.1"], "not on the public Internet"),
        # git would look up this name itself, past what was found for it here.
        ("http://rebind.example./o/r", ["192.0.43.8"], "write its host as rebind.example"),
    ],
)
async def test_address_that_is_not_public_is_never_asked(
    tmp_path: Path, url: str, answers: list[str], text: str
) -> None:
    cloner = GitCloner(resolver=Rebinding(answers))
    with pytest.raises(CloneFailed, match=text):
        await cloner.clone(CloneOrder("wrkspc_1", url, None, None, b"token", tmp_path / "c"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uids", [UIDS, None])
async def test_name_is_resolved_once_and_git_keeps_to_the_answer(
    host: GitHost, tmp_path: Path, uids: range | None
) -> None:
    host.repository("a", {"f": "x"})
    url = host.url.replace("127.0.0.1", "nowhere.invalid") + "/a.git"
    cloner = GitCloner(uids=uids, resolver=Rebinding(["127.0.0.1"]), private_allowed=LOOPBACK)
    await cloner.clone(CloneOrder("wrkspc_1", url, None, None, None, tmp_path / "c"))
    assert (tmp_path / "c" / "f").read_text() == "x"
