"""What runs a machine's commands, inside? Process 1 of the guest, in Python.

It gets there by the initial file system that `machine_guest` writes, when the session's folders are mounted. Each
command has a control group of its own below one that has the limits, and becomes the agent's user, without a
capability and with the system-call filter. It serves the sandbox's two roads as sockets, each connection a stream.
Imports nothing but the standard library and its two neighbours.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostler.sandbox import enter
from hostler.sandbox import machine_frames as frames
from hostler.sandbox.machine_frames import Frame, Inlet, Line, Loop, Outlet

UID_INSIDE = 1000
CGROUPS = Path("/run/machine/cgroup")
SETTINGS = Path("/run/machine/given/settings.json")
FILTER = Path("/run/machine/given/filter.bpf")
_CLONE_NEWUSER = 0x10000000
_REBOOT = 0x01234567

_libc = ctypes.CDLL(None, use_errno=True)


class Connection:
    """A socket of this machine, as a stream."""

    def __init__(self, agent: "Agent", stream: int, end: socket.socket) -> None:
        self._agent, self._stream, self._end = agent, stream, end
        end.setblocking(False)
        self._heard = os.dup(end.fileno())  # two entries of the poll: one direction may end before the other
        self._inlet = Inlet(agent.loop, end.fileno(), stream, frames.DATA, agent.line.send)
        self._inlet.ended = self._ended
        self._outlet = Outlet(agent.loop, self._heard, self._give_back)
        self._closed = 0

    def take(self, kind: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._outlet.put(payload)
        elif kind == frames.CREDIT:
            self._inlet.credit(int.from_bytes(payload, "big"))
        elif kind == frames.EOF:
            self._outlet.end(self._shut)
        elif kind == frames.GONE:
            self.close()

    def _give_back(self, count: int) -> None:
        self._agent.line.send(self._stream, frames.CREDIT, count.to_bytes(4, "big"))

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)
        self._ended()

    def _ended(self) -> None:
        self._closed += 1
        if self._closed == 2:
            self.close()

    def close(self) -> None:
        if self._agent.streams.pop(self._stream, None) is not None:
            self._agent.loop.watch(self._heard)
            self._inlet.close()
            os.close(self._heard)
            self._end.close()


class Command:
    """A process of the agent's user, its streams as one stream."""

    def __init__(self, agent: "Agent", stream: int, order: dict[str, Any]) -> None:
        self._agent, self._stream = agent, stream
        self._last = order["how"] == "launch"
        self._group = agent.groups / f"c{stream}"
        self._group.mkdir()
        given, self._stdin = os.pipe()
        self._out, out = os.pipe()
        self._err, err = os.pipe()
        for fd in (self._stdin, self._out, self._err):
            os.set_blocking(fd, False)
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._become(order["argv"], (given, out, err), parent)
            except BaseException as error:
                os.write(2, f"enter: {error}\n".encode())
            os._exit(enter.NOT_ENTERED)
        for fd in (given, out, err):
            os.close(fd)
        self._code: int | None = None
        self._inlets = [
            Inlet(agent.loop, fd, stream, kind, agent.line.send)
            for fd, kind in ((self._out, frames.DATA), (self._err, frames.ERRORS))
        ]
        self._outlet = Outlet(agent.loop, self._stdin, self._give_back)

    def _become(self, argv: list[str], streams: tuple[int, int, int], parent: int) -> None:
        (self._group / "cgroup.procs").write_text("0")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        os.setsid()
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        given = self._agent.given
        namespace = os.open("/run/machine/user", os.O_RDONLY)
        program = FILTER.read_bytes()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (given["open_files"], given["open_files"]))
        Path("/proc/self/oom_score_adj").write_text("0")
        os.setgroups([])
        if _libc.setns(namespace, _CLONE_NEWUSER) != 0:
            raise OSError(ctypes.get_errno(), "joining the user namespace")
        os.closerange(3, 1 << 16)
        os.setresgid(UID_INSIDE, UID_INSIDE, UID_INSIDE)
        os.setresuid(UID_INSIDE, UID_INSIDE, UID_INSIDE)
        os.umask(0o022)
        enter._become(given["environment"], argv, program, parent)

    def take(self, kind: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._outlet.put(payload)
        elif kind == frames.EOF:
            self._outlet.end(self._close_stdin)
        elif kind == frames.CREDIT:
            fd = frames.DATA if payload[4] == frames.DATA else frames.ERRORS
            self._inlets[0 if fd == frames.DATA else 1].credit(int.from_bytes(payload[:4], "big"))
            self.settle()
        elif kind == frames.SIGNAL and self._code is None:
            os.kill(self.pid, payload[0])
        elif kind == frames.GONE:
            self._kill()

    def ended(self, code: int) -> None:
        self._code = 128 - code if code < 0 else code
        if self._last:
            self._kill()
        self.settle()

    def settle(self) -> None:
        """Says the exit status once everything is sent that was written before."""
        if self._code is None:
            return
        for inlet in self._inlets:
            while inlet.open and not inlet.starving and inlet.read():
                pass
            if inlet.starving:
                return
        self._agent.line.send(self._stream, frames.EXIT, bytes([self._code & 0xFF]))
        self._agent.streams.pop(self._stream, None)
        for inlet in self._inlets:
            inlet.close()
            os.close(inlet.fd)
        self._close_stdin()
        with contextlib.suppress(OSError):  # what it started in the background lives on
            self._group.rmdir()

    def _kill(self) -> None:
        """With the launcher's program everything ends that the agent has started."""
        group = self._agent.groups if self._last else self._group
        (group / "cgroup.kill").write_text("1")

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            self._agent.loop.watch(self._stdin)
            self._outlet.open = False
            os.close(self._stdin)
            self._stdin = -1

    def _give_back(self, count: int) -> None:
        self._agent.line.send(self._stream, frames.CREDIT, count.to_bytes(4, "big"))


class Agent:
    """Everything that the host asks for."""

    def __init__(self, fd: int) -> None:
        self.given = json.loads(SETTINGS.read_text())
        self.loop = Loop()
        self.streams: dict[int, Command | Connection] = {}
        self.groups = CGROUPS / "agent"
        self._limit()
        self._next = 1
        heard, woken = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(heard, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.loop.watch(heard, read=lambda: self._reap(heard))
        self.line = Line(self.loop, fd, self._take, _end_machine)
        self._listeners = [self._road(name) for name in ("model", "egress")]
        port = socket.create_server(("127.0.0.1", self.given["port"]))
        self._listen(port, "egress")

    def _limit(self) -> None:
        (CGROUPS / "cgroup.subtree_control").write_text("+memory +pids +cpu")
        self.groups.mkdir()
        for name, value in self.given["limits"].items():
            (self.groups / name).write_text(value)

    def _road(self, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"/run/hostler/{name}.sock")
        os.chmod(f"/run/hostler/{name}.sock", 0o666)
        listener.listen(128)
        self._listen(listener, name)
        return listener

    def _listen(self, listener: socket.socket, name: str) -> None:
        listener.setblocking(False)

        def accept() -> None:
            try:
                end, _ = listener.accept()
            except OSError:
                return
            stream, self._next = self._next, self._next + 2
            self.line.send(stream, frames.OPEN, name.encode())
            self.streams[stream] = Connection(self, stream, end)

        self.loop.watch(listener.fileno(), read=accept)

    def _take(self, frame: Frame) -> None:
        stream, kind, payload = frame
        if kind == frames.RUN:
            try:
                self.streams[stream] = Command(self, stream, json.loads(payload))
            except OSError as error:
                self.line.send(stream, frames.ERRORS, f"enter: {error}\n".encode())
                self.line.send(stream, frames.EXIT, bytes([enter.NOT_ENTERED]))
        elif kind == frames.ASK:
            self.line.send(stream, frames.ANSWER, json.dumps(self._counted()).encode())
        elif stream in self.streams:
            self.streams[stream].take(kind, payload)

    def _counted(self) -> dict[str, int | None]:
        def number(name: str, key: str = "") -> int | None:
            try:
                text = (self.groups / name).read_text()
            except OSError:
                return None
            if not key:
                return int(text)
            return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key} ")), None)

        active, inactive = number("memory.stat", "active_file"), number("memory.stat", "inactive_file")
        return {
            "memory": number("memory.current"),
            "file_cache": None if active is None or inactive is None else active + inactive,
            "memory_peak": number("memory.peak"),
            "cpu_us": number("cpu.stat", "usage_usec"),
            "pids": number("pids.current"),
            "oom_kills": number("memory.events", "oom_kill"),
            "pids_refused": number("pids.events", "max"),
        }

    def _reap(self, heard: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(heard, 4096)
        commands: dict[int, Callable[[int], None]] = {
            one.pid: one.ended for one in self.streams.values() if isinstance(one, Command)
        }
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in commands:
                commands[pid](os.waitstatus_to_exitcode(status))

    def run(self) -> None:
        self.line.send(0, frames.HELLO)
        while True:
            self.loop.once()


def _make_user_namespace(uid: int) -> None:
    """One in which the owner of the session's files is 1000, for every command; nobody can make another one."""
    ready, tell = os.pipe()
    holder = os.fork()
    if holder == 0:
        _libc.unshare(_CLONE_NEWUSER)
        os.write(tell, b"x")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{holder}/{name}").write_text(f"{UID_INSIDE} {uid} 1\n")
    Path("/run/machine/user").touch()
    if _libc.mount(f"/proc/{holder}/ns/user".encode(), b"/run/machine/user", b"none", 0x1000, None) != 0:
        raise OSError(ctypes.get_errno(), "keeping the user namespace")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    os.close(ready)
    os.close(tell)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


def main() -> None:
    """Never comes back."""
    try:
        Path("/proc/self/oom_score_adj").write_text("-1000")
        os.chdir("/")
        _make_user_namespace(json.loads(SETTINGS.read_text())["uid"])
        line = os.open("/dev/line", os.O_RDWR)
        os.unlink("/dev/line")
        Agent(line).run()
    except BaseException:
        traceback.print_exc()  # the console's end is what the host says when a machine doesn't boot
        _end_machine()


def _end_machine() -> None:
    sys.stderr.flush()
    _libc.reboot(_REBOOT)
    os._exit(1)
