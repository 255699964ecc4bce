"""Control groups of both versions: which are found, what is written, how they end."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from sandbox_farm import until

from hostler.engine.sandbox_port import SandboxLimits
from hostler.sandbox import cgroups
from hostler.sandbox.cgroup_detection import detect, own_groups
from hostler.sandbox.cgroups import CgroupsV1, CgroupsV2, NoCgroups

LIMITS = SandboxLimits(memory_bytes=1 << 30, pids=99, cpus=1.5)

HYBRID_CGROUP = "8:pids:/\n4:memory:/service/worker\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/\n"
HYBRID_MOUNTS = """\
20 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 20 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
31 20 0:27 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
32 20 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
33 20 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
34 20 0:30 / /proc rw - proc proc rw
"""


def test_own_groups_of_a_hybrid_host() -> None:
    found = {hierarchy.controllers: hierarchy.own for hierarchy in own_groups(HYBRID_CGROUP, HYBRID_MOUNTS)}
    assert found == {
        frozenset({"memory"}): Path("/sys/fs/cgroup/memory/service/worker"),
        frozenset({"pids"}): Path("/sys/fs/cgroup/pids"),
        frozenset({"cpu", "cpuacct"}): Path("/sys/fs/cgroup/cpu,cpuacct"),
        frozenset(): Path("/sys/fs/cgroup/unified"),
    }


def test_own_group_of_a_unified_host() -> None:
    mounts = "25 20 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
    (found,) = own_groups("0::/system.slice/hostler.service\n", mounts)
    assert (found.controllers, found.own) == (frozenset(), Path("/sys/fs/cgroup/system.slice/hostler.service"))


def test_own_group_in_a_container_that_sees_its_part_only() -> None:
    mounts = "25 20 0:22 /docker/ab\\040c /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    (found,) = own_groups("8:pids:/docker/ab c/inner\n", mounts)
    assert found.own == Path("/sys/fs/cgroup/pids/inner")
    assert own_groups("8:pids:/docker/abc\n", mounts) == []
    assert own_groups("8:pids:/elsewhere\n", mounts) == []


def test_version_1_writes_every_limit(tmp_path: Path) -> None:
    for controller in ("memory", "cpu", "pids", "cpuacct"):
        (tmp_path / controller).mkdir()
    version = CgroupsV1({name: tmp_path / name for name in ("memory", "pids", "cpu", "cpuacct")})
    assert version.missing == ()
    assert dict(version.plan("x", LIMITS).settings) == {
        tmp_path / "memory/x/memory.limit_in_bytes": "1073741824",
        tmp_path / "memory/x/memory.memsw.limit_in_bytes": "1073741824",
        tmp_path / "memory/x/memory.swappiness": "0",
        tmp_path / "cpu/x/cpu.cfs_period_us": "100000",
        tmp_path / "cpu/x/cpu.cfs_quota_us": "150000",
        tmp_path / "pids/x/pids.max": "99",
    }
    assert version.plan("x", SandboxLimits(memory_bytes=None, pids=None, cpus=None)).settings == ()


def test_version_1_controllers_of_one_hierarchy_share_one_directory(tmp_path: Path) -> None:
    version = CgroupsV1({"cpu": tmp_path, "cpuacct": tmp_path})
    assert version.plan("x", LIMITS).directories == (tmp_path / "x",)
    assert [sentence.split(":")[1].split()[1] for sentence in version.missing] == ["memory", "pids"]


def test_version_2_writes_every_limit(tmp_path: Path) -> None:
    version = CgroupsV2(tmp_path, frozenset({"memory", "pids", "cpu"}))
    group = version.plan("x", LIMITS)
    own = tmp_path / "x"
    assert group.directories == (own,)
    assert dict(group.settings) == {
        own / "memory.max": "1073741824",
        own / "memory.swap.max": "0",
        own / "cpu.max": "150000 100000",
        own / "pids.max": "99",
    }
    own.mkdir()
    for name in ("memory.max", "cpu.max", "pids.max"):
        (own / name).write_text("max")
    cgroups.make(group)  # without memory.swap.max: a kernel that doesn't count swap
    assert (own / "memory.max").read_text() == "1073741824"
    assert not (own / "memory.swap.max").exists()


def test_version_2_reads_its_counters(tmp_path: Path) -> None:
    version = CgroupsV2(tmp_path, frozenset({"memory", "pids", "cpu"}))
    group = version.plan("x", LIMITS)
    (tmp_path / "x").mkdir()
    for name, text in {
        "memory.current": "4096\n",
        "memory.peak": "8192\n",
        "cpu.stat": "usage_usec 2500000\nuser_usec 1\n",
        "pids.current": "3\n",
        "memory.events": "low 0\noom 2\noom_kill 1\n",
    }.items():
        (tmp_path / "x" / name).write_text(text)
    stats = version.stats(group)
    assert (stats.memory_bytes, stats.memory_peak_bytes, stats.cpu_seconds) == (4096, 8192, 2.5)
    assert (stats.pids, stats.oom_kills) == (3, 1)


def test_missing_controllers_are_said() -> None:
    version = CgroupsV2(Path("/nowhere"), frozenset({"pids"}))
    assert len(version.missing) == 2
    assert any("memory" in sentence for sentence in version.missing)
    assert any("processors" in sentence for sentence in version.missing)
    assert len(NoCgroups().missing) == 3
    assert NoCgroups().plan("x", LIMITS).directories == ()


@pytest.mark.needs_root
async def test_a_real_version_2_group_is_killed_at_once_and_removed() -> None:
    texts = (Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    roots = [hierarchy.own for hierarchy in own_groups(*texts) if not hierarchy.controllers]
    if not roots:
        pytest.skip("no version 2 hierarchy is mounted")
    directory = roots[0] / "hostler-test-version-2"
    directory.mkdir()
    try:
        command = f"echo 0 > {directory}/cgroup.procs; echo up; setsid sleep 1000 & exec sleep 1000"
        process = spawn("/bin/sh", "-c", command)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        await until(lambda: len(cgroups.members([directory])) == 2, "no members")
        assert not cgroups.remove([directory])
        cgroups.kill([directory])
        await until(lambda: cgroups.remove([directory]), "not removed")
        process.communicate()
        assert cgroups.members([directory]) == frozenset()
        assert cgroups.remove([directory])  # again
    finally:
        for pid in cgroups.members([directory]):
            os.kill(pid, signal.SIGKILL)
        await until(lambda: cgroups.remove([directory]), "not removed")


def spawn(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)


def test_detection_leaves_no_directory_behind() -> None:
    detect("hostler-test-detect")
    texts = (Path("/proc/self/cgroup").read_text(), Path("/proc/self/mountinfo").read_text())
    for hierarchy in own_groups(*texts):
        assert list(hierarchy.own.glob("hostler-test-detect-probe*")) == []
