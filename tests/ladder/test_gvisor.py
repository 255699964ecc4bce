"""Does gVisor keep every promise of the sandbox port?"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostler.sandbox.cgroup_detection import own_groups
from hostler.sandbox.gvisor import GvisorProvider
from hostler.testing.sandboxes import PROMISES, Ground, Promise, name_of

pytestmark = pytest.mark.ladder


@pytest.fixture
def cgroup_name() -> Iterator[str]:
    """Checks that no group, process or mount of the test is left on the host."""
    name = f"hg{secrets.token_hex(4)}"
    yield name
    texts = (Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    assert [path for own in own_groups(*texts) for path in own.own.glob(f"{name}-*")] == []


def marked(root: Path) -> list[str]:
    """Command lines of processes that belong to anything below `root`."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = Path(entry.path, "cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(root) in line:
                found.append(line.decode(errors="replace"))
    return found


@pytest.mark.parametrize("promise", PROMISES, ids=name_of)
async def test_gvisor(promise: Promise, tmp_path: Path, cgroup_name: str) -> None:
    async with Ground(tmp_path, lambda state: GvisorProvider(state, cgroup_name=cgroup_name)) as ground:
        await promise(ground)
    assert list((tmp_path / "state" / "sandboxes").glob("*")) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert marked(tmp_path / "state") == []
