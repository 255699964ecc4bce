"""Does a real task work on each rung of the ladder, and is it clear what is missing when one host is?

A clone from a git server, a package from a registry, and an API that asks for a token which never enters the
sandbox. Real server, real `claude`, real sandbox, real network: the town's hosts are in a namespace of
their own, the registries (`registry.py`) on the loopback network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from housekit import House, open_house
from registry import Registry, open_registry
from rungs import RUNGS, Rung
from town import API, GIT, Town, open_town

from hostler.testing.rehearsal import step, tool

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]

TASK = f"""
git clone -q http://{GIT}/repo.git && cat repo/README
python3 -m pip -q --disable-pip-version-check install --target libs iniconfig==2.0.0
PYTHONPATH=libs python3 -c 'import iniconfig; print("imported", iniconfig.IniConfig.__name__)'
curl -sS --fail-with-body -H "Authorization: Bearer $TOWN_TOKEN" https://{API}/private
echo "token: $TOWN_TOKEN"
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with open_registry(tmp_path / "registry") as opened:
        yield opened


@pytest_asyncio.fixture
async def town(tmp_path: Path, registry: Registry) -> AsyncIterator[Town]:
    place = tmp_path / "town"
    place.mkdir()
    async with open_town(place, registry) as opened:
        yield opened


@pytest_asyncio.fixture(params=RUNGS, ids=str)
async def house(request: pytest.FixtureRequest, tmp_path: Path, town: Town, registry: Registry) -> AsyncIterator[House]:
    rung: Rung = request.param
    bundle = tmp_path / "authorities.pem"
    bundle.write_bytes(town.authority.read_bytes() + registry.authority.read_bytes())
    settings = {
        **rung.settings(request, tmp_path / "state"),
        "egress__private_allowed": f"{town.address},{registry.address}",
        "egress__ca_bundle": str(bundle),
    }
    url = f"sqlite:///{tmp_path / 'hostler.db'}"
    async with open_house(tmp_path, url, resolver=town, **settings) as opened:
        yield opened


async def session(house: House, town: Town, hosts: list[str]) -> str:
    client = house.client
    vault = await client.beta.vaults.create(display_name="Town")
    await client.beta.vaults.credentials.create(
        vault.id,
        display_name="Town",
        auth={
            "type": "environment_variable",
            "secret_name": "TOWN_TOKEN",
            "secret_value": town.token,
            "networking": {"type": "limited", "allowed_hosts": [API]},
        },
    )
    agent = await client.beta.agents.create(
        name="Coder", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
    )
    environment = await house.environment(
        networking={"type": "limited", "allowed_hosts": hosts, "allow_package_managers": True}
    )
    made = await client.beta.sessions.create(agent=agent.id, environment_id=environment, vault_ids=[vault.id])
    return made.id


def output(events: list[Any]) -> str:
    results = [event for event in events if event.type == "agent.tool_result"]
    return "\n".join(block.text for event in results for block in event.content if block.type == "text")


async def test_a_real_task_works(house: House, town: Town) -> None:
    made = await session(house, town, [GIT, API])
    said = output(await house.turn(made, [step(tool("bash", command=TASK)), step("done")]))
    assert "the town's own words" in said
    assert "imported IniConfig" in said
    assert "what only members hear" in said
    assert town.token not in said
    assert "token: " in said


async def test_the_same_task_without_one_host_says_what_is_missing(house: House, town: Town) -> None:
    made = await session(house, town, [API])
    events = await house.turn(made, [step(tool("bash", command=TASK)), step("done")])
    said = output(events)
    assert "the town's own words" not in said
    assert "what only members hear" in said
    notices = [event for event in events if GIT in str(event.to_dict()) and event.type != "agent.tool_result"]
    assert any("allowed_hosts" in str(event.to_dict()) or "allowed hosts" in str(event.to_dict()) for event in notices)
    listed = await house.client.get(f"/hostler/v1/sessions/{made}/egress?allowed=false", cast_to=dict[str, Any])
    assert {row["host"] for row in listed["data"]} == {GIT}
