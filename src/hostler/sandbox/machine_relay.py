"""Who stands between a machine and its host? One process, with the rights of the machine's own host user.

It starts QEMU, holds the only ends of its serial line and of its control connection, passes the streams of launcher and
entrance on, and connects the guest's streams to the two roads by their names. Started by the script of a sandbox as
`machine_relay.py SETTINGS`; comes back when the guest is ready, and goes on in the background. Ends with QEMU.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from hostler.sandbox import machine_frames as frames
from hostler.sandbox.machine_frames import Broken, Frame, Inlet, Line, Loop, Outlet

CONSOLE_BYTES = 16 << 10
"""How much of what the guest's kernel says is kept."""
FORGET = b"forget"
"""A question of the worker that adopts the machine: nobody else is a client any more."""


class Road:
    """A connection to one of the session's sockets, as a stream of the guest's."""

    def __init__(self, relay: "Relay", stream: int, path: str) -> None:
        self._relay, self._stream = relay, stream
        self._end = socket.socket(socket.AF_UNIX)
        self._end.settimeout(10)
        self._end.connect(path)
        self._end.setblocking(False)
        self._heard = os.dup(self._end.fileno())
        self._inlet = Inlet(relay.loop, self._end.fileno(), stream, frames.DATA, relay.guest.send)
        self._inlet.ended = self._ended
        self._outlet = Outlet(relay.loop, self._heard, self._give_back)
        self._closed = 0

    def take(self, kind: int, payload: bytes) -> None:
        if kind == frames.DATA:
            self._outlet.put(payload)
        elif kind == frames.CREDIT:
            self._inlet.credit(int.from_bytes(payload, "big"))
        elif kind == frames.EOF:
            self._outlet.end(self._shut)

    def _give_back(self, count: int) -> None:
        self._relay.guest.send(self._stream, frames.CREDIT, count.to_bytes(4, "big"))

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._end.shutdown(socket.SHUT_WR)
        self._ended()

    def _ended(self) -> None:
        self._closed += 1
        if self._closed == 2:
            self._relay.roads.pop(self._stream, None)
            self._relay.loop.watch(self._heard)
            os.close(self._heard)
            self._end.close()


class Client:
    """A launcher, an entrance, or the worker with a question."""

    def __init__(self, relay: "Relay", end: socket.socket, stream: int) -> None:
        self._relay, self.stream = relay, stream
        self.line = Line(relay.loop, os.dup(end.fileno()), self._take, self.gone)
        end.close()
        self._runs = False

    def _take(self, frame: Frame) -> None:
        _, kind, payload = frame
        if kind == frames.ASK and payload == FORGET:
            for client in list(self._relay.clients.values()):
                if client is not self:
                    client.gone()
            self.line.send(0, frames.ANSWER, b"{}")
        elif kind == frames.ASK and payload:
            self._relay.control(payload.decode(), lambda answer: self.line.send(0, frames.ANSWER, answer))
        else:
            self._runs = self._runs or kind == frames.RUN
            self._relay.guest.send(self.stream, kind, payload)

    def gone(self) -> None:
        """Its command ends with it."""
        self.line.close()
        if self._relay.clients.pop(self.stream, None) is not None and self._runs:
            self._relay.guest.send(self.stream, frames.GONE)

    def heard(self, kind: int, payload: bytes) -> None:
        self.line.send(0, kind, payload)
        if kind == frames.EXIT:
            self._runs = False


