"""The pages that show one hosting pattern each, from the first message to the bill: they run as they stand.

What a page says about the host, and can't print, is looked at here.
"""

from __future__ import annotations

import asyncio
import codeop
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from docpages import DOCS, ROOT, Block, blocks
from housekit import DEADLINE, House, open_house
from test_tutorial import run_blocks

BUGS = "fix-bugs-one-task-at-a-time.md"
MAIL = "digest-mail-for-a-month.md"
RESEARCH = "research-with-a-cheap-and-a-strong-model.md"
PAGES = (BUGS, MAIL, RESEARCH)


def page(name: str) -> list[Block]:
    return blocks((DOCS / "how-to" / name).read_text("utf-8"))


class Reader:
    """Somebody who pastes a page into a Python prompt in `examples`."""

    def __init__(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        self.house = house
        self.names: dict[str, Any] = {"__name__": "page"}
        self._environment = monkeypatch
        monkeypatch.syspath_prepend(ROOT / "examples")
        self.knows_the_server()

    def knows_the_server(self) -> None:
        assert self.house.hostler is not None
        self._environment.setenv("HOSTLER_URL", self.house.hostler.base_url)
        self._environment.setenv("HOSTLER_API_KEY", self.house.secret)

    async def runs(self, some: list[Block]) -> None:
        async with asyncio.timeout(DEADLINE):
            await asyncio.to_thread(run_blocks, some, self.names)


@pytest_asyncio.fixture
async def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Reader]:
    async with open_house(tmp_path, f"sqlite:///{tmp_path / 'hostler.db'}") as house:
        found = Reader(house, monkeypatch)
        yield found
        if "client" in found.names:
            found.names["client"].close()


async def test_bug_is_fixed_and_nothing_else_is_left(reader: Reader, tmp_path: Path) -> None:
    await reader.runs(page(BUGS))
    await reader.house.until_no_process()
    state, session = tmp_path / "state", reader.names["session"].id
    assert list(state.rglob(f"*{session}*")) == []
    assert [found for found in (state / "objects").rglob("*") if found.is_file()] == []


async def test_mail_of_a_month_is_digested(reader: Reader) -> None:
    await reader.runs(page(MAIL))
    await reader.house.until_no_process()


async def test_research_sleeps_and_goes_on_after_a_restart(reader: Reader) -> None:
    steps = page(RESEARCH)
    (night,) = [number for number, block in enumerate(steps) if block.body.startswith("look = ")]
    await reader.runs(steps[:night])
    await reader.house.until_no_process()
    await reader.house.restart()
    reader.knows_the_server()
    reader.names["client"].close()
    reader.names["client"] = reader.names["connect"]()
    await reader.runs(steps[night:])


@pytest.mark.parametrize("name", PAGES)
def test_page_can_be_pasted_into_a_prompt(name: str) -> None:
    """A prompt ends a statement at an empty line, so no function may have one inside, and each needs one behind."""
    for block in page(name):
        if block.name == "python":
            said: list[str] = []
            for line in [*block.body.splitlines(), ""]:
                said.append(line)
                if codeop.compile_command("\n".join(said), DOCS.name, "single") is not None:
                    said = []
            assert not any(said), f"line {block.line}: {said}"
