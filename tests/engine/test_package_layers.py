"""Who waits for whom when packages are installed, and what is told when that fails? With a store that is told what to
do; the real one has its own tests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hostler.domain.packages import PackageLists
from hostler.engine.egress_port import EgressDecision, EgressRules
from hostler.engine.layers import LayerDecisions, LayerFailed, PackageLayers, until_installed

SIX = PackageLists(pip=("six",))
RAKE = PackageLists(gem=("rake",))


class Held:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.closed = False

    def close(self) -> None:
        self.closed = True


class GatedStore:
    """Builds when it is let: `go` opens the gate; `fails` is said by the next build."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.builds: list[PackageLists] = []
        self.now = 0
        self.most = 0
        self.fails = ""
        self.built: set[str] = set()
        self.held: list[Held] = []

    async def hold(self, packages: PackageLists) -> Held | None:
        if packages.digest not in self.built:
            return None
        self.held.append(Held(Path("/layers", packages.digest)))
        return self.held[-1]

    def registry_hosts(self) -> Sequence[str]:
        return ("apt.example", "pypi.example")

    async def build(self, packages: PackageLists, egress_socket: Path) -> None:
        assert egress_socket.exists()
        self.builds.append(packages)
        self.now += 1
        self.most = max(self.most, self.now)
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        if self.fails:
            said, self.fails = self.fails, ""
            raise LayerFailed(said)
        self.built.add(packages.digest)


class Road:
    authority = None

    def __init__(self, socket: Path) -> None:
        self.socket = socket

    async def close(self) -> None:
        self.socket.unlink()


class RecordedRoads:
    def __init__(self, decisions: LayerDecisions) -> None:
        self.rules: list[EgressRules] = []
        self.decisions = decisions
        self.denies: tuple[str, ...] = ()

    async def open(
        self, session_id: str, socket: Path, rules: EgressRules, mcp: Any = None, secrets: Any = None
    ) -> Road:
        self.rules.append(rules)
        socket.touch()
        for host in self.denies:
            await self.decisions.record(EgressDecision(session_id, "GET", host, 443, False, "host_not_allowed"))
        return Road(socket)


class Place:
    def __init__(self, folder: Path) -> None:
        self.store = GatedStore()
        decisions = LayerDecisions()
        self.roads = RecordedRoads(decisions)
        self.sockets = folder
        self.layers = PackageLayers(self.store, self.roads, decisions, ("pypi.example",), folder)

    def nothing_left(self) -> bool:
        return not list(self.sockets.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_one_build_for_all_and_one_build_at_a_time(place: Place) -> None:
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(place.layers.acquire(packages)) for packages in (SIX, RAKE, SIX)]
        await place.store.begun.wait()
        place.store.go.set()
    assert [task.result().path.name for task in waiting] == [SIX.digest, RAKE.digest, SIX.digest]
    assert (place.store.builds, place.store.most) == ([SIX, RAKE], 1)
    assert place.roads.rules[0] == EgressRules("listed", hosts=("pypi.example", "apt.example"))
    assert place.nothing_left()


async def test_a_failure_reaches_everybody_who_waits_names_the_denied_and_is_tried_again(place: Place) -> None:
    place.store.fails, place.roads.denies = "It failed.", ("a.example", "a.example", "b.example")

    async def attempt() -> str:
        with pytest.raises(LayerFailed) as caught:
            await place.layers.acquire(SIX)
        return str(caught.value)

    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as tasks:
            trying = [tasks.create_task(attempt()) for _ in range(2)]
            await place.store.begun.wait()
            place.store.go.set()
        said = {task.result() for task in trying}
        assert said == {
            "It failed.\nWhere packages are installed only registries can be reached; denied: "
            "a.example (host_not_allowed), b.example (host_not_allowed)."
        }
        assert place.nothing_left()
        place.roads.denies = ()
        assert (await place.layers.acquire(SIX)).path.name == SIX.digest
    assert len(place.store.builds) == 2


async def test_who_stops_waiting_does_not_stop_the_build(place: Place) -> None:
    async with asyncio.timeout(60):
        first = asyncio.get_running_loop().create_task(place.layers.acquire(SIX))
        await place.store.begun.wait()
        first.cancel()
        await asyncio.wait({first})
        place.store.go.set()
        await place.layers.acquire(SIX)
    assert first.cancelled()
    assert len(place.store.builds) == 1


async def test_closing_ends_builds_and_tells_who_waits(place: Place) -> None:
    async with asyncio.timeout(60):
        waiting = asyncio.get_running_loop().create_task(place.layers.acquire(SIX))
        await place.store.begun.wait()
        await place.layers.close()
        with pytest.raises(LayerFailed, match="the server was stopped"):
            await waiting
    assert place.store.now == 0
    assert place.nothing_left()


async def test_waiting_ends_when_it_is_told_to(place: Place) -> None:
    wake, asked = asyncio.Event(), []

    async def stopped() -> bool:
        asked.append(len(asked))
        return len(asked) == 2

    async with asyncio.timeout(60):
        waiting = asyncio.get_running_loop().create_task(until_installed(place.layers, SIX, wake, stopped))
        await place.store.begun.wait()
        for _ in range(2):
            wake.set()
            while wake.is_set():  # noqa: ASYNC110 - it is cleared by the one that waits
                await asyncio.sleep(0)
        assert await waiting is None
        place.store.go.set()
        held = await until_installed(place.layers, SIX, wake, stopped)
    assert held is place.store.held[-1]
    assert asked == [0, 1]
