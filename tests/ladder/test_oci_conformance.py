"""Do Docker and Podman, and gVisor as Docker's runtime, keep every promise of the sandbox port?"""

from __future__ import annotations

from pathlib import Path

import pytest
from engines import Engine, containers
from ocikit import RUNGS, maker

from hostler.testing.sandboxes import PROMISES, Ground, Promise, name_of

pytestmark = [pytest.mark.ladder, pytest.mark.needs_root]


@pytest.fixture
def engine(rung: str, request: pytest.FixtureRequest) -> Engine:
    found = request.getfixturevalue("podman_engine" if rung == "podman" else "docker_engine")
    assert isinstance(found, Engine)
    return found


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("promise", PROMISES, ids=name_of)
async def test_containers(promise: Promise, rung: str, engine: Engine, tmp_path: Path) -> None:
    runtime = "runsc" if rung == "runsc" else ""
    async with Ground(tmp_path, maker(engine, runtime)) as ground:
        await promise(ground)
    assert containers(engine.socket) == []
    assert list((tmp_path / "state" / "sandboxes").glob("*")) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
