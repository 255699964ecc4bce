"""C3: a session that keeps processors busy gives way to the others, and only for as long as it does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sandbox_farm import Farm, until

from hostler.engine.fairness import Fairness
from hostler.engine.sandbox_port import InGroups, Sandbox

HOG = "for _ in 1 2 3 4; do while :; do :; done & done; read line; kill 0"


def weight(farm: Farm, sandbox: Sandbox) -> str:
    """What its control group weighs, as the kernel says."""
    for group in farm.groups():
        for name in ("cpu.shares", "cpu.weight"):
            if group.name.endswith(sandbox.sandbox_id) and (group / name).exists():
                return (group / name).read_text().strip()
    pytest.skip("this host weighs no sandboxes")


async def looked(fairness: Fairness, farm: Farm, sandbox: Sandbox, wanted: set[str]) -> None:
    async with asyncio.timeout(60):
        while weight(farm, sandbox) not in wanted:
            await asyncio.sleep(0.1)  # what is compared is how much was used between two looks
            await fairness.look()


async def test_a_busy_sandbox_weighs_little_until_it_is_calm(farm: Farm) -> None:
    busy, calm = await farm.create("busy"), await farm.create("calm")
    fairness = Fairness(lambda: [busy, calm])
    await farm.start(calm, "/bin/cat")
    hog = await farm.start(busy, "/bin/sh", "-c", HOG)
    usual = weight(farm, busy)
    assert usual in ("1024", "100")
    await looked(fairness, farm, busy, {"32", "3"})
    assert weight(farm, calm) == usual
    hog.kill()  # as a turn ends: the sandbox stays for the next one
    await looked(fairness, farm, busy, {usual})


class GoneAtTheNextLook:
    """A sandbox that ends between being listed and being looked at."""

    sandbox_id = "0" * 24

    async def glance(self) -> None:
        raise FileNotFoundError("its control group is gone")

    async def yield_processors(self, yes: bool) -> None:
        raise AssertionError("nobody knows how busy it is")


async def test_a_sandbox_that_has_just_ended_keeps_no_other_from_being_looked_at(farm: Farm) -> None:
    busy = await farm.create("busy")
    gone = GoneAtTheNextLook()
    assert isinstance(gone, InGroups)
    fairness = Fairness(lambda: [gone, busy])  # type: ignore[list-item]
    await farm.start(busy, "/bin/sh", "-c", HOG)
    await looked(fairness, farm, busy, {"32", "3"})


async def test_looking_at_a_sandbox_that_was_destroyed_does_nothing(farm: Farm, tmp_path: Path) -> None:
    sandbox = await farm.create()
    await sandbox.destroy()
    await sandbox.yield_processors(True)
    assert (await sandbox.glance()).cpu_seconds is None
    await until(lambda: farm.groups() == [], "no group comes back")
