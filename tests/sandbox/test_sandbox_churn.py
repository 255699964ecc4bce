"""Sandboxes that come and go leave nothing: no process, mount, control group, namespace, loop device or file."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from hostler.sandbox.bubblewrap import BubblewrapProvider
from hostler.sandbox.volumes import VolumeTrial, open_volumes
from hostler.testing.churn import churn, traces
from hostler.testing.sandboxes import Ground

FIRST = 700_000
"""Above what other tests give to their sandboxes."""


@pytest.mark.needs_root
async def test_twenty_sandboxes_leave_nothing(tmp_path: Path) -> None:
    first = FIRST + secrets.randbelow(1000) * 64
    uids = range(first, first + 64)
    volumes, _ = open_volumes(tmp_path / "volumes", tmp_path / "sessions", VolumeTrial(tmp_path))
    name = f"ht{secrets.token_hex(4)}"
    try:
        async with Ground(
            tmp_path, lambda state: BubblewrapProvider(state, cgroup_name=name, uid_range=uids)
        ) as ground:
            await churn(ground, volumes, 1, 1)
            before = traces(tmp_path, sandboxes=(), uids=uids)
            ids = await churn(ground, volumes, 20, 4)
            await ground.until(lambda: traces(tmp_path, sandboxes=ids, uids=uids) == before, f"as before: {before}")
            assert (before.processes, before.control_groups, before.namespaces, before.loop_devices) == (0, 0, 0, 0)
    finally:
        volumes.close()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
