"""Is a process held back until what it looks at is there?"""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any, cast

import pytest

from hostler.domain.ids import derived_uuid
from hostler.engine.runs import ProcessLost, RunSpec
from hostler.harness.claude import ClaudeHarness

NOBODY = cast("Any", None)
"""Is not asked before the process is initialized."""


class Nothing:
    """A transcript store that keeps nothing."""

    def gapless(self) -> Nothing:
        return self

    async def append(self, key: Any, entries: Any) -> None:
        pass

    async def load(self, key: Any) -> None:
        return None


class NotThere(Exception):
    pass


def spec() -> RunSpec:
    return RunSpec(
        derived_uuid("transcript", "of nobody"),
        resume=True,
        model="claude-opus-5-5",
        effort=None,
        system=None,
        tools=(),
    )


def launcher(place: Path, program: str) -> Path:
    """Leaves its process id in a file."""
    script = place / "launcher"
    state = shlex.quote(str(place / "state"))
    script.write_text(f"#!/bin/sh\necho $$ > {place / 'pid'}\nexport CLAUDE_CONFIG_DIR={state}\nexec {program}\n")
    script.chmod(0o755)
    return script


async def until_begun(place: Path) -> int:
    while not (place / "pid").exists() or not (place / "pid").read_text():  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0.01)
    return int((place / "pid").read_text())


async def until_ended(pid: int) -> None:
    while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110 - it is the SDK's child
        await asyncio.sleep(0.01)


async def test_what_goes_wrong_before_it_may_look_is_raised_and_ends_it(tmp_path: Path) -> None:
    harness, pids = ClaudeHarness(), []

    async def laid_out() -> None:
        pids.append(await until_begun(tmp_path))
        raise NotThere

    run = launcher(tmp_path, f'{shlex.quote(str(harness.program))} "$@"')
    with pytest.raises(NotThere):
        async with asyncio.timeout(30):
            await harness.start(spec(), run, NOBODY, Nothing(), None, laid_out)
    async with asyncio.timeout(30):  # on a busy machine its farewell goes on behind `start`
        await until_ended(pids[0])


@pytest.mark.parametrize("program", ["true", "false"])
async def test_one_that_ends_before_it_may_look_is_lost(tmp_path: Path, program: str) -> None:
    async def laid_out() -> None:
        await until_ended(await until_begun(tmp_path))

    with pytest.raises(ProcessLost):
        async with asyncio.timeout(30):
            await ClaudeHarness().start(spec(), launcher(tmp_path, program), NOBODY, Nothing(), None, laid_out)


async def test_one_that_ends_well_before_it_was_initialized_is_lost(tmp_path: Path) -> None:
    async def laid_out() -> None:
        await until_begun(tmp_path)

    with pytest.raises(ProcessLost):
        async with asyncio.timeout(30):
            await ClaudeHarness().start(spec(), launcher(tmp_path, "sleep 0.5"), NOBODY, Nothing(), None, laid_out)
