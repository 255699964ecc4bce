"""C3 and C4: floods, and processes that try to outlive their session."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import socket
import sys
import time
from typing import Any

from hostler.attacks.inside.battery import probe

MODEL = "/run/hostler/model.sock"


def _hold(word: str) -> None:
    """Never ends by itself, and is heard of at the model socket for as long as it lives."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(MODEL)
        s.sendall(word.encode() + b"\n")
        for fd in (0, 1, 2):
            with contextlib.suppress(OSError):
                os.close(fd)
        while True:
            time.sleep(1000)


def _double_fork(word: str) -> None:
    if os.fork():
        return
    try:
        os.closerange(3, 256)  # the pipe of its answer, too: whoever waits for that would wait for us
        os.setsid()
        if os.fork() == 0:
            os.chdir("/")
            _hold(word)
    finally:
        os._exit(0)


@probe
def stays(given: dict[str, Any]) -> list[str]:
    """Three of them: forked twice, started by nohup and setsid, and stopped."""
    _double_fork("forked")
    for way in ("nohup", "setsid"):
        if os.fork() == 0:
            source = (
                f"import socket,time; s=socket.socket(1); s.connect({MODEL!r}); s.send(b'{way}\\n'); time.sleep(10**6)"
            )
            null = os.open("/dev/null", os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            os.closerange(3, 256)
            os.execv(f"/usr/bin/{way}", [way, sys.executable, "-IS", "-c", source])
    return []


# ------------------------------------------------------------------------------------------------------- C3: floods


@probe
def forks(given: dict[str, Any]) -> list[str]:
    """Up to twice the limit, then everything is let go."""
    children: list[int] = []
    refused = False
    for _ in range(2 * given["pids"]):
        try:
            child = os.fork()
        except OSError:
            refused = True
            break
        if child == 0:
            signal.pause()
            os._exit(0)
        children.append(child)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [] if refused else [f"{len(children)} processes were made, of {given['pids']}"]


@probe
def threads(given: dict[str, Any]) -> list[str]:
    import threading

    go_on = threading.Event()
    made: list[threading.Thread] = []
    refused = False
    for _ in range(2 * given["pids"]):
        thread = threading.Thread(target=go_on.wait, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            refused = True
            break
        made.append(thread)
    go_on.set()
    return [] if refused else [f"{len(made)} threads were made, of {given['pids']}"]


@probe
def memory_flood(given: dict[str, Any]) -> list[str]:
    """Twice the limit, in pieces. Whoever lives to the end had it all."""
    kept = []
    for _ in range(2 * given["memory"] >> 22):
        piece = bytearray(4 << 20)
        piece[::4096] = b"x" * len(piece[::4096])
        kept.append(piece)
    return [f"{len(kept) * 4} MiB were had, of {given['memory'] >> 20}"]


def _fill(path: str, most: int) -> int:
    written = 0
    piece = b"x" * (1 << 20)
    try:
        with open(path, "wb", buffering=0) as file:
            while written < most:
                written += file.write(piece)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ENOENT, errno.EACCES):
            raise
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return written


def _filled(given: dict[str, Any], place: str, bound: int) -> list[str]:
    written = _fill(f"{place}/.flood", 2 * bound)
    return [f"{written >> 20} MiB were written to {place}, of {bound >> 20}"] if written >= 2 * bound else []


@probe
def scratch_flood(given: dict[str, Any]) -> list[str]:
    return _filled(given, "/tmp", given["scratch"])


@probe
def shared_memory_flood(given: dict[str, Any]) -> list[str]:
    return _filled(given, "/dev/shm", given["scratch"])


@probe
def home_flood(given: dict[str, Any]) -> list[str]:
    return _filled(given, "/home/agent", given["scratch"])


@probe
def disk_flood(given: dict[str, Any]) -> list[str]:
    return _filled(given, "/workspace", given["disk"])


@probe
def file_flood(given: dict[str, Any]) -> list[str]:
    """Empty files cost no blocks, but they cost the kernel's memory."""
    made, top = 0, "/tmp/.many"
    bound = 2 * (given["memory"] >> 10)  # a file takes about 1 KiB of the kernel
    try:
        os.mkdir(top)
        for made in range(bound):
            os.close(os.open(f"{top}/{made}", os.O_CREAT | os.O_WRONLY))
    except OSError:
        return []
    finally:
        for number in range(made + 1):
            try:
                os.unlink(f"{top}/{number}")
            except OSError:
                break
    return [f"{made} files were made, and nothing said no"]


@probe
def descriptor_flood(given: dict[str, Any]) -> list[str]:
    bound = given["open_files"]
    kept = []
    try:
        for _ in range(2 * bound):
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        return []
    return [f"{len(kept)} descriptors are open, of {bound}"]


@probe
def raised_limits(given: dict[str, Any]) -> list[str]:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (given["open_files"] * 2, given["open_files"] * 2))
    except (OSError, ValueError):
        return []
    return ["the limit of open files could be raised"]


@probe
def processor_flood(given: dict[str, Any]) -> list[str]:
    """Many busy loops, which others on the host can't starve; how much processor time they got in one second."""
    used, wall = os.times(), time.monotonic()
    children = []
    for _ in range(24):
        child = os.fork()
        if child == 0:
            while time.monotonic() - wall < 1.0:
                pass
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    now = os.times()
    got = (now.children_user + now.children_system) - (used.children_user + used.children_system)
    took = time.monotonic() - wall
    bound = given["cpus"] * 1.3  # the loops run for one second, whenever their ends are noticed
    return [] if got <= bound else [f"{got:.2f} s of processor time in {took:.2f} s, of {given['cpus']} processors"]
