"""The official TypeScript client, unmodified: one call of every endpoint, and what it makes of the answers."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path

import pytest
from housekit import House

from hostler.api.app import served_methods
from hostler.api.contract import CONTRACT

pytestmark = pytest.mark.one_database

PROGRAM = Path(__file__).parents[1] / "typescript" / "tour.mjs"
METHODS = sorted(endpoint.method for endpoint in CONTRACT if endpoint.tier in ("1a", "1b"))


@pytest.mark.endpoint(*METHODS)
async def test_the_typescript_client_calls_every_endpoint(house: House) -> None:
    node = shutil.which("node")
    assert node, "scripts/setup tests installs nodejs"
    assert house.hostler is not None
    process = await asyncio.create_subprocess_exec(
        node,
        str(PROGRAM),
        env={
            "PATH": os.environ["PATH"],
            "BASE_URL": house.hostler.base_url,
            "API_KEY": house.secret,
            "ENVIRONMENT_KEY_PATH": "/hostler/v1/environments/{id}/keys",
        },
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 120)
    said = out.decode()
    steps = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    assert process.returncode == 0, said
    assert sorted(step["method"] for step in steps) == METHODS
    assert set(METHODS) <= served_methods()
