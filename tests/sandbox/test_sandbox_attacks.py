"""Attacks on a bubblewrap sandbox that look at its own parts. What every rung promises is in the attack corpus."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

import pyseccomp
import pytest
from sandbox_farm import DEADLINE, PYTHON, Farm, until

from hostler.engine.sandbox_port import SandboxLimits
from hostler.sandbox import seccomp, users

# ------------------------------------------------------------------------------------- C6: the kernel's dangerous doors

CALLS = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a & (2**64 - 1)) for a in args])
    return 0 if result >= 0 else ctypes.get_errno()
print(json.dumps([call(*numbers) for numbers in json.loads(sys.argv[1])]))
"""


def number(name: str) -> int:
    return int(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name))


async def errors_of(farm: Farm, calls: list[list[int]]) -> list[int]:
    sandbox = await farm.create()
    done = await farm.run(sandbox, PYTHON, "-I", "-S", "-c", CALLS, json.dumps(calls))
    assert done.code == 0, done
    result: list[int] = json.loads(done.out)
    return result


async def test_c6_every_call_of_the_list_is_in_the_filter(farm: Farm) -> None:
    names = [name for name in seccomp.DENIED if _known(name)]
    assert len(names) > 60
    results = await errors_of(farm, [[number(name), 0, 0, 0, 0, 0] for name in names])
    assert dict(zip(names, results, strict=True)) == dict.fromkeys(names, errno.EPERM)


def _known(name: str) -> bool:
    try:
        return number(name) >= 0
    except OSError:
        return False


async def test_c6_user_namespaces_are_off_even_without_the_filter(farm: Farm) -> None:
    """The second lock behind the filter: the kernel's own limit, set to what the sandbox already uses."""
    sandbox = await farm.create()
    arguments = sandbox.launcher.parent / "bwrap.args"
    words = arguments.read_bytes().split(b"\0")
    at = words.index(b"--seccomp")
    arguments.write_bytes(b"\0".join(words[:at] + words[at + 2 :]))
    clone_newuser = 0x10000000
    done = await farm.run(sandbox, PYTHON, "-I", "-S", "-c", CALLS, json.dumps([[number("unshare"), clone_newuser]]))
    assert json.loads(done.out) == [errno.ENOSPC], done


# -------------------------------------------------------------------------------- C1: links out of the own directories


@pytest.mark.needs_root
async def test_c1_handing_over_a_hostile_workspace_changes_nothing_outside_it(farm: Farm, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("linked", "hard", "inner"):
        (outside / name).write_text(name)
    spec = farm.spec()
    spec.workspace.mkdir()
    hostile = spec.workspace
    (hostile / "soft").symlink_to(outside / "linked")
    (hostile / "softdir").symlink_to(outside)
    (hostile / "dangling").symlink_to("/nonexistent")
    os.link(outside / "hard", hostile / "hard")
    os.mkfifo(hostile / "pipe")
    (hostile / "deep").mkdir()
    (hostile / "deep" / "plain").write_text("mine")
    (hostile / "deep" / "softdir").symlink_to("/etc")
    before = {path: path.lstat().st_uid for path in (outside, *outside.iterdir(), Path("/etc"), Path("/etc/passwd"))}
    sandbox = await farm.create()
    assert {path: path.lstat().st_uid for path in before} == before
    uid = sandbox.host_uid
    for taken in (".", "soft", "softdir", "dangling", "pipe", "deep", "deep/plain", "deep/softdir"):
        assert (hostile / taken).lstat().st_uid == uid, taken
    assert (hostile / "hard").lstat().st_uid == 0


@pytest.mark.needs_root
def test_tree_that_cannot_be_handed_over_costs_no_descriptor(tmp_path: Path) -> None:
    fixed = tmp_path / "top" / "below" / "fixed"
    fixed.parent.mkdir(parents=True)
    fixed.touch()
    if subprocess.run(["chattr", "+i", fixed], check=False, capture_output=True, timeout=60).returncode != 0:
        pytest.skip("this file system has no files that nobody can change")
    before = sorted(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(PermissionError):  # EBADF would say that one was closed twice
            users.hand_over(tmp_path / "top", 61_234, always_walk=True)
    finally:
        subprocess.run(["chattr", "-i", fixed], check=True, timeout=60)
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.needs_root
def test_c1_a_very_deep_tree_is_handed_over_with_few_descriptors(tmp_path: Path) -> None:
    depth = 3000
    here = os.open(tmp_path, os.O_RDONLY)
    top = "t"
    os.mkdir(top, dir_fd=here)
    fd = os.open(top, os.O_RDONLY, dir_fd=here)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(limits[0], 500), limits[1]))
    try:
        users.hand_over(tmp_path / top, 365_000, always_walk=False)
        assert os.fstat(fd).st_uid == 365_000
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.close(fd)
        os.close(here)
        _remove_deep(tmp_path / top)


