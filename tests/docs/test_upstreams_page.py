"""The page about upstreams: its settings are taken, and its program runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from docpages import DOCS, Block, blocks

from hostler.config import load

PAGE = (DOCS / "how-to" / "use-other-upstreams.md").read_text("utf-8")
SETTINGS = [block for block in blocks(PAGE) if block.name == "toml"]


@pytest.mark.parametrize("block", SETTINGS, ids=lambda block: str(block.line))
def test_its_settings_are_taken(tmp_path: Path, block: Block) -> None:
    file = tmp_path / "hostler.toml"
    file.write_text(block.body)
    assert load({}, file).upstreams


def test_it_shows_every_kind() -> None:
    assert len(SETTINGS) == 5
    assert {f'kind = "{kind}"' in PAGE for kind in ("anthropic", "bedrock", "vertex")} == {True}


def test_its_program_runs() -> None:
    [program] = [block.body for block in blocks(PAGE) if block.name == "python"]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
