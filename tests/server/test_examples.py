"""The programs in `examples/`: each runs as it stands, and prints what a reader would expect."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from housekit import House, open_house

EXAMPLES = Path(__file__).parents[2] / "examples"
PRINTS = {
    "quickstart.py": ["bash: {'command': 'echo five words | wc -w'}", "agent.tool_result: 2", "agent.message: Two."],
    "custom_tool.py": ["asked for tea: 12", "12 left."],
    "approval.py": ["allowed: echo tidy", "denied: rm -rf /workspace", "result: tidy", "Done what I may."],
    "files.py": ["sum.txt: 12"],
    "memory.py": ["in the store: ['/ada.md']", "Ada takes her tea without milk."],
    "skill.py": ["MMXXVI"],
    "self_hosted_worker.py": ["In the worker's folder."],
    "webhook_receiver.py": ["session.status_idled of our session"],
}


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[House]:
    url = f"sqlite:///{tmp_path / 'hostler.db'}"
    async with open_house(tmp_path, url, webhooks__allow_http=True, webhooks__private_allowed=["127.0.0.1"]) as opened:
        yield opened


def test_every_example_is_run() -> None:
    assert {file.name for file in EXAMPLES.glob("*.py")} - {"talk.py"} == PRINTS.keys()


@pytest.mark.parametrize("name", PRINTS)
async def test_the_example_does_what_it_says(name: str, server: House) -> None:
    assert server.hostler is not None
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(EXAMPLES / name),
        env={"PATH": os.environ["PATH"], "HOSTLER_URL": server.hostler.base_url, "HOSTLER_API_KEY": server.secret},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(process.communicate(), 90)
    said = out.decode()
    assert process.returncode == 0, said
    lines = said.splitlines()
    for line in PRINTS[name]:
        assert line in lines, said
