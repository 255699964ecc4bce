"""Does a machine keep every promise of the sandbox port? Without KVM, which a test can't count on; so with patience."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox.microvm import MicrovmProvider
from hostler.testing.sandboxes import PROMISES, Ground, Promise, name_of

pytestmark = [pytest.mark.microvm, pytest.mark.needs_root]

KERNEL = Path(os.environ.get("HOSTLER_TEST_KERNEL", "/"))
"""Where `scripts/test-microvm` has put Debian's kernel."""


def provider(state: Path, cgroup_name: str) -> MicrovmProvider:
    return MicrovmProvider(state, cgroup_name=cgroup_name, kernel=KERNEL, acceleration="tcg")


@pytest.mark.parametrize("promise", PROMISES, ids=name_of)
async def test_microvm(promise: Promise, tmp_path: Path) -> None:
    name = f"hv{secrets.token_hex(4)}"
    async with Ground(tmp_path, lambda state: provider(state, name), seconds=180) as ground:
        await promise(ground)
    assert list((tmp_path / "state" / "sandboxes").glob("*")) == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


async def test_firecracker_is_refused_by_name(tmp_path: Path) -> None:
    made = MicrovmProvider(tmp_path / "state", firecracker="/usr/bin/firecracker", acceleration="tcg")
    with pytest.raises(SandboxUnavailable, match="no adapter for Firecracker"):
        await made.probe()


async def test_a_kernel_without_9p_is_refused(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "vmlinuz-6.1.0-1-cloud-amd64").touch()
    (tmp_path / "lib" / "modules" / "6.1.0-1-cloud-amd64").mkdir(parents=True)
    made = MicrovmProvider(tmp_path / "state", kernel=tmp_path, acceleration="tcg")
    with pytest.raises(SandboxUnavailable, match="not a cloud kernel"):
        await made.probe()
