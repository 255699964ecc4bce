"""Does bubblewrap keep every promise of the sandbox port?"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.testing.sandboxes import PROMISES, Ground, Promise, name_of


@pytest.mark.parametrize("promise", PROMISES, ids=name_of)
async def test_bubblewrap(promise: Promise, tmp_path: Path) -> None:
    name = f"ht{secrets.token_hex(4)}"
    async with Ground(tmp_path, lambda state: BubblewrapProvider(state, cgroup_name=name)) as ground:
        await promise(ground)
    assert list((tmp_path / "state" / "sandboxes").glob("*")) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
