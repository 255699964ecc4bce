"""Do sessions have their environment's packages? Real server, real `claude`, real installers, and registries of the
test's own (`registry.py`), whose authority the operator has named in the settings."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from housekit import House, open_house, types
from image import image_of_tests
from registry import Conduct, Registry, open_registry
from rungs import RUNGS, Rung

from hostler.testing.rehearsal import step, tool

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


@asynccontextmanager
async def opened(
    request: pytest.FixtureRequest, tmp_path: Path, rung: Rung, registry: Registry
) -> AsyncIterator[House]:
    state = tmp_path / "state"
    state.mkdir(mode=0o711)
    settings = rung.settings(request, state)
    if not (state / "images").exists():
        (state / "images").symlink_to(image_of_tests() / "images")
    settings |= {"egress__private_allowed": registry.address, "egress__ca_bundle": str(registry.authority)}
    url = f"sqlite:///{tmp_path / 'hostler.db'}"
    async with open_house(tmp_path, url, resolver=registry, **settings) as house:
        yield house


@pytest.fixture
def conduct() -> Conduct:
    """Of the registries. Tests that want another one say so by a parameter."""
    return "answers"


@pytest.fixture
def registry(tmp_path: Path, conduct: Conduct) -> Iterator[Registry]:
    with open_registry(tmp_path / "registry", conduct) as made:
        yield made


@pytest_asyncio.fixture
async def house(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry) -> AsyncIterator[House]:
    async with opened(request, tmp_path, Rung("bubblewrap"), registry) as made:
        yield made


@pytest_asyncio.fixture(params=RUNGS, ids=lambda rung: rung.name)
async def each(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry) -> AsyncIterator[House]:
    """The same on every rung."""
    async with opened(request, tmp_path, request.param, registry) as made:
        yield made


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


async def test_a_sessions_bash_uses_the_packages_of_its_environment(each: House) -> None:
    session = await session_with(each, pip=["iniconfig==2.0.0"], npm=["is-number@7.0.0"], apt=["hello"])
    look = (
        "python3 -c 'import iniconfig; print(iniconfig.__name__)'; "
        'node -e \'console.log("number", require("is-number")(3))\'; '
        "hello; touch /usr/local/x || echo read-only; ls /home/agent/.claude > /dev/null && echo home"
    )
    said = output(await each.turn(session, [step(tool("bash", command=look)), step("done")]))
    assert "iniconfig\nnumber true\nHello, world!" in said
    assert "read-only" in said
    assert said.rstrip().endswith("home")


async def test_a_failed_installation_is_a_session_error_and_the_session_can_go_on(house: House) -> None:
    agent = await house.client.beta.agents.create(name="Coder", model="claude-opus-5-5")
    networking = {"type": "limited", "allowed_hosts": [], "allow_package_managers": True}
    environment = await house.environment(networking=networking, packages={"npm": ["is-number@0.0.0-not-there"]})
    session = (await house.client.beta.sessions.create(agent=agent.id, environment_id=environment)).id
    for attempt in ("one", "two"):
        events = await house.turn(session, [step(f"answer {attempt}")])
        [error] = [event.error for event in events if event.type == "session.error"]
        assert "Installing the environment's npm packages failed" in error.message
        assert "No matching version found for is-number@0.0.0-not-there" in error.message
        assert error.retry_status.type == "exhausted"
        assert events[-1].stop_reason.type == "retries_exhausted"


@pytest.mark.parametrize("conduct", ["says nothing"])
async def test_an_interrupt_ends_the_wait_for_packages(house: House, registry: Registry) -> None:
    session = await session_with(house, pip=["iniconfig==2.0.0"])
    await house.say(session, [step("never")])
    assert await asyncio.to_thread(registry.reached.wait, 60)  # the installer waits for an answer that never comes
    await house.answer(session, {"type": "user.interrupt"})
    events = await house.until_idle(session)
    assert [event for event in events if event.type == "session.error"] == []
    assert "agent.message" not in types(events)
    registry.conduct = "answers"
    said = await house.turn(session, [step("now")])  # the build, which has gone on, tries again
    assert [event.content[0].text for event in said if event.type == "agent.message"] == ["now"]


async def test_packages_are_installed_ahead_and_sessions_reach_registries_too(
    house: House, registry: Registry, tmp_path: Path
) -> None:
    session = await session_with(house, npm=["is-number@7.0.0"])
    environment = (await house.client.beta.sessions.retrieve(session)).environment_id
    state, hosts = house.settings["state_dir"], registry.hosts_file(tmp_path / "hosts")
    program = Path(sys.executable).with_name("hostler")
    command = [str(program), "environment", "build", environment, "--json", "--state-dir", state]
    command += ["--store-url", house.settings["store__url"]]
    environ = {
        **os.environ,
        "HOSTLER_EGRESS__PRIVATE_ALLOWED": registry.address,
        "HOSTLER_EGRESS__CA_BUNDLE": str(registry.authority),
    }
    resolving = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    building = await asyncio.create_subprocess_exec(*resolving, *command, env=environ, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(building.communicate(), 120)
    layer = json.loads(out)["layer"]
    assert layer["packages"]["npm"] == ["is-number@7.0.0"]
    look = "pip install -q --target p iniconfig==2.0.0 && PYTHONPATH=p python3 -c 'import iniconfig; print(7)'"
    said = output(await house.turn(session, [step(tool("bash", command=look)), step("done")]))
    assert said.strip() == "7"
    assert [entry.name for entry in Path(state, "layers").iterdir() if len(entry.name) == 32] == [layer["key"]]
