"""Do sessions have their environment's packages? Real server, real `claude`, real registries and installers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from housekit import House, open_house
from image import base_image, image_home
from registries import registry_addresses

from hostler.testing.rehearsal import step, tool

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    base_image()
    state = tmp_path / "state"
    state.mkdir()
    (state / "images").symlink_to(image_home() / "images")
    settings: dict[str, Any] = {"egress__private_allowed": ",".join(registry_addresses())}
    async with open_house(tmp_path, f"sqlite:///{tmp_path / 'hostler.db'}", **settings) as opened:
        yield opened


async def session_with(house: House, **packages: list[str]) -> str:
    agent = await house.client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
    )
    networking = {"type": "limited", "allowed_hosts": [], "allow_package_managers": True}
    environment = await house.environment(networking=networking, packages={"type": "packages", **packages})
    session = await house.client.beta.sessions.create(agent=agent.id, environment_id=environment)
    return session.id


def output(events: list[Any]) -> str:
    results = [event for event in events if event.type == "agent.tool_result"]
    return "\n".join(block.text for event in results for block in event.content if block.type == "text")


async def test_a_sessions_bash_uses_the_packages_of_its_environment(house: House) -> None:
    session = await session_with(house, pip=["iniconfig==2.0.0"], npm=["is-number@7.0.0"], apt=["hello"])
    look = (
        "python3 -c 'import iniconfig; print(iniconfig.__name__)'; "
        'node -e \'console.log("number", require("is-number")(3))\'; '
        "hello; id -u; touch /usr/local/x || echo read-only; ls /home/agent/.claude > /dev/null && echo home"
    )
    said = output(await house.turn(session, [step(tool("bash", command=look)), step("done")]))
    assert "iniconfig\nnumber true\nHello, world!\n1000" in said
    assert "read-only" in said
    assert said.endswith("home") or "home" in said
