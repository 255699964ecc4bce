"""B3: what can be learnt of, or done to, processes outside the sandbox?"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from typing import Any, Dict, List

from hostler.attacks.inside.battery import probe


def _mark(given: Dict[str, Any]) -> bytes:
    return str(given["mark_backwards"])[::-1].encode()


def _pids() -> List[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _in_proc(given: Dict[str, Any], *names: str) -> List[str]:
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
def environments(given: Dict[str, Any]) -> List[str]:
    return _in_proc(given, "environ")


@probe
def command_lines(given: Dict[str, Any]) -> List[str]:
    return _in_proc(given, "cmdline", "comm")


@probe
def tables(given: Dict[str, Any]) -> List[str]:
    """Maps, mounts, sockets, locks and limits of processes, and the system's own tables of them."""
    return _in_proc(given, "maps", "stack", "limits", "cgroup", "net/unix", "net/tcp")


@probe
def open_files(given: Dict[str, Any]) -> List[str]:
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
def memory(given: Dict[str, Any]) -> List[str]:
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
def seen_processes(given: Dict[str, Any]) -> List[str]:
    """The worker and the neighbour, by their numbers on the host."""
    found = []
    for name in ("worker", "neighbour"):
        pid = given[name]
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                line = file.read()
        except OSError:
            continue
        if not _is_ours(pid) and given["words_of"][name].encode() in line:
            found.append(f"the {name} can be seen")
    return found


@probe
def signals(given: Dict[str, Any]) -> List[str]:
    found = []
    for name in ("worker", "neighbour"):
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
def process_handles(given: Dict[str, Any]) -> List[str]:
    number = 434  # pidfd_open, on every architecture
    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    for name in ("worker", "neighbour"):
        if not _is_ours(given[name]) and libc.syscall(number, given[name], 0) >= 0:
            found.append(f"a handle of the {name} can be had")
    return found


def _is_ours(pid: int) -> bool:
    """The same number may be one of our own here."""
    return pid in (os.getpid(), os.getppid(), 1) or _parent_chain(pid)


def _parent_chain(pid: int) -> bool:
    at = os.getpid()
    while at > 1:
        if at == pid:
            return True
        try:
            with open(f"/proc/{at}/stat") as file:
                at = int(file.read().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return False
    return False


@probe
def first_process(given: Dict[str, Any]) -> List[str]:
    """Process 1 was the worker's child: nothing of the worker's environment may be left in it."""
    try:
        with open("/proc/1/environ", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        return []
    expected = set(given["environment"]) | {"HOSTLER_SANDBOX", "SHLVL", "PWD", "HOSTNAME", "OLDPWD", "_", "TERM", "container", "HOME", "PATH"}
    return [f"process 1 has {word[:60]!r}" for word in words if word and word.partition(b"=")[0].decode("latin-1") not in expected]


@probe
def core_dumps(given: Dict[str, Any]) -> List[str]:
    """A crash must leave no image of memory on the host's disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    return [] if hard == 0 else [f"core files of {soft} to {hard} bytes are allowed"]


@probe
def priorities(given: Dict[str, Any]) -> List[str]:
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
def host_name(given: Dict[str, Any]) -> List[str]:
    """The host's name and its tables of processes say where one is."""
    return [f"the host's name is {platform.node()!r}"] if platform.node() == given["host_name"] else []


@probe
def kills_everything(given: Dict[str, Any]) -> List[str]:
    """`kill -1`, in a child: the worker and the neighbour are asked afterwards whether they live."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        try:
            os.kill(-1, 0)
        except OSError:
            pass
        os._exit(0)
    os.waitpid(child, 0)
    return []
