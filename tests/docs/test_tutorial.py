"""The tutorial is one program: it runs on a whole server, and prints what the page says that it prints."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
from docpages import DOCS, Block, blocks
from narrow import NARROW

from hostler import compose, config

TUTORIAL = DOCS / "tutorial" / "your-first-agent.md"
DEADLINE = 120.0


def run_blocks(page: list[Block], namespace: dict[str, Any]) -> None:
    """Run the Python blocks in order; after each, compare what it printed with the text block that follows it."""
    for block, following in zip(page, [*page[1:], None], strict=True):
        if block.name != "python":
            continue
        printed = io.StringIO()
        code = compile("\n" * (block.line - 1) + block.body, str(TUTORIAL), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
        shown = following.body if following is not None and following.name == "text" else ""
        assert looks_like(printed.getvalue(), shown), (
            f"line {block.line}: the page says\n{shown}\nand the program printed\n{printed.getvalue()}"
        )


def looks_like(printed: str, shown: str) -> bool:
    """A `…` at the end of a line of the page stands for anything, more lines included."""
    parts = [re.escape(part) for part in re.split(r"…(?=\n)", shown)]
    return re.fullmatch(r"[\s\S]*?".join(parts), printed) is not None


def test_page_is_compared_and_not_only_run() -> None:
    assert looks_like("a\n  b c\nd\n", "a\n  b…\nd\n")
    assert not looks_like("a\n", "b\n")
    assert not looks_like("a\nb\n", "a\n")
    page = [Block("python", "print(1)\n", 1), Block("text", "2\n", 5)]
    with pytest.raises(AssertionError, match="line 1"):
        run_blocks(page, {})


async def test_every_step_of_the_tutorial_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.load({"HOME": str(tmp_path), **NARROW}, state_dir=str(tmp_path / "state"), server__port=0)
    page = blocks(TUTORIAL.read_text("utf-8"))
    namespace: dict[str, Any] = {"__name__": "tutorial"}
    async with compose.running(settings) as hostler:
        assert hostler.rehearsing
        _, secret = await compose.create_key(hostler.database, "tutorial")
        monkeypatch.setenv("HOSTLER_URL", hostler.base_url)
        monkeypatch.setenv("HOSTLER_API_KEY", secret)
        async with asyncio.timeout(DEADLINE):
            await asyncio.to_thread(run_blocks, page, namespace)
        session = namespace["session"].id
        kept = settings.state_dir / "sessions" / session / "workspace" / "catalogue.txt"
        assert kept.read_text() == "Moby-Dick\n"
