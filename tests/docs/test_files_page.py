"""What the page about files tells people to write: it runs, and does what it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest_asyncio
from docpages import DOCS, blocks
from housekit import DEADLINE
from narrow import NARROW
from test_tutorial import run_blocks

from hostler import compose, config
from hostler.testing.rehearsal import prompt, step, tool

PAGE = (DOCS / "how-to" / "give-an-agent-files.md").read_text("utf-8")


@pytest_asyncio.fixture
async def client(tmp_path: Path) -> AsyncIterator[anthropic.Anthropic]:
    settings = config.load({"HOME": str(tmp_path), **NARROW}, state_dir=str(tmp_path / "state"), server__port=0)
    async with compose.running(settings) as hostler:
        _, secret = await compose.create_key(hostler.database, "page")
        with anthropic.Anthropic(base_url=hostler.base_url, api_key=secret) as made:
            yield made


async def test_files_go_in_and_come_out_as_the_page_says(client: anthropic.Anthropic, tmp_path: Path) -> None:
    def everything() -> None:
        names: dict[str, Any] = {"__name__": "page", "client": client}
        names["agent"] = client.beta.agents.create(
            name="A", model="claude-opus-5-5", tools=[{"type": "agent_toolset_20260401"}]
        )
        names["environment"] = client.beta.environments.create(name="e", config={"type": "cloud"})
        run_blocks(blocks(PAGE), names)
        session, uploaded = names["session"].id, names["uploaded"].id
        copying = "mkdir /mnt/session/outputs/sub; cp /workspace/data/orders.csv /mnt/session/outputs/sub/copy.csv"
        asked = prompt([step(tool("bash", command=copying)), step("Done.")])
        message: Any = {"type": "user.message", "content": [{"type": "text", "text": asked}]}
        client.beta.sessions.events.send(session, events=[message])
        (file,) = names["outputs"](session)
        saved = names["save"](file, tmp_path / "out")
        assert saved == tmp_path / "out" / "sub" / "copy.csv"
        assert saved.read_bytes() == b"customer,total\nada,42\n"
        note = client.beta.files.upload(file=("n.txt", b"note", "text/plain"))
        names["ask_about"](session, note.id, prompt([step("Read.")]))
        made = names["with_repository"]("https://github.com/o/tool", "token")
        assert made.resources[0].mount_path == "/workspace/tool"
        assert uploaded in {f.id for f in client.beta.files.list()}

    async with asyncio.timeout(DEADLINE):
        await asyncio.to_thread(everything)


def test_limits_in_the_page_are_the_defaults(tmp_path: Path) -> None:
    written = next(block.body for block in blocks(PAGE) if block.name == "toml")
    file = tmp_path / "hostler.toml"
    file.write_text(written)
    assert config.load({"HOME": "/nonexistent"}, file) == config.load({"HOME": "/nonexistent"})
