"""A session of a whole server whose agent lives in gVisor: turns, tools, its process's end and return."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from housekit import House, open_house

from hostler.testing.rehearsal import step, tool

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    store = f"sqlite:///{tmp_path / 'hostler.db'}"
    async with open_house(tmp_path, store, sandbox__technology="gvisor") as opened:
        yield opened


def output(events: list[Any]) -> str:
    results = [event for event in events if event.type == "agent.tool_result"]
    return "\n".join(block.text for event in results for block in event.content if block.type == "text")


async def test_an_agent_works_in_gvisor(house: House) -> None:
    session = await house.session()
    look = "uname -r; id -u; echo kept > /workspace/kept; echo gone > /tmp/gone; cat /proc/sys/kernel/osrelease"
    said = output(await house.turn(session, [step(tool("bash", command=look)), step("done")]))
    assert "4.4.0" in said, "the version that gVisor's kernel gives itself"
    assert "\n1000" in said
    refused = "curl -s -o /dev/null -w '%{http_code}' http://nowhere.example/; cat /workspace/kept"
    said = output(await house.turn(session, [step(tool("bash", command=refused)), step("done")]))
    assert "403" in said
    assert "kept" in said
    await house.restart()
    said = output(await house.turn(session, [step(tool("bash", command="cat /workspace/kept; ls /tmp")), step("done")]))
    assert "kept" in said
    assert "gone" not in said
