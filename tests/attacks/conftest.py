"""A whole Hostler per attack: real store, real sandbox, real `claude`, the rehearsal model as the model."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from housekit import House, open_house


@pytest.fixture
def store_url(tmp_path: Path, migrated_file: Path) -> str:
    shutil.copyfile(migrated_file, tmp_path / "hostler.db")
    (tmp_path / "hostler.db").chmod(0o600)
    return f"sqlite:///{tmp_path / 'hostler.db'}"


@pytest_asyncio.fixture
async def house(tmp_path: Path, store_url: str) -> AsyncIterator[House]:
    async with open_house(tmp_path, store_url) as opened:
        yield opened