def _remove_deep(top: Path) -> None:
    """Moves the tree up level by level: shutil.rmtree would go by recursion, too deep for it."""
    while (top / "d").exists():
        if (top / "d" / "d").exists():
            (top / "d" / "d").rename(top / "e")
            (top / "d").rmdir()
            (top / "e").rename(top / "d")
        else:
            (top / "d").rmdir()
    top.rmdir()


@pytest.mark.needs_root
async def test_c1_a_link_in_place_of_the_workspace_is_refused(farm: Farm, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    spec = farm.spec()
    spec.workspace.symlink_to(outside)
    with pytest.raises(OSError) as caught:
        await farm.provider.create(spec)
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert outside.stat().st_uid == 0


# --------------------------------------------------------------------------------------------- neighbours on the host


@pytest.mark.needs_root
async def test_two_sandboxes_are_two_users_and_neither_is_root(farm: Farm) -> None:
    one, two = await farm.create("one"), await farm.create("two")
    uids = []
    for sandbox in (one, two):
        process = await farm.start(sandbox, "/bin/sh", "-c", "echo up; read line")
        assert process.stdout is not None
        assert await process.stdout.readline() == b"up\n"
        seen = {_uid(pid) for pid in farm.pids_of(sandbox)}
        assert seen == {sandbox.host_uid}
        uids.append(sandbox.host_uid)
    assert len(set(uids)) == 2
    assert all(uid in users.DEFAULT_RANGE for uid in uids)


def _uid(pid: int) -> int | None:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("Uid:"):
            assert len(set(line.split()[1:])) == 1
            return int(line.split()[1])
    return None


@pytest.mark.needs_root
async def test_a_sandboxes_user_can_not_read_its_neighbours_files_on_the_host(farm: Farm) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)  # every directory above the workspace is open to everybody
        own = {"workspace": place / "w", "outputs": place / "o", "harness_state": place / "h"}
        one, two = await farm.create("one", **own), await farm.create("two")
        for file in ("/workspace/f", "/mnt/session/outputs/f", "/home/agent/.claude/f"):
            await farm.sh(one, f"echo mine > {file}; chmod 777 {file} $(dirname {file})")
        await one.destroy()
        one = await farm.create("one", **own)  # takes back the modes that the agent gave to its top directories
        for directory in own.values():
            assert await _cat(directory / "f", one.host_uid) == b"mine\n"
            assert await _cat(directory / "f", two.host_uid) == b""
        await one.destroy()


