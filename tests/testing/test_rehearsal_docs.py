"""What the how-to shows is true: its scripts can be followed and its program runs."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest

from hostler.testing.rehearsal import Script
from hostler.testing.rehearsal.steps import Step

PAGE = (Path(__file__).parents[2] / "docs/how-to/test-your-agent-with-the-rehearsal-model.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", _blocks("json") + _blocks("rehearse"))
def test_a_script_of_the_page_can_be_followed(source: str) -> None:
    Script.from_json(source)


@pytest.mark.parametrize("source", _blocks("python"))
async def test_a_program_of_the_page_runs(source: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(source)
    async with asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(sys.executable, "-W", "error", str(tmp_path / "program.py"))
        assert await process.wait() == 0


def test_every_key_of_a_step_is_on_the_page() -> None:
    assert [name for name in Step.model_fields if f"`{name}`" not in PAGE] == []
