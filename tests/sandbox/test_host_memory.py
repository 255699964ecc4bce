"""What do `/proc` and control groups say of memory? Read from trees as kernels write them, and from this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hostler.engine.memory_use import HostMemory
from hostler.sandbox.host_memory import ProcMemory
from hostler.sandbox.launch import MARK

MEMINFO = "MemTotal:       8000 kB\nMemFree:         100 kB\nMemAvailable:   5000 kB\nHugePages_Total:       0\n"
KIB = 1024


def tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def proc(tmp_path: Path, cgroup: str, mounts: str) -> ProcMemory:
    tree(tmp_path, {"proc/meminfo": MEMINFO, "proc/self/cgroup": cgroup, "proc/self/mountinfo": mounts})
    return ProcMemory(tmp_path / "proc")


def mount(root: Path, kind: str, options: str) -> str:
    return f"35 31 0:32 / {root} rw,relatime - {kind} cgroup rw,{options}\n"


def test_without_control_groups_the_host_counts(tmp_path: Path) -> None:
    assert proc(tmp_path, "", "").host() == HostMemory(8000 * KIB, 5000 * KIB)
    assert ProcMemory(tmp_path / "nowhere").host() is None


def test_the_tightest_group_above_counts_without_what_files_hold_in_version_1(tmp_path: Path) -> None:
    root = tmp_path / "memory"
    own = "a/b"
    tree(
        root,
        {
            "memory.stat": "",
            "memory.limit_in_bytes": "9223372036854771712\n",
            "memory.usage_in_bytes": "999999999\n",
            "a/memory.stat": f"cache 1\ntotal_inactive_file {300 * KIB}\ntotal_active_file {100 * KIB}\n",
            "a/memory.limit_in_bytes": f"{4000 * KIB}\n",
            "a/memory.usage_in_bytes": f"{3000 * KIB}\n",
            "a/b/memory.stat": "total_inactive_file 0\ntotal_active_file 0\n",
            "a/b/memory.limit_in_bytes": "9223372036854771712\n",
            "a/b/memory.usage_in_bytes": f"{2000 * KIB}\n",
        },
    )
    found = proc(tmp_path, f"4:memory:/{own}\n", mount(root, "cgroup", "memory")).host()
    assert found == HostMemory(4000 * KIB, 1400 * KIB)


def test_the_same_in_version_2(tmp_path: Path) -> None:
    root = tmp_path / "unified"
    tree(
        root,
        {
            "a/memory.stat": f"anon 5\ninactive_file {100 * KIB}\nactive_file {0}\n",
            "a/memory.max": f"{6000 * KIB}\n",
            "a/memory.current": f"{5500 * KIB}\n",
            "a/b/memory.stat": "inactive_file 0\nactive_file 0\n",
            "a/b/memory.max": "max\n",
            "a/b/memory.current": f"{2000 * KIB}\n",
        },
    )
    found = proc(tmp_path, "0::/a/b\n", mount(root, "cgroup2", "nsdelegate")).host()
    assert found == HostMemory(6000 * KIB, 600 * KIB)


def test_this_machine_says_something() -> None:
    found = ProcMemory().host()
    assert found is not None
    assert 0 < found.available_bytes <= found.total_bytes


HELD = 40 << 20
CHILD = f"held = bytearray(b'x') * {HELD}; print('there', flush=True); input()"
PARENT = f"""
import subprocess, sys
held = bytearray(b"x") * {HELD}
subprocess.run([sys.executable, "-c", {CHILD!r}], env={{}})
"""


def test_the_processes_of_a_sandbox_are_found_by_their_mark_and_counted_with_their_children() -> None:
    mark = "a" * 24
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={MARK: mark}
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        found = ProcMemory().of_sandbox(mark)
        assert found is not None
        assert 2 * HELD <= found < 3 * HELD
        assert ProcMemory().of_sandbox("b" * 24) is None
        process.stdin.close()