async def _cat(file: Path, uid: int | None) -> bytes:
    """The file as a process of this uid on the host, outside of any sandbox, can read it."""
    process = await asyncio.create_subprocess_exec(
        *("/usr/bin/setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "/bin/cat", str(file)),
        cwd="/",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    return (await process.communicate())[0]


# --------------------------------------------------------------------------------------------------------- C3: floods


async def test_c3_memory_flood_ends_at_the_limit_and_the_neighbour_goes_on(farm: Farm) -> None:
    _needs_limits(await farm.provider.probe())
    limits = SandboxLimits(memory_bytes=96 << 20)
    flooded, neighbour = await farm.create("one", limits=limits), await farm.create("two", limits=limits)
    other = await farm.start(neighbour, "/bin/cat")
    done = await farm.run(flooded, PYTHON, "-I", "-S", "-c", "b=bytearray(400<<20); print('had it all')")
    assert "had it all" not in done.out
    assert done.code != 0
    stats = await flooded.stats()
    assert stats.oom_kills is not None
    assert stats.oom_kills >= 1
    assert stats.memory_peak_bytes is not None
    assert stats.memory_peak_bytes <= 96 << 20
    assert (await neighbour.stats()).oom_kills == 0
    assert (await other.communicate(b"alive"))[0] == b"alive"


async def test_c3_shared_memory_and_tmp_count_as_memory(farm: Farm) -> None:
    _needs_limits(await farm.provider.probe())
    sandbox = await farm.create(limits=SandboxLimits(memory_bytes=64 << 20, tmp_bytes=1 << 30))
    done = await farm.sh(sandbox, "head -c 300M /dev/zero > /dev/shm/flood && echo had it all")
    assert "had it all" not in done.out
    stats = await sandbox.stats()
    assert stats.memory_peak_bytes is not None
    assert stats.memory_peak_bytes <= 64 << 20


async def test_c3_fork_bomb_ends_at_the_limit_and_the_neighbour_goes_on(farm: Farm) -> None:
    _needs_limits(await farm.provider.probe())
    bombed = await farm.create("one", limits=SandboxLimits(pids=24))
    neighbour = await farm.create("two", limits=SandboxLimits(pids=24))
    code = """
import os, signal
children = 0
while True:
    try:
        if os.fork() == 0:
            signal.pause()
        children += 1
    except BlockingIOError:
        print(children, flush=True)
        signal.pause()
"""
    process = await farm.start(bombed, PYTHON, "-I", "-S", "-c", code)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        children = int(await process.stdout.readline())
    assert 10 < children < 24
    stats = await bombed.stats()
    assert stats.pids == 24
    assert (await farm.sh(neighbour, "for i in 1 2 3 4 5; do true | cat; done; echo fine")).out == "fine\n"
    await bombed.destroy()
    assert farm.pids_of(bombed) == frozenset()


async def test_c3_processor_time_is_shared_out(farm: Farm) -> None:
    _needs_limits(await farm.provider.probe())
    sandbox = await farm.create(limits=SandboxLimits(cpus=0.2))
    code = """
import json, time
wall, used = time.monotonic(), time.process_time()
while time.monotonic() - wall < 1.0: pass
print(json.dumps(time.process_time() - used))
"""
    used = await farm.python(sandbox, code)
    assert used < 0.5  # 0.2 and up to one period of 0.1 s at each end
    stats = await sandbox.stats()
    assert stats.cpu_seconds is not None
    assert used <= stats.cpu_seconds + 0.05


def _needs_limits(label: Any) -> None:
    if label.limits_by == "none":
        pytest.skip("this host lets us make no control groups")


# ------------------------------------------------------------------------------ C4: what would outlive its session

STUBBORN = r"""
import os, signal, sys
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
told, tell = os.pipe()
def go():
    os.setsid()
    if os.fork(): os._exit(0)
    os.chdir("/")
    print("stubborn", flush=True)
    os.write(tell, b".")
    for fd in range(3): os.close(fd)
    while True: signal.pause()
for _ in range(3):
    if os.fork() == 0: go()
for _ in range(3): os.read(told, 1)
if sys.argv[1] == "stay":
    while True: signal.pause()
"""


async def _stubborn(farm: Farm, name: str, mode: str) -> tuple[Any, asyncio.subprocess.Process]:
    sandbox = await farm.create(name)
    wrapper = f'nohup setsid sleep 1000 >/dev/null 2>&1 & exec {PYTHON} -I -S -c "$0" {mode}'
    process = await farm.start(sandbox, "/bin/sh", "-c", wrapper, STUBBORN)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        for _ in range(3):
            assert await process.stdout.readline() == b"stubborn\n"
    return sandbox, process


async def test_c4_double_forked_children_end_with_destroy(farm: Farm) -> None:
    sandbox, process = await _stubborn(farm, "one", "stay")
    pids = farm.pids_of(sandbox)
    assert len(pids) >= 6
    await sandbox.destroy()
    assert [pid for pid in pids if _alive(pid)] == []
    await process.wait()


async def test_c4_signal_to_the_launcher_ends_everything(farm: Farm) -> None:
    sandbox, process = await _stubborn(farm, "one", "stay")
    pids = farm.pids_of(sandbox)
    process.terminate()
    await until(lambda: not [pid for pid in pids if _alive(pid)], "children outlived the launcher")


async def test_c4_process_one_can_not_be_talked_out_of_dying_with_the_worker(farm: Farm) -> None:
    """Who writes into the memory of process 1 can make it call prctl, so prctl must not clear the signal of death."""
    sandbox = await farm.create()
    code = """
import ctypes, json
libc = ctypes.CDLL(None)
def now():
    value = ctypes.c_int()
    libc.prctl(2, ctypes.byref(value))
    return value.value
seen = []
for signal in (9, 0, 15, 23, (1 << 32)):
    libc.prctl(1, ctypes.c_ulong(signal)); seen.append(now())
libc.prctl(ctypes.c_ulong((1 << 32) | 1), ctypes.c_ulong(0)); seen.append(now())
print(json.dumps(seen))
"""
    assert await farm.python(sandbox, code) == [9] * 6


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


# ---------------------------------------------------------------------------------- C7: files that change the harness


async def test_c7_nothing_in_the_workspace_changes_what_is_started(farm: Farm) -> None:
    spec = farm.spec()
    spec.workspace.mkdir()
    spec.harness_state.mkdir()
    for place in (spec.workspace, spec.harness_state):
        for name in ("claude", "sh", "socat", "bwrap", "env", "mount", "setpriv", "unshare"):
            (place / name).write_text("#!/bin/sh\necho hijacked\n")
            (place / name).chmod(0o755)
        for name in (".profile", ".bashrc", ".bash_profile", ".shrc", ".env"):
            (place / name).write_text("echo hijacked\n")
    sandbox = await farm.create(environment={"PATH": "/workspace:/usr/bin:/bin", "HOME": "/workspace"})
    worker = {
        "PATH": f"{spec.workspace}:/usr/bin:/bin",
        "BASH_ENV": str(spec.workspace / ".profile"),
        "HOME": str(spec.workspace),
    }
    done = await farm.run(sandbox, "/bin/echo", "as intended", env=worker, cwd=spec.workspace)
    assert (done.code, done.out, done.err) == (0, "as intended\n", "")


def test_filter_is_made_once_and_shared(tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(seccomp.program(tmp_path / "f"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1
    assert [path.name for path in (tmp_path / "f").iterdir()] == [paths[0].name]
    before = paths[0].stat()
    assert seccomp.program(tmp_path / "f") == paths[0]
    assert paths[0].stat().st_mtime_ns == before.st_mtime_ns
    assert before.st_size % 8 == 0