class Relay:
    def __init__(self, settings: dict[str, Any], ready: Callable[[str], None]) -> None:
        self.loop = Loop()
        self.clients: dict[int, Client] = {}
        self.roads: dict[int, Road] = {}
        self._settings, self._ready = settings, ready
        self._next = 2
        self._console: deque[bytes] = deque()
        self._waiting: deque[Callable[[bytes], None]] = deque()
        line, its_line = socket.socketpair()
        control, its_control = socket.socketpair()
        words = [
            word.replace("LINE_FD", str(its_line.fileno())).replace("CONTROL_FD", str(its_control.fileno()))
            for word in settings["qemu"]
        ]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(its_line.fileno(), its_control.fileno()),
        )
        its_line.close()
        its_control.close()
        assert self._process.stdout is not None
        self._said = self._process.stdout.fileno()
        os.set_blocking(self._said, False)
        self.loop.watch(self._said, read=self._hear)
        self.guest = Line(self.loop, line.detach(), self._from_guest, self.over)
        self._control = control
        control.setblocking(False)
        self._control_in = b""
        self.loop.watch(control.fileno(), read=self._answered)
        self.control("qmp_capabilities", lambda answer: None)
        self._listener = socket.socket(socket.AF_UNIX)
        os.chdir(settings["folder"])  # names of sockets are at most 107 bytes long
        self._listener.bind("relay.sock")
        self._listener.listen(64)
        self._listener.setblocking(False)
        self.loop.watch(self._listener.fileno(), read=self._accept)

    def _hear(self) -> None:
        try:
            data = os.read(self._said, 4096)
        except BlockingIOError:
            return
        if not data:
            self.over()
            return
        self._console.append(data)
        while sum(map(len, self._console)) > CONSOLE_BYTES:
            self._console.popleft()

    def over(self) -> None:
        """Machine or line have ended: so does everything."""
        self._process.kill()
        self._process.wait()
        said = b"".join(self._console).decode(errors="replace")
        self._ready(said[-1500:] or f"QEMU ended with {self._process.returncode}")
        os._exit(1)

    def _accept(self) -> None:
        try:
            end, _ = self._listener.accept()
        except OSError:
            return
        stream, self._next = self._next, self._next + 2
        self.clients[stream] = Client(self, end, stream)

    def _from_guest(self, frame: Frame) -> None:
        stream, kind, payload = frame
        if kind == frames.HELLO:
            self._ready("")
        elif kind == frames.OPEN:
            self._open(stream, payload.decode(errors="replace"))
        elif stream in self.roads:
            self.roads[stream].take(kind, payload)
        elif stream in self.clients:
            self.clients[stream].heard(kind, payload)

    def _open(self, stream: int, name: str) -> None:
        try:
            self.roads[stream] = Road(self, stream, self._settings["roads"][name])
        except (OSError, KeyError):
            self.guest.send(stream, frames.GONE)

    # ----------------------------------------------------------------------------------------------- QEMU's own control

    def control(self, command: str, then: Callable[[bytes], None]) -> None:
        """`stop`, `cont` and the like; `then` gets the answer."""
        self._waiting.append(then)
        self._control.setblocking(True)
        self._control.sendall(json.dumps({"execute": command}).encode() + b"\n")
        self._control.setblocking(False)

    def _answered(self) -> None:
        try:
            data = self._control.recv(1 << 16)
        except BlockingIOError:
            return
        if not data:
            self.over()
        self._control_in += data
        while b"\n" in self._control_in:
            line, self._control_in = self._control_in.split(b"\n", 1)
            said = json.loads(line)
            if ("return" in said or "error" in said) and self._waiting:
                self._waiting.popleft()(line)

    def run(self) -> None:
        while True:
            try:
                self.loop.once()
            except Broken:
                self.over()


def main() -> int:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        said = b""
        if not select.select([told], [], [], settings["seconds"])[0]:
            os.kill(child, signal.SIGTERM)  # it says how far the machine came, and ends
        while piece := os.read(told, 4096):
            said += piece
        sys.stderr.write(said[1:].decode(errors="replace"))
        return 0 if said[:1] == b"+" else 1
    os.close(told)
    os.setsid()

    def ready(trouble: str) -> None:
        nonlocal tell
        if tell >= 0:
            os.write(tell, (f"-{trouble}" if trouble else "+").encode())
            os.close(tell)
            tell = -1
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(null, number)

    try:
        relay = Relay(settings, ready)
        signal.signal(signal.SIGTERM, lambda number, frame: relay.over())
        relay.run()
    except BaseException as error:
        ready(f"relay: {error!r}")
    os._exit(1)
