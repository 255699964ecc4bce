"""Which calls does a room refuse where the first writer wins?"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hostler.domain.rooms import SharedRooms
from hostler.engine.room_changes import Changes
from hostler.engine.room_port import Listener
from hostler.engine.rooms import Place, Rooms, _Room
from hostler.engine.runs import ToolCall
from hostler.engine.sandbox_port import SandboxLimits
from hostler.store.rooms import MemberRow, RoomRow
from hostler.store.work import Lease

NOBODY: Any = None
ROOM = RoomRow("room_1", "wrkspc_1", "env_1", "main", "2026-01-01T00:00:00Z", "w1", 1, "copy_1", True)


class LateWatcher:
    """Tells of what has happened only when somebody looks."""

    def __init__(self) -> None:
        self.happened: list[Any] = []

    def begin(self, who: str, folder: int, listener: Listener) -> None: ...

    def end(self, who: str) -> None: ...

    def look(self) -> None:
        while self.happened:
            self.happened.pop(0)()

    def close(self) -> None: ...


@dataclass
class Content:
    text: bytes

    @property
    def size(self) -> int:
        return len(self.text)

    def digest(self, count: int) -> bytes | None:
        return hashlib.sha256(self.text[:count]).digest()


class Ground:
    """A room with ann and bob."""

    def __init__(self, **rules: Any) -> None:
        rooms = Rooms("w1", NOBODY, NOBODY, NOBODY, NOBODY, NOBODY, LateWatcher, Path("/views"))
        self.watcher = LateWatcher()
        self.changes = Changes(lambda path: 1)
        self.room = _Room(ROOM, Path("/home"), asyncio.Lock(), self.changes, self.watcher)
        self.room.names = {"sesn_ann": "ann", "sesn_bob": "bob"}
        rooms._live["room_1"] = self.room
        member = MemberRow("sesn_bob", "room_1", "bob", "", 1)
        lease = Lease("sesn_bob", "w1", 1)
        place = Place(rooms, self.room, member, lease, SharedRooms(**rules), SandboxLimits(), Path("/bob"), NOBODY, ())
        self.bob = place

    def wrote(self, who: str, path: str) -> None:
        self.watcher.happened.append(lambda: self.changes.wrote(who, path, 1, Content(b"x")))

    def asks(self, name: str, path: object) -> str | None:
        return self.bob.objects(ToolCall("toolu_1", name, {"file_path": path}, False))


class Suspended:
    """A sandbox that is gone by the time that it is to go on, unless it stays."""

    def __init__(self, *, stays: bool) -> None:
        self.stays = stays
        self.still = False

    async def suspend(self) -> None:
        self.still = True

    async def resume(self) -> None:
        if not self.stays:
            raise OSError("it is gone")
        self.still = False


async def test_whoever_is_gone_keeps_no_other_in_the_room_suspended() -> None:
    ground = Ground()
    rooms = cast(Any, ground.bob)._rooms
    gone, stays = Suspended(stays=False), Suspended(stays=True)
    for number, sandbox in enumerate((gone, stays)):
        place: Any = SimpleNamespace(sandbox=sandbox, resting=False, tell=NOBODY)
        ground.room.places[f"sesn_{number}"] = place

    class Files:
        async def keep(self, *given: object, last: bool) -> None:
            assert stays.still

    rooms._files = Files()
    await rooms.keep(ground.room, NOBODY, "turn")
    assert (gone.still, stays.still) == (True, False)


def test_what_happens_over_and_over_is_written_down_once_until_it_is() -> None:
    ground = Ground(conflicts="first_writer_wins")
    ground.wrote("sesn_ann", "map")
    for _ in range(100):
        assert ground.asks("write", "/room/common/map")
    assert paths(ground) == ["map"]


def paths(ground: Ground) -> Sequence[str]:
    told = cast(Any, ground.bob)._rooms._told
    return [told.get_nowait()[1].path for _ in range(told.qsize())]


@pytest.mark.parametrize("path", ["/room/common/map", "/room/common/./d/../map", "//room/common/map"[1:]])
@pytest.mark.parametrize("tool", ["write", "edit"])
def test_a_change_that_was_not_seen_is_not_overwritten(tool: str, path: str) -> None:
    ground = Ground(conflicts="first_writer_wins")
    ground.wrote("sesn_ann", "map")
    refused = ground.asks(tool, path)
    assert refused is not None
    assert "changed by ann after you last read it" in refused
    assert paths(ground) == ["map"], "and both are told"


def test_what_was_read_since_may_be_changed_and_what_is_elsewhere_always() -> None:
    ground = Ground(conflicts="first_writer_wins")
    ground.wrote("sesn_ann", "map")
    ground.watcher.happened.append(lambda: ground.changes.read("sesn_bob", "map"))
    assert ground.asks("edit", "/room/common/map") is None
    ground.wrote("sesn_ann", "workspace/map")
    assert ground.asks("edit", "/workspace/map") is None
    assert ground.asks("read", "/room/common/workspace/map") is None
    assert ground.asks("edit", "/room/common/../../workspace/map") is None
    assert ground.asks("edit", None) is None
    assert paths(ground) == []


def test_where_the_last_writer_wins_nothing_is_refused() -> None:
    ground = Ground()
    ground.wrote("sesn_ann", "map")
    assert ground.asks("write", "/room/common/map") is None
