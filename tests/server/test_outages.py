"""The page of outages says what sessions show: every kind of outage and every way out of it, once more."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bench" / "outages.py"


@pytest.mark.slow
@pytest.mark.one_database
async def test_the_page_of_outages_is_what_happens() -> None:
    run = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), "--check", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    told, errors = await run.communicate()
    assert run.returncode == 0, told.decode() + errors.decode()[-4000:]
