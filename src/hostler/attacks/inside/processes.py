"""B3: what can be learnt of, or done to, processes outside the sandbox?"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from typing import Any

from hostler.attacks.inside.battery import probe


def _mark(given: dict[str, Any]) -> bytes:
    return str(given["mark_backwards"])[::-1].encode()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _in_proc(given: dict[str, Any], *names: str) -> list[str]:
    mark, found = _mark(given), []
    for pid in _pids():
        for name in names:
            try:
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    if mark in file.read(1 << 20):
                        found.append(f"/proc/{pid}/{name} holds the planted words")
            except OSError:
                pass
    return found


@probe
def environments(given: dict[str, Any]) -> list[str]:
    return _in_proc(given, "environ")


@probe
def command_lines(given: dict[str, Any]) -> list[str]:
    return _in_proc(given, "cmdline", "comm")


@probe
def tables(given: dict[str, Any]) -> list[str]:
    """Maps, mounts, sockets, locks and limits of processes, and the system's own tables of them."""
    return _in_proc(given, "maps", "stack", "limits", "cgroup", "net/unix", "net/tcp")


@probe
def open_files(given: dict[str, Any]) -> list[str]:
    mark, found = _mark(given), []
    own = {os.getpid(), os.getppid()}
    for pid in set(_pids()) - own:
        try:
            open_ones = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for fd in open_ones:
            path = f"/proc/{pid}/fd/{fd}"
            try:
                if not os.path.isfile(path):
                    continue
                with open(path, "rb") as file:
                    if mark in file.read(1 << 20):
                        found.append(f"{path} holds the planted words")
            except OSError:
                pass
    return found


@probe
def memory(given: dict[str, Any]) -> list[str]:
    """The worker's memory by its number on the host, in three ways."""
    found = []
    pid = given["worker"]
    if _is_ours(pid):
        return []
    try:
        os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
        found.append("the worker's memory can be opened")
    except OSError:
        pass
    return found


@probe
def seen_processes(given: dict[str, Any]) -> list[str]:
    """A process beside the worker, by its number on the host. Its arguments hold the planted words."""
    try:
        with open(f"/proc/{given['bystander']}/cmdline", "rb") as file:
            return ["a process of the host can be seen"] if _mark(given) in file.read() else []
    except OSError:
        return []


@probe
def signals(given: dict[str, Any]) -> list[str]:
    found = []
    for name in ("worker", "bystander"):
        if _is_ours(given[name]):
            continue
        try:
            os.kill(given[name], 0)
        except ProcessLookupError:
            continue
        except PermissionError:
            found.append(f"the {name} is there, though it can't be signalled")
            continue
        found.append(f"the {name} can be signalled")
    return found


@probe
def process_handles(given: dict[str, Any]) -> list[str]:
    number = 434  # pidfd_open, on every architecture
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    for name in ("worker", "bystander"):
        if not _is_ours(given[name]) and libc.syscall(number, given[name], 0) >= 0:
            found.append(f"a handle of the {name} can be had")
    return found


def _is_ours(pid: int) -> bool:
    """The same number may be one of this sandbox's own: then it is of the same session, or process 1."""
    if pid == 1:
        return True
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[3]) == os.getsid(0)
    except (OSError, ValueError):
        return False


@probe
def first_process(given: dict[str, Any]) -> list[str]:
    """Process 1 was the worker's child: nothing of the worker's environment may be left in it."""
    try:
        with open("/proc/1/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return []
    expected = {*given["environment"], *OF_LAUNCHERS}
    names = {word.partition(b"=")[0].decode("latin-1"): word for word in words if word}
    return [f"process 1 has {word[:60]!r}" for name, word in names.items() if name not in expected]


OF_LAUNCHERS = ("HOSTLER_SANDBOX", "SHLVL", "PWD", "OLDPWD", "HOSTNAME", "TERM", "container", "_")
"""Harmless, and of the launcher's or the engine's making."""


@probe
def core_dumps(given: dict[str, Any]) -> list[str]:
    """A crash must leave no image of memory on the host's disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return [] if hard == 0 else [f"core files of {soft} to {hard} bytes are allowed"]


@probe
def priorities(given: dict[str, Any]) -> list[str]:
    """More than its share, by a better priority or by real time."""
    found = []
    try:
        os.nice(-5)
        found.append("the priority could be raised")
    except OSError:
        pass
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        found.append("real-time scheduling could be had")
    except OSError:
        pass
    return found


@probe
def preferred(given: dict[str, Any]) -> list[str]:
    """Leaves a process that took every priority it was given. It ends with the input of the program."""
    ready, its = os.pipe()
    if os.fork() == 0:
        try:
            with contextlib.suppress(OSError):
                os.nice(-20)
            for policy in (os.SCHED_RR, os.SCHED_FIFO):
                with contextlib.suppress(OSError):
                    os.sched_setscheduler(0, policy, os.sched_param(1))
            os.closerange(3, 256)
            while os.read(0, 1):
                pass
        finally:
            os._exit(0)
    os.close(its)
    os.read(ready, 1)
    return []


@probe
def host_name(given: dict[str, Any]) -> list[str]:
    """The host's name and its tables of processes say where one is."""
    return [f"the host's name is {platform.node()!r}"] if platform.node() == given["host_name"] else []
